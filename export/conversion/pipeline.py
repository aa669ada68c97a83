"""The export stage: freeze, calibrate once, convert each file, check it, put it in place."""

import contextlib
import dataclasses
import importlib.metadata
import pathlib
import tempfile

import numpy as np
import tensorflow as tf
from absl import logging

from deeplab_tf import atomic_file
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.quantization.ptq.post_training import (
    PostTrained,
    PostTraining,
    quantize_post_training,
)
from deeplab_tf.training.run_folder import Phase
from export.conversion import gate
from export.conversion.calibration import Calibration, calibrate
from export.conversion.convert import Conversion, ConverterProcess
from export.conversion.freeze import freeze_model, write_saved_model
from export.conversion.source import Source
from export.conversion.variants import RULES, FileSpec, Target, Variant
from export.rewriting.edgetpu_resizes import fit_edgetpu
from export.rewriting.mixed_precision import apply_mixed_precision, mixed_precision_positions
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.manifest import Manifest, manifest_path, sha256_of

SAVED_MODELS = {Phase.FLOAT: "saved_model", Phase.QUANTIZED: "saved_model_qat"}
"""Folders beside the files, with the frozen graph of each phase."""
_PACKAGES = ("tensorflow", "tf-keras", "tensorflow-model-optimization", "ai-edge-litert")


@dataclasses.dataclass(frozen=True)
class ExportPlan:
    """An export.

    Attributes:
        output_dir: where the files go.
        height, width: of the networks' input.
        files: what to make.
        preprocessing, label_set: for the manifests.
        calibration_dataset: split that images are chosen from, or None.
        calibration_images, calibration_seed: how many, and which.
        overwrite: replace files that exist.
        post_training: steps that int8 files are made by; None: the converter calibrates alone,
            but for range images, whose empty pixels it would count.
        target: accelerator whose forms int8 and qat_int8 files take.
    """

    output_dir: pathlib.Path
    height: int
    width: int
    files: list[FileSpec]
    preprocessing: Preprocessing
    label_set: LabelSet
    calibration_dataset: SegmentationDataset | None
    calibration_images: int = 100
    calibration_seed: int = 0
    overwrite: bool = False
    post_training: PostTraining | None = None
    target: Target = Target.NONE

    def __post_init__(self):
        names = [spec.file_name for spec in self.files]
        existing = [name for name in names if (self.output_dir / name).exists()]
        if existing and not self.overwrite:
            raise FileExistsError(
                f"{self.output_dir} already holds {', '.join(existing)}; give --overwrite"
            )
        needs = [spec.file_name for spec in self.files if RULES[spec.variant].calibrated]
        if needs and self.calibration_dataset is None:
            raise ValueError(
                f"{', '.join(needs)} needs calibration images; give --dataset and --data_dir"
            )


@dataclasses.dataclass(frozen=True)
class ExportedFile:
    """What became of one file.

    Attributes:
        spec: what was asked for.
        path: the file, or None if it failed.
        failure: cause, or "".
        size_bytes: of the file.
    """

    spec: FileSpec
    path: pathlib.Path | None
    failure: str
    size_bytes: int = 0


def export_files(source: Source, plan: ExportPlan) -> list[ExportedFile]:
    """Makes every file of a plan; a file that fails costs only itself.

    Also leaves `saved_model/` and `saved_model_qat/`, each with `frozen_inference_graph.pb`, of
    the first head, where a file was made from it without post-training steps.

    Returns:
        one entry a file, in the plan's order.

    Raises:
        ValueError: calibration scans of another sensor than the network was trained on.
    """
    _check_sensor(plan, source)
    with (
        _folder(plan.output_dir),
        tempfile.TemporaryDirectory(prefix="export-") as scratch,
        ConverterProcess() as converter,
    ):
        folder = pathlib.Path(scratch)
        calibration_file, calibration = _calibrate(plan, folder)
        graphs = _Graphs(source, plan, folder=folder, photos=calibration_file)
        results = []
        for spec in plan.files:
            rule = RULES[spec.variant]
            try:
                conversion = Conversion(
                    graphs.saved_model(spec),
                    spec,
                    calibration_file=calibration_file if rule.calibrated else None,
                    preprocessing=plan.preprocessing,
                    planned=graphs.planned(spec),
                )
                content = converter.convert(conversion)
                record = calibration if rule.calibrated else None
                steps = graphs.steps if graphs.planned(spec) else None
                content = _in_forms_of_the_target(plan, spec, content=content)
                raised, wanted = graphs.raised(spec, content)
                results.append(
                    _place(
                        plan,
                        source,
                        spec=spec,
                        content=content,
                        raised=raised,
                        wanted=wanted,
                        record=record,
                        steps=steps,
                    )
                )
            except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
                cause = " ".join(str(error).split())
                results.append(ExportedFile(spec, None, failure=cause))
            _log(results[-1])
    return results


