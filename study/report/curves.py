"""How a training went, read from its run folder: losses, validation scores, parameters."""

import json
import pathlib

import numpy as np

from deeplab_tf.runs.events import read_events

Curve = list[tuple[int, float]]
"""(step, value), steps rising."""
_STATISTICS = ("moving_mean", "moving_variance")
PHASES = ("float", "quantized")


def read_losses(run_dir: pathlib.Path) -> dict[str, Curve]:
    """Cross-entropy of each phase's training from its TensorBoard events.

    The labels' term alone, so that runs with and without a teacher can be compared. A run that was
    stopped repeats some steps when it goes on: the later value counts.

    Returns:
        {phase: curve} of the phases that have one.
    """
    losses: dict[str, Curve] = {}
    for phase in PHASES:
        found = {
            step: loss for step, _, loss in read_events(run_dir, phase, tag="loss_cross_entropy")
        }
        found = found or {step: loss for step, _, loss in read_events(run_dir, phase, tag="loss")}
        if found:
            losses[phase] = sorted(found.items())
    return losses


def read_validations(run_dir: pathlib.Path) -> dict[str, Curve]:
    """Validation mIoU of each phase, fractions, from `history.jsonl`."""
    path = run_dir / "history.jsonl"
    scores: dict[str, dict[int, float]] = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            values = json.loads(line)
            step, score = int(values["step"]), float(values["miou"])
        except (ValueError, KeyError, TypeError):  # cut by a kill, or a line of parity
            continue
        if np.isfinite(score):
            scores.setdefault(values["phase"], {})[step] = score
    return {phase: sorted(found.items()) for phase, found in scores.items()}


def count_parameters(run_dir: pathlib.Path) -> int | None:
    """Values that training moves: all of `float.npz` but batch-norm statistics; None without."""
    path = run_dir / "float.npz"
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return sum(
                int(arrays[name].size)
                for name in arrays.files
                if name.rpartition("/")[2] not in _STATISTICS
            )
    except Exception as error:  # zipfile, zlib and NumPy each raise their own
        raise ValueError(f"{path}: not a weights file ({error}); train the run again") from error
