"""Functions that train, convert and quantize networks. Importing this starts TensorFlow."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tf_keras as keras

from deeplab_tf import bounded_file, command
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.photo_list import PhotoList
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.graph.build import build_model
from deeplab_tf.metrics import confusion
from deeplab_tf.quantization.adaround.options import AdaRoundOptions
from deeplab_tf.quantization.calibration.activation_ranges import RangeMethod
from deeplab_tf.quantization.ptq.post_training import BiasMethod, PostTraining
from deeplab_tf.runs.config import TrainingConfig
from deeplab_tf.runs.folder import RunFolder
from deeplab_tf.runs.new_run import new_run_config
from deeplab_tf.train import train_run
from deeplab_tf.weights.matching import load_named
from deeplab_tflite.files import Path
from deeplab_tflite.table import Table
from export.conversion.pipeline import ExportedFile, export_files
from export.conversion.request import ExportRequest
from export.conversion.source import KerasFileSource, KerasModelSource, RunSource
from export.conversion.variants import Head, IoDtype, Target, Variant
from export.experiments.comparison import (
    Comparison,
    ComparisonResult,
    compare_methods,
    post_training_methods,
)
from export.experiments.comparison_report import selection_text, write_comparison
from export.experiments.comparison_request import ComparisonRequest
from export.experiments.experiment_run import ExperimentRun, experiment_on_file
from tflite_tools.evaluation.evaluation import EvaluationOptions, ModelResult, default_processes
from tflite_tools.to_keras.convert import ImportConfig, convert
from tflite_tools.to_keras.report import Result

__all__ = [
    "BiasMethod",
    "ComparisonRequest",
    "ExportRequest",
    "ExportedFiles",
    "Head",
    "ImportConfig",
    "ImportedNetwork",
    "IoDtype",
    "MethodScores",
    "PostTraining",
    "QuantizedFile",
    "RangeMethod",
    "Target",
    "TrainedRun",
    "TrainingConfig",
    "Variant",
    "compare",
    "export",
    "import_tflite",
    "quantize",
    "train",
    "training_config",
]


def training_config(
    dataset: str,
    data_dir: Path = "",
    *,
    network: str = "deeplab",
    model: Mapping[str, Any] | None = None,
    augmentation: Mapping[str, Any] | None = None,
    **settings: Any,
) -> TrainingConfig:
    """Returns the configuration of a new run, as the flags of `deeplab_tf.train` describe one.

    Args:
        dataset: name of the data set, such as "folder".
        data_dir: its folder; not used for drawn scenes.
        network: name of the network.
        model: its settings by name, such as {"backbone": "mobilenet_v2"}.
        augmentation: of it what is not to have its default, such as {"flip": False}.
        **settings: what else is not to have its default, named as in `config.json`, such as
            `train_steps` or `quantize_delay_step`.

    Returns:
        the configuration, with the classes and channels of the data set.

    Raises:
        FileNotFoundError: the data set is missing.
        ValueError: an unknown name, or values that do not fit together.
    """
    return new_run_config(
        dataset,
        str(data_dir),
        network=network,
        model=model,
        augmentation=augmentation,
        **settings,
    )


@dataclasses.dataclass(frozen=True, repr=False)
class TrainedRun(Table):
    """A finished training; a path of its folder.

    Attributes:
        run_dir: the run folder.
        miou: of the last validation, a fraction.
    """

    run_dir: pathlib.Path
    miou: float

    def __fspath__(self) -> str:
        return str(self.run_dir)

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row per validation."""
        lines = bounded_file.read_text(RunFolder(self.run_dir).history).splitlines()
        rows = [bounded_file.parse_json(line) for line in lines]
        keys = dict.fromkeys(key for row in rows for key in row)
        return [{key: row.get(key) for key in keys} for row in rows]


def train(config: TrainingConfig, run_dir: Path) -> TrainedRun:
    """Trains a network, or resumes a run that was stopped, as `deeplab_tf.train` does.

    Args:
        config: of `training_config`.
        run_dir: folder of the run; created if it is missing.

    Returns:
        the run.

    Raises:
        FileExistsError: the folder holds a run with other settings.
        FileNotFoundError: images, or the first weights, are missing.
        RuntimeError: another process trains in the folder.
        ValueError: settings that do not fit the data or the first weights.
    """
    folder = pathlib.Path(run_dir)
    return TrainedRun(folder, train_run(config, folder))


