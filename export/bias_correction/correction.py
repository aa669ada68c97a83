"""Bias correction of a finished integer `.tflite`: new int32 biases from a reference's means.

Rounding shifts the mean of each output channel of a convolution, and the layers behind it
propagate the shift. With means over some images, taken before the activation,

    new_bias[c] = bias[c] + round((E_reference[c] - E_integer[c]) / (input_scale * weight_scale[c]))

layer by layer, so that each layer is measured with the corrections of the layers before it (Nagel
et al. 2019, data-free quantization, arXiv:1906.04721, section 4.2, with measured means). The
integer side is the exact simulation of the file; only the biases of the file are changed.
"""

import dataclasses
import pathlib

import numpy as np
from absl import logging

from deeplab_tf import atomic_file
from deeplab_tf.metrics.signal_to_noise import snr_db
from export.bias_correction.integer_network import (
    CorrectableLayer,
    FileRun,
    SkippedLayer,
    read_file,
)
from export.bias_correction.plan import BiasCorrectionPlan
from export.bias_correction.reference import (
    drop_mismatched,
    pair_layers,
    read_reference,
    reference_means,
)
from export.conversion.calibration import Calibration, calibrate
from tflite_tools.flatbuffer.editor import Editor
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.flatbuffer.graph import Graph, read_graph
from tflite_tools.flatbuffer.operators import traits
from tflite_tools.input_contract import read_input_contract
from tflite_tools.manifest import Manifest, manifest_path, read_manifest, sha256_of
from tflite_tools.runtime.file_interpreter import FileRunner
from tflite_tools.text_table import align
from tflite_tools.to_keras.fidelity import compare

_LEAST_EQUAL = 0.99
"""Share of equal outputs below which the simulation does not follow the runtime."""


@dataclasses.dataclass(frozen=True)
class CorrectedLayer:
    """A layer with new biases.

    Attributes:
        position: of its operator in the file.
        kind: of the operator.
        name: of the layer, from the tensor that it computes.
        reference: layer of the reference that its means come from.
        correction: float64 [channels], what was added, as real values.
        steps: int64 [channels], the same in steps of the bias.
        limited: how many corrections were limited because the int32 sum could overflow.
    """

    position: int
    kind: str
    name: str
    reference: str
    correction: np.ndarray
    steps: np.ndarray
    limited: int


@dataclasses.dataclass(frozen=True)
class CorrectedFile:
    """The result of a bias correction.

    Attributes:
        layers: the corrected layers, in the file's order.
        skipped: the other layers.
        logits: layer that the ratios are measured at, the last convolution.
        snr_before_db: 10 log10(sum reference^2 / sum (file - reference)^2) of the logits over the
            calibration images, before the correction.
        snr_after_db: the same after the correction.
        equal_outputs: share of the output's values (of classes, where it has them) that are
            the same in the runtime and in the simulation, on the first image; None where an
            unknown operator ends the simulation before the output.
        in_place: whether all bytes except those of the biases are the original's.
    """

    layers: tuple[CorrectedLayer, ...]
    skipped: tuple[SkippedLayer, ...]
    logits: str
    snr_before_db: float
    snr_after_db: float
    equal_outputs: float | None
    in_place: bool

    def warnings(self) -> list[str]:
        """Returns what a user should know before using the file, one line each."""
        lines = [
            f"skipped: operator {layer.position}, {layer.kind} {layer.name!r}: {layer.reason}"
            for layer in self.skipped
        ]
        lines += [
            f"{layer.limited} corrections of {layer.name!r} were limited: the int32 sum could "
            "overflow"
            for layer in self.layers
            if layer.limited
        ]
        if not self.in_place:
            lines.append("some biases shared their bytes: the file was packed again")
        if self.equal_outputs is not None and self.equal_outputs < _LEAST_EQUAL:
            lines.append(
                f"only {self.equal_outputs:.1%} of the runtime's output equals that of the "
                "simulation, which the means come from: trust a score, not the ratio"
            )
        if self.snr_after_db < self.snr_before_db:
            lines.append("the logits are farther from the reference than before: keep the original")
        return lines

    def table(self) -> str:
        """Formats what was added to each layer's biases: largest and mean absolute value."""
        names = ("max", "mean", "max steps", "mean steps")
        header = [("operator", "<"), ("layer", "<"), *((name, ">") for name in names)]
        rows = []
        for layer in self.layers:
            real, steps = np.abs(layer.correction), np.abs(layer.steps)
            numbers = (f"{real.max():.2g}", f"{real.mean():.2g}", str(steps.max()))
            rows.append([layer.kind, layer.name, *numbers, f"{steps.mean():.1f}"])
        return align(header, rows)


