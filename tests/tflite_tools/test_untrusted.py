"""A thousand damaged files: each ends in a message or an answer, none takes the parent along.

The parent reads every file (`read_contract`); what it accepts runs in a child.
"""

import collections
import time

import flatbuffers
import numpy as np
import pytest
from absl import logging
from ai_edge_litert import schema_py_generated as schema

from tests.zoo import CAMVID
from tflite_tools.contract import read_contract
from tflite_tools.graph import FILE_IDENTIFIER
from tflite_tools.pool import InterpreterPool, Task
from tflite_tools.signal_to_noise import real_output
from tflite_tools.to_keras.file_runner import FileRunner

MUTANTS = 1000
BATCH = 50
SECONDS_PER_FILE = 20.0


@pytest.fixture(scope="module")
def victim():
    return (CAMVID / "int8.tflite").read_bytes()


def packed(model) -> bytes:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def flip_bits(content, random, _):
    changed = bytearray(content)
    for position in random.integers(0, len(content), random.integers(1, 64)):
        changed[position] ^= 1 << random.integers(8)
    return bytes(changed)


def flip_tables(content, random, tables):
    """The same among tables and offsets, where a file holds hardly any weights."""
    changed = bytearray(content)
    for position in random.choice(tables, random.integers(1, 8)):
        changed[position] ^= 1 << random.integers(8)
    return bytes(changed)


def change_offsets(content, random, tables):
    changed = bytearray(content)
    for position in random.choice(tables, random.integers(1, 4)) // 4 * 4:
        value = random.choice([0, 1, 4, 2**31 - 1, 2**32 - 1, random.integers(len(content))])
        changed[position : position + 4] = int(value).to_bytes(4, "little")
    return bytes(changed)


def truncate(content, random, _):
    return content[: random.integers(len(content))]


def change_graph(content, random, _):
    """Shapes, indices, types and options that are well-formed and wrong."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    for _ in range(random.integers(1, 4)):
        kind = random.integers(5)
        operator = graph.operators[random.integers(len(graph.operators))]
        tensor = graph.tensors[random.integers(len(graph.tensors))]
        if kind == 0 and len(tensor.shape):
            shape = np.array(tensor.shape)
            shape[random.integers(len(shape))] = random.choice([-1, 0, 1, 3, 7, 1000, 2**30])
            tensor.shape = shape.tolist()
        elif kind == 1:
            operator.inputs = list(operator.inputs)
            slot = random.integers(len(operator.inputs))
            operator.inputs[slot] = int(random.integers(-2, len(graph.tensors) + 2))
        elif kind == 2:
            tensor.type = int(random.choice([0, 1, 2, 3, 4, 7, 9, 17, 99]))
        elif kind == 3:
            tensor.buffer = int(random.integers(len(model.buffers) + 1))
        elif operator.builtinOptions is not None:
            names = [n for n, v in vars(operator.builtinOptions).items() if type(v) is int]
            if names:
                name = names[random.integers(len(names))]
                setattr(operator.builtinOptions, name, int(random.choice([0, 1, 2, 5, 100])))
    return packed(model)


MUTATIONS = (flip_bits, flip_tables, change_offsets, truncate, change_graph)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_thousand_mutants(victim, tmp_path):
    random = np.random.default_rng(20)
    weights = np.zeros(len(victim), bool)
    model = schema.Model.GetRootAs(victim, 0)
    whole = np.frombuffer(victim, np.uint8)
    for index in range(model.BuffersLength()):
        data = model.Buffers(index).DataAsNumpy()
        if not isinstance(data, int):
            start = data.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
            if 0 <= start < len(victim):
                weights[start : start + len(data)] = True
    tables = np.flatnonzero(~weights[:-8])
    good = tmp_path / "good.tflite"
    good.write_bytes(victim)
    contract = read_contract(good)
    photo = random.integers(0, 256, (contract.height, contract.width, contract.channels))
    photo = photo.astype(np.uint8)
    outcomes: collections.Counter = collections.Counter()
    slowest = 0.0
    for first in range(0, MUTANTS, BATCH):
        contracts = [read_contract(good)]
        for number in range(first, first + BATCH):
            path = tmp_path / f"{number}.tflite"
            mutate = MUTATIONS[number % len(MUTATIONS)]
            path.write_bytes(mutate(victim, random, tables))
            started = time.monotonic()
            try:
                contracts.append(read_contract(path))
            except (ValueError, OSError) as error:
                assert "\n" not in str(error)
                outcomes["refused", mutate.__name__] += 1
            slowest = max(slowest, time.monotonic() - started)
        fitting = [c for c in contracts if (c.height, c.width, c.channels) == photo.shape]
        outcomes["other size", ""] += len(contracts) - len(fitting)
        with InterpreterPool(fitting, 2, patience_s=SECONDS_PER_FILE) as pool:
            tasks = [Task(i, real_output, (photo,)) for i in range(1, len(fitting))]
            for outcome in pool.run([*tasks, Task(0, real_output, (photo,))]):
                if outcome.task.model == 0:
                    assert not outcome.failure, outcome.failure  # the good file, at the end
                elif "crashed" in outcome.failure:
                    outcomes["crashed a child", ""] += 1
                elif outcome.failure:
                    outcomes["failed", ""] += 1
                else:
                    outcomes["ran", ""] += 1
        for path in tmp_path.glob("[0-9]*.tflite"):
            path.unlink()
    logging.info("%s, slowest read %.1f s", dict(outcomes), slowest)
    assert sum(outcomes.values()) == MUTANTS
    assert outcomes["ran", ""] > 50  # not all is refused: the children were put to the test
    assert sum(n for (what, _), n in outcomes.items() if what == "refused") > 200
    assert slowest < SECONDS_PER_FILE


def test_a_file_that_never_answers_is_stopped():
    contracts = [read_contract(CAMVID / "int8.tflite")] * 2
    with InterpreterPool(contracts, 1, patience_s=12.0) as pool:
        outcomes = list(pool.run([Task(0, _sleep, ()), Task(0, _name, ()), Task(1, _name, ())]))
    assert [outcome.value for outcome in outcomes] == [None, None, "int8"]
    assert outcomes[0].failure == "the file gave no answer in 12 s; do not ship it"
    assert outcomes[1].failure == outcomes[0].failure


def _sleep(_runner):
    time.sleep(60)


def _name(runner):
    return runner.contract.name


def test_a_file_runner_survives_its_file(victim, tmp_path):
    model = schema.ModelT.InitFromPackedBuf(victim, 0)
    for operator in model.subgraphs[0].operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode == schema.BuiltinOperator.ADD:
            operator.inputs = [-1, *list(operator.inputs)[1:]]  # a crash in the runtime
    path = tmp_path / "crashing.tflite"
    path.write_bytes(packed(model))
    with pytest.raises(RuntimeError, match=r"crashed the runtime \(SIG|tensor|input|failed"):
        FileRunner(path)


def test_a_tensor_of_terabytes_is_refused(victim, tmp_path):
    model = schema.ModelT.InitFromPackedBuf(victim, 0)
    output = model.subgraphs[0].tensors[model.subgraphs[0].outputs[0]]
    output.shape = [1, 2**20, 2**20, 11]
    path = tmp_path / "large.tflite"
    path.write_bytes(packed(model))
    with pytest.raises(ValueError, match="is larger than 2 GB"):
        read_contract(path)
