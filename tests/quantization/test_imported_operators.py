"""Layers of imported networks: quantization-aware, then a file of integers that agrees."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter

from deeplab_tf.models.imported import NetworkDescription, Node, build_imported
from deeplab_tf.quantization.apply import quantize_aware
from deeplab_tf.quantization.ranges import fill_ranges
from deeplab_tf.training.initialization import named_arrays

CONVOLUTION = {"filters": 24, "kernel_size": 3, "padding": "same"}
SECOND = Node("c2", "conv2d", ("c",), CONVOLUTION)
RESIZE = {"height": 32, "width": 32, "interpolation": "nearest", "alignment": "align_corners"}
MEASURED_DB = 33.7
"""The least of these, average pool; 30 dB leaves room for other kernels, and a range at the wrong
place costs 20 dB and more (a maximum of two ranges: 12 dB)."""

CASES = {
    "hard_swish": (Node("x", "hard_swish", ("c",)),),
    "subtract": (SECOND, Node("x", "subtract", ("c", "c2"))),
    "multiply": (SECOND, Node("x", "multiply", ("c", "c2"))),
    "prelu": (Node("x", "prelu", ("c",), {"shared_axes": [1, 2]}),),
    "leaky_relu": (Node("x", "leaky_relu", ("c",), {"alpha": 0.1}),),
    "softmax": (Node("x", "softmax", ("c",)),),
    "sigmoid": (Node("x", "activation", ("c",), {"activation": "sigmoid"}),),
    "clip": (Node("x", "clip", ("c",), {"minimum": 0.0, "maximum": 1.0}),),
    "reduce_mean": (Node("x", "reduce_mean", ("c",), {"axes": [3], "keepdims": True}),),
    "constant_add": (
        Node("x", "elementwise_constant", ("c",), {"operation": "add", "shape": [24]}),
    ),
    "constant_multiply": (
        Node("x", "elementwise_constant", ("c",), {"operation": "multiply", "shape": [24]}),
    ),
    "slice": (
        Node("x", "strided_slice", ("c",), {"slices": [[0, 8, 1], [4, 9, 1], [None, None, 1]]}),
    ),
    "nearest": (Node("x", "aligned_resizing", ("c",), RESIZE),),
    "bilinear": (Node("x", "aligned_resizing", ("c",), RESIZE | {"interpolation": "bilinear"}),),
    "average_pool": (Node("x", "average_pool2d", ("c",), {"pool_size": 2}),),
    "pad": (Node("x", "zero_padding2d", ("c",), {"padding": 1}),),
}


def network(nodes) -> keras.Model:
    first = Node("c", "conv2d", ("image",), CONVOLUTION)
    last = Node("logits", "conv2d", ("x",), {"filters": 7, "kernel_size": 1})
    return build_imported(NetworkDescription("image", (16, 16, 3), (first, *nodes, last), "logits"))


def file_of(model: keras.Model) -> Interpreter:
    function = tf.function(lambda x: model(x, training=False))
    concrete = function.get_concrete_function(tf.TensorSpec((1, 16, 16, 3), tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        content = converter.convert()
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
    fill_ranges(model, source, named_arrays(source), [images])
    interpreter = file_of(model)
    types = {tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    assert np.float32 not in types
    for image in images:
        expected = model(image[None], training=False).numpy()
        noise = np.square(run(interpreter, image) - expected).mean()
        assert np.square(expected).mean() > 1000 * noise  # 30 dB


def test_layer_that_the_scheme_does_not_know_is_named():
    source = network((SECOND, Node("x", "maximum", ("c", "c2"))))
    with pytest.raises(
        ValueError, match=r"layer 'x' \(Maximum\) cannot be trained .* supported: A"
    ):
        quantize_aware(source, (-1.0, 1.0))
