"""Integer inputs without a scale: pixels go in as they are, and the graph casts them itself."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from deeplab_tf.data.preprocessing import Preprocessing
from tests.tflite_tools.surgery import float_twin, unpacked, write
from tflite_tools.benchmarking.timing import BenchmarkOptions, benchmark
from tflite_tools.contract import read_contract
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.input_contract import PreprocessingSource, read_input_contract
from tflite_tools.runtime.runner import ModelRunner

TYPES = schema.TensorType
SHAPE = (1, 368, 480, 3)


def cast_in_front(path, kind):
    """The float network behind CAST, SUB 128 (or 0 behind an int8) and MUL 1/128."""
    model = float_twin(unpacked())
    graph = model.graph
    image = int(graph.inputs[0])
    offset = 128 if kind == TYPES.UINT8 else 0
    pixels = model.add_tensor("pixels", SHAPE, kind=kind)
    cast, moved = (model.add_tensor(name, SHAPE, kind=TYPES.FLOAT32) for name in ("cast", "moved"))
    mean = model.add_constant("mean", np.float32([offset]))
    scale = model.add_constant("scale", np.float32([1 / 128]))
    options = schema.SubOptionsT()
    graph.operators[:0] = [
        model.new_operator("CAST", [pixels], outputs=[cast]),
        model.new_operator("SUB", [cast, mean], outputs=[moved], options=options),
        model.new_operator("MUL", [moved, scale], outputs=[image], options=schema.MulOptionsT()),
    ]
    graph.inputs = np.array([pixels], np.int32)
    model.model.signatureDefs = None
    return write(path, model)


@pytest.mark.parametrize("kind", [TYPES.UINT8, TYPES.INT8])
def test_a_cast_input_is_fed_with_bytes(tmp_path, kind):
    twin = write(tmp_path / "twin.tflite", float_twin(unpacked()))
    contract = read_contract(cast_in_front(tmp_path / "cast.tflite", kind))
    assert contract.preprocessing_source is PreprocessingSource.QUANTIZATION
    assert not any("not on record" in warning for warning in contract.warnings)
    image = np.random.default_rng(0).integers(0, 256, SHAPE[1:], np.uint8)
    floats = ModelRunner(read_contract(twin, Preprocessing((128.0,) * 3, (128.0,) * 3)))
    expected = floats.class_map(image)
    assert len(np.unique(expected)) > 2
    assert np.mean(ModelRunner(contract).class_map(image) == expected) > 0.999
    rebuilt = read_input_contract(contract.path, read_graph(contract.path))
    assert rebuilt.preprocessing == contract.preprocessing
    assert rebuilt.preprocessing.std == (1.0,) * 3


def test_a_normalization_by_hand_does_not_reach_plain_bytes(tmp_path):
    given = Preprocessing((128.0,) * 3, (128.0,) * 3)
    contract = read_contract(cast_in_front(tmp_path / "cast.tflite", TYPES.UINT8), given)
    assert contract.quantize_table() is None
    assert any("--mean and --std are ignored" in warning for warning in contract.warnings)


def test_benchmark_times_a_cast_input(tmp_path):
    contract = read_contract(cast_in_front(tmp_path / "cast.tflite", TYPES.UINT8))
    (result,), _ = benchmark([contract], BenchmarkOptions(repeats=2, warmup=1))
    assert result.failure == ""
    assert result.timings[1].minimum > 0
