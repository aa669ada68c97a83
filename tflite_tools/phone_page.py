"""Writes a web page that runs a `.tflite` on a phone: photo or camera in, mask and time out.

python -m tflite_tools.phone_page --model=int8.tflite --output=page.html
python -m tflite_tools.phone_page --models=int8.tflite,qat_int8.tflite --output_dir=site

The page is one file: send it to the phone and open it there. Nothing leaves the device. With
--output_dir it is a folder for a web server. The web runtime comes from npm once.
"""

import pathlib
import sys

from absl import flags

from deeplab_tf import command
from tflite_tools.deployment.phone_page.page import PageOptions, write_page
from tflite_tools.evaluation_flags import define_normalization_flags, read_preprocessing

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_string("model", "", "The .tflite file.")
    flags.DEFINE_list("models", "", "Several files, compared in place.")
    flags.DEFINE_string("output", "", "The page, one file that holds everything.")
    flags.DEFINE_string("output_dir", "", "Folder of the page for a web server, instead.")
    flags.DEFINE_string("photo", "", "Image for a test on the phone, with our mask of it.")
    flags.DEFINE_bool(
        "fallback", True, "Carry the build for browsers without the newest WebAssembly, 4 MB."
    )
    flags.DEFINE_string("cache_dir", "", "Folder of the web runtime; default: the user's cache.")
    flags.DEFINE_bool("overwrite", False, "Replace files that exist.")
    define_normalization_flags()


def _path(value: str) -> pathlib.Path | None:
    return pathlib.Path(value) if value else None


def main() -> int:
    """Writes the page and says how it differs from our interpreter.

    Returns:
        0.
    """
    options = PageOptions(
        tuple(pathlib.Path(name) for name in [FLAGS.model, *FLAGS.models] if name),
        output=_path(FLAGS.output),
        output_dir=_path(FLAGS.output_dir),
        preprocessing=read_preprocessing(),
        photo=_path(FLAGS.photo),
        fallback=FLAGS.fallback,
        overwrite=FLAGS.overwrite,
        cache=_path(FLAGS.cache_dir),
    )
    written = write_page(options)
    for name, agreement in written.agreements.items():
        sys.stdout.write(
            f"{name}: the web runtime gives {agreement:.4%} of the pixels as our interpreter\n"
        )
    sys.stdout.write(f"{written.path}: {written.size_bytes / 1e6:.1f} MB\n")
    return 0


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()
