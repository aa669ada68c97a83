"""The Edge TPU check against what the official compiler did, and each rule with a fault planted."""

import collections
import json

import numpy as np
import pytest

from tests.paths import CAMVID, ZOO
from tests.tflite_tools.graphs import Builder, single
from tflite_tools.deployment.targets import edgetpu
from tflite_tools.flatbuffer.graph import read_graph

MODELS = (
    "deeplabv3_mnv2_pascal_quant",
    "keras_lstm_mnist_ptq",
    "mobilenet_v1_0.25_128_quant",
    "posenet__bodypix_mobilenet_v1_075_512_512_16_quant_decoder",
    "tools__split_concat",
)
IMAGE = (1, 8, 8, 4)


def check(graph):
    return edgetpu.check(graph, "edgetpu")


def only_reason(graph) -> str:
    return check(graph).placements[0].reason


@pytest.mark.parametrize("name", MODELS)
def test_left_on_the_cpu_as_the_official_compiler_left_it(shared_dir, name):
    folder = shared_dir / "models" / "edgetpu_uncompiled"
    truth = json.loads((folder / "operators_left_on_cpu.json").read_text())
    assert set(truth) == set(MODELS)  # a model that is added there must be checked here
    path = folder / f"{name}.tflite"
    graph = read_graph(path if path.is_file() else shared_dir / "models" / path.name)
    assert len(graph.operators) == truth[name]["operators"]
    left = collections.Counter(p.operator.kind for p in check(graph).left_off)
    assert left == truth[name]["operators_left_on_cpu"]


def test_decoder_of_the_zoo_waits_for_the_pooled_branch():
    result = check(read_graph(CAMVID / "int8.tflite"))
    first = result.left_off[0]
    assert first.operator.kind == "RESIZE_BILINEAR"
    assert "1x1 -> 23x30" in first.reason
    assert "it ends at operator 65, RESIZE_BILINEAR" in result.partition
    # The four other ASPP branches do not depend on it; the projection behind them does.
    assert [p.operator.kind for p in result.placements[66:72] if not p.mapped] == []
    assert result.placements[72].reason.startswith("depends on operator 65")
    assert 0.6 < result.mapped_share < 0.75


@pytest.mark.parametrize("folder", sorted(path.name for path in ZOO.iterdir() if path.is_dir()))
def test_parameters_are_the_constants_of_mapped_operators(folder):
    graph = read_graph(ZOO / folder / "int8.tflite")
    result = check(graph)
    used = {i for p in result.placements if p.mapped for i in p.operator.inputs}
    expected = sum(graph.tensors[i].data.nbytes for i in used if graph.tensors[i].data is not None)
    assert result.estimates["parameters_mib"] == pytest.approx(expected / 2**20)
    assert 1 < result.estimates["parameters_mib"] < graph.size_bytes / 2**20


