"""Milliseconds of one invoke: files and numbers of threads in turn, the processor's peak among
them, so that a noisy machine favours none.
"""

import contextlib
import dataclasses
import pathlib
import tempfile
import time

import numpy as np

from tflite_tools.benchmarking.peak_model import write_peak_model
from tflite_tools.contract import ModelContract, read_contract
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.flatbuffer.multiply_adds import is_integer, multiply_adds
from tflite_tools.runtime.interpreter import Kernels
from tflite_tools.runtime.pool import InterpreterPool, Task
from tflite_tools.runtime.runner import ModelRunner
from tflite_tools.runtime.runtime_shapes import with_known_shapes


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions:
    """How files are timed.

    Attributes:
        num_threads: of the interpreters; each file is timed with each.
        repeats: timed invokes of each.
        warmup: invokes before timing; the first is stated.
    """

    num_threads: tuple[int, ...] = (1,)
    repeats: int = 50
    warmup: int = 5

    def __post_init__(self):
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
        cores: processor time by wall time of the timed invokes. Below the number of threads,
            the network or the machine left threads without work; threads that wait for each
            other in a loop count as busy.
    """

    first: float
    minimum: float
    p10: float
    median: float
    p90: float
    cores: float


@dataclasses.dataclass
class Benchmark:
    """What is known of one file.

    Attributes:
        contract: the file.
        multiply_adds: of one invoke.
        integer: whether the file is held against the int8 peak.
        timings: by number of threads.
        memory_mb: peak resident memory that a process of its own gained, 10^6 bytes.
        kernels: that ran it, or None.
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
        """10^9 multiply-adds a second of the fastest invoke: what the machine can, undisturbed."""
        return self.multiply_adds / self.timings[num_threads].minimum / 1e6


def benchmark(
    contracts: list[ModelContract], options: BenchmarkOptions
) -> tuple[list[Benchmark], dict[bool, Benchmark]]:
    """Times files on noise, A B C peak A B C peak ..., one process a number of threads.

    Returns:
        one result a file, in order; and the peak of this processor, for int8 under True and for
        float32 under False.

    Raises:
        RuntimeError: the peak itself could not be measured.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        results = [_describe(contract) for contract in contracts]
        peaks = {}
        for integer, name in ((True, "int8"), (False, "float32")):
            path = pathlib.Path(scratch) / f"peak_{name}.tflite"
            write_peak_model(path, integer)
            peaks[integer] = _describe(read_contract(path, name=f"peak {name}"))
        everything = [*results, *peaks.values()]
        for result in results:  # the peaks are files of ours, and classify nothing
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
    """Seeded random pixels uint8 [height, width, channels]: kernels take no shortcut on them."""
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
    """Runs in a child of its own: one invoke; the memory that it took, in MB, and the kernels.

    The output is not looked at: any network can be timed, one that masks no photo, too.
    """
    runner.set_image(image)
    runner.invoke()
    return runner.memory_mb(), runner.kernels


def first_invoke(runner: ModelRunner, image: np.ndarray, warmup: int) -> float:
    """Runs in a child: milliseconds of the first of `warmup` invokes."""
    runner.set_image(image)
    first = runner.invoke_ms()
    for _ in range(warmup - 1):
        runner.invoke()
    return first


def one_invoke(runner: ModelRunner) -> tuple[float, float]:
    """Runs in a child: wall and processor milliseconds of one invoke."""
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
