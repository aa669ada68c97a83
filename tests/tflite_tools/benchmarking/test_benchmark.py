"""Timing of several files in turn, and the command."""

import json

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tests.children import run_command
from tests.paths import CAMVID
from tests.tflite_tools.surgery import unpacked, write
from tflite_tools.benchmarking.timing import BenchmarkOptions, _timing, benchmark
from tflite_tools.contract import read_contract

INT8 = CAMVID / "int8.tflite"


def command(*flags):
    done = run_command("tflite_tools.benchmark", *flags, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """A file that reads well and that the runtime refuses: a version that does not exist."""
    model = unpacked()
    model.model.operatorCodes[1].version = 99
    return write(tmp_path_factory.mktemp("refused") / "refused.tflite", model)


def test_statistics_by_hand():
    # 0, 1, ..., 10 ms in any order, each with half its time on the processor
    wall = np.random.default_rng(0).permutation(11).astype(float)
    found = _timing(99.0, [(ms, ms / 2) for ms in wall])
    assert (found.first, found.minimum, found.p10, found.median, found.p90) == (99, 0, 1, 5, 9)
    assert found.cores == pytest.approx(0.5)


def test_files_and_threads_are_timed_beside_the_peak(refused):
    contracts = [read_contract(INT8), read_contract(refused)]
    (good, bad), peaks = benchmark(contracts, BenchmarkOptions((1, 2), repeats=5, warmup=2))
    assert bad.failure
    assert bad.timings == {}
    assert set(good.timings) == {1, 2}
    assert good.memory_mb > good.contract.size_bytes / 1e6  # it holds the weights at least
    for timing in good.timings.values():
        assert 0 < timing.minimum <= timing.p10 <= timing.median <= timing.p90
        assert 0 < timing.cores < 2.2
    # no network of depthwise convolutions comes near one large matrix product
    assert good.integer
    assert 0.01 < good.speed(1) / peaks[True].speed(1) < 0.9
    assert peaks[True].speed(1) > peaks[False].speed(1)


@pytest.mark.slow
def test_command_prints_tables_and_writes_json(tmp_path, refused):
    code, out, err = command(
        f"--model={INT8},{CAMVID / 'qat_int8.tflite'},{refused}",
        "--num_threads=1,2",
        "--repeats=3",
        "--warmup=1",
        "--profile",
        f"--output_dir={tmp_path}",
    )
    assert code == 1, err  # one file failed, and says so
    assert "refused: FAILED: " in out
    for words in (
        "milliseconds of one invoke, 2 thread(s)",
        "peak int8",
        "profile of qat_int8",
        "left to builtin kernels, which use one or few threads: QUANTIZE 2",
        "int8 and qat_int8, ms",
    ):
        assert words in out
    document = json.loads((tmp_path / "benchmark.json").read_text())
    first, second, third = document["models"]
    assert first["multiply_adds"] == second["multiply_adds"] > 2e9
    assert third["threads"] == {}
    assert 0 < first["threads"]["1"]["fraction_of_peak"] < 1
    assert [len(p["operators"]) for p in document["profiles"]] == [84, 84]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model="], "give --model=FILE"),
        ([f"--model={INT8}", "--num_threads=two"], "--num_threads: expected whole numbers"),
        ([f"--model={INT8}", "--num_threads=0"], "num_threads must be at least 1"),
        ([f"--model={INT8}", "--num_threads=2,2"], "num_threads must differ"),
        ([f"--model={INT8}", "--repeats=1"], "repeats must be at least 2"),
        (["--model=missing.tflite"], "missing.tflite: no such file"),
    ],
)
def test_user_errors_are_one_line(flags, message):
    code, out, err = command(*flags)
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_network_that_segments_nothing_is_timed(tmp_path):
    """Scores of a whole image are no class map, and take time all the same."""
    model = unpacked()
    graph = model.graph
    first = graph.operators[0]  # QUANTIZE of the image
    graph.operators = [first]
    scores = model.add_tensor("scores", (1, 3), kind=schema.TensorType.INT8)
    graph.tensors[scores].quantization = graph.tensors[first.outputs[0]].quantization
    axes = model.add_constant("axes", np.int32([1, 2]))
    options = schema.ReducerOptionsT()
    graph.operators.append(
        model.new_operator("MEAN", [first.outputs[0], axes], outputs=[scores], options=options)
    )
    graph.outputs = np.array([scores], np.int32)
    model.model.signatureDefs = None
    path = write(tmp_path / "scores.tflite", model)
    with pytest.raises(ValueError, match="expected scores"):
        read_contract(path)
    options = BenchmarkOptions(repeats=2, warmup=1)
    (result,), _ = benchmark([read_contract(path, any_output=True)], options)
    assert result.failure == ""
    assert result.timings[1].minimum > 0
