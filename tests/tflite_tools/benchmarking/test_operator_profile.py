"""The runtime's profiler: kernels beside the right operators, and faults in one line."""

import dataclasses
import importlib.metadata
import struct

import pytest

from tests.paths import CAMVID
from tflite_tools.benchmarking import native
from tflite_tools.benchmarking.native import Event
from tflite_tools.benchmarking.partitions import delegate_partitions, fits, match_kernels
from tflite_tools.benchmarking.profile import layer_name, pair_operators, profile, summarize
from tflite_tools.contract import read_contract
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool

# Not from tests.zoo: children import this module, and TensorFlow with it would cost seconds.
INT8, QAT = CAMVID / "int8.tflite", CAMVID / "qat_int8.tflite"


@pytest.fixture(scope="module")
def profiles():
    contracts = [read_contract(INT8), read_contract(QAT)]
    return profile(contracts, (1, 2), repeats=3)


def test_every_operator_has_its_own_kernel(profiles):
    for path, found in zip((INT8, QAT), profiles, strict=True):
        graph = read_graph(path)
        assert found.failure == ""
        assert [o.position for o in found.operators] == list(range(len(graph.operators)))
        assert found.silent == ()
        for operator in found.operators:
            kind, kernel = operator.kind, operator.kernel
            assert ("DWConv" in kernel) == (kind == "DEPTHWISE_CONV_2D"), operator
            assert (kernel == "builtin") == (kind == "QUANTIZE"), operator
            if kind == "CONV_2D":  # XNNPACK runs 1x1 convolutions as matrix products
                weights = graph.tensors[graph.operators[operator.position].inputs[1]]
                assert kernel.startswith("Fully Connected") == (weights.shape[1:3] == (1, 1))
        assert (found.partitions, found.delegated) == (1, len(graph.operators) - 2)


def test_times_add_up(profiles):
    for found in profiles:
        for threads in (1, 2):
            # the fastest parts cannot take longer than the fastest whole; clocks round
            assert 0 < found.total(threads) < 1.02 * found.whole_ms[threads]
        shares = [found.share(1, kind) for kind in {o.kind for o in found.operators}]
        assert sum(shares) == pytest.approx(1)
        assert found.share(1, "RESIZE_BILINEAR") > 0.01
        assert found.share(1, "ARG_MAX") == 0


def test_layers_pair_by_name_across_files(profiles):
    pairs = pair_operators(*profiles)
    assert len(pairs) == len(profiles[0].operators)
    names = [(a.layer, b.layer) for a, b in pairs if a.kind.endswith("CONV_2D")]
    assert len(names) == 66
    assert all(a == b for a, b in names)
    assert all(a.multiply_adds == b.multiply_adds for a, b in pairs)
    # a layer of another name is not paired with whatever comes next
    first = dataclasses.replace(profiles[0].operators[1], layer="another")
    changed = dataclasses.replace(
        profiles[0], operators=(first, *profiles[0].operators[2:]), silent=()
    )
    twin = next(b for a, b in pair_operators(changed, profiles[1]) if a is first)
    assert twin is profiles[1].operators[1]  # the one that is left of its kind
    gone = dataclasses.replace(profiles[1], operators=profiles[1].operators[2:])
    assert first not in [a for a, _ in pair_operators(changed, gone)]


def test_official_file_is_cut_in_two(shared_dir, profiles):
    path = shared_dir / "models" / "deeplabv3_mnv2_pascal_quant.tflite"
    (found,) = profile([read_contract(path)], (1,), repeats=2)
    left = [(o.position, o.kind) for o in found.operators if o.kernel == "builtin"]
    graph = read_graph(path)
    assert [kind for _, kind in left] == ["AVERAGE_POOL_2D", "ARG_MAX"]
    assert all(graph.operators[position].kind == kind for position, kind in left)
    assert (found.partitions, found.delegated) == (2, 70)
    assert sorted(o.position for o in found.operators) == list(range(72))
    assert pair_operators(found, profiles[0]) == []  # two networks, though kinds would pair


