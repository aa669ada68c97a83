"""Scores `.tflite` files on a list that is cut into shards, as an Apache Beam pipeline.

    list -> shards -> [open the list and the files, run, count] -> sum -> one JSON file

Confusion matrices are sums of integers over samples, so any partition and any order of addition
gives the same numbers as the local evaluation, bit for bit. A worker receives names and paths, not
pixels: files and data must be readable under the same paths everywhere. A file's sha256 is compared
before it runs, so that workers cannot score another file of the same name.

Agreement with a reference, latency and memory are not measured here: they refer to one machine.
"""

import contextlib
import dataclasses
import itertools
import json
import pathlib
import re
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.dataset import SegmentationDataset, Subset
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import open_dataset
from deeplab_tf.scratch import scratch_folder
from tflite_tools.contract import ModelContract, read_contract
from tflite_tools.evaluation.evaluation import (
    ModelResult,
    ScoringOptions,
    add_mask_warnings,
    check_compatibility,
    score_list,
)
from tflite_tools.evaluation.tiled import OFF, check_overlaps, task_timeout_s
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.manifest import sha256_of
from tflite_tools.runtime.interpreter import Kernels
from tflite_tools.runtime.pool import InterpreterPool

_CAUSE = re.compile(r"^(?:\w+\.)*(?:\w*Error|\w*Exception): (.*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class ListSource:
    """A labelled list by name, which any worker can open.

    Attributes:
        dataset: registry name.
        data_dir: folder, "" for drawn data sets.
        split: of the data set.
    """

    dataset: str
    data_dir: str
    split: str

    def open(self) -> SegmentationDataset:
        """Opens the list."""
        return open_dataset(self.dataset, self.data_dir, split=self.split)


@dataclasses.dataclass(frozen=True)
class FileSource:
    """A `.tflite` by its path and content.

    Attributes:
        path: of the file, the same on every worker.
        name: for tables.
        sha256: of the file where the pipeline was started.
        preprocessing, alignment: of the contract.
    """

    path: str
    name: str
    sha256: str
    preprocessing: Preprocessing
    alignment: Alignment | None = None

    @classmethod
    def of(cls, contract: ModelContract) -> "FileSource":
        """Describes a file of this machine.

        Args:
            contract: of the file.
        """
        content = read_model_bytes(contract.path)
        path = str(contract.path.resolve())
        return cls(
            path, contract.name, sha256_of(content), contract.preprocessing, contract.alignment
        )

    def contract(self) -> ModelContract:
        """Reads the file on a worker.

        Raises:
            ValueError: the content differs from the file that the pipeline was started with.
        """
        found = sha256_of(read_model_bytes(self.path))
        if found != self.sha256:
            raise ValueError(
                f"{self.path}: expected sha256 {self.sha256[:12]}, as where the pipeline was "
                f"started, got {found[:12]} on this worker; give every worker the same file"
            )
        return read_contract(
            self.path, self.preprocessing, name=self.name, alignment=self.alignment
        )


@dataclasses.dataclass(frozen=True)
class ShardScore:
    """Sums over the samples of one or several shards.

    Attributes:
        images: samples.
        matrices: int64 [files, num_classes, num_classes + 1].
        constant_images: samples of each file whose prediction was one single class.
        failures: of each file, or "".
        invokes: runs of each file.
        kernels: that ran each file, or "" if not known.
    """

    images: int
    matrices: np.ndarray
    constant_images: tuple[int, ...]
    failures: tuple[str, ...]
    invokes: tuple[int, ...] = ()
    kernels: tuple[str, ...] = ()

    def __add__(self, other: "ShardScore") -> "ShardScore":
        pairs = zip(self.constant_images, other.constant_images, strict=True)
        failures = zip(self.failures, other.failures, strict=True)
        invokes = zip(self.invokes, other.invokes, strict=True)
        kernels = zip(self.kernels, other.kernels, strict=True)
        return ShardScore(
            self.images + other.images,
            self.matrices + other.matrices,
            constant_images=tuple(a + b for a, b in pairs),
            failures=tuple(a or b for a, b in failures),
            invokes=tuple(a + b for a, b in invokes),
            kernels=tuple(a or b for a, b in kernels),
        )

    def to_json(self) -> str:
        """Returns the sums as JSON text."""
        return json.dumps(dataclasses.asdict(self) | {"matrices": self.matrices.tolist()})

    @classmethod
    def from_json(cls, text: str) -> "ShardScore":
        """Reads sums from JSON text.

        Args:
            text: as returned by `to_json`.
        """
        values = json.loads(text)
        return cls(
            values["images"],
            np.array(values["matrices"], np.int64),
            tuple(values["constant_images"]),
            tuple(values["failures"]),
            tuple(values["invokes"]),
            tuple(values["kernels"]),
        )


def shard_ranges(count: int, shards: int) -> list[tuple[int, int]]:
    """Cuts 0..count-1 into at most `shards` ranges whose lengths differ by at most one.

    Args:
        count: number of samples.
        shards: number of ranges.

    Returns:
        (start, stop) of each range.

    Raises:
        ValueError: fewer than one shard.
    """
    if shards < 1:
        raise ValueError(f"shards must be at least 1; got {shards}")
    edges = [count * number // min(shards, count) for number in range(min(shards, count) + 1)]
    return list(itertools.pairwise(edges))


class ScoreShard(beam.DoFn):
    """Scores the samples of one shard; keeps one child process with its interpreters."""

    def __init__(
        self, source: ListSource, files: tuple[FileSource, ...], *, tile_overlap: int
    ) -> None:
        self._source, self._files, self._tile_overlap = source, files, tile_overlap

    def setup(self) -> None:
        """Opens the list and the files, once per worker."""
        self._open = contextlib.ExitStack()
        self._dataset = self._source.open()
        contracts = [each.contract() for each in self._files]
        pool = InterpreterPool(contracts, 1, timeout_s=task_timeout_s(self._tile_overlap))
        self._pool = self._open.enter_context(pool)
        self._contracts = contracts

    def teardown(self) -> None:
        """Ends the child process."""
        self._open.close()

    def process(self, element: tuple[int, int]) -> Iterator[ShardScore]:
        """Scores one shard.

        Args:
            element: (start, stop) of its samples.

        Yields:
            The sums of the shard.
        """
        start, stop = element
        part = Subset(self._dataset, tuple(range(start, stop)), split=self._dataset.split)
        results = [ModelResult(contract) for contract in self._contracts]
        for index, failure in self._pool.broken.items():
            results[index].failure = failure
        with scratch_folder("shard") as scratch:
            score_list(
                results,
                part,
                count=len(part),
                pool=self._pool,
                scratch=pathlib.Path(scratch),
                reference=None,
                options=ScoringOptions(tile_overlap=self._tile_overlap),
            )
        classes = self._dataset.label_set.num_classes
        empty = np.zeros((classes, classes + 1), np.int64)
        yield ShardScore(
            len(part),
            np.stack([empty if result.matrix is None else result.matrix for result in results]),
            constant_images=tuple(result.constant_images for result in results),
            failures=tuple(self._pool.broken.get(index, "") for index in range(len(results))),
            invokes=tuple(result.invokes for result in results),
            kernels=tuple(result.kernels or "" for result in results),
        )


def evaluate_sharded(
    contracts: list[ModelContract],
    source: ListSource,
    *,
    shards: int,
    limit: int,
    runner: str = "DirectRunner",
    beam_options: tuple[str, ...] = (),
    scratch: str = "",
    tile_overlap: int = OFF,
) -> list[ModelResult]:
    """Scores files shard by shard.

    Args:
        contracts: the files.
        source: the list.
        shards: number of parts of the list; each is one unit of work.
        limit: samples of the list, or 0 for all.
        runner: Beam's runner.
        beam_options: further options of the pipeline, "name=value".
        scratch: folder that every worker can write to; default: one of this machine.
        tile_overlap: as in `EvaluationOptions`.

    Returns:
        One result per file, in order.

    Raises:
        ValueError: wrong shards, an unknown data set, a file that changed, or an overlap that is
            too large for a file's input.
        RuntimeError: the pipeline failed, or lost samples.
    """
    dataset = source.open()
    check_overlaps(contracts, tile_overlap)
    results = [ModelResult(contract) for contract in contracts]
    for result in results:
        check_compatibility(result, dataset)
    fitting = [result for result in results if not result.failure]
    if not fitting:
        return results
    count = min(limit or len(dataset), len(dataset))
    ranges = shard_ranges(count, shards)
    files = tuple(FileSource.of(result.contract) for result in fitting)
    options = [f"--{option}" for option in beam_options if option]
    with contextlib.ExitStack() as stack:
        folder = scratch or str(stack.enter_context(scratch_folder("sharded")))
        output = FileSystems.join(folder, "total.json")
        try:
            with beam.Pipeline(runner, PipelineOptions(options)) as pipeline:
                _ = (
                    pipeline
                    | "shards" >> beam.Create(ranges)
                    | "spread" >> beam.Reshuffle()
                    | "score" >> beam.ParDo(ScoreShard(source, files, tile_overlap=tile_overlap))
                    | "sum" >> beam.CombineGlobally(_total).without_defaults()
                    | "text" >> beam.Map(ShardScore.to_json)
                    | "write" >> beam.io.WriteToText(output, num_shards=1, shard_name_template="")
                )
        except Exception as error:
            raise RuntimeError(f"the pipeline failed: {_cause(error)}") from error
        with FileSystems.open(output) as stream:
            total = ShardScore.from_json(stream.read().decode())
    if total.images != count:
        raise RuntimeError(f"the pipeline scored {total.images} of {count} samples; run it again")
    for index, result in enumerate(fitting):
        result.failure = total.failures[index]
        if not result.failure:
            result.images, result.matrix = count, total.matrices[index]
            result.constant_images, result.invokes = (
                total.constant_images[index],
                total.invokes[index],
            )
            name = total.kernels[index]
            result.kernels = Kernels(name) if name else None
        add_mask_warnings(result, dataset)
    return results


def _total(scores: Iterable[ShardScore]) -> ShardScore:
    first, *rest = scores
    return sum(rest, first)


def _cause(error: Exception) -> str:
    """Returns the innermost error's message; a runner wraps it in the tracebacks of its threads."""
    found = _CAUSE.findall(str(error))
    return found[-1].split(" [while running")[0] if found else str(error)
