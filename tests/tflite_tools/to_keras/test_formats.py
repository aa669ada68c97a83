"""Tests of one small network in every number format, and of both forms of dilation."""

import dataclasses
import functools

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert import schema_py_generated as schema

from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.network import NetworkGraph
from deeplab_tf.models.config import DeepLabConfig
from deeplab_tf.models.deeplab import build_deeplab
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.runtime.file_interpreter import FileRunner
from tflite_tools.to_keras.fidelity import measure
from tflite_tools.to_keras.importer import import_graph

layers = keras.layers


@functools.cache  # so that its file is converted once
def _network(batch_size=1) -> keras.Model:
    """Returns a network whose layers have over 1024 weights: smaller ones stay float."""
    keras.utils.set_random_seed(3)
    image = keras.Input((17, 19, 4), batch_size=batch_size, name="image")
    x = layers.Conv2D(48, 3, strides=2, padding="same", name="stem")(image)
    x = layers.ReLU(6.0)(layers.BatchNormalization(name="stem_bn")(x))
    y = layers.DepthwiseConv2D(5, padding="same", dilation_rate=2, name="wide")(x)
    y = layers.ReLU()(layers.BatchNormalization(name="wide_bn")(y))
    y = layers.Conv2D(48, 1, name="project")(y)
    x = layers.Add(name="join")([x, y])
    pooled = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    pooled = layers.Conv2D(48, 1, activation="relu", name="pooled")(pooled)
    pooled = layers.Resizing(9, 10, "bilinear", name="spread")(pooled)
    x = layers.Concatenate(name="concat")([pooled, x])
    x = layers.Conv2D(12, 3, padding="valid", name="logits")(x)
    model = keras.Model(image, x)
    random = np.random.default_rng(4)
    model.set_weights(
        [
            random.uniform(0.5, 1.5, value.shape)
            if "variance" in variable.name or "gamma" in variable.name
            else random.normal(size=value.shape) * (0.3 if value.size < 1024 else 0.15)
            for variable, value in zip(model.weights, model.get_weights(), strict=True)
        ]
    )
    return model


def _signal_to_noise_db(expected, found) -> float:
    expected, found = np.concatenate(expected), np.concatenate(found)
    return float(10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum()))


