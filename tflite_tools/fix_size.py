"""Gives a `.tflite` that takes images of any size one size, and writes it as a new file.

python -m tflite_tools.fix_size --model=any_size.tflite --size=256,256 --output=fixed.tflite
"""

import pathlib

from absl import flags, logging

from deeplab_tf import atomic_file, command
from tflite_tools.flatbuffer.graph import read_checked_graph

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_string("model", None, "The .tflite file.", required=True)
    flags.DEFINE_list("size", None, "Height,width.", required=True)
    flags.DEFINE_string("output", None, "The new file.", required=True)
    flags.DEFINE_bool("overwrite", False, "Replace an existing --output.")


def main() -> None:
    """Writes the file.

    Raises:
        FileExistsError: the output exists.
        ValueError: no size, or the network does not run at it.
    """
    from tflite_tools.runtime.fixed_size import with_fixed_size  # noqa: PLC0415 - flags first

    try:
        height, width = (int(value) for value in FLAGS.size)
    except ValueError as error:
        raise ValueError(f"--size: expected height,width, got {','.join(FLAGS.size)}") from error
    if min(height, width) < 1:
        raise ValueError(f"--size: expected positive numbers, got {height},{width}")
    path, output = pathlib.Path(FLAGS.model), pathlib.Path(FLAGS.output)
    read_checked_graph(path)
    if output.exists() and not FLAGS.overwrite:
        raise FileExistsError(f"{output} exists; choose another --output, or give --overwrite")
    atomic_file.write_bytes(output, with_fixed_size(path, (height, width)))
    logging.info("%s takes images of %d x %d", output, height, width)


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()
