"""The three commands that are run for a cell, and their command lines."""

import enum
import sys
from typing import Any

from deeplab_tf import train
from export import to_tflite
from study.report import score


class Stage(enum.Enum):
    """A command of a cell; members are in the order in which they run."""

    TRAIN = "train"
    """Data set -> run folder."""
    EXPORT = "export"
    """Run folder -> `.tflite` files."""
    EVALUATE = "evaluate"
    """`.tflite` files -> metrics and the confusion matrix of every image."""

    @property
    def module(self) -> str:
        """Name of the command's module, for `python -m`."""
        return _COMMANDS[self].__name__


_COMMANDS = {Stage.TRAIN: train, Stage.EXPORT: to_tflite, Stage.EVALUATE: score}
RESERVED = {
    Stage.TRAIN: ("run_dir",),
    Stage.EXPORT: (
        *("run_dir", "output_dir", "variants", "overwrite"),
        *("keras_file", "saved_model", "frozen_graph", "input_arrays", "output_arrays"),
        "trust_saved_model",
    ),
    Stage.EVALUATE: ("run_dir", "output_dir", "reference", "processes", "dataset", "data_dir"),
}
"""Flags that the study sets itself; a study file must not set them."""


def command_line(stage: Stage, flags: dict[str, Any]) -> list[str]:
    """Builds the command line of a stage: this interpreter, its module, one argument per flag.

    Args:
        stage: the stage.
        flags: {name: value}.

    Returns:
        the arguments, the interpreter first.
    """
    return [sys.executable, "-m", stage.module, *(argument(n, v) for n, v in flags.items())]


def argument(name: str, value: Any) -> str:
    """Formats a flag as absl reads it: --name, --noname, or --name=value.

    Args:
        name: of the flag, without dashes.
        value: a boolean, a number, a string or a list; lists are joined by commas.

    Returns:
        the argument.
    """
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    parts = value if isinstance(value, list | tuple) else [value]
    return f"--{name}=" + ",".join(str(part) for part in parts)
