"""The rules of the GPU and NNAPI delegates, and how a delegate cuts a graph."""

import numpy as np
import pytest

from tests.paths import CAMVID, ZOO
from tests.tflite_tools.graphs import Builder, single
from tflite_tools.deployment.targets import gpu, nnapi
from tflite_tools.deployment.targets.partition import delegated_parts, largest
from tflite_tools.flatbuffer.graph import read_graph

IMAGE = (1, 8, 8, 4)
WEIGHTS = (np.ones((4, 1, 1, 4)), "INT8")
BIAS = np.zeros(4)


def test_zoo_runs_on_the_gpu_but_for_the_class_map():
    result = gpu.check(read_graph(CAMVID / "int8.tflite"), "gpu")
    assert result.left_off == []
    argmax = gpu.check(read_graph(ZOO / "voc_animals_deeplab_mobilenet_v2" / "int8.tflite"), "gpu")
    kinds = [p.operator.kind for p in argmax.left_off]
    assert kinds == ["ARG_MAX", "GATHER", "GATHER", "CAST"]


def test_official_float_file_runs_on_the_gpu(shared_dir):
    """Its name ends in _gpu: it was made for this delegate."""
    result = gpu.check(read_graph(shared_dir / "models" / "deeplabv3_257_mv_gpu.tflite"), "gpu")
    assert result.left_off == []


GPU_FAULTS = {
    "kind": (single("ARG_MAX", IMAGE, (1, 8, 8), [3]), "not an operator"),
    "custom": (single("CUSTOM:Decoder", IMAGE, IMAGE), "custom operator"),
    "int16": (single("RELU", IMAGE, IMAGE, type_name="INT16"), "INT16 tensor"),
    "rank": (single("RELU", (1, 2, 2, 2, 2), (1, 2, 2, 2, 2)), "more than 4 dimensions"),
    "dynamic": (single("RELU", IMAGE, IMAGE, signature=(1, -1, -1, 4)), "dynamic size"),
    "beta": (single("SOFTMAX", IMAGE, IMAGE, beta=2.0), "beta 2"),
    "class map cast": (
        single("CAST", IMAGE, IMAGE, type_name="INT32", result_type="UINT8"),
        "cast from INT32 to UINT8",
    ),
    "depth multiplier": (
        single(
            "DEPTHWISE_CONV_2D",
            IMAGE,
            (1, 8, 8, 8),
            (np.ones((1, 3, 3, 8)), "INT8"),
            depthMultiplier=2,
        ),
        "depth multiplier 2 of 4 channels",
    ),
    "product": (
        single("MUL", (1, 8, 1, 4), IMAGE, (np.ones((1, 1, 8, 4)), "INT8")),
        "each smaller somewhere",
    ),
    "padding": (single("PAD", (8, 4), (10, 4), [[1, 1], [0, 0]]), "padding of 2 dimensions"),
    "sign bit": (
        single("CONV_2D", IMAGE, IMAGE, WEIGHTS, fusedActivationFunction=5),
        "SIGN_BIT",
    ),
}


@pytest.mark.parametrize(("graph", "reason"), GPU_FAULTS.values(), ids=GPU_FAULTS)
def test_gpu_names_each_planted_fault(graph, reason):
    assert reason in gpu.check(graph, "gpu").placements[0].reason


def test_gpu_takes_its_largest_part_alone():
    builder = Builder()
    tensor = image = builder.tensor(IMAGE)
    for kind in ("RELU", "ARG_MAX", "RELU", "TANH", "ABS"):
        tensor = builder.operator(kind, [tensor], IMAGE)
    result = gpu.check(builder.graph([image], [tensor]), "gpu")
    assert [p.mapped for p in result.placements] == [False, False, True, True, True]
    assert "outside the largest part" in result.placements[0].reason
    assert "parts for the GPU: 2" in result.partition
    assert any("ABS" in text and "older delegates" in text for text in result.warnings)


def test_parts_are_as_large_as_the_order_of_execution_allows():
    builder = Builder()
    image = builder.tensor(IMAGE)
    a = builder.operator("A", [image], IMAGE)  # 0 supported
    b = builder.operator("B", [a], IMAGE)  # 1 not
    c = builder.operator("C", [b], IMAGE)  # 2 supported, waits for 1
    d = builder.operator("D", [a], IMAGE)  # 3 supported, does not wait: joins 0
    e = builder.operator("E", [c, d], IMAGE)  # 4 supported
    parts = delegated_parts(builder.graph([image], [e]), {0, 2, 3, 4})
    assert parts == [[0, 3], [2, 4]]
    assert largest(parts, 1) == {0, 3}
    assert largest(parts, 5) == {0, 2, 3, 4}


def test_parts_where_the_first_operator_is_not_supported():
    builder = Builder()
    image = builder.tensor(IMAGE)
    first = builder.operator("A", [image], IMAGE)
    second = builder.operator("B", [first], IMAGE)
    assert delegated_parts(builder.graph([image], [second]), {1}) == [[1]]
    assert delegated_parts(builder.graph([image], [second]), set()) == []


def test_the_first_operator_decides_what_the_first_part_is():
    """Unsupported ones at the front go first, so that what waits for them joins the others."""
    builder = Builder()
    image = builder.tensor(IMAGE)
    first = builder.operator("A", [image], IMAGE)  # 0 not supported
    second = builder.operator("B", [image], IMAGE)  # 1 supported, could start at once
    third = builder.operator("C", [first], IMAGE)  # 2 supported, waits for 0
    graph = builder.graph([image], [second, third])
    assert delegated_parts(graph, {1, 2}) == [[1, 2]]


