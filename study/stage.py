"""The three commands that a cell goes through, and flags as their command lines."""

import enum
import sys

from deeplab_tf import train
from export import to_tflite
from study.report import score


class Stage(enum.Enum):
    """A command of a cell; members stand in the order of the work."""

    TRAIN = "train"
    """Data set -> run folder."""
    EXPORT = "export"
    """Run folder -> `.tflite` files."""
    EVALUATE = "evaluate"
    """`.tflite` files -> metrics and the confusion matrix of every photo."""

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
"""Flags that a study gives its cells, so that a study file may not."""


def command_line(stage: Stage, flags: dict) -> list[str]:
    """What runs a stage: this interpreter, the stage's module, one argument a flag."""
    return [sys.executable, "-m", stage.module, *(argument(n, v) for n, v in flags.items())]


def argument(name: str, value) -> str:
    """A flag as absl reads it: --name, --noname, or --name=value with lists by commas."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    parts = value if isinstance(value, list | tuple) else [value]
    return f"--{name}=" + ",".join(str(part) for part in parts)