FITS = {
    "softmax": single("SOFTMAX", (1, 10), (1, 10), beta=1.0),
    "softmax at its limit": single("SOFTMAX", (1, 16_000), (1, 16_000)),
    "mean of space": single("MEAN", IMAGE, (1, 4), [1, 2]),
    "mean of 4 channels": single("MEAN", IMAGE, (1, 8, 8), [-1]),
    "pad of space": single("PAD", IMAGE, (1, 10, 10, 4), [[0, 0], [1, 1], [1, 1], [0, 0]]),
    "resize by 2": single("RESIZE_BILINEAR", (1, 24, 24, 4), (1, 48, 48, 4), [48, 48]),
    "resize by 1": single("RESIZE_BILINEAR", (1, 33, 33, 4), (1, 33, 33, 4), [33, 33]),
    "pool": single("AVERAGE_POOL_2D", IMAGE, (1, 1, 1, 4), fusedActivationFunction=0),
    "slice of stride 1": single("STRIDED_SLICE", IMAGE, (1, 4, 8, 4), [0], [4], [1, 1, 1, 1]),
    "squeeze of leading ones": single("SQUEEZE", (1, 1, 5, 10), (5, 10)),
    "zeros put behind": single("CONCATENATION", IMAGE, IMAGE, (np.zeros(IMAGE), "INT8")),
    "alpha of each channel": single("PRELU", IMAGE, IMAGE, (np.ones((1, 1, 4)), "INT8")),
}
FAULTS = {
    "kind": (single("ARG_MAX", IMAGE, (1, 8, 8), [3]), "not in the Edge TPU's table"),
    "custom": (single("CUSTOM:Decoder", IMAGE, IMAGE), "not in the Edge TPU's table"),
    "float": (single("RELU", IMAGE, IMAGE, type_name="FLOAT32"), "FLOAT32 tensor"),
    "int16": (single("RELU", IMAGE, IMAGE, type_name="INT16"), "INT16 tensor"),
    "batch": (single("RELU", (2, 8, 8, 4), (2, 8, 8, 4)), "more than 3 dimensions above 1"),
    "dynamic": (single("RELU", IMAGE, IMAGE, signature=(-1, 8, 8, 4)), "dynamic size"),
    "dynamic output": (
        single("AVERAGE_POOL_2D", IMAGE, IMAGE, fusedActivationFunction=1),
        "fused activation",
    ),
    "softmax of an image": (single("SOFTMAX", IMAGE, IMAGE), "not one-dimensional"),
    "long softmax": (single("SOFTMAX", (1, 16_001), (1, 16_001)), "more than 16000"),
    "mean of the batch": (single("MEAN", IMAGE, (8, 8, 4), [0]), "reduction over the batch"),
    "mean of 3 channels": (single("MEAN", (1, 8, 8, 3), (1, 8, 8), [3]), "multiple of 4"),
    "pad of the batch": (
        single("PAD", IMAGE, (2, 8, 8, 4), [[0, 1], [0, 0], [0, 0], [0, 0]]),
        "batch?",
    ),
    "resize by 4": (
        single("RESIZE_BILINEAR", (1, 23, 30, 4), (1, 92, 120, 4), [92, 120]),
        "resize 23x30 -> 92x120",
    ),
    "resize by 2 and 3": (
        single("RESIZE_NEAREST_NEIGHBOR", (1, 8, 8, 4), (1, 16, 24, 4), [16, 24]),
        "8x8 -> 16x24",
    ),
    "resize of a row": (single("RESIZE_BILINEAR", (1, 8, 4), (1, 16, 4), [16]), "4 dimensions"),
    "stride 2": (single("STRIDED_SLICE", IMAGE, IMAGE, [0], [4], [1, 2, 2, 1]), "strides"),
    "new axis": (
        single("STRIDED_SLICE", IMAGE, IMAGE, [0], [4], [1], newAxisMask=1),
        "ellipsis or new axis",
    ),
    "squeeze in between": (single("SQUEEZE", (5, 1, 10), (5, 10)), "squeeze behind"),
    "ones put behind": (
        single("CONCATENATION", IMAGE, IMAGE, (np.ones(IMAGE), "INT8")),
        "constant input",
    ),
    "alpha of each pixel": (
        single("PRELU", IMAGE, IMAGE, (np.ones((8, 8, 4)), "INT8")),
        "share axes 1 and 2",
    ),
    "dilation 1 x 2": (
        single(
            "CONV_2D",
            IMAGE,
            IMAGE,
            (np.ones((4, 3, 3, 4)), "INT8"),
            dilationHFactor=1,
            dilationWFactor=2,
        ),
        "dilation 1 x 2",
    ),
    "matrix of rows": (
        single("FULLY_CONNECTED", (5, 4), (5, 3), (np.ones((3, 4)), "INT8")),
        "not one-dimensional",
    ),
    "pack of the batch": (single("PACK", IMAGE, IMAGE, axis=0), "along the batch"),
}


@pytest.mark.parametrize("graph", FITS.values(), ids=FITS)
def test_what_the_table_allows_is_mapped(graph):
    assert only_reason(graph) == ""


@pytest.mark.parametrize(("graph", "reason"), FAULTS.values(), ids=FAULTS)
def test_each_planted_fault_is_named(graph, reason):
    assert reason in only_reason(graph)


def test_weights_that_are_computed_are_refused():
    builder = Builder()
    image, weights = builder.tensor(IMAGE), builder.tensor((1, 3, 3, 4))
    output = builder.operator("DEPTHWISE_CONV_2D", [image, weights], IMAGE)
    assert "computed, not constant" in only_reason(builder.graph([image, weights], [output]))


def test_one_partition_ends_at_the_first_cause_and_spares_the_other_branch():
    builder = Builder()
    image = builder.tensor(IMAGE)
    left = builder.operator("RELU", [image], IMAGE)  # 0
    broken = builder.operator("ELU", [image], IMAGE)  # 1: not in the table
    waiting = builder.operator("RELU6", [broken], IMAGE)  # 2: depends on 1
    again = builder.operator("ELU", [waiting], IMAGE)  # 3: broken itself, behind 1
    joined = builder.operator("ADD", [again, left], IMAGE)  # 4: depends on 1 through 3
    spared = builder.operator("TANH", [left], IMAGE)  # 5: runs after them, depends on none
    other = builder.operator("ELU", [left], IMAGE)  # 6: a second cause
    both = builder.operator("ADD", [other, joined], IMAGE)  # 7: depends on 6 and on 1
    result = check(builder.graph([image], [spared, both]))
    assert [p.operator.position for p in result.placements if p.mapped] == [0, 5]
    assert result.placements[7].reason.startswith("depends on operator 1, ELU")
    assert result.placements[2].reason.startswith("depends on operator 1, ELU")
    assert "table" in result.placements[3].reason
    assert result.placements[4].reason.startswith("depends on operator 1, ELU")
    assert "2 of 8 operators on the Edge TPU; it ends at operator 1, ELU" in result.partition


