"""Reads the TensorBoard events of a training run."""

import collections.abc
import pathlib

import numpy as np


def read_training_minutes(run_dir: pathlib.Path, phase: str) -> float | None:
    """Returns how long the steps of a phase take: their number times the median time of one.

    The times are those of TensorBoard's events, so that neither the pause of a stopped run nor
    the steps that it repeats count. Validation does not count either.

    Args:
        run_dir: the run folder.
        phase: "float" or "quantized".

    Returns:
        minutes, or None with less than two events.
    """
    events = [(step, time) for step, time, _ in read_events(run_dir, phase, tag="loss")]
    if len(events) < 2:
        return None
    steps, times = np.array(events).T
    onward = np.diff(steps) > 0
    if not onward.any():
        return None
    seconds = np.median(np.diff(times)[onward] / np.diff(steps)[onward])
    interval = np.median(np.diff(steps)[onward])
    return float(seconds * (steps.max() - steps.min() + interval)) / 60


def read_events(
    run_dir: pathlib.Path, phase: str, *, tag: str
) -> collections.abc.Iterator[tuple[int, float, float]]:
    """Reads the events of one tag in the order in which they were written.

    Args:
        run_dir: the run folder.
        phase: "float" or "quantized".
        tag: name of the value.

    Yields:
        step, wall-clock time in seconds, value.
    """
    from tensorboard.backend.event_processing.event_file_loader import (  # noqa: PLC0415
        EventFileLoader,
    )
    from tensorboard.util.tensor_util import make_ndarray  # noqa: PLC0415 - loads TensorFlow

    for path in sorted((run_dir / "events" / phase).glob("events.out.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag == tag:
                    yield event.step, event.wall_time, float(make_ndarray(value.tensor))