def test_nnapi_takes_its_three_largest_parts():
    builder = Builder()
    tensor = image = builder.tensor(IMAGE)
    sizes = (2, 1, 2, 2)
    for size in sizes:
        for _ in range(size):
            tensor = builder.operator("RELU", [tensor], IMAGE)
        tensor = builder.operator("CUSTOM:Break", [tensor], IMAGE)
    result = nnapi.check(builder.graph([image], [tensor]), "nnapi")
    assert "parts for NNAPI at API level 30: 4; 6 of 11 operators" in result.partition
    assert "outside the 3 largest parts" in result.placements[3].reason


NNAPI_LEVELS = {
    "class map": (single("ARG_MAX", IMAGE, (1, 8, 8), [3], result_type="INT32"), 29),
    "half-pixel": (
        single("RESIZE_BILINEAR", IMAGE, (1, 16, 16, 4), [16, 16], halfPixelCenters=True),
        30,
    ),
    "plain int8 resize": (single("RESIZE_BILINEAR", IMAGE, (1, 16, 16, 4), [16, 16]), 29),
    "float resize, not square": (
        single("RESIZE_BILINEAR", IMAGE, (1, 16, 8, 4), [16, 8], type_name="FLOAT32"),
        29,
    ),
    "float resize, square": (
        single("RESIZE_BILINEAR", IMAGE, (1, 16, 16, 4), [16, 16], type_name="FLOAT32"),
        28,
    ),
    "quantize to int8": (
        single("QUANTIZE", IMAGE, IMAGE, type_name="FLOAT32", result_type="INT8"),
        30,
    ),
    "quantize to uint8": (single("QUANTIZE", IMAGE, IMAGE, result_type="UINT8"), 29),
    "atrous": (
        single("CONV_2D", IMAGE, IMAGE, WEIGHTS, BIAS, dilationHFactor=2, dilationWFactor=2),
        29,
    ),
    "pack": (single("PACK", IMAGE, (2, *IMAGE), axis=0), 30),
    "relu": (single("RELU", IMAGE, IMAGE), 28),
}


@pytest.mark.parametrize(("graph", "since"), NNAPI_LEVELS.values(), ids=NNAPI_LEVELS)
def test_nnapi_takes_an_operator_from_its_level_on(graph, since):
    """28 is the oldest that can be asked for."""
    taken = [nnapi.reason(graph, graph.operators[0], level=level) == "" for level in (28, 29, 30)]
    assert taken == [level >= since for level in (28, 29, 30)]


NNAPI_FAULTS = {
    "custom": (single("CUSTOM:Decoder", IMAGE, IMAGE), "not an operator"),
    "int16": (single("CONV_2D", IMAGE, IMAGE, WEIGHTS, BIAS, type_name="INT16"), "INT16 input"),
    "int64 map": (single("ARG_MAX", IMAGE, (1, 8, 8), [3], result_type="BOOL"), "INT32 is needed"),
    "no bias": (single("CONV_2D", IMAGE, IMAGE, WEIGHTS), "without bias"),
    "activation": (
        single("CONCATENATION", IMAGE, IMAGE, fusedActivationFunction=1),
        "fused activation",
    ),
    "large window": (
        single("AVERAGE_POOL_2D", IMAGE, IMAGE, filterHeight=33, filterWidth=33),
        "above 256 elements",
    ),
    "last axis": (single("PACK", IMAGE, (*IMAGE, 2), axis=-1), "last axis"),
    "crops": (
        single("BATCH_TO_SPACE_ND", IMAGE, IMAGE, [2, 2], [[0, 1], [0, 1]]),
        "crops",
    ),
    "integers": (single("SUM", IMAGE, (1, 4), [1, 2]), "INT8 input"),
}


@pytest.mark.parametrize(("graph", "reason"), NNAPI_FAULTS.values(), ids=NNAPI_FAULTS)
def test_nnapi_names_each_planted_fault(graph, reason):
    assert reason in nnapi.check(graph, "nnapi").placements[0].reason


def test_nnapi_mean_needs_one_scale():
    for scale, taken in ((0.5, True), (0.25, False)):
        builder = Builder()
        image = builder.tensor(IMAGE, scale=scale)
        output = builder.operator("MEAN", [image, builder.constant([1, 2])], (1, 4))
        result = nnapi.check(builder.graph([image], [output]), "nnapi")
        assert result.placements[0].mapped is taken


def test_nnapi_takes_float16_weights_themselves():
    builder = Builder()
    image = builder.tensor(IMAGE, "FLOAT32")
    stored = builder.constant(np.ones((4, 1, 1, 4)), "FLOAT16")
    weights = builder.operator("DEQUANTIZE", [stored], (4, 1, 1, 4), "FLOAT32")
    bias = builder.constant(BIAS, "FLOAT32")
    output = builder.operator("CONV_2D", [image, weights, bias], IMAGE, "FLOAT32")
    assert nnapi.check(builder.graph([image], [output]), "nnapi").left_off == []


def test_nnapi_level_is_in_the_name():
    graph = read_graph(CAMVID / "int8.tflite")
    left = {
        name: {p.operator.kind for p in nnapi.check(graph, name).left_off}
        for name in ("nnapi", "nnapi-30", "nnapi-29", "nnapi-28")
    }
    # Its mean changes the scale, which the delegate does not accept at any level.
    assert left["nnapi"] == left["nnapi-30"] == {"MEAN"}
    assert {"RESIZE_BILINEAR", "QUANTIZE"} <= left["nnapi-29"]
    assert {"CONV_2D", "DEPTHWISE_CONV_2D"} <= left["nnapi-28"]
    assert len(nnapi.check(graph, "nnapi-28").left_off) > len(
        nnapi.check(graph, "nnapi-29").left_off
    )