@pytest.mark.parametrize("variant", ["float32", "float16"])
def test_float_file_and_network_agree(convert, variant):
    conversion = convert(_network(), (17, 19, 4), variant)
    assert ("DEQUANTIZE" in conversion.kinds) == (variant == "float16")
    for expected, found in zip(conversion.file_outputs(), conversion.outputs(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_dynamic_range_weights_are_dequantized(convert):
    conversion = convert(_network(), (17, 19, 4), "dynamic")
    types = {tensor.type_name for tensor in conversion.graph.tensors}
    assert "INT8" in types
    assert not conversion.network.is_quantized
    # The file rounds activations to 8 bits at run time: about 40 dB are expected.
    assert _signal_to_noise_db(conversion.file_outputs(), conversion.outputs()) > 30


@pytest.mark.parametrize("variant", ["int8", "int8_per_tensor"])
def test_integer_file_and_network_agree(convert, variant):
    conversion = convert(_network(), (17, 19, 4), variant)
    expected = conversion.file_outputs()
    step = conversion.network.ranges[conversion.network.description.output_name]["scale"]
    assert _signal_to_noise_db(expected, conversion.outputs()) > 25
    for reference, found in zip(expected, conversion.outputs(simulated=True), strict=True):
        # The arithmetic of XNNPACK, so the same integers; one step where a resize rounds again.
        assert np.abs(reference - found).max() < 1.01 * step
        assert (np.abs(reference - found) < 0.01 * step).mean() > 0.99


def test_a_shifted_zero_point_is_detected(convert):
    """The comparison above must fail if the file is read wrongly."""
    conversion = convert(_network(), (17, 19, 4), "int8")
    (operator,) = [op for op in conversion.graph.operators if op.kind == "DEPTHWISE_CONV_2D"]
    tensors = list(conversion.graph.tensors)
    weights = tensors[operator.inputs[1]]
    shifted = dataclasses.replace(
        weights.quantization, zero_point=weights.quantization.zero_point + 3
    )
    tensors[weights.index] = dataclasses.replace(weights, quantization=shifted)
    graph = dataclasses.replace(conversion.graph, tensors=tuple(tensors))
    conversion.network = import_graph(graph)
    expected, found = conversion.file_outputs(), conversion.outputs(simulated=True)
    step = conversion.network.ranges[conversion.network.description.output_name]["scale"]
    assert (np.abs(expected[0] - found[0]) < 0.01 * step).mean() < 0.9


def test_ranges_have_real_ends(convert):
    conversion = convert(_network(), (17, 19, 4), "int8")
    for name, values in conversion.network.ranges.items():
        assert values["quantized_min"] == -128, name
        assert values["min"] == pytest.approx(values["scale"] * (-128 - values["zero_point"]))
        assert values["min"] <= 0 <= values["max"], name
    assert conversion.network.description.input_name in conversion.network.ranges


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kind", [layers.Conv2D, layers.DepthwiseConv2D])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_space_to_batch_becomes_a_dilation(convert, padding, kind, activation):
    """With a dynamic batch the converter writes a dilated convolution as three operators."""
    settings = {"kernel_size": 3, "dilation_rate": 2, "padding": padding, "activation": activation}
    if kind is layers.Conv2D:
        settings["filters"] = 6
    layer = kind(**settings, bias_initializer="random_normal", name="wide")
    source = keras.Sequential([keras.Input((13, 15, 4)), layer])
    conversion = convert(source, (13, 15, 4))
    assert "SPACE_TO_BATCH_ND" in conversion.kinds
    model = build_model(conversion.network.description)
    (rebuilt,) = [item for item in model.layers if isinstance(item, kind)]  # bias folded in
    assert (rebuilt.dilation_rate, rebuilt.padding) == ((2, 2), padding)
    for expected, found in zip(conversion.file_outputs(), conversion.outputs(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_relu_is_restored_from_the_range(convert):
    """An old converter drops the ReLU6 of an integer convolution: its range is equivalent."""
    conversion = convert(_network(), (17, 19, 4), "int8")
    expected = conversion.outputs()
    changed = 0
    for operator in conversion.graph.operators:
        quantization = conversion.graph.tensors[operator.outputs[0]].quantization
        if quantization.zero_point[0] == -128:
            assert operator.options.fusedActivationFunction
            operator.options.fusedActivationFunction = 0
            changed += 1
    assert changed == 2
    conversion.network = import_graph(conversion.graph)
    notes = [row.became for row in conversion.network.rows if "output's range" in row.became]
    assert ["ReLU" in note for note in notes] == [True, True]
    for before, after in zip(expected, conversion.outputs(), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6)


def _without_fused_activations(conversion, kinds) -> int:
    """Drops fused activations where the output's range starts at 0, as early converters did."""
    changed = 0
    for operator in conversion.graph.operators:
        quantization = conversion.graph.tensors[operator.outputs[0]].quantization
        if operator.kind in kinds and quantization.zero_point[0] == -128:
            operator.options.fusedActivationFunction = 0
            changed += 1
    conversion.network = import_graph(conversion.graph)
    return changed


def test_difference_of_positive_values_keeps_the_relu_of_its_range(convert):
    """In relu(a - b) with a, b >= 0 the ReLU matters; in a sum it would not."""
    conversion = convert(
        lambda x: tf.nn.relu(tf.nn.relu(x) - tf.nn.relu(x[:, ::-1] + 0.5)), variant="int8"
    )
    assert _without_fused_activations(conversion, ("SUB",)) == 1
    (row,) = [row for row in conversion.network.rows if row.operator == "SUB"]
    assert "stands in the output's range" in row.became
    scale = conversion.network.ranges[conversion.network.description.output_name]["scale"]
    for expected, found in zip(conversion.file_outputs(), conversion.outputs(), strict=True):
        assert expected.min() == 0
        assert found.min() == 0
        assert np.abs(found - expected).max() <= 3 * scale  # two inputs and the output round


@pytest.mark.parametrize("kind", ["QUANTIZE", "MEAN", "CONCATENATION"])
def test_range_without_the_negative_inputs_is_a_relu(convert, kind):
    """An output range that starts at 0 clips where the input's range does not start at 0."""
    functions = {
        "QUANTIZE": lambda x: tf.concat([x * 3, tf.tanh(x)], -1),
        "MEAN": lambda x: tf.reduce_mean(x, (1, 2), keepdims=True),
        "CONCATENATION": lambda x: tf.concat([x * 0.5, tf.tanh(x)], -1),
    }
    conversion = convert(functions[kind], variant="int8")
    operator = [one for one in conversion.graph.operators if one.kind == kind][-1]
    tensors = list(conversion.graph.tensors)
    output = tensors[operator.outputs[0]]
    positive = dataclasses.replace(
        output.quantization, zero_point=np.full_like(output.quantization.zero_point, -128)
    )
    tensors[output.index] = dataclasses.replace(output, quantization=positive)
    network = import_graph(dataclasses.replace(conversion.graph, tensors=tuple(tensors)))
    (row,) = [row for row in network.rows if row.position == operator.position]
    assert "ReLU (stands in the output's range)" in row.became
    network = import_graph(conversion.graph)
    assert not any("output's range" in row.became for row in network.rows)


@pytest.mark.parametrize("kind", ["CONV_2D", "FULLY_CONNECTED"])
def test_unsigned_kernels_with_float_activations_are_signed_bytes(convert, kind, tmp_path):
    """Early dynamic-range files have type UINT8 and zero point 0; the runtime reads int8."""
    random = np.random.default_rng(6)
    shape = (3, 3, 8, 32) if kind == "CONV_2D" else (8, 160)
    weights = tf.constant(random.normal(size=shape).astype(np.float32))
    function = {
        "CONV_2D": lambda x: tf.nn.conv2d(x, weights, 1, "SAME"),
        "FULLY_CONNECTED": lambda x: tf.matmul(x[:, 0, 0], weights),
    }[kind]
    conversion = convert(function, (17, 19, 8), "dynamic_per_tensor")
    old = tmp_path / "old.tflite"
    old.write_bytes(_as_unsigned(conversion.path.read_bytes()))
    conversion = dataclasses.replace(conversion, path=old, graph=read_graph(old))
    operator = next(one for one in conversion.graph.operators if one.kind == kind)
    assert conversion.graph.tensors[operator.inputs[1]].type_name == "UINT8"
    conversion.network = import_graph(conversion.graph)
    # The file rounds activations to 8 bits: about 40 dB are expected; read as unsigned, none.
    assert _signal_to_noise_db(conversion.file_outputs(), conversion.outputs()) > 30


def _as_unsigned(content: bytes) -> bytes:
    """Changes the type of INT8 tensors to UINT8; the data is unchanged."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for tensor in model.subgraphs[0].tensors:
        if tensor.type == schema.TensorType.INT8:
            tensor.type = schema.TensorType.UINT8
            tensor.quantization.scale = tensor.quantization.scale[:1]
            tensor.quantization.zeroPoint = np.zeros(1, np.int64)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_description_survives_json(convert):
    description = convert(_network(), (17, 19, 4)).network.description
    again = NetworkGraph.from_json(description.to_json())
    assert again == description
    assert build_model(again).count_params() == build_model(description).count_params()


def test_other_input_size(convert):
    """Resizes take the size of the tensor that they match."""
    description = convert(_network(), (17, 19, 4)).network.description
    assert build_model(description).output_shape == (None, 7, 8, 12)
    assert build_model(description, (33, 35)).output_shape == (None, 15, 16, 12)


def test_imported_network_is_converted_again(convert, tmp_path):
    conversion = convert(_network(), (17, 19, 4))
    model = build_model(conversion.network.description)
    function = tf.function(model, input_signature=[tf.TensorSpec((1, 17, 19, 4), tf.float32)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], model
    )
    path = tmp_path / "again.tflite"
    path.write_bytes(converter.convert())
    again = sorted(operator.kind for operator in read_graph(path).operators)
    assert again == sorted(conversion.kinds)


def test_own_network_is_imported_from_an_integer_file(build_loaded, tmp_path):
    """DeepLabV3+ with ASPP and decoder, uint8 input and output: bit-exact when simulated."""
    keras.utils.set_random_seed(1)
    config = DeepLabConfig(num_classes=12, width_multiplier=0.35, aspp_channels=64)
    source = build_deeplab(config, (64, 96))
    random = np.random.default_rng(1)
    images = [
        (random.integers(0, 256, (1, 64, 96, 3)).astype(np.float32) - 128) / 128 for _ in range(3)
    ]
    function = tf.function(source, input_signature=[tf.TensorSpec((1, 64, 96, 3), tf.float32)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], source
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image] for image in images)
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    path = tmp_path / "own.tflite"
    path.write_bytes(converter.convert())
    network = import_graph(read_graph(path))
    pixels = random.integers(0, 256, (2, 1, 64, 96, 3)).astype(np.uint8)
    reals = [network.contract.real_values(batch) for batch in pixels]
    result = measure(FileRunner(path), build_loaded(network, simulated=True), real_inputs=reals)
    assert result.equal_classes >= 0.998
    assert measure(FileRunner(path), build_loaded(network), real_inputs=reals).correlation > 0.99
