"""Times all files of a study in one interleaved run and stores the times.

Files that are timed on different days, or while others train, cannot be compared: all files are
timed again as soon as one of them is new.
"""

import dataclasses
import json
import pathlib

import numpy as np
from absl import logging

from deeplab_tf import atomic_file, bounded_file
from tflite_tools.contract import ModelContract
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.html_report.collect import processor
from tflite_tools.manifest import sha256_of
from tflite_tools.runtime.latency import LatencyMs, measure_latency


@dataclasses.dataclass(frozen=True)
class TimingOptions:
    """How files are timed.

    Attributes:
        repeats: timed runs per file; 0 = files are not timed.
        warmup: runs before timing.
        num_threads: of the interpreter.
    """

    repeats: int = 30
    warmup: int = 3
    num_threads: int = 1

    def __post_init__(self) -> None:
        if self.repeats < 0 or self.warmup < 0 or self.num_threads < 1:
            raise ValueError(
                "--latency_repeats and --latency_warmup must not be negative and --num_threads at "
                f"least 1, got {self.repeats}, {self.warmup} and {self.num_threads}"
            )


def time_files(
    contracts: list[ModelContract], image: np.ndarray, *, options: TimingOptions, kept: pathlib.Path
) -> list[LatencyMs | None]:
    """Times files in turn, or reads the stored times of exactly these files.

    Args:
        contracts: files that have run without a crash.
        image: uint8 [height, width, channels].
        options: how files are timed.
        kept: file that the times are stored in.

    Returns:
        one entry per file, None for one that failed or if nothing is timed.
    """
    if not options.repeats or not contracts:
        return [None] * len(contracts)
    key = {
        "options": dataclasses.asdict(options),
        "processor": processor(),
        "sha256": [sha256_of(read_model_bytes(contract.path)) for contract in contracts],
    }
    if (known := _read(kept, key)) is not None:
        return known
    logging.info("timing %d files in one interleaved run", len(contracts))
    times = measure_latency(
        contracts,
        image,
        num_threads=options.num_threads,
        warmup=options.warmup,
        repeats=options.repeats,
    )
    plain = [None if latency is None else dataclasses.asdict(latency) for latency in times]
    atomic_file.write_text(kept, json.dumps(key | {"times": plain}, indent=1) + "\n")
    return times


def _read(kept: pathlib.Path, key: dict) -> list[LatencyMs | None] | None:
    """Reads the stored times if they are of the same files, machine and options."""
    try:
        stored = bounded_file.read_json(kept)
        times = stored.pop("times")
        if stored != key:
            return None
        return [None if values is None else LatencyMs(**values) for values in times]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