def _check_sensor(plan: ExportPlan, source: Source) -> None:
    if source.sensor is None or plan.calibration_dataset is None:
        return
    if other := source.sensor.difference(plan.calibration_dataset.sensor):
        raise ValueError(
            f"{source.description} was trained on range images of another sensor ({other}); "
            "calibrate with the --data_dir whose sensor.json it was trained with"
        )


@contextlib.contextmanager
def _folder(path: pathlib.Path):
    """Makes a folder that goes again where nothing was put into it."""
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if not any(path.iterdir()):
            path.rmdir()


class _Graphs:
    """The frozen graphs that files are made from, each made once."""

    def __init__(self, source: Source, plan: ExportPlan, *, folder: pathlib.Path, photos):
        self._source, self._plan, self._folder, self._photos = source, plan, folder, photos
        self._paths: dict[tuple, pathlib.Path] = {}
        self._steps_of_int8 = plan.post_training
        scans = plan.calibration_dataset
        if scans is not None and scans.sensor is not None:
            # The converter's own calibration counts every pixel.
            asked = plan.post_training or PostTraining()
            self._steps_of_int8 = dataclasses.replace(asked, ignore_empty=True)
        self._post_trained: PostTrained | None = None

    def planned(self, spec: FileSpec) -> bool:
        """Whether a file is made by the post-training steps of the plan."""
        return self._steps_of_int8 is not None and spec.variant is Variant.INT8

    @property
    def steps(self) -> dict | None:
        """For the manifest: which steps, and what each did."""
        if self._post_trained is None or self._steps_of_int8 is None:
            return None
        return {**self._steps_of_int8.to_json(), "report": self._post_trained.report}

    def saved_model(self, spec: FileSpec) -> pathlib.Path:
        plan = self._plan
        phase = Phase.QUANTIZED if RULES[spec.variant].quantization_aware else Phase.FLOAT
        kind = "post_trained" if self.planned(spec) else phase.value
        path = self._folder / f"{kind}_{spec.head.value}"
        if (kind, spec.head) not in self._paths:
            frozen = self._frozen(spec, phase)
            write_saved_model(frozen, path)
            if spec.head is plan.files[0].head and not self.planned(spec):
                _write_beside(frozen, plan, folder=plan.output_dir / SAVED_MODELS[phase])
            self._paths[kind, spec.head] = path
        return path

    def raised(self, spec: FileSpec, content: bytes) -> tuple[bytes, dict[int, str]]:
        """The file with layers of more than 8 bits where asked for, and which operators of
        `content` these are: {position: type}.
        """
        done, steps = self._post_trained, self._steps_of_int8
        if done is None or steps is None or not self.planned(spec):
            return content, {}
        if not (steps.keep_float or steps.int16):
            return content, {}
        layers = {"keep_float": steps.keep_float, "int16": steps.int16}
        return apply_mixed_precision(content, done, **layers), mixed_precision_positions(
            content, done, **layers
        )

    def _frozen(self, spec: FileSpec, phase: Phase):
        plan, source = self._plan, self._source
        if self._steps_of_int8 is None or not self.planned(spec):
            return source.frozen(phase, spec.head, height=plan.height, width=plan.width)
        if self._post_trained is None:
            photos = plan.preprocessing.normalize(np.load(self._photos))
            self._post_trained = quantize_post_training(
                source.float_model(plan.height, plan.width),
                self._steps_of_int8,
                batches=[photos[start : start + 4] for start in range(0, len(photos), 4)],
                input_range=plan.preprocessing.input_range,
            )
        return freeze_model(self._post_trained.model, spec.head, alignment=source.logits_alignment)


def _in_forms_of_the_target(plan: ExportPlan, spec: FileSpec, *, content: bytes) -> bytes:
    if plan.target is not Target.EDGETPU or spec.variant not in (Variant.INT8, Variant.QAT_INT8):
        return content
    content, lines = fit_edgetpu(content)
    for line in lines:
        logging.info("%s: %s", spec.file_name, line)
    return content


