"""Tests that simulated quantization gives the integers of the runtime, per operator."""

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.to_keras.importer import import_graph
from tflite_tools.to_keras.kernel_tables import fixed_point_product, hard_swish

_FIRST_VERSION = ("HARD_SWISH", "RELU_N1_TO_1")
_FIXED_SCALES = {
    "LOGISTIC": {"INT8": (1 / 256, -128), "UINT8": (1 / 256, 0)},
    "TANH": {"INT8": (1 / 128, 0), "UINT8": (1 / 128, 128)},
}
"""{operator: {type: the only scale and zero point of its output}}."""
_ENDS = {"INT8": (-128, 127), "UINT8": (0, 255)}


def _tensor(name, type_name, shape, scale, zero_point):
    quantization = schema.QuantizationParametersT()
    quantization.scale, quantization.zeroPoint = [scale], [zero_point]
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name, list(shape), 0
    tensor.type, tensor.quantization = getattr(schema.TensorType, type_name), quantization
    return tensor


def _file(kind, inputs, output, options=None, buffers=()) -> bytes:
    """Returns a file with one operator that reads all inputs."""
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, kind)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = 1 if kind in _FIRST_VERSION else 2
    operator = schema.OperatorT()
    operator.opcodeIndex = 0
    operator.inputs, operator.outputs = list(range(len(inputs))), [len(inputs)]
    if options is not None:
        name = type(options).__name__.removesuffix("T")
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [*inputs, output], [operator]
    graph.inputs = [i for i, tensor in enumerate(inputs) if tensor.buffer == 0]
    graph.outputs = operator.outputs
    model = schema.ModelT()
    model.version, model.buffers = 3, [schema.BufferT(), *buffers]
    model.subgraphs, model.operatorCodes = [graph], [code]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _run(content: bytes, values: np.ndarray, builtin: bool = False) -> np.ndarray:
    resolver = litert.OpResolverType
    interpreter = litert.Interpreter(
        model_content=content,
        num_threads=1,
        experimental_op_resolver_type=(
            resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES if builtin else resolver.AUTO
        ),
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(0, values)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def _simulated_integers(build_loaded, path, values: np.ndarray) -> np.ndarray:
    """Returns the output integers of the imported network for input integers."""
    graph = read_graph(path)
    network = import_graph(graph)
    source, target = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    offset = values.astype(np.float32) - np.float32(source.quantization.zero_point[0])
    real = build_loaded(network, simulated=True)(source.quantization.scale[0] * offset)
    steps = np.asarray(real, np.float64) / target.quantization.scale[0]
    return np.round(steps).astype(int) + int(target.quantization.zero_point[0])


_PAIRS = (
    *((kind, one, one) for kind in ("HARD_SWISH", "LEAKY_RELU") for one in ("INT8", "UINT8")),
    *((kind, one, one) for kind in ("RELU", "LOGISTIC", "TANH") for one in ("INT8", "UINT8")),
    *((kind, "INT8", "INT8") for kind in ("RELU6", "RELU_N1_TO_1", "QUANTIZE")),
    *(("QUANTIZE", *pair) for pair in (("INT8", "UINT8"), ("UINT8", "INT8"))),
)


@pytest.mark.parametrize(("kind", "source", "target"), _PAIRS)
def test_every_8_bit_value_gives_the_runtimes_output(build_loaded, tmp_path, kind, source, target):
    """The scales have many ties: halves, quarters, and ratios that are not binary fractions."""
    random = np.random.default_rng(5)
    low, high = _ENDS[source]
    values = np.arange(low, high + 1).astype(source.lower())[None]
    for ratio in (0.5, 0.75, 1.0, 1.3, *random.uniform(0.4, 1.0, 4)):
        scale = np.float32(random.uniform(0.01, 0.2))
        ends = [int(random.integers(*_ENDS[one])) for one in (source, target)]
        options = None
        if kind == "LEAKY_RELU":
            options = schema.LeakyReluOptionsT()
            options.alpha = float(random.uniform(0.05, 0.5))
        out_scale = np.float32(scale * ratio)
        if kind == "HARD_SWISH":
            out_scale = np.float32(scale * (0.4 + 0.3 * ratio))
        if kind in _FIXED_SCALES:
            out_scale, ends[1] = _FIXED_SCALES[kind][target]
        content = _file(
            kind,
            [_tensor("x", source, (1, 256), scale, ends[0])],
            _tensor("y", target, (1, 256), out_scale, ends[1]),
            options,
        )
        path = tmp_path / "one.tflite"
        path.write_bytes(content)
        expected = _run(content, values).astype(int)
        found = _simulated_integers(build_loaded, path, values)
        np.testing.assert_array_equal(found, expected, f"{ratio}, {scale}, {ends}")


def test_fixed_point_products_by_hand():
    """0.3 is 0.6 / 2, rounded after each step: 1 -> 0.6 -> 1 -> 0.5 -> 1."""
    values = np.array([0, 1, 2, 5, -5, 100, -100, 127])
    assert fixed_point_product(values, 0.3).tolist() == [0, 1, 1, 2, -2, 30, -30, 38]
    # 0.5 is 2^30 * 2^-31: a half is rounded up by the first product, also a negative one.
    assert fixed_point_product(np.array([1, 3, -1, -3]), 0.5).tolist() == [1, 2, 0, -1]


def test_hard_swish_by_hand():
    """At scale 1 / 16, x = -3 gives 0, x >= 3 gives x, x = 1 gives 4 / 6 = 10.67 steps."""
    steps = hard_swish(
        np.array([-80, -48, 16, 48, 80]), np.float32(1 / 16), out_scale=np.float32(1 / 16)
    )
    assert steps.tolist() == [0, 0, 11, 48, 80]


def test_resize_to_another_scale_copies_the_integers(build_loaded, tmp_path):
    """The built-in kernels ignore the scales; XNNPACK rejects the file."""
    sizes = schema.TensorT()
    sizes.name, sizes.shape, sizes.type = "size", [2], schema.TensorType.INT32
    sizes.buffer = 1
    data = schema.BufferT()
    data.data = np.frombuffer(np.array([6, 8], np.int32).tobytes(), np.uint8)
    content = _file(
        "RESIZE_BILINEAR",
        [_tensor("x", "UINT8", (1, 3, 4, 2), 0.01, 3), sizes],
        _tensor("y", "UINT8", (1, 6, 8, 2), 0.03, 0),
        schema.ResizeBilinearOptionsT(),
        (data,),
    )
    path = tmp_path / "resize.tflite"
    path.write_bytes(content)
    values = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 2)).astype(np.uint8)
    expected = _run(content, values, builtin=True).astype(int)
    assert expected.max() > 200  # 0.01 * (200 - 3) would be 66 steps of 0.03
    found = _simulated_integers(build_loaded, path, values)
    assert np.abs(found - expected).max() <= 1  # halves between pixels
    (row,) = import_graph(read_graph(path)).rows
    assert "the built-in kernels copy the integers" in row.became


