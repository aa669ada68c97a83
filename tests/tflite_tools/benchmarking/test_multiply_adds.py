"""Multiply-adds counted by hand, by Keras, and the peak that speeds are held against."""

import pathlib

import numpy as np
import pytest

from tests.paths import CAMVID
from tflite_tools.benchmarking.machine import describe_machine
from tflite_tools.benchmarking.peak_model import CHANNELS, SIDE, write_peak_model
from tflite_tools.contract import read_contract
from tflite_tools.flatbuffer.graph import Graph, Operator, Tensor, read_graph
from tflite_tools.flatbuffer.multiply_adds import is_integer, multiply_adds
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool

# Not from tests.zoo: children import this module, and TensorFlow with it would cost seconds.


def graph(kind, shapes, options=None, float_weights=False):
    """One operator; the last shape is its output."""
    tensors = tuple(
        Tensor(
            index,
            f"t{index}",
            shape=shape,
            shape_signature=shape,
            dtype=np.dtype(np.float32),
            type_name="FLOAT32" if float_weights else "INT8",
            quantization=None,
            data=None,
        )
        for index, shape in enumerate(shapes)
    )
    last = len(shapes) - 1
    operator = Operator(0, kind, inputs=tuple(range(last)), outputs=(last,), options=options)
    return Graph(
        pathlib.Path("x"),
        tensors,
        operators=(operator,),
        inputs=(0,),
        outputs=(last,),
        size_bytes=0,
    )


class Adjoint:
    adjX = True  # noqa: N815 - the schema's name


@pytest.mark.parametrize(
    ("kind", "shapes", "expected"),
    [
        # 5 * 6 places, 4 outputs, kernel 3 * 3 over 3 channels
        ("CONV_2D", [(1, 5, 6, 3), (4, 3, 3, 3), (4,), (1, 5, 6, 4)], 5 * 6 * 4 * 27),
        # two groups: each output sees 3 of 6 channels
        ("CONV_2D", [(1, 5, 6, 6), (4, 1, 1, 3), (4,), (1, 5, 6, 4)], 5 * 6 * 4 * 3),
        # stride 2: only the output's 3 * 3 places count
        ("CONV_2D", [(1, 5, 6, 3), (4, 3, 3, 3), (4,), (1, 3, 3, 4)], 3 * 3 * 4 * 27),
        # multiplier 2 on 4 channels: 8 outputs, each sees one channel
        ("DEPTHWISE_CONV_2D", [(1, 5, 6, 4), (1, 3, 3, 8), (8,), (1, 5, 6, 8)], 5 * 6 * 8 * 9),
        ("FULLY_CONNECTED", [(2, 7), (10, 7), (10,), (2, 10)], 2 * 10 * 7),
        # every one of 5 * 6 * 3 input values meets 2 * 2 * 4 weights
        ("TRANSPOSE_CONV", [(4,), (4, 2, 2, 3), (1, 5, 6, 3), (1, 10, 12, 4)], 5 * 6 * 3 * 16),
        ("BATCH_MATMUL", [(2, 3, 5), (2, 5, 7), (2, 3, 7)], 2 * 3 * 7 * 5),
        ("ADD", [(1, 5, 6, 3), (1, 5, 6, 3), (1, 5, 6, 3)], 0),
        ("RESIZE_BILINEAR", [(1, 5, 6, 3), (2,), (1, 10, 12, 3)], 0),
    ],
)
def test_counts_by_hand(kind, shapes, expected):
    assert multiply_adds(graph(kind, shapes)) == (expected,)


def test_adjoint_matmul_contracts_the_other_axis():
    assert multiply_adds(graph("BATCH_MATMUL", [(2, 5, 3), (2, 5, 7), (2, 3, 7)], Adjoint())) == (
        2 * 3 * 7 * 5,
    )


def test_the_weights_decide_the_peak():
    shapes = [(1, 5, 6, 3), (4, 3, 3, 3), (4,), (1, 5, 6, 4)]
    assert is_integer(graph("CONV_2D", shapes))
    assert not is_integer(graph("CONV_2D", shapes, float_weights=True))
    assert is_integer(read_graph(CAMVID / "int8.tflite"))


def test_whole_network_equals_the_count_over_keras_layers():
    import tf_keras as keras  # noqa: PLC0415

    from deeplab_tf.models.registry import build_network  # noqa: PLC0415
    from deeplab_tf.runs.config import read_config  # noqa: PLC0415

    model = build_network(read_config(CAMVID).model, (368, 480))
    expected = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            kernel = layer.depthwise_kernel.shape
            expected += np.prod(layer.output_shape[1:]) * kernel[0] * kernel[1]
        elif isinstance(layer, keras.layers.Conv2D):
            expected += np.prod(layer.output_shape[1:]) * np.prod(layer.kernel.shape[:3])
    assert sum(multiply_adds(read_graph(CAMVID / "int8.tflite"))) == expected


def raw_output(runner, image):
    runner.set_image(image)
    runner.invoke()
    return runner.output()


@pytest.mark.parametrize("integer", [True, False])
def test_peak_file_computes_a_matrix_product(tmp_path, integer):
    path = tmp_path / "peak.tflite"
    write_peak_model(path, integer)
    model = read_graph(path)
    assert multiply_adds(model) == (SIDE * SIDE * CHANNELS * CHANNELS,)
    assert is_integer(model) == integer
    contract = read_contract(path)
    image = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, CHANNELS), np.uint8)
    with InterpreterPool([contract], 1) as pool:
        (outcome,) = pool.run([Task(0, raw_output, arguments=(image,))])
    assert outcome.failure == ""
    _, weights, bias, _ = model.tensors
    table = contract.quantize_table()
    fed = table[image[3, 5], np.arange(CHANNELS)].astype(np.float64)
    fed = fed / 128 if integer else fed
    expected = fed @ weights.dequantized()[:, 0, 0, :].T.astype(np.float64) + bias.dequantized()
    got = outcome.value[0, 3, 5].astype(np.float64)
    # int8: one step of the output (1/512) is half rounding, half the kernel's own
    got, bound = (got / 512, 1 / 512) if integer else (got, 1e-2)
    assert len(set(got)) > 50  # the output's range is used
    expected = expected.clip(-128 / 512, 127 / 512) if integer else expected
    np.testing.assert_allclose(got, expected, atol=bound)


def test_machine_names_the_features_that_matter(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: Some CPU\nflags\t\t: fpu avx2 avx512_vnni amx_int8 amx\n")
    found = describe_machine(cpuinfo)
    assert found["processor"] == "Some CPU"
    assert found["features"] == ["avx2", "avx512_vnni", "amx_int8"]
    assert found["integer_dot_product"]
    cpuinfo.write_text("Features\t: fp asimd asimdhp\n")
    assert describe_machine(cpuinfo)["features"] == ["asimd", "asimdhp"]
    assert not describe_machine(cpuinfo)["integer_dot_product"]
    assert describe_machine(tmp_path / "none")["features"] == []
