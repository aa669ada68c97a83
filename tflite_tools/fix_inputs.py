"""Makes constants of all inputs of a `.tflite` but one, and writes it as a new file.

python -m tflite_tools.fix_inputs --model=two.tflite --constant=style=style.npy --output=one.tflite
"""

import pathlib

import numpy as np
from absl import flags, logging

from deeplab_tf import atomic_file, bounded_file, command
from tflite_tools.flatbuffer.graph import read_checked_graph

FLAGS = flags.FLAGS
_LARGEST_VALUES = 1 << 28
"""Bytes of a `.npy` file."""


def _define_flags() -> None:
    flags.DEFINE_string("model", None, "The .tflite file.", required=True)
    flags.DEFINE_multi_string(
        "constant", None, "NAME=NUMBER or NAME=FILE.npy, real values; repeated.", required=True
    )
    flags.DEFINE_string("output", None, "The new file.", required=True)
    flags.DEFINE_bool("overwrite", False, "Replace an existing --output.")


def main() -> None:
    """Writes the file.

    Raises:
        FileExistsError: the output exists.
        FileNotFoundError: a file with values does not exist.
        ValueError: a constant that no input takes, or not one input is left.
    """
    from tflite_tools.runtime.fixed_inputs import with_fixed_inputs  # noqa: PLC0415 - flags first

    path, output = pathlib.Path(FLAGS.model), pathlib.Path(FLAGS.output)
    read_checked_graph(path)
    values = dict(_read(text) for text in FLAGS.constant)
    if output.exists() and not FLAGS.overwrite:
        raise FileExistsError(f"{output} exists; choose another --output, or give --overwrite")
    atomic_file.write_bytes(output, with_fixed_inputs(path, values))
    logging.info("%s takes one input; %s are constants", output, ", ".join(values))


def _read(text: str) -> tuple[str, np.ndarray]:
    """Reads NAME=NUMBER or NAME=FILE.npy; a name may hold '='."""
    name, _, value = text.rpartition("=")
    if not name:
        raise ValueError(f"--constant: expected NAME=NUMBER or NAME=FILE.npy, got {text!r}")
    if value.endswith(".npy"):
        path = pathlib.Path(value)
        if not path.is_file():
            raise FileNotFoundError(f"--constant: {path}: no such file")
        bounded_file.check_size(path, limit=_LARGEST_VALUES)
        return name, np.load(path, allow_pickle=False)
    try:
        return name, np.asarray(float(value))
    except ValueError as error:
        raise ValueError(f"--constant: {value!r} is neither a number nor a .npy file") from error


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()
