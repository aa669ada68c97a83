"""Measures what an evaluation costs beyond the network: wall time relative to bare invokes.

    python -m tflite_tools.measure_overhead --model=A.tflite,B.tflite \
        --dataset=camvid --data_dir=DIR

    ratio = wall time of scoring / wall time of as many bare invokes by as many processes

Scoring is the part that grows with the list: decoding, feeding, invoking, argmax, counting.
The start of child processes is reported separately.
"""

import pathlib
import sys
import time

import numpy as np
from absl import flags

from deeplab_tf import command
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.registry import DATASETS, open_dataset
from deeplab_tf.scratch import scratch_folder
from tflite_tools.contract import ModelContract, read_contract
from tflite_tools.evaluation.evaluation import ModelResult, default_processes, score_list
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_list("model", None, "Files.", required=True)
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Data set.", required=True)
    flags.DEFINE_string("data_dir", "", "Folder of --dataset.")
    flags.DEFINE_string("split", "val", "List.")
    flags.DEFINE_integer("processes", 0, "Interpreters side by side; 0 = one per core.")
    flags.DEFINE_integer("rounds", 3, "Scorings and bare runs, in turn.")


def bare_invokes(runner: ModelRunner, count: int) -> float:
    """Measures `count` invokes and nothing else; runs in a child process.

    Args:
        runner: of the file.
        count: number of invokes.

    Returns:
        Seconds.
    """
    return sum(runner.invoke_ms() for _ in range(count)) / 1e3


def measure(
    contracts: list[ModelContract], dataset: SegmentationDataset, *, processes: int, rounds: int
) -> tuple[float, float, float]:
    """Scores the whole list and runs as many bare invokes, in turn, in the same processes.

    Args:
        contracts: the files.
        dataset: the list.
        processes: number of child processes.
        rounds: how often both are measured.

    Returns:
        Median seconds of scoring, median seconds of the bare invokes by as many processes at
        once, and seconds until the processes were ready.

    Raises:
        RuntimeError: a file failed.
    """
    started = time.perf_counter()
    share = -(-len(dataset) // processes)
    tasks = [
        Task(index, bare_invokes, arguments=(share,))
        for index in range(len(contracts))
        for _ in range(processes)
    ]
    scoring, bare = [], []
    with InterpreterPool(contracts, processes) as pool, scratch_folder("overhead") as scratch:
        warm = [Task(index, bare_invokes, arguments=(1,)) for index in range(len(contracts))]
        list(pool.run(warm * processes))
        ready = time.perf_counter() - started
        for _ in range(rounds):
            started = time.perf_counter()
            results = [ModelResult(contract) for contract in contracts]
            score_list(
                results,
                dataset,
                count=len(dataset),
                pool=pool,
                scratch=pathlib.Path(scratch),
                reference=None,
            )
            scoring.append(time.perf_counter() - started)
            started = time.perf_counter()
            list(pool.run(tasks))
            bare.append(time.perf_counter() - started)
        if pool.broken:
            raise RuntimeError(f"a file failed: {next(iter(pool.broken.values()))}")
    return float(np.median(scoring)), float(np.median(bare)), ready


def main() -> None:
    """Measures the overhead and prints one line."""
    contracts = [read_contract(path) for path in FLAGS.model if path]
    if not contracts:
        raise ValueError("expected a file, got none; give --model=FILE[,FILE...]")
    dataset = open_dataset(FLAGS.dataset, FLAGS.data_dir, split=FLAGS.split)
    processes = FLAGS.processes or default_processes()
    scoring, bare, ready = measure(contracts, dataset, processes=processes, rounds=FLAGS.rounds)
    sys.stdout.write(
        f"{len(contracts)} files, {len(dataset)} images, {processes} processes: scoring "
        f"{scoring:.2f} s, bare invokes {bare:.2f} s, ratio {scoring / bare:.3f} "
        f"(medians of {FLAGS.rounds} rounds in turn; children ready after {ready:.1f} s)\n"
    )


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()