@dataclasses.dataclass(frozen=True, repr=False)
class ExportedFiles(Table):
    """The files of an export; iterates over the paths of those that were made.

    Attributes:
        files: the result for each file.
    """

    files: list[ExportedFile]

    def __iter__(self) -> Iterator[pathlib.Path]:
        return iter(self.paths)

    @property
    def paths(self) -> list[pathlib.Path]:
        """Paths of the files that were made."""
        return [file.path for file in self.files if file.path is not None]

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row per file."""
        return [
            {
                "file": file.spec.file_name,
                "variant": file.spec.variant.value,
                "head": file.spec.head.value,
                "size_mb": file.size_bytes / 1e6 if file.path else None,
                "failure": file.failure or None,
            }
            for file in self.files
        ]


def export(
    run: Path,
    variants: Sequence[Variant | str] = (),
    *,
    heads: Sequence[Head | str] | None = None,
    output_dir: Path | None = None,
    data_dir: Path = "",
    best: bool = False,
    request: ExportRequest | None = None,
) -> ExportedFiles:
    """Exports a trained run as `.tflite` files, each checked, as `export.to_tflite` does.

    Files that an earlier export made in the same way are kept.

    Args:
        run: run folder, or the result of `train`.
        variants: number formats; () for all that the run has.
        heads: what comes after the logits; None for logits and a class map.
        output_dir: where the files go; None for `tflite` in the run folder.
        data_dir: folder of the data set; "" for the run's own.
        best: take the weights of the best validation instead of the last ones.
        request: all other settings; the arguments above replace its own.

    Returns:
        the files; one that fails has its failure and does not stop the others.

    Raises:
        FileExistsError: a file exists that was made in another way.
        FileNotFoundError: the run has no weights, or calibration images are missing.
        ValueError: settings that do not fit the run.
    """
    base = request or ExportRequest()
    request = dataclasses.replace(
        base,
        variants=_members("variants", variants, kind=Variant) or base.variants,
        heads=base.heads if heads is None else _members("heads", heads, kind=Head),
        output_dir=pathlib.Path(output_dir) if output_dir else base.output_dir,
        data_dir=str(data_dir) or base.data_dir,
    )
    source = RunSource(RunFolder(run), best)
    return ExportedFiles(export_files(source, request.plan(source)))


def _members(name: str, values: Sequence[Any], *, kind: Any) -> tuple[Any, ...]:
    texts = [value.value if isinstance(value, kind) else value for value in values]
    return tuple(command.enum_members(name, texts, kind=kind))


@dataclasses.dataclass(frozen=True, repr=False)
class QuantizedFile(Table):
    """An int8 file and the float file of the same network; a path of the first.

    Attributes:
        files: int8, then float32.
        int8: the quantized file.
        float32: the float file, to compare it with.
    """

    files: list[ExportedFile]
    int8: pathlib.Path
    float32: pathlib.Path

    def __fspath__(self) -> str:
        return str(self.int8)

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row per file."""
        return ExportedFiles(self.files).rows()


