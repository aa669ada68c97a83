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

from tests.paths import CAMVID
from tests.small_network import small_int8_file
from tests.tflite_tools.mutations import MUTATIONS, packed, table_positions
from tflite_tools.contract import read_contract
from tflite_tools.evaluation.signal_to_noise import real_output
from tflite_tools.flatbuffer.file_bytes import FILE_IDENTIFIER
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.flatbuffer.verifier import UNIONS, Allowance, verify
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.file_interpreter import FileRunner
from tflite_tools.runtime.pool import InterpreterPool

MUTANTS = {"zoo": 300, "small": 700}
"""Of the zoo's file, and of one of 10 KB, in which every second byte describes something."""
BATCH = 50
SECONDS_PER_FILE = 20.0


@pytest.fixture(scope="module")
def victim():
    return (CAMVID / "int8.tflite").read_bytes()


@pytest.fixture(scope="module")
def small_victim():
    return small_int8_file()


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("which", sorted(MUTANTS))
def test_a_thousand_mutants(victim, small_victim, tmp_path, which):
    random, mutants = np.random.default_rng(20), MUTANTS[which]
    victim = {"zoo": victim, "small": small_victim}[which]
    tables = table_positions(victim)
    good = tmp_path / "good.tflite"
    good.write_bytes(victim)
    contract = read_contract(good)
    photo = random.integers(0, 256, (contract.height, contract.width, contract.channels))
    photo = photo.astype(np.uint8)
    outcomes: collections.Counter = collections.Counter()
    slowest = 0.0
    for first in range(0, mutants, BATCH):
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
        with InterpreterPool(fitting, 2, timeout_s=SECONDS_PER_FILE) as pool:
            tasks = [Task(i, real_output, arguments=(photo,)) for i in range(1, len(fitting))]
            for outcome in pool.run([*tasks, Task(0, real_output, arguments=(photo,))]):
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
    assert sum(outcomes.values()) == mutants
    # Not all is refused: the children were put to the test.
    assert outcomes["ran", ""] > mutants // 20
    assert sum(n for (what, _), n in outcomes.items() if what == "refused") > mutants // 5
    assert slowest < SECONDS_PER_FILE


def write_shared(path, subgraphs, tensors, name=""):
    """References to ONE subgraph, which holds references to ONE tensor of a name."""
    builder = flatbuffers.Builder(1024)
    name_offset = builder.CreateString(name)
    schema.TensorStart(builder)
    schema.TensorAddName(builder, name_offset)
    tensor = schema.TensorEnd(builder)
    tensor_vector = references(builder, tensor, tensors)
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensor_vector)
    subgraph = schema.SubGraphEnd(builder)
    subgraph_vector = references(builder, subgraph, subgraphs)
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddSubgraphs(builder, subgraph_vector)
    builder.Finish(schema.ModelEnd(builder), FILE_IDENTIFIER)
    path.write_bytes(bytes(builder.Output()))


def references(builder, target, count):
    builder.StartVector(4, count, 4)
    for _ in range(count):
        builder.PrependUOffsetTRelative(target)
    return builder.EndVector()


@pytest.mark.parametrize(
    ("subgraphs", "tensors", "name", "words"),
    [
        (1500, 1500, "", "more tables than its size allows"),  # 12 KB: half a minute to unpack
        (20_000, 20_000, "", "more tables than its size allows"),  # 160 KB: hours
        (1, 200_000, "x" * 1_600_000, "more data than its size allows"),  # 2.4 MB: 320 GB
    ],
)
@pytest.mark.timeout(60)
def test_shared_offsets_do_not_multiply(tmp_path, subgraphs, tensors, name, words):
    path = tmp_path / "bomb.tflite"
    write_shared(path, subgraphs, tensors, name)
    started = time.process_time()
    with pytest.raises(ValueError, match=words):
        read_contract(path)
    assert time.process_time() - started < 5.0  # 0.02 to 0.4 s on a slow core


def test_tensors_of_one_buffer_are_not_copied(victim, tmp_path):
    model = schema.ModelT.InitFromPackedBuf(victim, 0)
    graph = model.subgraphs[0]
    largest = max(range(len(model.buffers)), key=lambda i: np.size(model.buffers[i].data))
    [weights] = [tensor for tensor in graph.tensors if tensor.buffer == largest]
    graph.tensors += [weights] * 20
    path = tmp_path / "shared.tflite"
    path.write_bytes(packed(model))
    tensors = read_graph(path).tensors
    assert all(np.shares_memory(tensor.data, tensors[-1].data) for tensor in tensors[-20:])


def test_the_verifier_visits_all_that_is_unpacked(victim):
    """Its count by the accessors against the objects that unpacking makes."""
    visited = Allowance(len(victim)).tables - verify(victim).tables
    assert visited == objects(schema.ModelT.InitFromPackedBuf(victim, 0))
    creators = {name.removesuffix("Creator") for name in vars(schema) if name.endswith("Creator")}
    assert creators == {union.__name__ for union in UNIONS.values()}


def objects(value) -> int:
    if isinstance(value, list):
        return sum(map(objects, value))
    if not type(value).__module__.startswith("ai_edge_litert"):
        return 0
    return 1 + sum(map(objects, vars(value).values()))


@pytest.mark.slow
def test_a_file_that_never_answers_is_stopped():
    contracts = [read_contract(CAMVID / "int8.tflite")] * 2
    with InterpreterPool(contracts, 1, timeout_s=5.0) as pool:
        outcomes = list(
            pool.run(
                [
                    Task(0, _sleep, arguments=()),
                    Task(0, _name, arguments=()),
                    Task(1, _name, arguments=()),
                ]
            )
        )
    assert [outcome.value for outcome in outcomes] == [None, None, "int8"]
    assert outcomes[0].failure == "the file gave no answer within 5 s; do not deploy it"
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
