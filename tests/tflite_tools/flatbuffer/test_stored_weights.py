"""Weights behind the tables of a file, of fewer than 8 bits, sparse: read, rebuilt and edited."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from tests.tflite_tools.flatbuffer.test_sparse import axis, sparsity
from tflite_tools.flatbuffer.editor import Editor, symmetric
from tflite_tools.flatbuffer.graph import parse_model, read_graph
from tflite_tools.flatbuffer.outside_weights import has_outside_weights
from tflite_tools.flatbuffer.pack import pack as pack_model
from tflite_tools.flatbuffer.pack import share_equal_vectors
from tflite_tools.flatbuffer.small_integers import pack, unpack
from tflite_tools.metadata.model_file import attach, extract
from tflite_tools.runtime.file_interpreter import FileRunner
from tflite_tools.runtime.interpreter import Kernels
from tflite_tools.to_keras import self_check
from tflite_tools.to_keras.importer import import_graph
from tflite_tools.to_keras.pictures import built_in_pictures

TYPES = schema.TensorType
RANDOM = np.random.default_rng(11)


# Fewer than 8 bits


def test_values_of_four_bits_start_in_the_low_half():
    """By hand: 0x21 is 1 then 2, 0xf8 is -8 then -1; the last half byte is filling."""
    stored = np.array([0x21, 0xF8, 0x07], np.uint8)
    np.testing.assert_array_equal(unpack(stored, 5, type_name="INT4"), [1, 2, -8, -1, 7])
    np.testing.assert_array_equal(unpack(stored, 5, type_name="UINT4"), [1, 2, 8, 15, 7])


def test_values_of_two_bits_start_in_the_low_quarter():
    """By hand: 0b11_10_01_00 is 0, 1, -2, -1."""
    stored = np.array([0b11100100, 0b01], np.uint8)
    np.testing.assert_array_equal(unpack(stored, 5, type_name="INT2"), [0, 1, -2, -1, 1])


@pytest.mark.parametrize(("type_name", "low", "high"), [("INT4", -8, 7), ("INT2", -2, 1)])
@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_packing_is_the_inverse(type_name, low, high, count):
    values = RANDOM.integers(low, high + 1, count).astype(np.int8)
    stored = pack(values, type_name=type_name)
    np.testing.assert_array_equal(unpack(stored, count, type_name=type_name), values)


def test_wrong_number_of_bytes_is_an_error():
    with pytest.raises(ValueError, match="expected 3 bytes, got 2"):
        unpack(np.zeros(2, np.uint8), 5, type_name="INT4")


WEIGHTS = {
    "CONV_2D": ((6, 3, 3, 4), 0, (1, 7, 8, 6), schema.Conv2DOptionsT),
    "DEPTHWISE_CONV_2D": ((1, 3, 3, 4), 3, (1, 7, 8, 4), schema.DepthwiseConv2DOptionsT),
    "FULLY_CONNECTED": ((5, 224), 0, (1, 5), schema.FullyConnectedOptionsT),
}
"""{operator: shape of its weights, axis of their channels, shape of its output, options}."""


def one_operator(kind, *, type_name="INT4", real=False):
    """A file of one operator on an image of 7 x 8 x 4 with weights of few bits.

    Args:
        kind: of the operator.
        type_name: of the weights.
        real: whether the activations are float; else int8.
    """
    shape, channels, result, options = WEIGHTS[kind]
    made = options()
    if kind != "FULLY_CONNECTED":
        made.strideH = made.strideW = made.dilationHFactor = made.dilationWFactor = 1
    if kind == "DEPTHWISE_CONV_2D":
        made.depthMultiplier = 1
    model = Editor()
    count = shape[channels]
    scales = RANDOM.uniform(0.02, 0.06, count).astype(np.float32)
    if kind == "FULLY_CONNECTED" and real:
        scales = scales[:1]
    bits = {"INT4": 4, "INT2": 2}[type_name]
    values = RANDOM.integers(1 - 2 ** (bits - 1), 2 ** (bits - 1), shape).astype(np.int8)
    quantization = symmetric(scales)
    quantization.quantizedDimension = channels
    weights = model.add_constant("weights", values, quantization=quantization)
    model.tensor(weights).type = getattr(TYPES, type_name)
    model.model.buffers[model.tensor(weights).buffer].data = pack(values, type_name=type_name)
    activation = TYPES.FLOAT32 if real else TYPES.INT8
    image = model.add_tensor(
        "image", (1, 7, 8, 4), kind=activation, quantization=None if real else symmetric(1 / 127)
    )
    output = model.add_tensor(
        "output", result, kind=activation, quantization=None if real else symmetric(0.02)
    )
    if real:
        bias = model.add_constant("bias", RANDOM.normal(size=count).astype(np.float32))
    else:
        steps = RANDOM.integers(-500, 500, count).astype(np.int32)
        bias = model.add_constant("bias", steps, quantization=symmetric(scales / 127))
    model.graph.operators = [
        model.new_operator(kind, [image, weights, bias], outputs=[output], version=1, options=made)
    ]
    model.graph.inputs, model.graph.outputs = np.int32([image]), np.int32([output])
    return model.to_bytes(), values


def check_rebuilt(path):
    graph = read_graph(path)
    network = import_graph(graph)
    pictures = built_in_pictures(network.description.input_shape)
    inputs = [picture.astype(np.float32) / 127.5 - 1 for picture in pictures]
    return self_check.check(graph, network, inputs=inputs, description="pictures")


# The runtime has kernels for these; the others it refuses, or computes rubbish.
@pytest.mark.parametrize(
    ("kind", "type_name", "real"),
    [
        *((kind, "INT4", False) for kind in WEIGHTS),
        ("CONV_2D", "INT4", True),
        ("FULLY_CONNECTED", "INT4", True),
        ("FULLY_CONNECTED", "INT2", False),
        ("FULLY_CONNECTED", "INT2", True),
    ],
)
def test_weights_of_few_bits_are_read_and_rebuilt(tmp_path, kind, type_name, real):
    content, values = one_operator(kind, type_name=type_name, real=real)
    path = tmp_path / "few_bits.tflite"
    path.write_bytes(content)
    tensor = next(t for t in read_graph(path).tensors if t.name == "weights")
    assert (tensor.type_name, tensor.dtype) == (type_name, np.int8)
    np.testing.assert_array_equal(tensor.data, values)
    found = check_rebuilt(path)
    assert not found.not_run
    (output,) = found.outputs
    assert output.agreement == 1.0
    assert output.value_range > 0.5
    # One step of the output; with float activations the runtime rounds these to 8 bits.
    assert output.largest_difference < (0.01 * output.value_range if real else 0.0201)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_editor_replaces_weights_of_four_bits(kind):
    content, values = one_operator(kind)
    editor = Editor(content)
    (operator,) = editor.operators()
    np.testing.assert_array_equal(editor.constant(operator.inputs[1]), values)
    editor.replace_constant(operator, 1, values=-values)
    changed = Editor(editor.to_bytes())
    (operator,) = changed.operators()
    np.testing.assert_array_equal(changed.constant(operator.inputs[1]), -values)
    assert changed.tensor(operator.inputs[1]).type == TYPES.INT4


def test_scales_per_block_are_refused(tmp_path):
    editor = Editor(one_operator("FULLY_CONNECTED")[0])
    weights = editor.tensor(editor.operators()[0].inputs[1])
    details = schema.BlockwiseQuantizationT()
    details.scales, details.blockSize = 3, 32
    weights.quantization.details = details
    weights.quantization.detailsType = schema.QuantizationDetails.BlockwiseQuantization
    path = tmp_path / "blocks.tflite"
    path.write_bytes(editor.to_bytes())
    with pytest.raises(ValueError, match=r"'weights' has BlockwiseQuantization.*one scale per"):
        read_graph(path)


# Sparse


def test_sparse_weights_run_as_the_dense_ones(tmp_path):
    """A product in blocks of 1 x 4, which the runtime multiplies without making them dense."""
    dense = np.zeros((8, 224), np.float32)
    segments, indices = [0], []
    for row in range(8):
        blocks = np.sort(RANDOM.choice(56, 9, replace=False))
        indices += blocks.tolist()
        segments.append(len(indices))
        for block in blocks:
            dense[row, 4 * block : 4 * block + 4] = RANDOM.normal(size=4)
    model = Editor()
    stored = dense.reshape(8, 56, 4)[dense.reshape(8, 56, 4).any(-1)]
    weights = model.add_constant("weights", stored.ravel(), shape=(8, 224))
    places = sparsity(
        [0, 1, 2], [axis(8), axis(segments=segments, indices=indices), axis(4)], blocks=[1]
    )
    for entry in places.dimMetadata:
        if entry.format == schema.DimensionType.SPARSE_CSR:
            entry.arraySegmentsType = schema.SparseIndexVector.Int32Vector
            entry.arrayIndicesType = schema.SparseIndexVector.Int32Vector
    model.tensor(weights).sparsity = places
    image = model.add_tensor("image", (1, 7, 8, 4), kind=TYPES.FLOAT32)
    output = model.add_tensor("output", (1, 8), kind=TYPES.FLOAT32)
    bias = model.add_constant("bias", np.zeros(8, np.float32))
    operator = model.new_operator(
        "FULLY_CONNECTED",
        [image, weights, bias],
        outputs=[output],
        version=8,
        options=schema.FullyConnectedOptionsT(),
    )
    model.graph.operators = [operator]
    model.graph.inputs, model.graph.outputs = np.int32([image]), np.int32([output])
    path = tmp_path / "sparse.tflite"
    path.write_bytes(model.to_bytes())
    np.testing.assert_array_equal(
        next(t for t in read_graph(path).tensors if t.name == "weights").data, dense
    )
    found = check_rebuilt(path)
    assert not found.not_run
    assert found.outputs[0].largest_difference < 1e-5 * found.outputs[0].value_range


# Behind the tables


@pytest.fixture(scope="module")
def inside():
    """A float file of two convolutions, converted by TensorFlow."""
    kernels = [tf.constant(RANDOM.normal(size=(3, 3, 3, 3)).astype(np.float32)) for _ in range(2)]

    def network(image):
        for kernel in kernels:
            image = tf.nn.relu6(tf.nn.conv2d(image, kernel, 1, "SAME"))
        return image

    function = tf.function(network, input_signature=[tf.TensorSpec((1, 9, 8, 3), tf.float32)])
    concrete = [function.get_concrete_function()]
    return tf.lite.TFLiteConverter.from_concrete_functions(concrete, None).convert()


@pytest.fixture(scope="module")
def outside(inside):
    """The same file with every buffer behind the tables, as `pack` writes files above 2 GB."""
    moved = pack_model(parse_model(inside, "model"), 1 << 16, largest_inside=0)
    assert (has_outside_weights(inside), has_outside_weights(moved)) == (False, True)
    return moved


def test_weights_behind_the_tables_are_read_and_rebuilt(tmp_path, inside, outside):
    paths = [tmp_path / "inside.tflite", tmp_path / "outside.tflite"]
    for path, content in zip(paths, (inside, outside), strict=True):
        path.write_bytes(content)
    first, second = map(read_graph, paths)
    assert sum(tensor.data is not None for tensor in first.tensors) >= 2
    for one, two in zip(first.tensors, second.tensors, strict=True):
        np.testing.assert_array_equal(one.data, two.data)
    image = RANDOM.normal(size=(1, 9, 8, 3)).astype(np.float32)
    expected, found = (FileRunner(path, kernels=Kernels.BUILTIN)(image) for path in paths)
    np.testing.assert_array_equal(found, expected)
    check = check_rebuilt(paths[1])
    assert check.outputs[0].largest_difference < 1e-5 * check.outputs[0].value_range


def test_tables_share_equal_buffers_behind_them(inside):
    model = parse_model(inside, "model")
    model.buffers += [model.buffers[index] for index in range(len(model.buffers))]
    moved = pack_model(model, 1 << 16, largest_inside=0)
    filled = [buffer.data for buffer in parse_model(inside, "x").buffers if buffer.data is not None]
    behind = sum(len(data) for data in filled)
    tables = moved[: len(moved) - behind]
    assert len(moved) < len(tables) + behind + 16 * len(filled)
    found = parse_model(moved, "moved").buffers
    assert all(
        (one.data is None or not len(one.data)) == (two.data is None)
        and (two.data is None or np.array_equal(one.data, two.data))
        for one, two in zip(model.buffers, found, strict=True)
    )
    starts = [two.data.ctypes.data for two in found if two.data is not None]
    assert len(set(starts)) < len(starts)


def test_an_edit_brings_them_inside(inside, outside):
    editor = Editor(outside)
    operator = editor.operators("CONV_2D")[0]
    kernel = editor.constant(operator.inputs[1])
    editor.replace_constant(operator, 1, values=2 * kernel)
    changed = editor.to_bytes()
    assert not has_outside_weights(changed)
    same = Editor(inside)
    same.replace_constant(same.operators("CONV_2D")[0], 1, values=2 * kernel)
    again = Editor(changed)
    for one, two in zip(same.operators(), again.operators(), strict=True):
        for first, second in zip(one.inputs, two.inputs, strict=True):
            np.testing.assert_array_equal(same.constant(first), again.constant(second))


def test_sharing_keeps_them(outside):
    shared = parse_model(share_equal_vectors(outside), "shared")
    expected = parse_model(outside, "outside")
    for one, two in zip(shared.buffers, expected.buffers, strict=True):
        np.testing.assert_array_equal(one.data, two.data)


def test_metadata_can_be_added(tmp_path, outside):
    content = attach(outside, b"about the model", files={"labels.txt": b"a\nb"})
    path = tmp_path / "described.tflite"
    path.write_bytes(content)
    assert extract(content, "described")[0] == b"about the model"
    assert any(tensor.data is not None for tensor in read_graph(path).tensors)
    image = RANDOM.normal(size=(1, 9, 8, 3)).astype(np.float32)
    before = tmp_path / "before.tflite"
    before.write_bytes(outside)
    np.testing.assert_array_equal(FileRunner(path)(image), FileRunner(before)(image))


def test_a_place_outside_the_file_is_damage(tmp_path, outside):
    path = tmp_path / "cut.tflite"
    path.write_bytes(outside[:-8])
    with pytest.raises(ValueError, match=r"damaged .tflite \(buffer \d+ lies at bytes"):
        read_graph(path)


def test_places_that_overlap_too_often_are_damage(outside):
    """One place named many times would fill the memory of whoever copies the buffers."""
    model = parse_model(outside, "model")
    largest = max(model.buffers, key=lambda b: 0 if b.data is None else len(b.data))
    model.buffers += [largest] * 400
    with pytest.raises(ValueError, match="more data than its size allows"):
        parse_model(pack_model(model, 1 << 16, largest_inside=0), "many")


def test_weights_in_another_file_are_refused(tmp_path, inside):
    editor = Editor(inside)
    editor.tensor(editor.operators("CONV_2D")[0].inputs[1]).externalBuffer = 7
    path = tmp_path / "elsewhere.tflite"
    path.write_bytes(editor.to_bytes())
    with pytest.raises(ValueError, match=r"in another file .*convert the model into one file"):
        read_graph(path)
