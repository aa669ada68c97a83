"""The export pipeline: freeze, calibrate once, convert each file, check it, move it into place."""

import contextlib
import dataclasses
import importlib.metadata
import pathlib
from collections.abc import Iterator

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
from deeplab_tf.runs.folder import Phase
from deeplab_tf.scratch import scratch_folder
from export.conversion import gate
from export.conversion.calibration import Calibration, calibrate
from export.conversion.convert import Conversion, ConverterProcess
from export.conversion.freeze import freeze_model, write_saved_model
from export.conversion.recipe import PACKAGES, existing_manifest, recipe_of
from export.conversion.source import Source
from export.conversion.variants import RULES, FileSpec, Head, Target, Variant
from export.rewriting.edgetpu_resizes import fit_edgetpu
from export.rewriting.mixed_precision import apply_mixed_precision, mixed_precision_positions
from export.rewriting.named_outputs import name_outputs
from tflite_tools.download_size import download_bytes
from tflite_tools.flatbuffer.graph import Tensor, read_graph
from tflite_tools.manifest import Manifest, manifest_path, sha256_of

SAVED_MODELS = {Phase.FLOAT: "saved_model", Phase.QUANTIZED: "saved_model_qat"}
"""Folders in the output folder that hold the frozen graph of each phase."""