def test_float_input_costs_one_quantize_and_float_output_one_dequantize():
    builder = Builder()
    image = builder.tensor(IMAGE, "FLOAT32")
    entering = builder.operator("QUANTIZE", [image], IMAGE)
    computed = builder.operator("RELU", [entering], IMAGE)
    leaving = builder.operator("DEQUANTIZE", [computed], IMAGE, "FLOAT32")
    result = check(builder.graph([image], [leaving]))
    assert [p.mapped for p in result.placements] == [False, True, False]
    assert "it ends at operator 2, DEQUANTIZE" in result.partition


def test_operators_in_front_of_the_partition_stay_on_the_cpu():
    """A camera's bytes are cast and normalized in floats, then quantized."""
    builder = Builder()
    camera = builder.tensor(IMAGE, "UINT8")
    cast = builder.operator("CAST", [camera], IMAGE, "FLOAT32")  # 0
    normalized = builder.operator("DIV", [cast, cast], IMAGE, "FLOAT32")  # 1
    entering = builder.operator("QUANTIZE", [normalized], IMAGE)  # 2
    computed = builder.operator("RELU", [entering], IMAGE)  # 3
    also = builder.operator("TANH", [entering], IMAGE)  # 4
    joined = builder.operator("ADD", [computed, also], IMAGE)  # 5
    broken = builder.operator("ELU", [joined], IMAGE)  # 6
    last = builder.operator("RELU6", [broken], IMAGE)  # 7
    result = check(builder.graph([camera], [last]))
    assert [p.operator.position for p in result.placements if p.mapped] == [3, 4, 5]
    assert result.partition == (
        "one partition, 3 of 8 operators on the Edge TPU, behind 1 CAST, 1 DIV, 1 QUANTIZE on "
        "the CPU; it ends at operator 6, ELU; 5 run on the CPU"
    )
    assert result.placements[7].reason.startswith("depends on operator 6, ELU")


def test_the_partition_is_the_largest_connected_run():
    builder = Builder()
    image = builder.tensor(IMAGE)
    first = builder.operator("ELU", [image], IMAGE)  # 0: in front of 2
    second = builder.operator("ELU", [image], IMAGE)  # 1: in front of 3, 4
    small = builder.operator("RELU", [first], IMAGE)  # 2
    large = builder.operator("RELU", [second], IMAGE)  # 3
    larger = builder.operator("TANH", [large], IMAGE)  # 4
    result = check(builder.graph([image], [small, larger]))
    assert [p.operator.position for p in result.placements if p.mapped] == [3, 4]
    assert result.placements[2].reason.startswith("depends on operator 0, ELU")
    assert "behind 1 ELU on the CPU" in result.partition


def test_two_runs_behind_one_operator_do_not_become_two_partitions():
    builder = Builder()
    camera = builder.tensor(IMAGE, "UINT8")
    cast = builder.operator("CAST", [camera], IMAGE, "FLOAT32")  # 0
    one = builder.operator("QUANTIZE", [cast], IMAGE)  # 1
    other = builder.operator("QUANTIZE", [cast], IMAGE)  # 2
    here = builder.operator("RELU", [one], IMAGE)  # 3
    further = builder.operator("TANH", [here], IMAGE)  # 4
    there = builder.operator("RELU", [other], IMAGE)  # 5
    result = check(builder.graph([camera], [further, there]))
    assert [p.operator.position for p in result.placements if p.mapped] == [3, 4]
    assert result.placements[5].reason.startswith("depends on operator 2, QUANTIZE")


def test_parameters_beyond_the_chip_are_called_out():
    def dense(megabytes):
        weights = np.ones((1024, 1024 * megabytes), np.int8)
        return single("FULLY_CONNECTED", (1, 1024 * megabytes), (1, 1024), (weights, "INT8"))

    assert not check(dense(5)).warnings
    assert "may not fit" in check(dense(7)).warnings[0]
    assert "9.00 MiB of parameters do not fit" in check(dense(9)).warnings[0]


def test_an_activation_larger_than_the_chip_is_called_out():
    large = (1, 512, 512, 40)  # 10 MiB
    assert any(
        "an activation of this size" in text
        for text in check(single("RELU", large, large)).warnings
    )


def test_float_file_has_nothing_on_the_chip(shared_dir):
    result = check(read_graph(shared_dir / "models" / "deeplabv3_257_mv_gpu.tflite"))
    assert len(result.left_off) == len(result.placements)
    assert result.partition.startswith("nothing on the Edge TPU")
    assert result.mapped_share == 0