_RANDOM = np.random.default_rng(12)
_KERNEL = tf.constant(_RANDOM.normal(size=(3, 3, 6, 4)).astype(np.float32))
_CHANNELS = tf.constant(_RANDOM.normal(size=4).astype(np.float32))
_FULL = tf.constant(_RANDOM.normal(size=(9, 11, 4)).astype(np.float32))
_FUNCTIONS = {
    "product_with_channels": lambda x: tf.tanh(x) * _CHANNELS,
    "product_with_a_constant": lambda x: tf.tanh(x) * 0.37,
    "product_with_an_image": lambda x: tf.tanh(x) * _FULL,
    "sum_with_channels": lambda x: tf.tanh(x) + _CHANNELS,
    "sum_with_channels_relu": lambda x: tf.nn.relu(tf.tanh(x) + _CHANNELS),
    "difference_from_a_constant": lambda x: 0.37 - tf.tanh(x),
    "sum": lambda x: x + tf.tanh(x),
    "difference": lambda x: tf.tanh(x) - x * tf.tanh(x),
    "average_pool_global": lambda x: tf.nn.avg_pool2d(x, (9, 11), 1, "VALID"),
    "average_pool_2x2": lambda x: tf.nn.avg_pool2d(x, 2, 2, "VALID"),
    "average_pool_same": lambda x: tf.nn.avg_pool2d(x, 3, 2, "SAME"),
    "mean": lambda x: tf.reduce_mean(x, (1, 2)),
    "mean_channels": lambda x: tf.reduce_mean(x, 3, keepdims=True),
    "softmax": lambda x: tf.nn.softmax(3 * x),
    "transpose_conv": lambda x: tf.nn.conv2d_transpose(x, _KERNEL, (1, 18, 22, 6), 2, "SAME"),
}


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_sums_are_rounded_as_the_runtime_rounds(convert, name):
    conversion = convert(_FUNCTIONS[name], variant="int8")
    scale = conversion.network.ranges[conversion.network.description.output_name]["scale"]
    for expected, found in zip(
        conversion.file_outputs(), conversion.outputs(simulated=True), strict=True
    ):
        steps = np.round(found / scale), np.round(expected.reshape(found.shape) / scale)
        np.testing.assert_array_equal(*steps)
