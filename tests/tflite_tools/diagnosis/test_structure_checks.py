"""Faults that the graph alone betrays, each planted in the zoo's file and found."""

import json

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from deeplab_tf.data.preprocessing import Preprocessing
from tests.paths import CAMVID
from tests.tflite_tools.surgery import (
    INT8,
    calibrate,
    float_twin,
    last_resize_with,
    low_logits,
    set_constant,
    tensor_named,
    unpacked,
    write,
    write_manifest,
    writer_of,
)
from tflite_tools.diagnosis.case import open_case
from tflite_tools.diagnosis.diagnosis import diagnose
from tflite_tools.diagnosis.finding import Severity
from tflite_tools.diagnosis.observation import Effort
from tflite_tools.diagnosis.pairing import layer_key, pair_tensors
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.metadata import packing
from tflite_tools.metadata.segmenter import SegmenterMetadata

FLOAT32, INT8_TYPE, INT32 = (
    schema.TensorType.FLOAT32,
    schema.TensorType.INT8,
    schema.TensorType.INT32,
)


def found(path, **given):
    """{name: finding} without running the file."""
    diagnosis = diagnose(open_case(path, **given), Effort())
    return {finding.name: finding for finding in diagnosis.findings}


@pytest.fixture
def twin(tmp_path):
    return write(tmp_path / "twin.tflite", float_twin(unpacked()))


@pytest.mark.parametrize("name", ["int8", "qat_int8"])
def test_the_zoo_is_healthy(name, twin):
    assert found(CAMVID / f"{name}.tflite", reference=twin) == {}


def test_the_twin_is_healthy_too(twin):
    assert found(twin) == {}


@pytest.mark.parametrize(
    ("mean", "std", "name", "factor"),
    [(0, 1, "raw_pixels", "128 times wider"), (16512, 16384, "normalized_twice", "128 times")],
)
def test_normalization_by_hand_that_an_integer_input_contradicts(mean, std, name, factor):
    finding = found(INT8, preprocessing=Preprocessing((mean,) * 3, (std,) * 3))[name]
    assert finding.severity is Severity.PROBLEM
    assert factor in finding.evidence


def test_graph_that_normalizes_itself_and_is_fed_normalized(tmp_path):
    model = float_twin(unpacked())
    graph = model.graph
    image = int(graph.inputs[0])
    factor = model.add_constant("factor", np.array([1 / 128], np.float32))
    scaled = model.add_tensor("scaled", graph.tensors[image].shape, kind=FLOAT32)
    for operator in graph.operators:
        operator.inputs = np.where(operator.inputs == image, scaled, operator.inputs)
    multiply = model.new_operator(
        "MUL", [image, factor], outputs=[scaled], options=schema.MulOptionsT()
    )
    graph.operators.insert(0, multiply)
    path = write(tmp_path / "own.tflite", model)
    # Nobody says how it is fed: the assumption is no evidence, but it does not fit.
    finding = found(path)["unknown_normalization"]
    assert finding.severity is Severity.WARNING
    assert "covers [0, 255]; the first is an assumption" in finding.evidence
    twice = found(path, preprocessing=Preprocessing())
    assert twice["normalized_twice"].severity is Severity.PROBLEM
    assert found(path, preprocessing=Preprocessing((0.0,) * 3, (1.0,) * 3)) == {}


@pytest.mark.parametrize(
    ("scale", "zero_point"),
    [(1 / 255, 0), (1 / 128, 118), (1.0, 0)],
    ids=["zero to one", "shifted zero point", "never normalized"],
)
def test_input_scale_that_the_manifest_contradicts(tmp_path, scale, zero_point):
    model = unpacked()
    image = model.graph.tensors[model.graph.inputs[0]]
    image.quantization.scale = np.array([scale], np.float32)
    image.quantization.zeroPoint = np.array([zero_point], np.int64)
    path = write(tmp_path / "int8.tflite", model)
    write_manifest(path)
    finding = found(path)["input_scale"]
    assert finding.severity is Severity.PROBLEM
    assert "[-1, 0.992]" in finding.evidence


