"""What one evaluation is asked to do: which files, on which labelled list, with which options."""

import dataclasses
import pathlib

from deeplab_tf import bounded_file
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import open_dataset
from tflite_tools.contract import ModelContract
from tflite_tools.evaluation.evaluation import EvaluationOptions, ModelResult, evaluate
from tflite_tools.file_list import UnreadFile, read_contracts

_VARIANT_ORDER = ("float32", "float16", "dynamic_range", "int16x8", "int8", "qat_int8")


@dataclasses.dataclass(frozen=True)
class EvaluationRequest:
    """Files, a labelled list and how the files are run on it.

    Attributes:
        models: `.tflite` files, before those of the run.
        run_dir: run folder, whose `tflite/*.tflite` are scored too, or None.
        reference: file that agreement is counted with; None for the file of variant float32.
        dataset: registry name of the data set, or an open list, or None for the one that the run
            was trained on.
        data_dir: folder of the data set; "" for the run's own.
        split: list of the data set.
        preprocessing: pixel normalization (mean, std); None for each file's own.
        output: name or number of the output to score, of files with several; "" for each file's
            own.
        options: how the files are run and scored.
    """

    models: tuple[pathlib.Path, ...] = ()
    run_dir: pathlib.Path | None = None
    reference: pathlib.Path | None = None
    dataset: str | SegmentationDataset | None = None
    data_dir: str = ""
    split: str = "val"
    preprocessing: Preprocessing | None = None
    output: str = ""
    options: EvaluationOptions = dataclasses.field(default_factory=EvaluationOptions)

    def paths(self) -> list[pathlib.Path]:
        """Lists the files to score, each once.

        Raises:
            FileNotFoundError: the run folder does not exist, or holds no `.tflite`.
            ValueError: no file is given.
        """
        paths = [*self.models, *self._run_files()]
        if not paths:
            raise ValueError(
                "expected a file to score, got none; give --model=FILE[,FILE...] or --run_dir"
            )
        return list(dict.fromkeys(paths))

    def _run_files(self) -> list[pathlib.Path]:
        if self.run_dir is None:
            return []
        if not self.run_dir.is_dir():
            raise FileNotFoundError(f"{self.run_dir}: no such folder; check --run_dir")
        folder = self.run_dir / "tflite"
        complete = [path for path in folder.glob("*.tflite") if not path.name.startswith(".")]
        if not complete:
            raise FileNotFoundError(f"{folder}: no .tflite; run export.to_tflite first")
        return sorted(complete, key=_place_in_table)

    def read_contracts(self) -> tuple[list[ModelContract], list[UnreadFile]]:
        """Reads the input contract of each file; a reference that is not in the list comes first.

        Returns:
            The contracts, and the files that could not be read.

        Raises:
            FileNotFoundError: no file is given, or a needed one does not exist.
            ValueError: no file can be read, or the reference cannot.
        """
        paths = self.paths()
        if self.reference and self.reference not in paths:
            paths.insert(0, self.reference)
        return read_contracts(
            paths,
            table_names(paths),
            preprocessing=self.preprocessing,
            needed=self.reference,
            output=self.output,
        )

    def open_dataset(self) -> SegmentationDataset:
        """Opens the labelled list; the run's own data set where none is given.

        Raises:
            FileNotFoundError: the run folder has no configuration, or data are missing.
            ValueError: no data set is given, or the configuration cannot be read.
        """
        if isinstance(self.dataset, SegmentationDataset):
            return self.dataset
        if self.dataset is not None:
            return open_dataset(self.dataset, self.data_dir, split=self.split)
        if self.run_dir is None:
            raise ValueError("expected a data set, got none; give --dataset and --data_dir")
        config = self.run_config()
        path = self.run_dir / "config.json"
        if config is None:
            raise FileNotFoundError(f"{path}: not a run folder; give --dataset and --data_dir")
        try:
            dataset, data_dir = config["dataset"], self.data_dir or config["data_dir"]
        except KeyError as error:
            raise ValueError(f"{path}: not the configuration of a run ({error})") from error
        return open_dataset(dataset, data_dir, split=self.split)

    def run_config(self) -> dict | None:
        """Reads what the run was trained with, or returns None where that is not on record.

        It does not use `deeplab_tf.training`, which would load TensorFlow to read a few words.

        Raises:
            ValueError: the configuration cannot be read.
        """
        path = self.run_dir / "config.json" if self.run_dir else None
        if path is None or not path.is_file():
            return None
        with bounded_file.read_as(path, "the configuration of a run"):
            values = bounded_file.read_json(path)
            if not isinstance(values, dict):
                raise ValueError(f"expected an object, got {values!r:.80}")
            for name in ("dataset", "data_dir"):
                if not isinstance(values.get(name, ""), str):
                    raise ValueError(f"{name}: expected text, got {values[name]!r:.80}")
            return values

    def reference_index(self, contracts: list[ModelContract]) -> int | None:
        """Returns the position of the file that agreement is counted with, or None.

        Args:
            contracts: the files that were read.
        """
        for index, contract in enumerate(contracts):
            if contract.path == self.reference:
                return index
            if self.reference is None and contract.variant == "float32":
                return index
        return None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The scores of files on one list.

    Attributes:
        results: one per file that could be read, in order.
        unread: files that could not be read.
        dataset: the list.
        options: how the files were run.
        reference: position of the file that agreement is counted with, or None.
    """

    results: list[ModelResult]
    unread: list[UnreadFile]
    dataset: SegmentationDataset
    options: EvaluationOptions
    reference: int | None

    @property
    def failed(self) -> bool:
        """Whether a file could not be read or run."""
        return bool(self.unread) or any(result.failure for result in self.results)


def evaluate_request(request: EvaluationRequest) -> Evaluation:
    """Scores the files of a request on its list.

    Args:
        request: files, list and options.

    Raises:
        FileNotFoundError: a file or a sample does not exist.
        ValueError: no file can be read, a sample cannot, or settings do not fit together.
    """
    contracts, unread = request.read_contracts()
    dataset = request.open_dataset()
    reference = request.reference_index(contracts)
    results = evaluate(contracts, dataset, options=request.options, reference=reference)
    return Evaluation(results, unread, dataset, options=request.options, reference=reference)


def table_names(paths: list[pathlib.Path]) -> list[str]:
    """Returns the stem of each file, with its folder in front where two files share a stem.

    Args:
        paths: the files.
    """
    stems = [path.stem for path in paths]
    return [
        path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}/{path.stem}"
        for path in paths
    ]


def _place_in_table(path: pathlib.Path) -> tuple[bool, int, str]:
    """Sorts logits before class maps, then by variant, then by name."""
    stem = path.stem.removesuffix("_argmax")
    known = _VARIANT_ORDER.index(stem) if stem in _VARIANT_ORDER else len(_VARIANT_ORDER)
    return path.stem.endswith("_argmax"), known, path.stem
