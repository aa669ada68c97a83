"""How fast a training goes, and how long the rest will take."""

import collections.abc
import contextlib
import time


class Pace:
    """Measures the steps between two reports, without what is done in between.

    Args:
        total: steps of the whole run.
        clock: gives the time in seconds.
    """

    def __init__(
        self, total: int, clock: collections.abc.Callable[[], float] = time.monotonic
    ) -> None:
        self._total, self._clock = total, clock
        self._since, self._step = -1.0, 0

    def after_step(self, step: int) -> None:
        """Starts the clock behind the first step, which also compiles the network.

        Args:
            step: number of steps taken.
        """
        if self._since < 0:
            self._since, self._step = self._clock(), step

    @contextlib.contextmanager
    def paused(self) -> collections.abc.Iterator[None]:
        """What the block does (a validation, a checkpoint) is no part of the steps."""
        began = self._clock()
        yield
        self._since += self._clock() - began

    def report(self, step: int) -> str:
        """Returns the pace since the last report and the time that is left at this pace.

        Args:
            step: number of steps taken.

        Returns:
            "1.43 steps/s, 12 min left"; "" if no step was measured.
        """
        now = self._clock()
        seconds, steps = now - self._since, step - self._step
        self._since, self._step = now, step
        if steps < 1 or seconds <= 0:
            return ""
        left = (self._total - step) * seconds / steps
        return f"{steps / seconds:.3g} steps/s, {duration(left)} left"


def duration(seconds: float) -> str:
    """Returns a time in the units in which it would be said.

    Args:
        seconds: how long.
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