def events_of(graph):
    """What a runtime with XNNPACK's names would report, from the file alone."""
    names = {
        "CONV_2D": "Fully Connected (NC, QS8, QC8W) GEMM",
        "DEPTHWISE_CONV_2D": "Convolution (NHWC, QC8) DWConv",
        "ADD": "Add (ND)",
        "RESIZE_BILINEAR": "Resize Bilinear (NHWC)",
        "CONCATENATION": "Copy (NC, X8)",
        "MEAN": "Mean (ND) Reduce",
    }
    events, node = [], 0
    for operator in graph.operators:
        if operator.kind not in names:
            events.append(Event(operator.kind, False, node=operator.position, elapsed_us=5))
            continue
        events.append(Event(names[operator.kind], True, node=node, elapsed_us=5))
        node += 1
    return events


def test_missing_and_foreign_kernels_do_not_shift_the_rest():
    graph = read_graph(INT8)
    events = events_of(graph)
    assert match_kernels(graph, events) == list(range(len(graph.operators)))
    add = next(i for i, event in enumerate(events) if event.tag.startswith("Add"))
    fused = events[:add] + events[add + 1 :]
    assert match_kernels(graph, fused) == [i for i in range(len(graph.operators)) if i != add]
    foreign = [
        *events[:add],
        Event("Transpose (ND, X8)", True, node=events[add].node, elapsed_us=1),
        *events[add:],
    ]
    assert match_kernels(graph, foreign)[add] is None
    assert match_kernels(graph, foreign)[add + 1 :] == list(range(add, len(graph.operators)))
    depthwise = next(o for o in graph.operators if o.kind == "DEPTHWISE_CONV_2D")
    assert not fits("Convolution (NHWC, QC8) IGEMM", depthwise)


def test_partitions_follow_what_is_ready():
    graph = read_graph(INT8)
    assert len(delegate_partitions(graph, {0, len(graph.operators) - 1})) == 1
    everything = [position for part in delegate_partitions(graph, set()) for position in part]
    assert everything == list(range(len(graph.operators)))
    # an operator in the middle of the only path cuts it in two
    assert len(delegate_partitions(graph, {0, 5, len(graph.operators) - 1})) == 2
    # a branch that nothing waits for until the end does not: it is taken with the first part
    pool = next(o.position for o in graph.operators if o.kind == "MEAN")
    first, second = delegate_partitions(graph, {pool})
    assert pool + 1 in second
    assert any(position > pool for position in first)


def test_invokes_that_differ_give_no_profile():
    graph = read_graph(INT8)
    events = events_of(graph)
    runs = {1: [(events, 1000), (events[:-1], 1000)]}
    assert summarize("x", graph, runs=runs).failure == "the operators of two invokes differ"


def test_the_fastest_of_each_kernel_counts():
    graph = read_graph(INT8)
    slow = events_of(graph)  # 5 us each
    fast = [dataclasses.replace(event, elapsed_us=event.node + 1) for event in slow]
    found = summarize("x", graph, runs={1: [(slow, 900), (fast, 700)], 2: [(slow, 800)]})
    assert [o.ms[1] for o in found.operators] == [min(5, e.elapsed_us) / 1e3 for e in fast]
    assert {o.ms[2] for o in found.operators} == {0.005}
    assert found.whole_ms == {1: 0.7, 2: 0.8}


def test_layer_names_lose_operation_and_quantization():
    names = [
        {layer_name(graph, o) for o in graph.operators if o.kind.endswith("CONV_2D")}
        for graph in (read_graph(INT8), read_graph(QAT))
    ]
    assert names[0] == names[1]
    assert "deeplab/aspp_project_relu" in names[0]


def narrow_records(runner):
    """Runs in a child, because a wrong layout must not reach this process."""
    native._RECORD = struct.Struct("<Qi4xQQ4q2QI4x")
    native.ProfiledModel(runner.contract.path, 1).run_profiled()


def test_another_runtime_is_refused_in_one_line(monkeypatch):
    with InterpreterPool([read_contract(INT8)], 1) as pool:
        (outcome,) = pool.run([Task(0, narrow_records, arguments=())])
    assert "expected records of 88 bytes from the runtime's profiler, got 104.0" in outcome.failure
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.1.0")
    with pytest.raises(RuntimeError, match=r"expected ai-edge-litert 2\.3\.x, got 2\.1\.0"):
        native.ProfiledModel(INT8, 1)