def correct_biases(plan: BiasCorrectionPlan) -> CorrectedFile:
    """Corrects the biases of a file and writes it, with a manifest if the original has one.

    Args:
        plan: which file, and how.

    Returns:
        the corrected layers and the effect on the logits.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the file has no int32 biases, images or reference do not fit it, or the
            reference holds or gives NaN.
        RuntimeError: the runtime refuses the file.
    """
    graph = read_graph(plan.model)
    manifest = _read_manifest(plan)
    _check_sensor(plan, manifest)
    file = read_file(graph)
    _runner(plan.model)
    contract = read_input_contract(plan.model, graph, given=plan.preprocessing)
    contract.check_known()
    for warning in contract.warnings:
        logging.warning("%s: %s", plan.model, warning)
    pixels, record = _images(plan, contract.shape)
    reference = read_reference(plan, file.network, preprocessing=contract.preprocessing)
    pairs = pair_layers(plan, file, reference=reference)
    file = drop_mismatched(file, reference, pairs=pairs)
    logits = file.convolutions[-1].name
    empty = plan.calibration.sensor is not None
    means, expected = reference_means(
        reference, pixels, pairs=pairs, logits=logits, ignore_empty=empty
    )
    images = [contract.real_values(image[None]) for image in pixels]
    run = FileRun(file, logits, images=images, ignore_empty=empty)
    before = _snr_db(expected, run.uncorrected_logits())
    corrected = _correct(run, file.layers, means=means, pairs=pairs)
    after = _snr_db(expected, run.logits())
    biases = {
        (layer.operator.position, traits(layer.operator.kind).slots[-1]): layer.bias + done.steps
        for layer, done in zip(file.layers, corrected, strict=True)
    }
    content, in_place = rewrite_biases(read_model_bytes(plan.model), biases)
    equal = _write(
        plan.output, content, original=graph, biases=biases, run=run, simulated=file.whole
    )
    if manifest is not None:
        new = _corrected_manifest(manifest, reference.name, record=record, content=content)
        new.write(manifest_path(plan.output))
    return CorrectedFile(
        tuple(corrected),
        tuple(file.skipped),
        logits=logits,
        snr_before_db=before,
        snr_after_db=after,
        equal_outputs=equal,
        in_place=in_place,
    )


def rewrite_biases(content: bytes, biases: dict[tuple[int, int], np.ndarray]) -> tuple[bytes, bool]:
    """Replaces biases of a `.tflite`.

    Args:
        content: the file.
        biases: {(operator position, input slot): integers [channels]}.

    Returns:
        the new file, and whether all bytes except those of the biases are the original's.
    """
    editor = Editor(content)
    operators = editor.operators()
    for (position, slot), bias in biases.items():
        editor.replace_constant(operators[position], slot, values=bias)
    changed = editor.to_bytes()
    return changed, editor.in_place


def _read_manifest(plan: BiasCorrectionPlan) -> Manifest | None:
    manifest = read_manifest(plan.model)
    if manifest is None and manifest_path(plan.output).exists():
        raise ValueError(
            f"{manifest_path(plan.output)} describes another file and {plan.model} has no manifest "
            "to replace it; remove it or give another output"
        )
    return manifest


def _check_sensor(plan: BiasCorrectionPlan, manifest: Manifest | None) -> None:
    if manifest is None or manifest.sensor is None:
        return
    if other := manifest.sensor.difference(plan.calibration.sensor):
        raise ValueError(
            f"{plan.model} was trained on range images of another sensor ({other}); give the "
            "--data_dir whose sensor.json it was trained with"
        )