def declaring(path, preprocessing, labels=()):
    """The same file with metadata of its own, and no manifest."""
    metadata = SegmenterMetadata(
        "",
        "",
        license="",
        preprocessing=preprocessing,
        input_range=None,
        labels=labels,
        classes_output=False,
        activation=None,
    )
    path.write_bytes(packing.add(INT8.read_bytes(), metadata))
    return path


def test_input_scale_that_the_files_own_metadata_contradicts(tmp_path):
    assert found(declaring(tmp_path / "fits.tflite", Preprocessing())) == {}
    path = declaring(tmp_path / "theirs.tflite", Preprocessing((0.0,) * 3, (255.0,) * 3))
    finding = found(path)["input_scale"]
    assert finding.severity is Severity.PROBLEM
    assert "pixels 0..255 become [0, 1], the file's input covers [-1, 0.992]" in (finding.evidence)
    raw = declaring(tmp_path / "raw.tflite", Preprocessing((0.0,) * 3, (1.0,) * 3))
    assert "input_scale" in found(raw)


def test_labels_of_the_files_own_metadata_are_judged(tmp_path):
    names = tuple(json.loads((CAMVID / "labels.json").read_text())["names"])
    assert open_case(declaring(tmp_path / "own.tflite", None, names)).labels == names


@pytest.mark.parametrize(("images", "severity"), [(1, Severity.PROBLEM), (8, Severity.WARNING)])
def test_calibration_on_one_image_by_the_manifest(tmp_path, images, severity):
    path = write(tmp_path / "int8.tflite", unpacked())
    write_manifest(path, lambda values: values["calibration"].update(images=images))
    assert found(path)["few_calibration_images"].severity is severity


def test_resize_that_differs_from_the_reference(tmp_path, twin):
    model = unpacked()
    for operator in model.operators("RESIZE_BILINEAR"):
        operator.builtinOptions.halfPixelCenters = False
        operator.builtinOptions.alignCorners = True
    path = write(tmp_path / "corners.tflite", model)
    finding = found(path, reference=twin)["resize_convention"]
    assert finding.severity is Severity.PROBLEM
    # Three resizes, one of them from 1 x 1, where no convention matters.
    assert "2 of 2 resizes differ" in finding.evidence
    assert "align-corners, there half-pixel" in finding.evidence
    assert "resize_convention" not in found(path)


def test_small_logits_without_a_convention_are_told(tmp_path):
    path = write(tmp_path / "low.tflite", low_logits(unpacked()))
    finding = found(path)["resize_convention"]
    assert finding.severity is Severity.WARNING
    assert "92x120 is resized half-pixel to 368x480: the training's" in finding.evidence
    write_manifest(path, lambda values: values["output"].update(resize="align_corners"))
    assert found(path) == {}


@pytest.mark.parametrize(
    ("half_pixel", "align_corners", "word"),
    [(False, True, "align-corners"), (False, False, "legacy")],
)
def test_resize_of_the_logits_that_differs_from_the_manifests(
    tmp_path, half_pixel, align_corners, word
):
    def trained(values):
        values["output"]["resize"] = "half_pixel"

    path = write(tmp_path / "whole.tflite", unpacked())
    write_manifest(path, trained)
    assert found(path) == {}
    path = write(tmp_path / "bent.tflite", last_resize_with(unpacked(), half_pixel, align_corners))
    write_manifest(path, trained)
    finding = found(path)["resize_convention"]
    assert finding.severity is Severity.PROBLEM
    assert f"RESIZE_BILINEAR, is {word}, expected half-pixel (manifest)" in finding.evidence
    write_manifest(path)  # older manifests say nothing: what is left is the mixture
    assert found(path)["resize_convention"].severity is Severity.WARNING


def test_resize_inside_the_network_is_not_the_one_of_the_logits(tmp_path):
    # Networks of align-corners logits have a decoder of half-pixel resizes.
    path = write(tmp_path / "zoo.tflite", last_resize_with(unpacked(), False, True))
    write_manifest(path, lambda values: values["output"].update(resize="align_corners"))
    assert found(path)["resize_convention"].severity is Severity.WARNING


