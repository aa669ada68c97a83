"""Faults of files and their neighbours that once ended in a traceback, a hang, a wrong answer."""

import os
import signal

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tests.children import run_command
from tests.paths import CAMVID
from tflite_tools.contract import read_contract
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.flatbuffer.pack import pack
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool


@pytest.fixture
def changed(tmp_path):
    """A function that changes the zoo's int8 file and gives the new file's path."""

    def change(function):
        model = schema.ModelT.InitFromPackedBuf((CAMVID / "int8.tflite").read_bytes(), 0)
        function(model, model.subgraphs[0])
        path = tmp_path / "changed.tflite"
        path.write_bytes(pack(model, 1 << 20))
        return path

    return change


def test_an_operator_that_reads_its_own_output(changed):
    def loop(_, graph):
        graph.operators[-1].inputs = list(graph.operators[-1].outputs)

    with pytest.raises(ValueError, match=r"reads tensor \d+ before it is written"):
        read_graph(changed(loop))


def test_an_operator_with_too_few_inputs(changed):
    def cut(_, graph):
        graph.operators[1].inputs = list(graph.operators[1].inputs)[:1]

    with pytest.raises(ValueError, match="operator 1, CONV_2D, has 1 inputs"):
        read_graph(changed(cut))


def test_an_input_without_a_scale(changed):
    def zero(_, graph):
        graph.tensors[graph.inputs[0]].quantization.scale = np.zeros(1, np.float32)

    with pytest.raises(ValueError, match="has no positive scale"):
        read_contract(changed(zero))


def test_a_manifest_of_another_shape(changed):
    path = changed(lambda *_: None)
    path.with_suffix(".json").write_text('["road", "sky"]')
    with pytest.raises(ValueError, match="not a readable manifest"):
        read_contract(path)


def test_a_child_that_died_idle_is_replaced():
    with InterpreterPool([read_contract(CAMVID / "int8.tflite")], 1) as pool:
        assert [o.value for o in pool.run([Task(0, _name, arguments=())])] == ["int8"]
        process = pool._children[0][0]
        os.kill(process.pid, signal.SIGKILL)
        process.join(10)
        assert [o.value for o in pool.run([Task(0, _name, arguments=())])] == ["int8"]


def _name(runner):
    return runner.contract.name


def test_a_check_for_nobody_is_a_mistake():
    flags = [f"--model={CAMVID / 'int8.tflite'}", "--client="]
    done = run_command("tflite_tools.check_client", *flags, timeout=120)
    assert done.returncode == 1
    assert done.stderr == (
        "error: expected a client, got none; give --client, one or more of mediapipe, litertjs, "
        "edgetpu, ethosu\n"
    )
