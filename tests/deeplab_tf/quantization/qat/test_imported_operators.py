"""Layers of imported networks: quantization-aware, then a file of integers that agrees."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter

from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.edit import cut_after
from deeplab_tf.graph.executor import Executor
from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.graph.network import NetworkGraph, Node
from deeplab_tf.quantization.calibration.activation_ranges import ALL_ZERO_RANGE
from deeplab_tf.quantization.ptq.post_training import (
    BiasMethod,
    PostTraining,
    quantize_post_training,
)
from deeplab_tf.quantization.qat import scheme
from deeplab_tf.quantization.qat.apply import quantize_aware
from deeplab_tf.quantization.qat.ranges import fill_ranges
from deeplab_tf.weights.matching import named_arrays
from export.conversion.gate import check_file
from export.conversion.variants import FileSpec, Head, IoDtype, Variant
from tests.decibels import snr_db

CONVOLUTION = {"filters": 24, "kernel_size": 3, "padding": "same"}
LIMIT = {"max_value": 4.0}
SECOND = Node("c2", "conv2d", inputs=("c",), attributes=CONVOLUTION)
RESIZE = {"height": 32, "width": 32, "interpolation": "nearest", "alignment": "align_corners"}
MEASURED_DB = 33.7
"""The least of these, average pool; 30 dB leaves room for other kernels, and a range at the wrong
place costs 20 dB and more (a maximum of two ranges: 12 dB)."""

CASES = {
    "hard_swish": (Node("x", "hard_swish", inputs=("c",)),),
    "maximum": (SECOND, Node("x", "maximum", inputs=("c", "c2"))),
    "minimum": (Node("r", "relu", inputs=("c",)), SECOND, Node("x", "minimum", inputs=("r", "c2"))),
    "subtract": (SECOND, Node("x", "subtract", inputs=("c", "c2"))),
    "multiply": (SECOND, Node("x", "multiply", inputs=("c", "c2"))),
    "prelu": (Node("x", "prelu", inputs=("c",), attributes={"shared_axes": [1, 2]}),),
    "leaky_relu": (Node("x", "leaky_relu", inputs=("c",), attributes={"alpha": 0.1}),),
    "softmax": (Node("x", "softmax", inputs=("c",)),),
    "sigmoid": (Node("x", "activation", inputs=("c",), attributes={"activation": "sigmoid"}),),
    "clip": (Node("x", "clip", inputs=("c",), attributes={"minimum": 0.0, "maximum": 1.0}),),
    "reduce_mean": (
        Node("x", "reduce_mean", inputs=("c",), attributes={"axes": [3], "keepdims": True}),
    ),
    "constant_add": (
        Node(
            "x",
            "elementwise_constant",
            inputs=("c",),
            attributes={"operation": "add", "shape": [24]},
        ),
    ),
    "constant_multiply": (
        Node(
            "x",
            "elementwise_constant",
            inputs=("c",),
            attributes={"operation": "multiply", "shape": [24]},
        ),
    ),
    "rescaling": (Node("x", "rescaling", inputs=("c",), attributes={"scale": 1 / 6}),),
    "offset": (Node("x", "rescaling", inputs=("c",), attributes={"scale": 1, "offset": 0.5}),),
    "slice": (
        Node(
            "x",
            "strided_slice",
            inputs=("c",),
            attributes={"slices": [[0, 8, 1], [4, 9, 1], [None, None, 1]]},
        ),
    ),
    "nearest": (Node("x", "aligned_resizing", inputs=("c",), attributes=RESIZE),),
    "bilinear": (
        Node(
            "x",
            "aligned_resizing",
            inputs=("c",),
            attributes=RESIZE | {"interpolation": "bilinear"},
        ),
    ),
    "average_pool": (Node("x", "average_pool2d", inputs=("c",), attributes={"pool_size": 2}),),
    "pad": (Node("x", "zero_padding2d", inputs=("c",), attributes={"padding": 1}),),
    "swish": (Node("x", "activation", inputs=("c",), attributes={"activation": "swish"}),),
    "gelu": (Node("x", "activation", inputs=("c",), attributes={"activation": "gelu"}),),
    "relu_limit_1": (Node("x", "relu", inputs=("c",), attributes={"max_value": 1.0}),),
    "relu_limit_4": (Node("x", "relu", inputs=("c",), attributes={"max_value": 4.0}),),
    "relu_slope": (Node("x", "relu", inputs=("c",), attributes={"negative_slope": 0.1}),),
    "relu_slope_limit": (
        Node("x", "relu", inputs=("c",), attributes={"negative_slope": 0.1, "max_value": 1.5}),
    ),
    "relu_slope_limit_6": (
        Node("x", "relu", inputs=("c",), attributes={"negative_slope": 0.1, "max_value": 6.0}),
    ),
    "relu_threshold": (Node("x", "relu", inputs=("c",), attributes={"threshold": 0.5}),),
    "relu_threshold_limit": (
        Node("x", "relu", inputs=("c",), attributes={"threshold": 0.5, "max_value": 2.0}),
    ),
    "relu_behind_add": (
        SECOND,
        Node("s", "add", inputs=("c", "c2")),
        Node("x", "relu", inputs=("s",), attributes=LIMIT),
    ),
    "transpose": (
        Node(
            "t",
            "conv2d_transpose",
            inputs=("c",),
            attributes={"filters": 12, "kernel_size": 3, "strides": 2},
        ),
        Node("x", "relu", inputs=("t",)),
    ),
}


def network(nodes) -> keras.Model:
    first = Node("c", "conv2d", inputs=("image",), attributes=CONVOLUTION)
    last = Node("logits", "conv2d", inputs=("x",), attributes={"filters": 7, "kernel_size": 1})
    return build_model(
        NetworkGraph("image", (16, 16, 3), nodes=(first, *nodes, last), output_name="logits")
    )


def content_of(model: keras.Model) -> bytes:
    function = tf.function(lambda x: model(x, training=False))
    concrete = function.get_concrete_function(tf.TensorSpec((1, 16, 16, 3), tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        return converter.convert()


def file_of(model: keras.Model) -> Interpreter:
    return interpreter_of(content_of(model))


def interpreter_of(content: bytes) -> Interpreter:
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    return interpreter


def run(interpreter: Interpreter, image):
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero_point = given["quantization"]
    steps = np.round(image / scale) + zero_point
    interpreter.set_tensor(given["index"], np.clip(steps, -128, 127).astype(np.int8)[None])
    interpreter.invoke()
    scale, zero_point = found["quantization"]
    return scale * (interpreter.get_tensor(found["index"]).astype(np.float32) - zero_point)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_file_is_whole_integer_and_agrees_with_keras(kind):
    keras.backend.clear_session()
    source = network(CASES[kind])
    random = np.random.default_rng(0)
    source.set_weights([random.normal(0, 0.3, value.shape) for value in source.get_weights()])
    model = quantize_aware(source, (-1.0, 127 / 128))
    images = random.uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32)
    fill_ranges(model, source, arrays=named_arrays(source), batches=[images])
    interpreter = file_of(model)
    types = {tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    assert np.float32 not in types
    for image in images:
        expected = model(image[None], training=False).numpy()
        noise = np.square(run(interpreter, image) - expected).mean()
        assert np.square(expected).mean() > 1000 * noise  # 30 dB


RELUS = {
    "1": {"max_value": 1.0},
    "4": {"max_value": 4.0},
    "slope": {"negative_slope": 0.1},
    "slope and 6": {"negative_slope": 0.1, "max_value": 6.0},
    "threshold": {"threshold": 0.5},
    "threshold and 6": {"threshold": 0.5, "max_value": 6.0},
}


@pytest.mark.parametrize("kind", RELUS)
def test_gate_accepts_a_network_with_a_relu_that_does_not_fuse(kind, tmp_path):
    """Convolution, batch norm, ReLU: what the training makes of it is what the gate lets pass."""
    keras.backend.clear_session()
    layers = keras.layers
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(32, 3, use_bias=False, name="c")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(**RELUS[kind], name="active")(x)
    source = keras.Model(image, layers.Conv2D(5, 1, name="logits")(x))
    random = np.random.default_rng(0)
    source.set_weights([np.abs(random.normal(0, 0.5, v.shape)) for v in source.get_weights()])
    source.get_layer("c").set_weights([random.normal(0, 0.5, (3, 3, 3, 32))])
    source.get_layer("logits").set_weights([random.normal(0, 0.5, (1, 1, 32, 5)), np.zeros(5)])
    scheme.check_trainable(source)
    images = random.uniform(-1, 127 / 128, (4, 16, 16, 3)).astype(np.float32)
    model = quantize_aware(source, (-1.0, 127 / 128))
    fill_ranges(model, source, arrays=named_arrays(source), batches=[images])
    path = tmp_path / "qat_int8.tflite"
    path.write_bytes(content_of(model))
    spec = FileSpec(
        Variant.QAT_INT8, Head.LOGITS, input_dtype=IoDtype.INT8, output_dtype=IoDtype.INT8
    )
    assert check_file(path, spec, preprocessing=Preprocessing((128.0,), (128.0,))) == []
    simulated = model(images[:1], training=False).numpy()
    noise = np.square(run(interpreter_of(path.read_bytes()), images[0]) - simulated).mean()
    assert np.square(simulated).mean() > 1000 * noise  # 30 dB, as above


@pytest.mark.parametrize("kind", ["4", "threshold and 6"])
def test_values_clipped_by_a_limit_need_no_levels_before_it(kind):
    """Values below 0 and above the limit become 0 and the limit: before and after it, 256 steps of
    the same range. A slope needs the values below 0."""
    random = np.random.default_rng(0)
    photos = random.uniform(-1, 127 / 128, (4, 16, 16, 3)).astype(np.float32)
    plain = network((Node("x", "relu", inputs=("c",), attributes=RELUS[kind]),))
    done = post_trained(plain, random, photos, PostTraining())
    assert done.ranges["c"] == done.ranges["x"]
    assert done.ranges["x"][0] == 0
    sloped = network((Node("x", "relu", inputs=("c",), attributes=RELUS["slope and 6"]),))
    assert post_trained(sloped, random, photos, PostTraining()).ranges["c"][0] < -1


def layer(name, class_name, source, **config) -> Node:
    return Node(
        name, "layer", inputs=(source,), attributes={"class_name": class_name, "config": config}
    )


def post_trained(source, random, photos, plan):
    """The network with weights, quantized post training."""
    keras.backend.clear_session()
    source.set_weights([random.normal(0, 0.3, value.shape) for value in source.get_weights()])
    return quantize_post_training(source, plan, batches=[photos], input_range=(-1.0, 127 / 128))


@pytest.mark.parametrize("per_channel", [True, False])
def test_transposed_convolution_in_every_step(per_channel):
    random = np.random.default_rng(0)
    photos = random.uniform(-1, 127 / 128, (4, 16, 16, 3)).astype(np.float32)
    source = network(CASES["transpose"])
    plan = PostTraining(per_channel, equalize=True, bias=BiasMethod.EMPIRICAL)
    done = post_trained(source, random, photos, plan)
    interpreter = file_of(done.model)
    tensors = interpreter.get_tensor_details()
    assert np.float32 not in {tensor["dtype"] for tensor in tensors}
    (kernel,) = (tensor for tensor in tensors if tuple(tensor["shape"]) == (12, 3, 3, 24))
    scales = kernel["quantization_parameters"]["scales"]
    assert len(scales) == (12 if per_channel else 1)
    # The kernel of the file is that of the plan: the same rounding, channel by channel.
    simulated = done.model(photos[:1], training=False).numpy()
    assert snr_db(simulated, run(interpreter, photos[0])) > 40
    assert snr_db(source(photos[:1]).numpy(), run(interpreter, photos[0])) > 25


def test_ranges_of_a_transposed_kernel_follow_it_in_training():
    source = network(CASES["transpose"])
    model = quantize_aware(source, (-1.0, 127 / 128))
    kernel = np.random.default_rng(0).normal(0, 0.3, (3, 3, 12, 24)).astype(np.float32)
    kernel *= np.geomspace(0.01, 1, 12, dtype=np.float32)[:, None]
    wrapper = model.get_layer("quant_t")
    wrapper.set_weights([kernel if v.shape == kernel.shape else v for v in wrapper.get_weights()])
    image = tf.random.stateless_uniform((1, 16, 16, 3), (0, 1), -1, 1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(image, training=True) ** 2)
    (variable,) = (v for v in wrapper.trainable_variables if v.shape == kernel.shape)
    assert float(tf.reduce_max(tf.abs(tape.gradient(loss, variable)))) > 0
    (largest,) = (v.numpy() for v in wrapper.weights if v.name.endswith("kernel_max:0"))
    np.testing.assert_allclose(largest, np.abs(kernel).max((0, 1, 3)), rtol=1e-5)


def test_layers_that_the_scheme_does_not_know_stay_float_and_are_named(caplog):
    random = np.random.default_rng(0)
    photos = random.uniform(-1, 127 / 128, (4, 16, 16, 3)).astype(np.float32)
    nodes = (
        layer("odd_norm", "LayerNormalization", "c"),
        Node("odd_dense", "dense", inputs=("odd_norm",), attributes={"units": 12}),
        layer("x", "SeparableConv2D", "odd_dense", filters=8, kernel_size=3),
    )
    source = network(nodes)
    done = post_trained(source, random, photos, PostTraining())
    assert scheme.unknown_layers(source) == {
        "odd_norm": "LayerNormalization",
        "odd_dense": "Dense",
        "x": "SeparableConv2D",
    }
    said = [record.getMessage() for record in caplog.records]
    for name, kind in scheme.unknown_layers(source).items():
        assert f"layer {name!r} ({kind}) is not known" in " ".join(said)
        assert name not in done.ranges
    interpreter = file_of(done.model)
    types = {tensor["name"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    assert np.float32 in set(types.values())
    assert snr_db(source(photos[:1]).numpy(), run(interpreter, photos[0])) > 25


def test_layer_that_cannot_be_trained_is_named():
    scheme.check_trainable(network(CASES["transpose"]))
    source = network((Node("x", "dense", inputs=("c",), attributes={"units": 4}),))
    with pytest.raises(ValueError, match=r"layer 'x' \(Dense\) cannot be trained .* supported: A"):
        scheme.check_trainable(source)


def test_activation_inside_a_layer_that_has_no_kind_of_its_own():
    image = keras.Input((16, 16, 3), name="image")
    x = keras.layers.Conv2D(8, 3, activation="swish", name="a")(image)
    x = keras.layers.Activation("gelu", name="b")(x)
    model = keras.Model(image, x)
    description, arrays = graph_from_keras(model)
    assert [node.name for node in description.nodes] == ["a_linear", "a", "b"]
    photo = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(Executor(description, arrays).run(photo), model(photo), atol=1e-6)
    # A file's own text still picks no function of Keras at will.
    with pytest.raises(ValueError, match="unknown activation 'deserialize'; known: sigmoid"):
        Node("x", "activation", inputs=("c",), attributes={"activation": "deserialize"})


@pytest.mark.parametrize("output", ["logits", "r"])
def test_tensor_that_calibration_sees_only_zero_of(output):
    """Dark images leave a ReLU at 0: later layers stay right, and bright images pass."""
    first = Node("c", "conv2d", inputs=("image",), attributes=CONVOLUTION)
    nodes = (
        first,
        Node("r", "relu", inputs=("c",)),
        Node("logits", "conv2d", inputs=("r",), attributes=CONVOLUTION),
    )
    description = NetworkGraph("image", (16, 16, 3), nodes=nodes, output_name="logits")
    description, _ = cut_after(description, {}, name=output)
    random = np.random.default_rng(0)
    dark = random.uniform(-1, -0.2, (4, 16, 16, 3)).astype(np.float32)
    kernels = np.abs(random.normal(0, 0.2, (3, 3, 3, 24))), random.normal(0, 0.3, (3, 3, 24, 24))
    weights = [kernels[0], np.zeros(24), kernels[1], random.normal(0, 0.3, 24)]
    keras.backend.clear_session()
    source = build_model(description)
    source.set_weights(weights[: len(source.weights)])
    done = quantize_post_training(
        source, PostTraining(), batches=[dark], input_range=(-1.0, 127 / 128)
    )
    assert done.ranges["r"] == ALL_ZERO_RANGE
    photo = dark[0] if output == "logits" else -dark[0]
    # Steps of 12 / 255 of values of about 2, or of a bias.
    assert snr_db(source(photo[None]).numpy(), run(file_of(done.model), photo)) > 35
