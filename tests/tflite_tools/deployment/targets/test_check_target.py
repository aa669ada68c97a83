"""The command: status, table, JSON, and one line for each mistake."""

import json
import shutil

import pytest

from tests.children import run_command
from tests.paths import CAMVID
from tests.tflite_tools.graphs import single
from tflite_tools.deployment.targets.registry import TARGETS, check_target
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.flatbuffer.multiply_adds import operator_multiply_adds
from tflite_tools.manifest import manifest_path
from tflite_tools.to_keras.importer import import_file

MODEL = CAMVID / "int8.tflite"


def run(*arguments):
    return run_command("tflite_tools.check_target", *arguments, timeout=120)


def test_status_1_where_something_stays_off(tmp_path):
    path = tmp_path / "report.json"
    done = run(f"--model={MODEL}", "--target=edgetpu", f"--json={path}")
    assert done.returncode == 1
    assert done.stderr == ""
    assert "verdict: 12 of 84 operators stay off edgetpu" in done.stdout
    assert "partition: one partition, 72 of 84" in done.stdout
    document = json.loads(path.read_text())
    assert document["everything_mapped"] is False
    assert document["mapped_operators"] == 72
    left = [row["position"] for row in document["operators"] if not row["mapped"]]
    assert left == [65, 72, 73, 74, 76, 77, 78, 79, 80, 81, 82, 83]
    assert document["operators"][65]["reason"].startswith("resize 1x1 -> 23x30")
    assert [item.name for item in tmp_path.iterdir()] == ["report.json"]


def test_status_0_where_all_is_mapped():
    done = run(f"--model={MODEL}", "--target=gpu")
    assert done.returncode == 0
    assert "verdict: all 84 operators run on gpu" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--target=edgetpu"], 1, "give --model"),
        ([f"--model={MODEL}"], 1, "give --target, one of edgetpu"),
        (["--model=nowhere.tflite", "--target=gpu"], 1, "no such file"),
        ([f"--model={__file__}", "--target=gpu"], 1, "not a .tflite file"),
        ([f"--model={MODEL}", "--target=tpu"], 2, "edgetpu"),
    ],
)
def test_mistakes_are_one_line(arguments, status, words):
    done = run(*arguments)
    assert done.returncode == status
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr


def test_nothing_is_written_where_the_check_fails(tmp_path):
    run("--model=nowhere.tflite", "--target=edgetpu", f"--json={tmp_path / 'report.json'}")
    assert list(tmp_path.iterdir()) == []


def test_rows_count_every_operator_once():
    graph = read_graph(MODEL)
    for target in ("edgetpu", "gpu", "nnapi-28"):
        result = check_target(graph, target)
        assert sum(count for _, count, _, _ in result.rows()) == len(graph.operators)
        assert [p.operator for p in result.placements] == list(graph.operators)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("mobilenet_v2_1.0_224_quant", 300), ("edgetpu_uncompiled/mobilenet_v1_0.25_128_quant", 14)],
)
def test_multiply_accumulates_are_the_published_ones(shared_dir, name, millions):
    """Howard et al. 2017, arXiv:1704.04861, and Sandler et al. 2018, arXiv:1801.04381."""
    graph = read_graph(shared_dir / "models" / f"{name}.tflite")
    total = sum(operator_multiply_adds(graph, operator) for operator in graph.operators)
    assert total == pytest.approx(millions * 1e6, abs=1e6)  # published in whole millions


def test_registry():
    assert {"edgetpu", "gpu", "nnapi", "ethos-u55-128", "ethos-u65-512", "ethos-u85-256"} <= set(
        TARGETS
    )
    with pytest.raises(ValueError, match="unknown target 'tpu'; known: edgetpu"):
        check_target(read_graph(MODEL), "tpu")


@pytest.mark.parametrize(("target", "kind"), [("edgetpu", "PRELU"), ("gpu", "PAD")])
def test_an_operator_without_its_parameters_is_a_damaged_file(target, kind):
    graph = single(kind, (1, 8, 8, 4), (1, 8, 8, 4))
    with pytest.raises(ValueError, match=r"damaged \.tflite \(an operator lacks an input"):
        check_target(graph, target)


def test_help_states_the_exit_status():
    assert "Exit status: 0 when every operator is mapped, 1" in run("--help").stdout


def test_a_file_that_is_not_its_manifests_is_refused(tmp_path):
    content = bytearray(MODEL.read_bytes())
    content[len(content) // 2] ^= 1  # among the weights: the graph is the same
    path = tmp_path / "int8.tflite"
    path.write_bytes(bytes(content))
    assert run(f"--model={path}", "--target=gpu").returncode == 0
    shutil.copy(manifest_path(MODEL), manifest_path(path))
    done = run(f"--model={path}", "--target=gpu")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "the file was changed or damaged" in done.stderr
    with pytest.raises(ValueError, match=r"expected sha256 \w+ .its manifest., got"):
        import_file(path)
