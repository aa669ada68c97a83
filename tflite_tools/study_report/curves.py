"""How a training went, read from its run folder: losses, validation scores, parameters."""

import json
import pathlib

import numpy as np

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
        found = {step: loss for step, _, loss in _events(run_dir, phase, "loss_cross_entropy")}
        found = found or {step: loss for step, _, loss in _events(run_dir, phase, "loss")}
        if found:
            losses[phase] = sorted(found.items())
    return losses


def read_training_minutes(run_dir: pathlib.Path, phase: str) -> float | None:
    """Minutes that a phase's steps take: their number times the median time of one.

    From TensorBoard's events, so that neither the pause of a stopped run nor the steps that it
    repeats count. Validation does not count either.

    Returns:
        minutes, or None with less than two events.
    """
    events = [(step, time) for step, time, _ in _events(run_dir, phase, "loss")]
    if len(events) < 2:
        return None
    steps, times = np.array(events).T
    onward = np.diff(steps) > 0
    if not onward.any():
        return None
    seconds = np.median(np.diff(times)[onward] / np.diff(steps)[onward])
    interval = np.median(np.diff(steps)[onward])
    return float(seconds * (steps.max() - steps.min() + interval)) / 60


def _events(run_dir: pathlib.Path, phase: str, tag: str):
    """(step, time in seconds, value) as they were written."""
    from tensorboard.backend.event_processing.event_file_loader import (  # noqa: PLC0415
        EventFileLoader,
    )
    from tensorboard.util.tensor_util import make_ndarray  # noqa: PLC0415 - loads TensorFlow

    for path in sorted((run_dir / "events" / phase).glob("events.out.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag == tag:
                    yield event.step, event.wall_time, float(make_ndarray(value.tensor))


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
