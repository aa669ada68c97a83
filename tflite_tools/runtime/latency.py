"""Measures the time of one invoke, files interleaved so that a noisy machine favours none."""

import dataclasses

import numpy as np

from deeplab_tf.data.preprocessing import place
from tflite_tools.contract import ModelContract
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner


@dataclasses.dataclass(frozen=True)
class LatencyMs:
    """Milliseconds of one invoke on a real image.

    Attributes:
        minimum, median, p90: over the repeats.
        num_threads, warmup, repeats: how it was measured.
    """

    minimum: float
    median: float
    p90: float
    num_threads: int
    warmup: int
    repeats: int


def _feed(runner: ModelRunner, image: np.ndarray, warmup: int) -> None:
    runner.set_image(image)
    for _ in range(warmup):
        runner.invoke()


def _time_once(runner: ModelRunner) -> float:
    return runner.invoke_ms()


def measure_latency(
    contracts: list[ModelContract],
    image: np.ndarray,
    *,
    num_threads: int,
    warmup: int,
    repeats: int,
) -> list[LatencyMs | None]:
    """Times files in turn, A B C A B C ..., in one child process.

    Args:
        contracts: the files; each must have run before without a crash.
        image: uint8 [height, width, channels], placed on each file's canvas.
        num_threads: of the interpreters.
        warmup: invokes of each file before timing.
        repeats: timed invokes of each file.

    Returns:
        One entry per file, None for one that failed.
    """
    times: list[list[float]] = [[] for _ in contracts]
    with InterpreterPool(contracts, 1, num_threads=num_threads) as pool:
        feeding = [
            Task(
                index, _feed, arguments=(place(image, (contract.height, contract.width))[0], warmup)
            )
            for index, contract in enumerate(contracts)
        ]
        timing = [
            Task(index, _time_once, arguments=())
            for _ in range(repeats)
            for index in range(len(contracts))
        ]
        for outcome in pool.run(feeding + timing):
            if not outcome.failure and outcome.task.function is _time_once:
                times[outcome.task.model].append(float(outcome.value))
    return [
        LatencyMs(
            min(values),
            float(np.median(values)),
            p90=float(np.percentile(values, 90)),
            num_threads=num_threads,
            warmup=warmup,
            repeats=repeats,
        )
        if len(values) == repeats
        else None
        for values in times
    ]
