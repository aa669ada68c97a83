"""Converts a network of PyTorch, ONNX or Keras 3 to a float `.tflite` that takes camera pixels.

    python -m export.from_framework --source=net.onnx --normalization=imagenet --output_dir=D

Writes D/float32.tflite, its manifest D/float32.json and D/report.json. The file is compared with
the framework itself; nothing is written if an output differs by more than 0.001 of its range.
"""

import pathlib
import sys

from absl import flags

from deeplab_tf import command
from deeplab_tf.data.label_list import read_label_list

FLAGS = flags.FLAGS
NORMALIZATION_NAMES = ("imagenet", "zero_to_one", "minus_one_to_one", "none")


def _define_flags() -> None:
    flags.DEFINE_string(
        "source",
        None,
        ".pt2, .onnx, .keras, a SavedModel folder, a float .tflite with the channels first, or a "
        "Python file with an nn.Module, whose code is run.",
        required=True,
    )
    flags.DEFINE_string("output_dir", None, "Folder to write.", required=True)
    flags.DEFINE_string(
        "module", "", "In a Python file: the class, or the function that returns the network."
    )
    flags.DEFINE_string(
        "weights", "", "Of the network in a Python file: a state dictionary or .safetensors."
    )
    flags.DEFINE_string(
        "python_file", "", "File that registers the own layers of a .keras file; its code is run."
    )
    flags.DEFINE_list(
        "packages", "", "What the Python file imports; pip adds it to PyTorch's environment."
    )
    flags.DEFINE_list("size", "", "Height,width; default: the network's own, if it has one.")
    flags.DEFINE_list("outputs", "", "Names of the outputs to keep; default: all.")
    flags.DEFINE_string("signature", "", "Of a SavedModel with several.")
    flags.DEFINE_bool(
        "trust_source",
        False,
        "Load a .pt2, or a SavedModel without a check of its operators: code in it runs as you.",
    )
    flags.DEFINE_enum(
        "normalization",
        None,
        list(NORMALIZATION_NAMES),
        "What the network expects of pixels; not needed where it normalizes them itself.",
    )
    flags.DEFINE_list("mean", "", "Instead: pixel mean (0 to 255), of all channels or of each.")
    flags.DEFINE_list("std", "", "With --mean: pixel divisor, of all channels or of each.")
    flags.DEFINE_bool(
        "fold_normalization",
        True,
        "Compute a normalization that differs by channel in the file, which then takes (pixel - "
        "128) / 128; off: the manifest states it.",
    )
    flags.DEFINE_string("photos", "", "Folder of images to compare on; default: 4 built-in ones.")
    flags.DEFINE_string("labels", "", "Text file, one class name per line.")
    flags.DEFINE_string(
        "environments",
        "",
        "Folder of the frameworks' environments; default: DEEPLAB_FRAMEWORKS, else the cache.",
    )
    flags.DEFINE_float("timeout_s", 1800, "Longest time of a conversion.", lower_bound=1)
    flags.DEFINE_bool("overwrite", False, "Replace an earlier conversion.")


def _numbers(name: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in FLAGS[name].value if value)
    except ValueError as error:
        text = ",".join(FLAGS[name].value)
        raise ValueError(f"--{name}: expected numbers, got {text}") from error


def _size() -> tuple[int, int] | None:
    values = [value for value in FLAGS.size if value]
    if not values:
        return None
    if len(values) != 2 or not all(value.isdigit() and int(value) for value in values):
        raise ValueError(f"--size: expected height,width, got {','.join(FLAGS.size)}")
    return int(values[0]), int(values[1])


def _path(name: str) -> pathlib.Path | None:
    return pathlib.Path(FLAGS[name].value) if FLAGS[name].value else None


def main() -> None:
    """Converts the network that the flags describe and prints the comparison."""
    from export.frameworks import request as requests  # noqa: PLC0415 - flags are checked first
    from export.frameworks.environments import default_folder  # noqa: PLC0415

    request = requests.ConversionRequest(
        source=pathlib.Path(FLAGS.source),
        output_dir=pathlib.Path(FLAGS.output_dir),
        environments=_path("environments") or default_folder(),
        module=FLAGS.module,
        weights=_path("weights"),
        python_file=_path("python_file"),
        packages=tuple(name for name in FLAGS.packages if name),
        size=_size(),
        outputs=tuple(name for name in FLAGS.outputs if name),
        signature=FLAGS.signature,
        trusted=FLAGS.trust_source,
        preprocessing=requests.normalization(
            FLAGS.normalization or "", _numbers("mean"), std=_numbers("std")
        ),
        fold_normalization=FLAGS.fold_normalization,
        photos=_path("photos"),
        labels=read_label_list(pathlib.Path(FLAGS.labels)) if FLAGS.labels else (),
        overwrite=FLAGS.overwrite,
        timeout_s=FLAGS.timeout_s,
    )
    request.check()
    from export.frameworks.conversion import convert  # noqa: PLC0415

    result = convert(request)
    sys.stdout.write("\n".join([f"{result.path}:", *result.lines()]) + "\n")


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()