def test_manifest_with_a_resize_that_nobody_knows(tmp_path):
    path = write(tmp_path / "odd.tflite", unpacked())
    write_manifest(path, lambda values: values["output"].update(resize="bicubic"))
    with pytest.raises(
        ValueError, match=r"odd\.json: not a readable manifest \(resize: expected one of"
    ):
        found(path)


def test_resizes_pair_with_the_reference_by_name_not_by_place(tmp_path, twin):
    # The reference has one resize more, of another convention, in front of the decoder's.
    reference = unpacked(twin)
    graph = reference.graph
    decoder = reference.operators("RESIZE_BILINEAR")[1]
    source = int(decoder.inputs[0])
    size = reference.add_constant("size", np.array([46, 60], np.int32))
    shape = [1, 46, 60, graph.tensors[source].shape[3]]
    between = reference.add_tensor("between", shape, kind=FLOAT32)
    options = schema.ResizeBilinearOptionsT()
    options.alignCorners = True
    inputs = [source, size]
    more = reference.new_operator("RESIZE_BILINEAR", inputs, outputs=[between], options=options)
    decoder.inputs = np.array([between, decoder.inputs[1]], np.int32)
    position = next(i for i, op in enumerate(graph.operators) if op is decoder)
    graph.operators.insert(position, more)
    other = write(tmp_path / "reference.tflite", reference)
    assert found(INT8, reference=other) == {}
    bent = write(tmp_path / "bent.tflite", last_resize_with(unpacked(), False, True))
    finding = found(bent, reference=other)["resize_convention"]
    assert "1 of 2 resizes differ" in finding.evidence


def test_resizes_that_differ_among_themselves(tmp_path):
    model = unpacked()
    model.operators("RESIZE_BILINEAR")[-1].builtinOptions.halfPixelCenters = False
    finding = found(write(tmp_path / "mixed.tflite", model))["resize_convention"]
    assert finding.severity is Severity.WARNING
    assert "half-pixel and legacy" in finding.evidence


def cast_logits(model, argmax: bool):
    """The twin's logits as int32, and where asked their argmax, as the outputs."""
    graph = model.graph
    logits = int(graph.outputs[0])
    shape = graph.tensors[logits].shape
    rounded = model.add_tensor("rounded", shape, kind=INT32)
    graph.operators.append(model.new_operator("CAST", [logits], outputs=[rounded]))
    output = rounded
    if argmax:
        axis = model.add_constant("axis", np.array(3, np.int32))
        output = model.add_tensor("classes", shape[:3], kind=INT32)
        options = schema.ArgMaxOptionsT()
        options.outputType = INT32
        operator = model.new_operator("ARG_MAX", [rounded, axis], outputs=[output], options=options)
        graph.operators.append(operator)
    graph.outputs = np.array([output], np.int32)
    model.model.signatureDefs = None
    return model


@pytest.mark.parametrize("argmax", [True, False])
def test_logits_that_were_rounded_before_the_class_was_chosen(tmp_path, argmax):
    path = write(tmp_path / "rounded.tflite", cast_logits(float_twin(unpacked()), argmax))
    finding = found(path)["argmax_after_cast"]
    assert "CAST, FLOAT32 -> INT32" in finding.evidence


def test_label_list_of_the_wrong_length(tmp_path):
    names = json.loads((CAMVID / "labels.json").read_text())["names"]
    short = tmp_path / "labels.txt"
    short.write_text("\n".join(names[1:]) + "\n")
    assert "expected 11 names" in found(INT8, labels=short)["label_count"].evidence
    assert found(INT8, labels=CAMVID / "labels.json") == {}


def test_float_island(tmp_path):
    model = unpacked()
    graph = model.graph
    add = model.operators("ADD")[0]
    position = next(i for i, operator in enumerate(graph.operators) if operator is add)
    inputs, output = list(map(int, add.inputs)), int(add.outputs[0])
    floats = [
        model.add_tensor(f"float{index}", graph.tensors[index].shape, kind=FLOAT32)
        for index in (*inputs, output)
    ]
    add.inputs, add.outputs = np.array(floats[:2], np.int32), np.array(floats[2:], np.int32)
    before = [
        model.new_operator("DEQUANTIZE", [own], outputs=[new])
        for own, new in zip(inputs, floats[:2], strict=True)
    ]
    after = model.new_operator("QUANTIZE", floats[2:], outputs=[output])
    graph.operators[position : position + 1] = [*before, add, after]
    finding = found(write(tmp_path / "island.tflite", model))["float_islands"]
    assert "1 of 87 operators" in finding.evidence
    assert "12 ADD" in finding.evidence


