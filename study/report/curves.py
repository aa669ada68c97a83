"""Reads the course of a training from its run folder: losses, validation scores, parameters."""

import json
import pathlib

import numpy as np

from deeplab_tf import bounded_file
from deeplab_tf.runs.events import read_events
from deeplab_tf.weights.npz import open_arrays

Curve = list[tuple[int, float]]
"""(step, value), with increasing steps."""
_STATISTICS = ("moving_mean", "moving_variance")
PHASES = ("float", "quantized")


def read_losses(run_dir: pathlib.Path) -> dict[str, Curve]:
    """Reads the training cross-entropy of each phase from its TensorBoard events.

    Only the term of the labels, so that runs with and without a teacher can be compared. A run that
    was stopped repeats some steps when it resumes: the later value counts.

    Args:
        run_dir: run folder.

    Returns:
        {phase: curve} of the phases that have one.
    """
    losses: dict[str, Curve] = {}
    for phase in PHASES:
        values = {
            step: loss for step, _, loss in read_events(run_dir, phase, tag="loss_cross_entropy")
        }
        values = values or {step: loss for step, _, loss in read_events(run_dir, phase, tag="loss")}
        if values:
            losses[phase] = sorted(values.items())
    return losses


def read_validations(run_dir: pathlib.Path) -> dict[str, Curve]:
    """Reads the validation mIoU of each phase from `history.jsonl`.

    Args:
        run_dir: run folder.

    Returns:
        {phase: curve}, fractions.
    """
    path = run_dir / "history.jsonl"
    scores: dict[str, dict[int, float]] = {}
    for line in bounded_file.read_text(path).splitlines() if path.is_file() else ():
        try:
            values = json.loads(line)
            step, score = int(values["step"]), float(values["miou"])
        except (ValueError, KeyError, TypeError):  # truncated when killed, or a line of parity
            continue
        if np.isfinite(score):
            scores.setdefault(values["phase"], {})[step] = score
    return {phase: sorted(values.items()) for phase, values in scores.items()}


def count_parameters(run_dir: pathlib.Path) -> int | None:
    """Counts the trained values: all of `float.npz` without batch-norm statistics.

    Args:
        run_dir: run folder.

    Returns:
        the count; None without `float.npz`.

    Raises:
        ValueError: the file is damaged.
    """
    path = run_dir / "float.npz"
    if not path.is_file():
        return None
    try:
        with open_arrays(path) as arrays:
            return sum(
                int(arrays[name].size)
                for name in arrays.files
                if name.rpartition("/")[2] not in _STATISTICS
            )
    except Exception as error:  # zipfile, zlib and NumPy raise different errors
        raise ValueError(f"{path}: not a weights file ({error}); train the run again") from error
