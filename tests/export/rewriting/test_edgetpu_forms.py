"""Resizes in the form that an Edge TPU maps: the interpreter's answer, and the target check's."""

import dataclasses

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from export.conversion.pipeline import export_files
from export.conversion.variants import FileSpec, Head, IoDtype, Target, Variant
from export.rewriting.edgetpu_resizes import _doublings, fit_edgetpu
from tests.export.conftest import TrainedSource, make_plan
from tests.zoo import scenes
from tflite_tools.deployment.targets.registry import check_target
from tflite_tools.flatbuffer.graph import read_graph

pytestmark = pytest.mark.slow  # two conversions of the whole network

SPEC = FileSpec(
    Variant.QAT_INT8, Head.LOGITS_LOW, input_dtype=IoDtype.UINT8, output_dtype=IoDtype.UINT8
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same quantization-aware network, plain and for the Edge TPU."""
    folder = tmp_path_factory.mktemp("edgetpu")
    made = {}
    for target in Target:
        plan = make_plan(folder / target.value, [SPEC])
        (file,) = export_files(TrainedSource(), dataclasses.replace(plan, target=target))
        assert not file.failure
        made[target] = file.path
    return made


def logits(path):
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    pixels = (scenes(1) * 128 + 128).round().astype(np.uint8)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
    interpreter.invoke()
    details = interpreter.get_output_details()[0]
    scale, zero_point = details["quantization"]
    return scale * (interpreter.get_tensor(details["index"]).astype(np.float32) - zero_point)


def test_every_operator_maps(files):
    plain, fitted = (check_target(read_graph(files[t]), "edgetpu") for t in Target)
    assert plain.left_off
    assert not fitted.left_off
    kinds = [operator.kind for operator in fitted.graph.operators]
    assert kinds.count("TILE") == 1
    assert kinds.count("RESIZE_BILINEAR") == 2


def test_nearly_the_same_function(files):
    plain, fitted = logits(files[Target.NONE]), logits(files[Target.EDGETPU])
    # Two steps of 2 weigh neighbours a little differently than one of 4; on CamVid's photos 99.7 %.
    assert (plain.argmax(-1) == fitted.argmax(-1)).mean() > 0.95


def test_a_tile_alone_changes_nothing(files, tmp_path):
    content = files[Target.EDGETPU].read_bytes()
    again, report = fit_edgetpu(content)
    assert report == []
    path = tmp_path / "again.tflite"
    path.write_bytes(again)
    np.testing.assert_array_equal(logits(path), logits(files[Target.EDGETPU]))


@pytest.mark.parametrize(
    ("before", "after", "power"),
    [
        ((23, 30), (92, 120), 2),
        ((8, 8), (16, 16), 1),
        ((33, 33), (129, 129), 0),
        ((8, 8), (24, 24), 0),
        ((8, 8), (32, 16), 0),
        ((8, 8), (8, 8), 0),
    ],
)
def test_doublings_by_hand(before, after, power):
    assert _doublings(before, after) == power
