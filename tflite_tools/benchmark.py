"""Times several `.tflite` files in turn, and shows which operators take the time.

    python -m tflite_tools.benchmark --model=float32.tflite,int8.tflite --num_threads=1,2
    python -m tflite_tools.benchmark --model=float32.tflite,int8.tflite --profile

Files, thread counts and the processor's own peak are timed in turn, so that a noisy machine favours
none: ratios are more reliable than milliseconds. `--profile` reads the time of every operator from
the runtime's own profiler, and compares the first file with each of the others layer by layer. The
profiler is reached through the C interface of the runtime's package
(`tflite_tools.benchmarking.native`), since its Python interface gives no times; it runs whole files
on zeros.
"""

import json
import pathlib
import sys

from absl import flags

from deeplab_tf import atomic_file, command
from tflite_tools.benchmarking.machine import describe_machine
from tflite_tools.benchmarking.profile import Profile, profile
from tflite_tools.benchmarking.report import (
    benchmark_json,
    benchmark_text,
    comparison_text,
    profile_text,
)
from tflite_tools.benchmarking.timing import BenchmarkOptions, benchmark
from tflite_tools.contract import ModelContract
from tflite_tools.evaluation.request import table_names
from tflite_tools.file_list import UnreadFile, read_contracts, unread_json, unread_text
from tflite_tools.versions import versions

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_list("model", None, "Files; ratios are to the first.", required=True)
    flags.DEFINE_list("num_threads", "1", "Thread counts, each timed.")
    flags.DEFINE_integer("repeats", 50, "Timed invokes of each file and thread count.")
    flags.DEFINE_integer("warmup", 5, "Invokes before timing; the first is reported.")
    flags.DEFINE_bool("profile", False, "Also the time of every operator.")
    flags.DEFINE_string("output_dir", "", "Folder for benchmark.json; default: none is written.")


def _contracts() -> tuple[list[ModelContract], list[UnreadFile]]:
    paths = [pathlib.Path(name) for name in FLAGS.model if name]
    if not paths:
        raise ValueError("expected a file, got none; give --model=FILE[,FILE...]")
    return read_contracts(paths, table_names(paths), any_output=True)


def _options() -> BenchmarkOptions:
    try:
        threads = tuple(int(value) for value in FLAGS.num_threads)
    except ValueError as error:
        raise ValueError(
            f"--num_threads: expected whole numbers such as 1,2, got {','.join(FLAGS.num_threads)}"
        ) from error
    return BenchmarkOptions(threads, FLAGS.repeats, warmup=FLAGS.warmup)


def _profile_parts(
    profiles: list[Profile], peaks: list[float], *, num_threads: tuple[int, ...]
) -> list[str]:
    parts = [
        profile_text(each, num_threads, peak=peak)
        for each, peak in zip(profiles, peaks, strict=True)
    ]
    if profiles and not profiles[0].failure:
        parts += [
            comparison_text(profiles[0], other, threads=num_threads[0])
            for other in profiles[1:]
            if not other.failure
        ]
    return parts


def main() -> int:
    """Times the files and prints the tables.

    Returns:
        1 if a file could not be read or failed, else 0.
    """
    options = _options()
    contracts, unread = _contracts()
    machine = describe_machine()
    results, peaks = benchmark(contracts, options)
    profiles: list[Profile] = []
    working = [result for result in results if FLAGS.profile and not result.failure]
    if working:
        contracts = [result.contract for result in working]
        profiles = profile(contracts, options.num_threads, repeats=options.repeats)
    parts = [benchmark_text(results, peaks, options=options, machine=machine)]
    speeds = [peaks[result.integer].speed(options.num_threads[0]) for result in working]
    parts += _profile_parts(profiles, speeds, num_threads=options.num_threads)
    parts += [unread_text(unread)] if unread else []
    sys.stdout.write("\n\n".join(parts) + "\n")
    if FLAGS.output_dir:
        path = pathlib.Path(FLAGS.output_dir) / "benchmark.json"
        document = benchmark_json(
            results, peaks, options=options, machine=machine, profiles=profiles, versions=versions()
        )
        document["unread"] = unread_json(unread)
        atomic_file.write_text(path, json.dumps(document, indent=1) + "\n")
        sys.stdout.write(f"\nnumbers: {path}\n")
    return 1 if unread or any(result.failure for result in results) else 0


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()