def _write_beside(frozen, plan: ExportPlan, *, folder: pathlib.Path) -> None:
    """Writes a SavedModel, but never over one that --overwrite does not allow to replace."""
    if folder.exists() and not plan.overwrite:
        logging.warning("%s exists and is left as it is; --overwrite replaces it", folder)
        return
    write_saved_model(frozen, folder)


def _calibrate(plan: ExportPlan, folder: pathlib.Path):
    dataset = plan.calibration_dataset
    if dataset is None or not any(RULES[spec.variant].calibrated for spec in plan.files):
        return None, None
    images, record = calibrate(
        dataset,
        (plan.height, plan.width),
        count=plan.calibration_images,
        seed=plan.calibration_seed,
    )
    path = folder / "calibration.npy"
    np.save(path, images)
    logging.info(
        "calibration: %d images of %s %s cover %d of %d classes",
        len(images),
        record.dataset,
        record.split,
        record.classes_covered,
        dataset.label_set.num_classes,
    )
    return path, record


def _place(
    plan: ExportPlan,
    source: Source,
    *,
    spec: FileSpec,
    content: bytes,
    raised: bytes,
    wanted: dict[int, str],
    record: Calibration | None,
    steps: dict | None,
) -> ExportedFile:
    """Checks a finished file and moves it, with its manifest, under its final name.

    The gate sees the integer file, `content`, and then what ships, `raised`: the operators of
    `wanted` may be wide there, nothing else. What ships has run once.
    """
    final = plan.output_dir / spec.file_name
    with atomic_file.atomic_path(final) as temporary:
        temporary.write_bytes(content)
        per_channel = plan.post_training.per_channel if plan.post_training and steps else True
        faults = gate.check_file(
            temporary, spec, preprocessing=plan.preprocessing, per_channel=per_channel
        )
        if raised != content:
            integer = read_graph(temporary)
            temporary.write_bytes(raised)
            faults += gate.check_mixed_precision(temporary, integer, wanted=wanted)
        if faults and not source.tolerated:
            raise RuntimeError("refused by the gate: " + "; ".join(faults))
        if broken := gate.run_once(temporary):
            raise RuntimeError("refused by the gate: " + "; ".join(broken))
        for fault in faults:
            logging.warning("%s: %s", spec.file_name, fault)
        manifest = _manifest(
            plan, source, spec=spec, path=temporary, content=raised, record=record, steps=steps
        )
    manifest.write(manifest_path(final))
    return ExportedFile(spec, final, failure="", size_bytes=len(raised))


def _manifest(plan, source, *, spec, path, content, record, steps) -> Manifest:
    graph = read_graph(path)
    shape = graph.tensors[graph.outputs[0]].shape
    if len(shape) == 4 and shape[-1] > 1 and shape[-1] != plan.label_set.num_classes:
        raise ValueError(
            f"the output has {shape[-1]} classes, the label list {plan.label_set.num_classes}; "
            "give --labels with one name a class"
        )
    image, output = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    return Manifest(
        variant=spec.variant.value,
        head=spec.head.value,
        height=plan.height,
        width=plan.width,
        preprocessing=plan.preprocessing,
        label_set=plan.label_set,
        input_dtype=image.type_name.lower(),
        output_dtype=output.type_name.lower(),
        input_quantization=_scale_and_zero_point(image),
        output_quantization=_scale_and_zero_point(output),
        calibration=record.to_json() if record else None,
        source=source.description,
        versions={name: importlib.metadata.version(name) for name in _PACKAGES},
        sha256=sha256_of(content),
        size_bytes=len(content),
        quantization=steps,
        # A graph with a head of its own resizes as it does; nobody wrote down how.
        resize=source.logits_alignment.value if source.choosable_heads else None,
        sensor=source.sensor,
    )


def _scale_and_zero_point(tensor):
    if tensor.quantization is None:
        return None
    return float(tensor.quantization.scale[0]), int(tensor.quantization.zero_point[0])


def _log(result: ExportedFile) -> None:
    if result.failure:
        logging.error("%s FAILED: %s", result.spec.file_name, result.failure)
    else:
        logging.info("%s: %.2f MB", result.spec.file_name, result.size_bytes / 1e6)