def test_atrous_convolution_taken_apart_by_a_dynamic_batch(tmp_path):
    model = unpacked()
    graph = model.graph
    index, tensor = tensor_named(model, "block_14_expand")
    block = model.add_constant("block", np.array([2, 2], np.int32))
    pads = model.add_constant("pads", np.zeros((2, 2), np.int32))
    moved = model.add_tensor("moved", tensor.shape, kind=INT8_TYPE)
    graph.tensors[moved].quantization = tensor.quantization
    users = [op for op in graph.operators if index in op.inputs]
    for user in users:
        user.inputs = np.where(user.inputs == index, moved, user.inputs)
    place = next(i for i, op in enumerate(graph.operators) if op is writer_of(model, index))
    moving = model.new_operator("SPACE_TO_BATCH_ND", [index, block, pads], outputs=[moved])
    graph.operators.insert(place + 1, moving)
    finding = found(write(tmp_path / "batch.tflite", model))["space_to_batch"]
    assert finding.severity is Severity.PROBLEM
    assert f"first operator {place + 1}" in finding.evidence


def test_dynamic_batch_alone(tmp_path):
    model = unpacked()
    image = model.graph.tensors[model.graph.inputs[0]]
    image.shapeSignature = np.array([-1, *image.shape[1:]], np.int32)
    finding = found(write(tmp_path / "dynamic.tflite", model))["dynamic_batch"]
    assert finding.severity is Severity.WARNING


@pytest.mark.parametrize(
    ("stem", "severity"),
    [("model_int8", Severity.PROBLEM), ("model", Severity.WARNING)],
)
def test_dynamic_range_mistaken_for_full_integer(tmp_path, stem, severity):
    whole, model = unpacked(), float_twin(unpacked())
    for operator in model.operators("CONV_2D", "DEPTHWISE_CONV_2D"):
        index = int(operator.inputs[1])
        tensor, original = (m.graph.tensors[index] for m in (model, whole))
        tensor.type, tensor.quantization = original.type, original.quantization
        set_constant(model, index, whole.constant(index))
    finding = found(write(tmp_path / f"{stem}.tflite", model))["dynamic_range"]
    assert finding.severity is severity
    assert "66 of 66 convolutions" in finding.evidence


def test_names_of_quantization_aware_files_pair_with_the_float_files(twin):
    quantized = "deeplab/quant_a/Relu6;deeplab/quant_b/Conv2D1"
    assert layer_key(quantized) == layer_key("deeplab/a/Relu6;deeplab/b/Conv2D")
    assert layer_key(quantized) != layer_key("deeplab/b/Relu6;deeplab/a/Conv2D")
    assert layer_key("deeplab/a/Conv2D12") == layer_key("deeplab/quant_a/Conv2D")
    assert layer_key("ResizeBilinear_2") != layer_key("ResizeBilinear_3")
    own, reference = read_graph(CAMVID / "qat_int8.tflite"), read_graph(twin)
    pairs = pair_tensors(own, reference)
    # All but the two QUANTIZE and the resize of the logits, which the export names.
    assert len(pairs) >= 80
    for index, other in pairs.items():
        assert own.tensors[index].shape == reference.tensors[other].shape


def test_surgery_keeps_a_file_whole(tmp_path):
    # The tools that plant faults must not plant others.
    images = [np.random.default_rng(0).uniform(-1, 1, (368, 480, 3))]
    path = write(tmp_path / "calibrated.tflite", calibrate(unpacked(), images))
    assert found(path) == {}
    assert [m.kind(op) for m in (unpacked(path),) for op in m.graph.operators] == [
        m.kind(op) for m in (unpacked(),) for op in m.graph.operators
    ]