def _runner(path: pathlib.Path) -> FileRunner:
    try:
        return FileRunner(path)
    except (ValueError, RuntimeError) as error:
        raise RuntimeError(
            f"the runtime refuses {path} ({error}); give a file that runs on this machine"
        ) from error


def _images(plan: BiasCorrectionPlan, shape: tuple[int, ...]) -> tuple[np.ndarray, Calibration]:
    """Returns uint8 [count, height, width, channels] and the record of what was chosen."""
    if len(shape) != 4 or shape[0] != 1:
        raise ValueError(f"{plan.model}: expected an input of one image, got {list(shape)}")
    _, height, width, channels = shape
    dataset = plan.calibration.with_channels(channels)
    return calibrate(
        dataset, (height, width), count=plan.calibration_images, seed=plan.calibration_seed
    )


def _correct(
    run: FileRun,
    layers: list[CorrectableLayer],
    *,
    means: dict[str, np.ndarray],
    pairs: dict[str, str],
) -> list[CorrectedLayer]:
    by_node = {layer.node.name: layer for layer in layers}
    corrected = []
    for node in run:
        layer = by_node.get(node.name)
        if layer is None:
            continue
        ideal = layer.bias + np.rint((means[node.name] - run.mean(node.name)) / layer.scale)
        bias = np.clip(ideal, -layer.largest, layer.largest).astype(np.int64)
        run.set_bias(node, bias * layer.scale)
        steps = bias - layer.bias
        done = CorrectedLayer(
            layer.operator.position,
            layer.operator.kind,
            name=node.name,
            reference=pairs[node.name],
            correction=steps * layer.scale,
            steps=steps,
            limited=int((bias != ideal).sum()),
        )
        corrected.append(done)
        if len(corrected) % 10 == 0 or len(corrected) == len(layers):
            logging.info("%d of %d layers corrected", len(corrected), len(layers))
    return corrected


def _snr_db(references: list[np.ndarray], values: list[np.ndarray]) -> float:
    pairs = list(zip(references, values, strict=True))
    signal = sum(float(np.square(r, dtype=np.float64).sum()) for r, _ in pairs)
    noise = sum(float(np.square(v - r, dtype=np.float64).sum()) for r, v in pairs)
    return snr_db(signal, noise)


def _write(
    path: pathlib.Path,
    content: bytes,
    *,
    original: Graph,
    biases: dict,
    run: FileRun,
    simulated: bool,
) -> float | None:
    """Writes the file after it was read again and has run on one image.

    Returns:
        the share of outputs that are equal to the simulation's; None where it does not reach them.
    """
    with atomic_file.atomic_path(path) as temporary:
        temporary.write_bytes(content)
        if _constants(read_graph(temporary), {}) != _constants(original, biases):
            raise RuntimeError(
                f"{path}: expected to differ from the original only in biases, got other "
                "differences; it is not written, report this fault"
            )
        image = run.images[0]
        output = _runner(temporary)(image)
        if not simulated:
            return None
        with np.errstate(invalid="ignore", divide="ignore"):  # of a constant output
            return compare([(output, np.asarray(run.model(image)))]).equal_classes


def _constants(graph: Graph, biases: dict[tuple[int, int], np.ndarray]) -> list:
    """Lists kind, outputs and constants of every operator, with the given biases in place."""
    rows = []
    for operator in graph.operators:
        values = [graph.tensors[index].data if index >= 0 else None for index in operator.inputs]
        for slot in range(len(values)):
            if (operator.position, slot) in biases:
                values[slot] = biases[operator.position, slot].astype(np.int32)
        stored = [None if value is None else value.tobytes() for value in values]
        names = [graph.tensors[index].name for index in operator.outputs]  # numbers may change
        rows.append((operator.kind, names, stored))
    return rows


def _corrected_manifest(
    manifest: Manifest, reference: str, *, record: Calibration, content: bytes
) -> Manifest:
    return dataclasses.replace(
        manifest,
        source=(
            f"{manifest.source}; biases corrected to the means of {reference} on "
            f"{len(record.samples)} images of {record.dataset} {record.split}, seed {record.seed}"
        ),
        sha256=sha256_of(content),
        size_bytes=len(content),
    )