def quantize(
    network: keras.Model | Path,
    photos: SegmentationDataset | Path | Sequence[Path] | Sequence[np.ndarray],
    *,
    output_dir: Path,
    recipe: PostTraining | str | None = None,
    labels: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    size: tuple[int, int] | None = None,
    calibration_images: int = 0,
    overwrite: bool = False,
) -> QuantizedFile:
    """Makes an int8 `.tflite` of a Keras network, as `export.to_tflite --keras_file` does.

    Args:
        network: a network of Keras 2 (`tf.keras` once deeplab_tflite is imported) whose output is
            scores [batch, height, width, classes]; or a `.keras` or `.h5` file, also of Keras 3.
        photos: that activation ranges are measured on; the more they look like the scenes of use,
            the better. No labels are needed: a folder, paths, or pictures uint8 [height, width,
            channels]. A labelled list is used so that every class is seen.
        output_dir: where int8.tflite, float32.tflite and their manifests go.
        recipe: steps of quantization; or the name of a method of `compare`, such as
            "corrected_mse"; None: the converter quantizes by itself.
        labels: class names; () for those of the list, else numbers.
        preprocessing: pixel normalization; None for (pixel - 128) / 128.
        size: (height, width) of the input, where the network leaves it open.
        calibration_images: how many photos; 0 for 100, or all of fewer.
        overwrite: replace files that exist.

    Returns:
        the files.

    Raises:
        FileExistsError: a file exists, and `overwrite` is not set.
        FileNotFoundError: the network or a photo does not exist.
        RuntimeError: a file could not be made.
        ValueError: the network is one of Keras 3, or a setting does not fit it.
    """
    if isinstance(network, str | os.PathLike):
        source: KerasModelSource = KerasFileSource(pathlib.Path(network))
    else:
        source = KerasModelSource(network, str(getattr(network, "name", "the network")))
    label_set = LabelSet.from_names(labels) if labels else None
    if not isinstance(photos, SegmentationDataset):
        numbered = (f"class_{number}" for number in range(max(2, source.num_classes)))
        label_set = label_set or LabelSet.from_names(numbered)
        photos = PhotoList(photos, label_set, channels=source.channels or 3)
    normalization = preprocessing or Preprocessing.of(source.channels or photos.channels)
    request = ExportRequest(
        output_dir=pathlib.Path(output_dir),
        variants=(Variant.INT8, Variant.FLOAT32),
        heads=(Head.LOGITS,),
        size=size or source.fixed_size,
        dataset=photos,
        calibration_images=min(calibration_images, len(photos)),
        mean=normalization.mean,
        std=normalization.std,
        label_set=label_set,
        post_training=_steps(recipe) if isinstance(recipe, str) else recipe,
        overwrite=overwrite,
    )
    files = export_files(source, request.plan(source))
    for file in files:
        if file.path is None:
            raise RuntimeError(f"{file.spec.file_name}: {file.failure}")
    int8, float32 = (file.path for file in files)
    assert int8 is not None and float32 is not None
    return QuantizedFile(files, int8, float32=float32)


def _steps(name: str) -> PostTraining | None:
    known = {
        method.name: method.steps
        for method in post_training_methods(AdaRoundOptions())
        if method.variant is Variant.INT8
    }
    if name not in known:
        raise ValueError(f"recipe: unknown {name!r}; known: {', '.join(known)}")
    return known[name]