@dataclasses.dataclass(frozen=True)
class ExportPlan:
    """An export.

    Attributes:
        output_dir: where the files go.
        height: of the networks' input.
        width: of the networks' input.
        files: the files to make.
        preprocessing: normalization of the input, for the manifests too.
        label_set: for the manifests.
        calibration_dataset: list that calibration images are chosen from, or None.
        calibration_images: how many.
        calibration_seed: of the choice.
        overwrite: replace files that exist.
        post_training: steps for int8 files; None: the converter calibrates by itself, except for
            range images, whose empty pixels it would count.
        target: accelerator that int8 and qat_int8 files are made for.
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

    def __post_init__(self) -> None:
        existing = {
            spec.file_name: existing_manifest(self.output_dir / spec.file_name)
            for spec in self.files
            if (self.output_dir / spec.file_name).exists() and not self.overwrite
        }
        # Of the others, the recipe is compared once the calibration images are known.
        self.refuse([name for name, manifest in existing.items() if manifest is None])
        needs = [spec.file_name for spec in self.files if RULES[spec.variant].calibrated]
        if needs and self.calibration_dataset is None:
            raise ValueError(
                f"{', '.join(needs)}: expected calibration images, got none; give --dataset and "
                "--data_dir"
            )

    def refuse(self, existing: list[str]) -> None:
        """Refuses to replace files.

        Args:
            existing: their names; none is fine.

        Raises:
            FileExistsError: there are any.
        """
        if existing:
            raise FileExistsError(
                f"{self.output_dir} already holds {', '.join(existing)}; give --overwrite"
            )


@dataclasses.dataclass(frozen=True)
class ExportedFile:
    """The result for one file.

    Attributes:
        spec: the requested file.
        path: the file, or None if it failed.
        failure: cause, or "".
        size_bytes: of the file.
    """

    spec: FileSpec
    path: pathlib.Path | None
    failure: str
    size_bytes: int = 0


def export_files(source: Source, plan: ExportPlan) -> list[ExportedFile]:
    """Makes every file of a plan; a file that fails does not stop the others.

    Files that an earlier export made in the same way are kept, unless the plan overwrites them.

    Also writes `saved_model/` and `saved_model_qat/`, each with `frozen_inference_graph.pb`, of
    the first head, where a file was made from it without post-training steps.

    Args:
        source: the network.
        plan: the files.

    Returns:
        one entry per file, in the plan's order.

    Raises:
        FileExistsError: a file exists that was made in another way.
        ValueError: calibration scans come from another sensor than the network's.
    """
    _check_sensor(plan, source)
    with (
        _folder(plan.output_dir),
        scratch_folder("export") as folder,
        ConverterProcess() as converter,
    ):
        calibration_file, calibration = _calibrate(plan, folder, channels=source.channels)
        graphs = _Graphs(source, plan, folder=folder, calibration_file=calibration_file)
        results = []
        recipes = _recipes(plan, source, calibration_file=calibration_file)
        kept = _kept(plan, recipes)
        for spec in plan.files:
            if spec in kept:
                results.append(kept[spec])
                logging.info("%s: made before, kept", spec.file_name)
                continue
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
                if source.named_outputs:
                    content = name_outputs(content, source.named_outputs)
                record = calibration if rule.calibrated else None
                steps = graphs.steps if graphs.planned(spec) else None
                content = _fit_target(plan, spec, content=content)
                mixed, types = graphs.mixed_precision(spec, content)
                results.append(
                    _place(
                        plan,
                        source,
                        spec=spec,
                        content=content,
                        mixed=mixed,
                        types=types,
                        record=record,
                        steps=steps,
                        recipe=recipes[spec],
                    )
                )
            except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
                cause = " ".join(str(error).split())
                results.append(ExportedFile(spec, None, failure=cause))
            _log(results[-1])
    return results


def _recipes(
    plan: ExportPlan, source: Source, *, calibration_file: pathlib.Path | None
) -> dict[FileSpec, str | None]:
    network = source.fingerprint()
    return {
        spec: recipe_of(plan, spec, network=network, calibration_file=calibration_file)
        for spec in plan.files
    }


def _kept(plan: ExportPlan, recipes: dict[FileSpec, str | None]) -> dict[FileSpec, "ExportedFile"]:
    """Returns the files that are there already, each complete and made by the same recipe.

    Raises:
        FileExistsError: there are others.
    """
    if plan.overwrite:
        return {}
    kept, others = {}, []
    for spec in plan.files:
        path = plan.output_dir / spec.file_name
        if not path.exists():
            continue
        manifest = existing_manifest(path)
        if manifest is not None and manifest.recipe == recipes[spec]:
            kept[spec] = ExportedFile(spec, path, failure="", size_bytes=manifest.size_bytes)
        else:
            others.append(spec.file_name)
    plan.refuse(others)
    return kept


def _check_sensor(plan: ExportPlan, source: Source) -> None:
    if source.sensor is None or plan.calibration_dataset is None:
        return
    if other := source.sensor.difference(plan.calibration_dataset.sensor):
        raise ValueError(
            f"{source.description} was trained on range images of another sensor ({other}); "
            "calibrate with the --data_dir whose sensor.json it was trained with"
        )


@contextlib.contextmanager
def _folder(path: pathlib.Path) -> Iterator[None]:
    """Makes a folder and removes it again if nothing was written into it."""
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if not any(path.iterdir()):
            path.rmdir()


class _Graphs:
    """The frozen graphs that files are made from; each is made once."""

    def __init__(
        self,
        source: Source,
        plan: ExportPlan,
        *,
        folder: pathlib.Path,
        calibration_file: pathlib.Path | None,
    ) -> None:
        self._source, self._plan, self._folder = source, plan, folder
        self._calibration_file = calibration_file
        self._paths: dict[tuple, pathlib.Path] = {}
        self._steps_of_int8 = plan.post_training
        scans = plan.calibration_dataset
        if scans is not None and scans.sensor is not None:
            # The converter's own calibration counts every pixel.
            steps = plan.post_training or PostTraining()
            self._steps_of_int8 = dataclasses.replace(steps, ignore_empty=True)
        self._post_trained: PostTrained | None = None

    def planned(self, spec: FileSpec) -> bool:
        """Returns whether a file is made by the post-training steps of the plan."""
        return self._steps_of_int8 is not None and spec.variant is Variant.INT8

    @property
    def steps(self) -> dict | None:
        """The manifest's entry: the post-training steps, and what each of them did."""
        if self._post_trained is None or self._steps_of_int8 is None:
            return None
        return {**self._steps_of_int8.to_json(), "report": self._post_trained.report}

    def saved_model(self, spec: FileSpec) -> pathlib.Path:
        """Returns the SavedModel folder that a file is converted from."""
        plan = self._plan
        phase = Phase.QUANTIZED if RULES[spec.variant].quantization_aware else Phase.FLOAT
        kind = "post_trained" if self.planned(spec) else phase.value
        path = self._folder / f"{kind}_{spec.head.value}"
        if (kind, spec.head) not in self._paths:
            frozen = self._frozen(spec, phase)
            write_saved_model(frozen, path)
            if spec.head is plan.files[0].head and not self.planned(spec):
                _keep_saved_model(frozen, plan, folder=plan.output_dir / SAVED_MODELS[phase])
            self._paths[kind, spec.head] = path
        return path

    def mixed_precision(self, spec: FileSpec, content: bytes) -> tuple[bytes, dict[int, str]]:
        """Rewrites a file so that the layers of the plan compute in more than 8 bits.

        Args:
            spec: the file.
            content: its integer form.

        Returns:
            the new file, and {operator position in `content`: type} of these layers; the file as
            it is and {} where the plan names none.
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

    def _frozen(self, spec: FileSpec, phase: Phase) -> tf.types.experimental.ConcreteFunction:
        plan, source = self._plan, self._source
        if self._steps_of_int8 is None or not self.planned(spec):
            return source.frozen(phase, spec.head, height=plan.height, width=plan.width)
        if self._post_trained is None:
            if self._calibration_file is None:
                raise ValueError(f"{spec.file_name}: expected calibration images, got none")
            images = plan.preprocessing.normalize(np.load(self._calibration_file))
            self._post_trained = quantize_post_training(
                source.float_model(plan.height, plan.width),
                self._steps_of_int8,
                batches=[images[start : start + 4] for start in range(0, len(images), 4)],
                input_range=plan.preprocessing.input_range,
            )
        head = spec.head if source.choosable_heads else Head.LOGITS_LOW  # its own output
        return freeze_model(self._post_trained.model, head, alignment=source.logits_alignment)


def _fit_target(plan: ExportPlan, spec: FileSpec, *, content: bytes) -> bytes:
    if plan.target is not Target.EDGETPU or spec.variant not in (Variant.INT8, Variant.QAT_INT8):
        return content
    content, lines = fit_edgetpu(content)
    for line in lines:
        logging.info("%s: %s", spec.file_name, line)
    return content


def _keep_saved_model(
    frozen: tf.types.experimental.ConcreteFunction, plan: ExportPlan, *, folder: pathlib.Path
) -> None:
    """Writes a SavedModel; an existing one is replaced only with `plan.overwrite`."""
    if folder.exists() and not plan.overwrite:
        logging.warning("%s exists and was not replaced; give --overwrite to replace it", folder)
        return
    write_saved_model(frozen, folder)


def _calibrate(
    plan: ExportPlan, folder: pathlib.Path, *, channels: int | None
) -> tuple[pathlib.Path | None, Calibration | None]:
    """Writes the calibration images to a file, where a file of the plan needs them."""
    dataset = plan.calibration_dataset
    if dataset is None or not any(RULES[spec.variant].calibrated for spec in plan.files):
        return None, None
    images, record = calibrate(
        dataset.with_channels(channels) if channels else dataset,
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
    mixed: bytes,
    types: dict[int, str],
    record: Calibration | None,
    steps: dict | None,
    recipe: str | None,
) -> ExportedFile:
    """Checks a finished file and moves it, with its manifest, to its final name.

    The gate checks the integer file, `content`, and then the file that is written, `mixed`, in
    which only the operators of `types` may compute in more than 8 bits. That file is run once.
    """
    final = plan.output_dir / spec.file_name
    with atomic_file.atomic_path(final) as temporary:
        temporary.write_bytes(content)
        per_channel = plan.post_training.per_channel if plan.post_training and steps else True
        faults = gate.check_file(
            temporary, spec, preprocessing=plan.preprocessing, per_channel=per_channel
        )
        if mixed != content:
            integer = read_graph(temporary)
            temporary.write_bytes(mixed)
            faults += gate.check_mixed_precision(temporary, integer, expected=types)
        if faults and not source.tolerated:
            raise RuntimeError(f"refused by the gate: {gate.in_one_line(faults)}")
        if broken := gate.run_once(temporary):
            raise RuntimeError("refused by the gate: " + "; ".join(broken))
        for fault in faults:
            logging.warning("%s: %s", spec.file_name, fault)
        manifest = _manifest(
            plan, source, spec=spec, path=temporary, content=mixed, record=record, steps=steps
        )
        # First: a file without its manifest could not be told from one that somebody else made.
        dataclasses.replace(manifest, recipe=recipe).write(manifest_path(final))
    return ExportedFile(spec, final, failure="", size_bytes=len(mixed))


def _manifest(
    plan: ExportPlan,
    source: Source,
    *,
    spec: FileSpec,
    path: pathlib.Path,
    content: bytes,
    record: Calibration | None,
    steps: dict | None,
) -> Manifest:
    graph = read_graph(path)
    own = next((place for place, (number, _) in enumerate(source.named_outputs) if not number), 0)
    image, output = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[own]]
    shape = output.shape
    if len(shape) == 4 and shape[-1] > 1 and shape[-1] != plan.label_set.num_classes:
        raise ValueError(
            f"expected {plan.label_set.num_classes} classes as in the label list, got an output of "
            f"{shape[-1]}; give --labels with one name per class"
        )
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
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
        sha256=sha256_of(content),
        size_bytes=len(content),
        quantization=steps,
        # How a graph with its own head resizes is not known.
        resize=source.logits_alignment.value if source.choosable_heads else None,
        sensor=source.sensor,
        outputs=tuple(name for _, name in source.named_outputs),
        output_name=output.name if source.named_outputs else None,
    )


def _scale_and_zero_point(tensor: Tensor) -> tuple[float, int] | None:
    if tensor.quantization is None:
        return None
    return float(tensor.quantization.scale[0]), int(tensor.quantization.zero_point[0])


def _log(result: ExportedFile) -> None:
    if result.failure:
        logging.error("%s FAILED: %s", result.spec.file_name, result.failure)
    else:
        download = download_bytes(result.path) if result.path else 0
        logging.info(
            "%s: %.2f MB, download %.2f MB",
            result.spec.file_name,
            result.size_bytes / 1e6,
            download / 1e6,
        )
