"""How a training went, read from its run folder: losses, validation scores, parameters."""

import json
import pathlib

import numpy as np

Curve = list[tuple[int, float]]
"""(step, value), steps rising."""
_STATISTICS = ("moving_mean", "moving_variance")
PHASES = ("float", "quantized")


def read_losses(run_dir: pathlib.Path) -> dict[str, Curve]:
    """Training loss of each phase from its TensorBoard events.

    A run that was stopped repeats some steps when it goes on: the later value counts.

    Returns:
        {phase: curve} of the phases that have one.
    """
    from tensorboard.backend.event_processing.event_file_loader import (  # noqa: PLC0415
        EventFileLoader,
    )
    from tensorboard.util.tensor_util import make_ndarray  # noqa: PLC0415 - loads TensorFlow

    losses: dict[str, Curve] = {}
    for phase in PHASES:
        found: dict[int, float] = {}
        for path in sorted((run_dir / "events" / phase).glob("events.out.*")):
            for event in EventFileLoader(str(path)).Load():
                for value in event.summary.value:
                    if value.tag == "loss":
                        found[event.step] = float(make_ndarray(value.tensor))
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
    with np.load(path, allow_pickle=False) as arrays:
        return sum(
            int(arrays[name].size)
            for name in arrays.files
            if name.rpartition("/")[2] not in _STATISTICS
        )