@dataclasses.dataclass(frozen=True, repr=False)
class MethodScores(Table):
    """Scores of quantization methods.

    Attributes:
        result: one row per method, and the best of them.
        comparison: what was compared.
    """

    result: ComparisonResult
    comparison: Comparison

    @property
    def best(self) -> str:
        """Name of the method with the highest difference from float; "" if none has one."""
        return self.result.best

    @property
    def output_dir(self) -> pathlib.Path:
        """Folder of the files, of the tables and of the plot."""
        return self.comparison.plan.output_dir

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row per method; mIoU and differences in percent."""
        rows = []
        for row in self.result.rows:
            change, result = row.difference, row.result
            rows.append(
                {
                    "method": row.name,
                    "miou_percent": self._miou_percent(result),
                    "difference": 100 * change.difference if change else None,
                    "low": 100 * change.low if change else None,
                    "high": 100 * change.high if change else None,
                    "snr_db": row.snr_db,
                    "size_mb": result.contract.size_bytes / 1e6 if result else None,
                    "latency_ms": result.latency.median if result and result.latency else None,
                    "failure": row.failure or None,
                }
            )
        return rows

    def _miou_percent(self, result: ModelResult | None) -> float | None:
        if result is None or result.matrix is None:
            return None
        classes = self.comparison.options.mean_indices(self.comparison.evaluation)
        return 100 * confusion.mean_iou(result.matrix, classes)[0]

    def notes(self) -> list[str]:
        """Returns which method is the best, and how it was chosen."""
        text = selection_text(self.result, self.comparison)
        return [text] if text else []


def compare(
    network: Path,
    dataset: str | None = None,
    *,
    data_dir: Path = "",
    methods: Sequence[str] = (),
    output_dir: Path = "",
    preprocessing: Preprocessing | None = None,
    options: EvaluationOptions | None = None,
    request: ComparisonRequest | None = None,
) -> MethodScores:
    """Compares quantization methods on one network, as `export.compare_quantization` does.

    Args:
        network: run folder, or a `.tflite`, `.keras`, `.h5` or SavedModel folder.
        dataset: name of the data set; None for the run's own.
        data_dir: its folder; "" for the run's own.
        methods: their names; () for all. float32 is always among them.
        output_dir: folder of the results; "" for `quantization` in the run folder, or
            `<name>_quantization`.
        preprocessing: pixel normalization of a network file; None for the file's own.
        options: how files are run and scored; None for all samples and 20 timed runs.
        request: all other settings; `methods` and `options` replace its own.

    Returns:
        the scores; the command's tables and plot are in the folder of the results.

    Raises:
        FileNotFoundError: the network or a list is missing.
        RuntimeError: there is no float file, or it cannot be scored.
        ValueError: an unknown method, or settings that do not fit the network.
    """
    usual = EvaluationOptions(processes=default_processes(), latency_repeats=20)
    base = request or ComparisonRequest(options=usual)
    request = dataclasses.replace(
        base, methods=tuple(methods) or base.methods, options=options or base.options
    )
    path = pathlib.Path(network)
    if (path / "config.json").is_file():
        run = ExperimentRun(str(path), dataset, data_dir=str(data_dir), output_dir=str(output_dir))
    elif dataset is None:
        raise ValueError(f"{path}: is no run folder; give dataset, the data set with its classes")
    else:
        run = experiment_on_file(
            path,
            dataset,
            data_dir=str(data_dir),
            output_dir=str(output_dir),
            split=request.calibration_split,
            preprocessing=preprocessing,
        )
    comparison = request.comparison(run)
    result = compare_methods(comparison)
    write_comparison(result, comparison, output_dir=comparison.plan.output_dir)
    return MethodScores(result, comparison)


@dataclasses.dataclass(frozen=True, repr=False)
class ImportedNetwork(Table):
    """A network that was read from a `.tflite`; a path of its folder, which is a run to train.

    Attributes:
        result: the network, and how it was read.
        output_dir: the folder.
    """

    result: Result
    output_dir: pathlib.Path

    def __fspath__(self) -> str:
        return str(self.output_dir)

    def keras_model(self) -> keras.Model:
        """Builds the network with its weights, of Keras 2."""
        model = build_model(self.result.description)
        load_named(model, self.result.arrays)
        return model

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row per operator of the file."""
        return self.result.to_json()["operators"]

    def notes(self) -> list[str]:
        """Returns how well the network agrees with the file, and how it was edited."""
        check = self.result.self_check
        return [*(check.lines() if check else ()), *self.result.steps]


def import_tflite(
    file: Path,
    output_dir: Path = "",
    *,
    preprocessing: Preprocessing | None = None,
    trim_head: str = "",
    num_classes: int = 0,
    overwrite: bool = False,
    config: ImportConfig | None = None,
) -> ImportedNetwork:
    """Rebuilds a `.tflite` as a Keras network that can be trained, as `tflite_tools.to_keras` does.

    Args:
        file: the file.
        output_dir: folder to write; "" for `<name>_keras`.
        preprocessing: pixel normalization; None for the file's own.
        trim_head: tensor to cut the network after; "" for the whole network.
        num_classes: classes of a new classifier at the cut; 0 for none.
        overwrite: replace an earlier import.
        config: all other settings; the arguments above replace its own.

    Returns:
        the network, compared with the file.

    Raises:
        FileExistsError: the folder holds an import, and `overwrite` is not set.
        FileNotFoundError: no such file.
        ValueError: the file cannot be imported.
    """
    path = pathlib.Path(file)
    folder = pathlib.Path(output_dir or f"{path.stem}_keras")
    base = config or ImportConfig(path, folder)
    config = dataclasses.replace(
        base,
        model=path,
        output_dir=folder,
        preprocessing=preprocessing or base.preprocessing,
        trim_head=trim_head or base.trim_head,
        num_classes=num_classes or base.num_classes,
        overwrite=overwrite or base.overwrite,
    )
    return ImportedNetwork(convert(config), folder)
