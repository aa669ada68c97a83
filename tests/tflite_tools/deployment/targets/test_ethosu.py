"""Arm's compiler on real files, what is read out of it, and what happens without it."""

import dataclasses
import importlib.util
import subprocess

import pytest

from tests.paths import CAMVID, ZOO
from tflite_tools.deployment.targets import ethosu
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.flatbuffer.multiply_adds import operator_multiply_adds

needs_vela = pytest.mark.skipif(
    importlib.util.find_spec("ethosu") is None, reason="Vela is not installed: the extra `vela`"
)


@pytest.fixture(scope="module")
def zoo_graph():
    return read_graph(CAMVID / "int8.tflite")


@pytest.fixture(scope="module")
def small(zoo_graph):
    return ethosu.check(zoo_graph, "ethos-u55-128")


@needs_vela
def test_resizes_by_four_stay_off_the_u55(small):
    """Vela's rule: half-pixel bilinear by 2 alone, or from 1x1; the zoo's decoder resizes by 4."""
    assert [p.operator.kind for p in small.left_off] == ["RESIZE_BILINEAR"] * 2
    assert all("scale-factor=4" in p.reason for p in small.left_off)
    assert small.partition.startswith("blocks on the NPU: 3;")
    assert small.warnings == ()


@needs_vela
def test_the_u85_runs_all_of_it_faster(small, zoo_graph):
    large = ethosu.check(zoo_graph, "ethos-u85-1024")
    assert large.left_off == []
    assert large.partition.startswith("blocks on the NPU: 1; 84 of 84")
    assert 0 < large.estimates["time_ms"] < small.estimates["time_ms"]
    assert large.estimates["cycles"] < small.estimates["cycles"]


@needs_vela
def test_estimates_are_the_summary_in_plain_units(small, zoo_graph):
    # 500 MHz: a millisecond is half a million cycles. Flash holds the weights, a 2.9 MB file.
    estimates = small.estimates
    assert estimates["time_ms"] == pytest.approx(estimates["cycles"] / 500e6 * 1e3, rel=1e-3)
    assert estimates["flash_kib"] == pytest.approx(zoo_graph.size_bytes / 1024, rel=0.1)
    # Vela counts more: what pooling, resizing and adding cost on its arithmetic units.
    ours = sum(operator_multiply_adds(zoo_graph, operator) for operator in zoo_graph.operators)
    assert ours <= estimates["macs"] < 1.1 * ours


@needs_vela
def test_class_map_and_gathers_are_named_with_their_reasons():
    graph = read_graph(ZOO / "voc_animals_deeplab_mobilenet_v2" / "int8.tflite")
    result = ethosu.check(graph, "ethos-u55-32")
    left = {p.operator.kind: p.reason for p in result.left_off}
    assert left["GATHER"] == left["CAST"] == "Unsupported opType"


@needs_vela
def test_float_file_stays_off_with_one_reason_for_all(shared_dir):
    result = ethosu.check(
        read_graph(shared_dir / "models" / "deeplabv3_257_mv_gpu.tflite"), "ethos-u65-256"
    )
    assert len(result.left_off) == len(result.placements)
    assert {reason for _, _, _, reason in result.rows()} == {
        "Operation has tensor with unsupported DataType Float32"
    }
    assert result.estimates["time_ms"] == 0


def test_an_operator_is_found_again_by_kind_and_name_and_count(zoo_graph):
    """Two operators of one kind whose outputs share a name: one of them was left."""
    kinds = [operator.kind for operator in zoo_graph.operators]
    first, second = [i for i, kind in enumerate(kinds) if kind == "ADD"][:2]
    tensors = list(zoo_graph.tensors)
    for position in (first, second):
        index = zoo_graph.operators[position].outputs[0]
        tensors[index] = dataclasses.replace(tensors[index], name="twin")
    source = dataclasses.replace(zoo_graph, tensors=tuple(tensors))
    compiled = dataclasses.replace(source, operators=(source.operators[first],))
    text = (
        "Warning (supported operators) operator: ADD, ofm: 'twin'\nReason: too wide (some/name)\n"
    )
    placements, strangers = ethosu._placements(source, compiled, text=text)
    assert [p.reason for p in placements if not p.mapped] == ["too wide"]
    assert strangers == []


def test_what_vela_renamed_is_reported(zoo_graph):
    renamed = [dataclasses.replace(tensor, name="new") for tensor in zoo_graph.tensors]
    compiled = dataclasses.replace(
        zoo_graph, tensors=tuple(renamed), operators=(zoo_graph.operators[0],)
    )
    placements, strangers = ethosu._placements(zoo_graph, compiled, text="")
    assert all(p.mapped for p in placements)
    assert strangers == [
        "Vela left QUANTIZE (new) on the CPU, which is not in the file under this name"
    ]


def test_missing_vela_is_one_line_with_the_extra(zoo_graph, monkeypatch):
    monkeypatch.setattr(ethosu.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"pip install 'deeplab-tflite\[vela\]'"):
        ethosu.check(zoo_graph, "ethos-u55-32")


def test_vela_that_fails_is_one_line_with_its_last_words(zoo_graph, monkeypatch):
    done = subprocess.CompletedProcess([], 1, stdout="hello\n", stderr="Traceback\nKeyError: '0'\n")
    monkeypatch.setattr(ethosu.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(ethosu.subprocess, "run", lambda *args, **kwargs: done)
    with pytest.raises(RuntimeError, match=r"Vela failed \(status 1\)") as caught:
        ethosu.check(zoo_graph, "ethos-u55-32")
    assert "\n" not in str(caught.value)


def test_a_summary_of_another_version_is_refused(tmp_path):
    (tmp_path / "model_summary_x.csv").write_text("cycles_total,core_clock\n1,2\n")
    with pytest.raises(RuntimeError, match=r"has no column .* install Vela"):
        ethosu._summary(tmp_path)
    (tmp_path / "model_summary_x.csv").unlink()
    with pytest.raises(RuntimeError, match="expected one summary of Vela, got 0"):
        ethosu._summary(tmp_path)


def test_a_compiled_file_that_cannot_be_read_is_one_line(tmp_path):
    compiled = tmp_path / "model_vela.tflite"
    compiled.write_bytes(b"nothing that anybody could read")
    with pytest.raises(RuntimeError, match=r"mine.tflite: Vela's file cannot .* \(not a \.tflite"):
        ethosu._read_compiled("mine.tflite", compiled)
