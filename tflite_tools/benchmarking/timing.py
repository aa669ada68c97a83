"""Measures the milliseconds of one invoke.

Files, thread counts and the models of the processor's peak are timed in turn, so that a noisy
machine favours none.
"""

import contextlib
import dataclasses
import time

import numpy as np

from deeplab_tf.scratch import scratch_folder
from tflite_tools.benchmarking.peak_model import write_peak_model
from tflite_tools.contract import ModelContract, read_contract
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.flatbuffer.multiply_adds import is_integer, multiply_adds
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.interpreter import Kernels
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner
from tflite_tools.runtime.runtime_shapes import with_known_shapes


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions:
    """How files are timed.

    Attributes:
        num_threads: thread counts of the interpreters; each file is timed with each.
        repeats: timed invokes of each.
        warmup: invokes before timing; the first is reported.
    """

    num_threads: tuple[int, ...] = (1,)
    repeats: int = 50
    warmup: int = 5

    def __post_init__(self) -> None:
        if not self.num_threads or min(self.num_threads) < 1:
            raise ValueError(f"num_threads must be at least 1; got {list(self.num_threads)}")
        if len(set(self.num_threads)) != len(self.num_threads):
            raise ValueError(f"num_threads must differ; got {list(self.num_threads)}")
        if self.repeats < 2 or self.warmup < 1:
            raise ValueError(
                f"repeats must be at least 2 and warmup at least 1; got {self.repeats} and "
                f"{self.warmup}"
            )


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds of one invoke with one number of threads.

    Attributes:
        first: the first invoke after loading.
        minimum, p10, median, p90: of the timed invokes.
        cores: processor time divided by wall time of the timed invokes. If it is below the number
            of threads, some threads had no work; threads that wait in a loop count as busy.
    """

    first: float
    minimum: float
    p10: float
    median: float
    p90: float
    cores: float


@dataclasses.dataclass
class Benchmark:
    """Results of one file.

    Attributes:
        contract: the file.
        multiply_adds: of one invoke.
        integer: whether the file is compared with the int8 peak.
        timings: by number of threads.
        memory_mb: growth of the peak resident memory of a separate process, 10^6 bytes.
        kernels: kernels that ran, or None.
        failure: why there is no time, or "".
    """

    contract: ModelContract
    multiply_adds: int
    integer: bool
    timings: dict[int, Timing] = dataclasses.field(default_factory=dict)
    memory_mb: float | None = None
    kernels: Kernels | None = None
    failure: str = ""

    def speed(self, num_threads: int) -> float:
        """Returns 10^9 multiply-adds per second of the fastest, least disturbed invoke.

        Args:
            num_threads: of the measurement.
        """
        return self.multiply_adds / self.timings[num_threads].minimum / 1e6


def benchmark(
    contracts: list[ModelContract], options: BenchmarkOptions
) -> tuple[list[Benchmark], dict[bool, Benchmark]]:
    """Times files on noise, A B C peak A B C peak ..., one process per thread count.

    Args:
        contracts: the files.
        options: thread counts and repeats.

    Returns:
        One result per file, in order; and the peak of this processor, int8 under True, float32
        under False.

    Raises:
        RuntimeError: the peak itself could not be measured.
    """
    with scratch_folder("benchmark") as scratch:
        results = [_describe(contract) for contract in contracts]
        peaks = {}
        for integer, name in ((True, "int8"), (False, "float32")):
            path = scratch / f"peak_{name}.tflite"
            write_peak_model(path, integer)
            peaks[integer] = _describe(read_contract(path, name=f"peak {name}"))
        everything = [*results, *peaks.values()]
        for result in results:  # the peak models are our own, and need no check
            _probe(result)
        _time_all(everything, options)
    for peak in peaks.values():
        if peak.failure:
            raise RuntimeError(f"the processor's peak cannot be measured: {peak.failure}")
    return results, peaks


def _describe(contract: ModelContract) -> Benchmark:
    graph = with_known_shapes(read_graph(contract.path))
    return Benchmark(contract, sum(multiply_adds(graph)), integer=is_integer(graph))


def noise(contract: ModelContract) -> np.ndarray:
    """Returns seeded random pixels, on which kernels have no shortcut.

    Args:
        contract: of the file.

    Returns:
        uint8 [height, width, channels].
    """
    shape = (contract.height, contract.width, contract.channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _probe(result: Benchmark) -> None:
    with InterpreterPool([result.contract], 1) as pool:
        task = Task(0, first_run, arguments=(noise(result.contract),))
        for outcome in pool.run([task]):
            result.failure = outcome.failure
            if not outcome.failure:
                result.memory_mb, result.kernels = outcome.value


def first_run(runner: ModelRunner, image: np.ndarray) -> tuple[float, Kernels]:
    """Runs a file once, in a child process of its own.

    The output is ignored, so any network can be timed, not only segmentation models.

    Args:
        runner: of the file.
        image: uint8 [height, width, channels].

    Returns:
        Memory that it took, in 10^6 bytes, and the kernels.
    """
    runner.set_image(image)
    runner.invoke()
    return runner.memory_mb(), runner.kernels


def first_invoke(runner: ModelRunner, image: np.ndarray, warmup: int) -> float:
    """Runs the warm-up in a child process.

    Args:
        runner: of the file.
        image: uint8 [height, width, channels].
        warmup: number of invokes.

    Returns:
        Milliseconds of the first invoke.
    """
    runner.set_image(image)
    first = runner.invoke_ms()
    for _ in range(warmup - 1):
        runner.invoke()
    return first


def one_invoke(runner: ModelRunner) -> tuple[float, float]:
    """Runs one invoke in a child process.

    Args:
        runner: of the file.

    Returns:
        Wall and processor time in milliseconds.
    """
    started = time.process_time()
    wall = runner.invoke_ms()
    return wall, (time.process_time() - started) * 1e3


def _time_all(results: list[Benchmark], options: BenchmarkOptions) -> None:
    contracts = [result.contract for result in results]
    alive = [index for index, result in enumerate(results) if not result.failure]
    first: dict[tuple[int, int], float] = {}
    times: dict[tuple[int, int], list[tuple[float, float]]] = {}
    with contextlib.ExitStack() as stack:
        pools = {
            threads: stack.enter_context(InterpreterPool(contracts, 1, num_threads=threads))
            for threads in options.num_threads
        }
        for threads, pool in pools.items():
            images = ((index, noise(contracts[index])) for index in alive)
            tasks = (
                Task(index, first_invoke, arguments=(image, options.warmup))
                for index, image in images
            )
            for outcome in pool.run(tasks):
                first[outcome.task.model, threads] = outcome.value
        for _ in range(options.repeats):
            for threads, pool in pools.items():
                for outcome in pool.run([Task(index, one_invoke, arguments=()) for index in alive]):
                    key = outcome.task.model, threads
                    times.setdefault(key, []).append(outcome.value)
        for index in alive:
            failures = [pool.broken[index] for pool in pools.values() if index in pool.broken]
            results[index].failure = failures[0] if failures else ""
    for index in alive:
        if not results[index].failure:
            results[index].timings = {
                threads: _timing(first[index, threads], times[index, threads])
                for threads in options.num_threads
            }


def _timing(first: float, times: list[tuple[float, float]]) -> Timing:
    wall, processor = np.transpose(times)
    low, middle, high = (float(value) for value in np.percentile(wall, (10, 50, 90)))
    cores = float(processor.sum() / wall.sum())
    return Timing(first, float(wall.min()), p10=low, median=middle, p90=high, cores=cores)
