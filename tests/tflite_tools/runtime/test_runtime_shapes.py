"""Files that do not store their shapes, or store them stale: the runtime's own count."""

import dataclasses

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from deeplab_tf.data.preprocessing import Preprocessing
from tests.tflite_tools.graphs import Builder
from tests.tflite_tools.surgery import float_twin, unpacked, write
from tflite_tools.benchmarking.timing import _describe
from tflite_tools.contract import read_contract
from tflite_tools.diagnosis.case import open_case
from tflite_tools.diagnosis.diagnosis import diagnose
from tflite_tools.diagnosis.observation import Effort
from tflite_tools.flatbuffer.graph import Operator, read_graph
from tflite_tools.flatbuffer.graph_checks import has_unknown_shapes
from tflite_tools.runtime.runner import ModelRunner
from tflite_tools.runtime.runtime_shapes import with_known_shapes
from tflite_tools.to_keras.importer import find_tensor, import_file, import_graph

GIVEN = Preprocessing((128.0,) * 3, (128.0,) * 3)


def computed(model):
    return {int(index) for op in model.graph.operators for index in op.outputs}


def shapeless(path):
    """The float network as a converter writes it that knows no shape: [] for each."""
    model = float_twin(unpacked())
    for index in computed(model):
        tensor = model.graph.tensors[index]
        tensor.shape, tensor.shapeSignature = None, None
    return write(path, model)


def stale(path):
    """ARG_MAX and RESHAPE behind it; ARG_MAX's stored shape still holds the dimension of one."""
    model = float_twin(unpacked())
    graph = model.graph
    int64 = schema.TensorType.INT64
    axis = model.add_constant("axis", np.int32(3))
    shape = model.add_constant("shape", np.int32([1, 368, 480]))
    chosen = model.add_tensor("chosen", (1, 368, 480, 1), kind=int64)
    flat = model.add_tensor("flat", (1, 368, 480), kind=int64)
    options = schema.ArgMaxOptionsT()
    options.outputType = int64
    graph.operators += [
        model.new_operator("ARG_MAX", [graph.outputs[0], axis], outputs=[chosen], options=options),
        model.new_operator("RESHAPE", [chosen, shape], outputs=[flat]),
    ]
    graph.outputs = np.array([flat], np.int32)
    model.model.signatureDefs = None
    return write(path, model)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    whole = write(folder / "whole.tflite", float_twin(unpacked()))
    return whole, shapeless(folder / "shapeless.tflite"), stale(folder / "stale.tflite")


def test_a_file_without_shapes_is_read_and_run(files):
    whole, without, _ = files
    assert has_unknown_shapes(read_graph(without))
    assert not has_unknown_shapes(read_graph(whole))
    expected, contract = read_contract(whole, GIVEN), read_contract(without, GIVEN)
    assert contract.output_shape == expected.output_shape == (1, 368, 480, 11)
    image = np.random.default_rng(0).integers(0, 256, (368, 480, 3), np.uint8)
    maps = [ModelRunner(each).class_map(image) for each in (expected, contract)]
    np.testing.assert_array_equal(*maps)
    assert _describe(contract).multiply_adds == _describe(expected).multiply_adds
    assert diagnose(open_case(without, GIVEN), Effort()).findings == ()


def test_a_file_without_shapes_is_imported(files):
    whole, without, _ = files
    expected, found = import_file(whole), import_file(without)
    assert found.description == expected.description


def test_a_stale_shape_of_an_arg_max_is_computed(files):
    description = import_file(files[2]).description
    assert [node.kind for node in description.nodes][-1] == "argmax"


def test_the_runtime_that_refuses_leaves_the_first_reason(files, tmp_path):
    graph = read_graph(files[2])
    broken = dataclasses.replace(graph, path=tmp_path / "missing.tflite")
    shapes = r"expected shape \[368, 480, 1\] as in the file, got \[368, 480\]"
    with pytest.raises(ValueError, match=shapes):
        import_graph(broken)
    without = dataclasses.replace(read_graph(files[1]), path=tmp_path / "missing.tflite")
    with pytest.raises(ValueError, match="known only at run time"):
        with_known_shapes(without)


def test_an_input_without_a_shape_stays_damaged(tmp_path):
    model = unpacked()
    graph = model.graph
    # behind the QUANTIZE that the zoo's file begins with, a convolution reads the input itself
    inputs = graph.operators[1].inputs
    graph.operators[1].inputs = np.array([graph.inputs[0], *inputs[1:]], np.int32)
    graph.tensors[graph.inputs[0]].shape = None
    path = write(tmp_path / "damaged.tflite", model)
    with pytest.raises(ValueError, match="expected 4 dimensions, got a tensor of shape"):
        read_graph(path)


def split_graph():
    """An image, split in two; the second half is the output."""
    builder = Builder()
    image, axis = builder.tensor((1, 8, 8, 4), "FLOAT32"), builder.constant(3)
    halves = tuple(builder.tensor((1, 8, 8, 2), "FLOAT32") for _ in range(2))
    builder.operators.append(
        Operator(0, "SPLIT", inputs=(axis, image), outputs=halves, options=None)
    )
    return builder.graph([image], [halves[1]]), halves


def test_every_output_of_an_operator_is_computed_by_it():
    graph, halves = split_graph()
    assert [find_tensor(graph, graph.tensors[index].name) for index in halves] == list(halves)
    network = import_graph(graph, graph.tensors[halves[1]].name)
    assert [row.became for row in network.rows] == ["StridedSlice (part 2 of 2)"]
    several = dataclasses.replace(graph.operators[0], kind="RELU", inputs=graph.inputs)
    with pytest.raises(ValueError, match="it has 2 outputs, its layer has one"):
        import_graph(dataclasses.replace(graph, operators=(several,)))
