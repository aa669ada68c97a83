"""Tests each operator alone in a float file: the imported layer computes the same."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.executor import Executor
from deeplab_tf.graph.layers import MaxUnpool, PoolArgMax
from tflite_tools.to_keras import self_check
from tflite_tools.to_keras.importer import import_graph

_RANDOM = np.random.default_rng(7)


def _weights(*shape):
    return tf.constant(_RANDOM.normal(size=shape).astype(np.float32))


def _conv(strides=1, padding="SAME", dilations=1, activation=lambda x: x, kernel=(3, 3, 4, 6)):
    weights, bias = _weights(*kernel), _weights(kernel[3])
    return lambda x: activation(
        tf.nn.conv2d(x, weights, strides, padding, dilations=dilations) + bias
    )


def _depthwise(stride=1, multiplier=2, rate=1, padding="SAME"):
    weights = _weights(3, 3, 4, multiplier)
    return lambda x: tf.nn.depthwise_conv2d(
        x, weights, (1, stride, stride, 1), padding, dilations=(rate, rate)
    )


def _transpose(out, stride, padding, kernel=3):
    weights = _weights(kernel, kernel, 5, 4)
    return lambda x: tf.nn.conv2d_transpose(x, weights, (1, *out, 5), stride, padding)


def _resize(kind, align_corners, half_pixel, size):
    resize = {
        "bilinear": tf.raw_ops.ResizeBilinear,
        "nearest": tf.raw_ops.ResizeNearestNeighbor,
    }[kind]
    return lambda x: resize(
        images=x, size=size, align_corners=align_corners, half_pixel_centers=half_pixel
    )


def _pool(function, size, stride, padding):
    return lambda x: function(x, size, stride, padding)


def _dense(x):
    return tf.matmul(tf.reshape(x, (1, 9 * 11 * 4)), _DENSE) + _DENSE_BIAS


_VALID_CONV = _conv(2, "VALID")
_DENSE, _DENSE_BIAS = _weights(9 * 11 * 4, 7), _weights(7)
_ROWS, _ROW_BIAS = _weights(4, 6), _weights(6)
_CHANNELS, _FULL, _GATE = _weights(4), _weights(9, 11, 4), _weights(1, 1, 4, 4)


def _gate(x):
    """Squeeze and excitation: a product with one value per channel."""
    pooled = tf.reduce_mean(x, (1, 2), keepdims=True)
    return x * tf.sigmoid(tf.nn.conv2d(pooled, _GATE, 1, "SAME"))


def _flattened_product(x):
    """A dense layer of a transformer: positions as rows, without the batch."""
    rows = tf.nn.relu(tf.matmul(tf.reshape(x, (99, 4)), _ROWS) + _ROW_BIAS)
    return tf.reshape(rows, (1, 9, 11, 6))


OPERATORS = {
    "conv_stride2_odd": (_conv(2), "CONV_2D"),
    "conv_valid_relu6": (_conv(1, "VALID", activation=tf.nn.relu6), "CONV_2D"),
    "conv_dilated_relu": (_conv(1, dilations=3, activation=tf.nn.relu), "CONV_2D"),
    "conv_tanh": (_conv(activation=tf.tanh), "TANH"),
    "conv_relu_n1_to_1": (_conv(activation=lambda x: tf.clip_by_value(x, -1, 1)), "CONV_2D"),
    "conv_unequal": (_conv((2, 1), "SAME", kernel=(5, 2, 4, 3)), "CONV_2D"),
    "conv_grouped": (_conv(kernel=(3, 3, 2, 6)), "CONV_2D"),
    "depthwise_multiplier": (_depthwise(), "DEPTHWISE_CONV_2D"),
    "depthwise_stride2_odd": (_depthwise(2, 1), "DEPTHWISE_CONV_2D"),
    "depthwise_dilated": (_depthwise(1, 1, 2), "DEPTHWISE_CONV_2D"),
    "depthwise_valid": (_depthwise(2, 3, padding="VALID"), "DEPTHWISE_CONV_2D"),
    "pad_conv": (lambda x: _VALID_CONV(tf.pad(x, ((0, 0), (1, 0), (2, 1), (0, 0)))), "PAD"),
    "transpose_same": (_transpose((18, 22), 2, "SAME"), "TRANSPOSE_CONV"),
    "transpose_same_odd": (_transpose((17, 21), 2, "SAME"), "TRANSPOSE_CONV"),
    "transpose_same_even_kernel": (_transpose((18, 22), 2, "SAME", 4), "TRANSPOSE_CONV"),
    "transpose_valid": (_transpose((19, 23), 2, "VALID"), "TRANSPOSE_CONV"),
    "fully_connected": (_dense, "FULLY_CONNECTED"),
    "add": (lambda x: x + tf.nn.relu(x), "ADD"),
    "add_relu": (lambda x: tf.nn.relu(x + tf.sigmoid(x)), "ADD"),
    "add_scalar": (lambda x: x + 0.75, "ADD"),
    "add_channels": (lambda x: x + _CHANNELS, "ADD"),
    "add_full": (lambda x: x + _FULL, "ADD"),
    "sub": (lambda x: tf.sigmoid(x) - x, "SUB"),
    "sub_from_constant": (lambda x: 1.5 - x, "SUB"),
    "sub_from_channels": (lambda x: _CHANNELS - x, "SUB"),
    "sub_from_channels_of_a_matrix": (
        lambda x: _CHANNELS - tf.nn.relu(tf.reshape(x, (1, 99, 4))),
        "SUB",
    ),
    "sub_channels": (lambda x: tf.nn.relu6(x - _CHANNELS), "SUB"),
    "mul": (lambda x: x * tf.sigmoid(x), "MUL"),
    "mul_scalar_relu": (lambda x: tf.nn.relu(x * 3.0), "MUL"),
    "mul_channels": (lambda x: x * _CHANNELS, "MUL"),
    "mul_widens": (lambda x: tf.reduce_mean(x, 3, True) * _CHANNELS, "MUL"),
    "product_of_flattened_positions": (_flattened_product, "FULLY_CONNECTED"),
    "mul_full": (lambda x: x * _FULL, "MUL"),
    "mul_broadcast": (_gate, "MUL"),
    "maximum": (lambda x: tf.maximum(x, 0.25), "MAXIMUM"),
    "maximum_with_nothing": (lambda x: tf.maximum(tf.sigmoid(x), -np.inf), "MAXIMUM"),
    "minimum": (lambda x: tf.minimum(x, tf.sigmoid(x)), "MINIMUM"),
    "minimum_with_nothing": (lambda x: tf.minimum(tf.sigmoid(x), np.inf), "MINIMUM"),
    "concat": (lambda x: tf.concat((x, tf.tanh(x), x), 3), "CONCATENATION"),
    "average_same": (_pool(tf.nn.avg_pool2d, 3, 2, "SAME"), "AVERAGE_POOL_2D"),
    "average_valid": (_pool(tf.nn.avg_pool2d, (2, 3), 1, "VALID"), "AVERAGE_POOL_2D"),
    "average_global": (_pool(tf.nn.avg_pool2d, (9, 11), 1, "VALID"), "AVERAGE_POOL_2D"),
    "max_same": (_pool(tf.nn.max_pool2d, 3, 2, "SAME"), "MAX_POOL_2D"),
    "mean_keep": (lambda x: tf.reduce_mean(x, (1, 2), keepdims=True), "MEAN"),
    "mean_drop": (lambda x: tf.reduce_mean(x, (1, 2)), "MEAN"),
    "mean_channels": (lambda x: tf.reduce_mean(x, 3, keepdims=True), "MEAN"),
    "relu": (tf.nn.relu, "RELU"),
    "relu6": (lambda x: tf.nn.relu6(4 * x), "MUL"),
    "leaky_relu": (lambda x: tf.nn.leaky_relu(x, 0.3), "LEAKY_RELU"),
    "neg": (lambda x: tf.nn.relu(-x), "NEG"),
    "elu": (tf.nn.elu, "ELU"),
    "hard_swish": (lambda x: x * tf.nn.relu6(x + 3.0) * (1 / 6), "HARD_SWISH"),
    "logistic": (tf.sigmoid, "LOGISTIC"),
    "softmax": (tf.nn.softmax, "SOFTMAX"),
    "reshape": (lambda x: tf.reshape(x, (1, 99, 4)), "RESHAPE"),
    "squeeze": (lambda x: tf.squeeze(x[:, :1, :1, :], (1, 2)), "RESHAPE"),
    "crop": (lambda x: x[:, 1:-2, 2:, :], "STRIDED_SLICE"),
    "slice_strided": (lambda x: x[:, ::2, 1:9:3, 1:3], "STRIDED_SLICE"),
    "slice_dropped": (lambda x: x[:, :, 3, :], "STRIDED_SLICE"),
    "argmax_int64": (lambda x: tf.argmax(x, 3), "ARG_MAX"),
    "argmax_int32": (lambda x: tf.argmax(x, 3, tf.int32), "ARG_MAX"),
    "cast": (lambda x: tf.cast(x * 50, tf.int32), "CAST"),
    "tile": (lambda x: tf.tile(tf.reduce_mean(x, (1, 2), keepdims=True), (1, 4, 5, 1)), "TILE"),
    "depth_to_space": (lambda x: tf.nn.depth_to_space(x, 2), "DEPTH_TO_SPACE"),
    "squared_difference": (
        lambda x: tf.math.squared_difference(x, tf.reduce_mean(x, 3, True)),
        "SQUARED_DIFFERENCE",
    ),
    "rsqrt": (lambda x: tf.math.rsqrt(1.0 + tf.sigmoid(x)), "RSQRT"),
    "div": (lambda x: x / (1.0 + tf.sigmoid(x)), "DIV"),
    "div_of_constant": (lambda x: _CHANNELS / (1.0 + tf.sigmoid(x)), "DIV"),
    "split": (lambda x: tf.subtract(*tf.split(x, 2, 3)), "SPLIT"),
    "transpose": (lambda x: tf.transpose(x, (0, 3, 1, 2)), "TRANSPOSE"),
    "matmul": (lambda x: tf.matmul(x, tf.sigmoid(x), transpose_b=True), "BATCH_MATMUL"),
    "matmul_first_transposed": (
        lambda x: tf.matmul(x, tf.sigmoid(x), transpose_a=True),
        "BATCH_MATMUL",
    ),
    "gather": (lambda x: tf.gather(x, [2, 0, 5, 5], axis=1), "GATHER"),
    "space_to_depth": (lambda x: tf.nn.space_to_depth(x[:, :8, :10], 2), "SPACE_TO_DEPTH"),
    "select": (lambda x: tf.where(x > 0.1, tf.sigmoid(x), x), "SELECT"),
    "logical": (
        lambda x: tf.where((x > 0.1) & (x <= 0.9), tf.sigmoid(x), x),
        "LOGICAL_AND",
    ),
    "exp": (lambda x: tf.exp(x), "EXP"),
    "log": (lambda x: tf.math.log(1.5 + tf.sigmoid(x)), "LOG"),
    "sqrt": (lambda x: tf.sqrt(tf.sigmoid(x)), "SQRT"),
    "abs": (lambda x: tf.abs(x), "ABS"),
    "square": (lambda x: tf.raw_ops.Square(x=x), "SQUARE"),
    "floor": (lambda x: tf.floor(3 * x), "FLOOR"),
    "ceil": (lambda x: tf.math.ceil(3 * x), "CEIL"),
    "sin": (lambda x: tf.sin(x), "SIN"),
    "cos": (lambda x: tf.cos(x), "COS"),
    "pow": (lambda x: tf.pow(1.0 + tf.sigmoid(x), 1.7), "POW"),
    "floor_div": (lambda x: tf.math.floordiv(5 * x, 1.5 + tf.sigmoid(x)), "FLOOR_DIV"),
    "l2_normalization": (lambda x: tf.math.l2_normalize(x, axis=-1), "L2_NORMALIZATION"),
    "gelu": (lambda x: tf.nn.gelu(x), "GELU"),
    "gelu_tanh": (lambda x: tf.nn.gelu(x, approximate=True), "GELU"),
    "sum": (lambda x: tf.reduce_sum(x, (1, 3), keepdims=True), "SUM"),
    "reduce_max": (lambda x: tf.reduce_max(x, 2), "REDUCE_MAX"),
    "reduce_min": (lambda x: tf.reduce_min(x, 3, keepdims=True), "REDUCE_MIN"),
    "slice": (lambda x: tf.slice(x, (0, 1, 0, 1), (1, 5, 11, 2)), "SLICE"),
    "split_unevenly": (lambda x: tf.multiply(*tf.split(x, (1, 3), 3)), "SPLIT_V"),
    "unpack": (lambda x: tf.subtract(*tf.unstack(x[:, :, :2, :], axis=2)), "UNPACK"),
    "pack": (lambda x: tf.stack([x, tf.sigmoid(x)], axis=3), "PACK"),
    "pad_channels": (lambda x: tf.pad(x, ((0, 0), (0, 0), (0, 0), (0, 3))), "PAD"),
    "pad_value": (
        lambda x: tf.pad(x, ((0, 0), (1, 2), (3, 0), (0, 0)), constant_values=-2.5),
        "PADV2",
    ),
    "pad_matrix": (lambda x: tf.pad(tf.reduce_mean(x, (1, 2)), ((0, 0), (1, 2))), "PAD"),
    "mirror_reflect": (
        lambda x: tf.pad(x, ((0, 0), (2, 1), (1, 3), (0, 0)), "REFLECT"),
        "MIRROR_PAD",
    ),
    "mirror_symmetric": (
        lambda x: tf.pad(x, ((0, 0), (2, 1), (1, 3), (0, 2)), "SYMMETRIC"),
        "MIRROR_PAD",
    ),
}
for _kind in ("bilinear", "nearest"):
    for _align, _half in ((True, False), (False, True), (False, False)):
        for _size in ((18, 22), (5, 7), (33, 20)):
            OPERATORS[f"{_kind}_{_align}_{_half}_{_size[0]}"] = (
                _resize(_kind, _align, _half, _size),
                "RESIZE_BILINEAR" if _kind == "bilinear" else "RESIZE_NEAREST_NEIGHBOR",
            )


@pytest.mark.parametrize("name", OPERATORS)
def test_float_operator(convert, name):
    function, kind = OPERATORS[name]
    conversion = convert(function)
    assert kind in conversion.kinds, conversion.kinds  # else the test would prove nothing
    for expected, found in zip(conversion.file_outputs(), conversion.outputs(), strict=True):
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        # float32 sums of at most 400 products of size 1, in another order
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


def test_final_squeeze_keeps_the_batch(convert):
    conversion = convert(lambda x: tf.squeeze(tf.reduce_mean(x, (1, 2), keepdims=True)))
    assert conversion.graph.tensors[conversion.graph.outputs[0]].shape == (4,)
    (expected, *_), (found, *_) = conversion.file_outputs(), conversion.outputs()
    assert found.shape == (1, 4)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    assert "batch dimension kept" in conversion.network.rows[-1].became


@pytest.mark.parametrize("shared", [[1, 2], None])
def test_prelu(convert, shared):
    layer = keras.layers.PReLU(shared_axes=shared)
    source = keras.Sequential([keras.Input((9, 11, 4), batch_size=1), layer])
    layer.set_weights([_RANDOM.normal(size=layer.alpha.shape)])
    conversion = convert(source)
    assert "PRELU" in conversion.kinds
    assert "PReLU" in conversion.layers
    for expected, found in zip(conversion.file_outputs(), conversion.outputs(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_all_outputs_are_kept_in_the_files_order(convert):
    def network(x):
        start = tf.nn.relu(x)
        return {
            "first": tf.reduce_mean(start, (1, 2)),
            "second": start * 2.0,
            "third": tf.sigmoid(start),
        }

    conversion = convert(network)
    graph, network = conversion.graph, conversion.network
    assert len(graph.outputs) == 3
    assert network.output_tensors == graph.outputs
    description = network.description
    assert len(description.outputs) == 3
    again = type(description).from_json(json.loads(json.dumps(description.to_json())))
    assert again == description
    model = build_model(description, all_outputs=True)
    found = self_check.check(graph, network, inputs=conversion.images, description="noise")
    assert [output.tensor for output in found.outputs] == [
        graph.tensors[index].name for index in graph.outputs
    ]
    assert not any(output.deviates for output in found.outputs)
    assert build_model(description).output_shape == model.output_shape[0]
    last = graph.tensors[graph.outputs[2]].name
    chosen = import_graph(graph, output=last)
    assert chosen.output_tensors[0] == graph.outputs[2]
    assert sorted(chosen.output_tensors) == sorted(graph.outputs)
    inner = next(o for o in graph.operators if o.outputs[0] not in graph.outputs)
    with pytest.raises(ValueError, match="is none of its outputs: "):
        import_graph(graph, output=graph.tensors[inner.outputs[0]].name)


def test_a_wrong_second_output_is_found(convert):
    conversion = convert(lambda x: (tf.nn.relu(x), tf.sigmoid(x) * _CHANNELS))
    network = conversion.network
    for key in network.arrays:
        network.arrays[key] = network.arrays[key] + 0.5
    with pytest.raises(ValueError, match="does not compute what the file computes"):
        self_check.check(conversion.graph, network, inputs=conversion.images, description="noise")


def test_an_executor_computes_what_only_a_further_output_needs(convert):
    conversion = convert(lambda x: (tf.nn.relu(x), tf.sigmoid(x) * _CHANNELS))
    executor = Executor(conversion.network.description, conversion.network.arrays)
    run = executor.start([conversion.images[0]])
    for node in conversion.network.description.nodes:
        run.step(node)
    for name, expected in zip(
        conversion.network.description.outputs,
        (np.maximum(conversion.images[0], 0), _sigmoid(conversion.images[0]) * _CHANNELS),
        strict=True,
    ):
        np.testing.assert_allclose(run.value(name, 0), expected, atol=1e-5)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_max_pool_places_and_unpooling_against_loops():
    """MediaPipe's loops: the first of equal values counts; the place is row * width + column."""
    values = np.random.default_rng(3).integers(0, 4, (2, 4, 6, 3)).astype(np.float32)
    places = np.asarray(PoolArgMax((2, 3))(values))
    pooled = np.zeros((2, 2, 2, 3), np.float32)
    expected = np.zeros_like(values)
    for b, y, x, c in np.ndindex(2, 2, 2, 3):
        window = values[b, 2 * y : 2 * y + 2, 3 * x : 3 * x + 3, c]
        place = next(p for p in range(6) if window[p // 3, p % 3] == window.max())
        assert int(places[b, y, x, c]) == place
        pooled[b, y, x, c] = window.max()
        expected[b, 2 * y + place // 3, 3 * x + place % 3, c] = window.max()
    np.testing.assert_array_equal(MaxUnpool((2, 3))([pooled, places]), expected)
