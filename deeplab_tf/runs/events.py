"""What a run's TensorBoard events say."""

import pathlib

import numpy as np


def read_training_minutes(run_dir: pathlib.Path, phase: str) -> float | None:
    """Minutes that a phase's steps take: their number times the median time of one.

    From TensorBoard's events, so that neither the pause of a stopped run nor the steps that it
    repeats count. Validation does not count either.

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


def read_events(run_dir: pathlib.Path, phase: str, *, tag: str):
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
