"""Agreement and largest difference of an output, on numbers worked out by hand."""

import numpy as np
import pytest

from tests.paths import CAMVID
from tflite_tools.contract import read_contract
from tflite_tools.deployment.devices.comparison import (
    ComparedOutput,
    Meaning,
    compare_output,
    compared_outputs,
)
from tflite_tools.flatbuffer.graph import read_graph


def image(*pixels, dtype=np.uint8):
    """[1, 1, pixels, classes]."""
    return np.array([[pixels]], dtype)


def test_quantized_scores():
    output = ComparedOutput("logits", Meaning.SCORES, scale=0.5)
    ours = [image([10, 20], [30, 5], [7, 7], [0, 1])]
    theirs = [image([10, 20], [30, 31], [7, 6], [0, 1])]
    found = compare_output(output, ours, theirs=theirs)
    assert found.equal == 6 / 8
    assert found.same_class == 3 / 4  # the second pixel changed; of equal scores the first counts
    assert found.steps == 26
    assert found.relative == 26 / 30
    assert found.finite
    assert not found.identical


def test_differences_of_unsigned_bytes_do_not_wrap():
    output = ComparedOutput("logits", Meaning.SCORES, scale=0.5)
    found = compare_output(output, [image([1, 0])], theirs=[image([3, 0])])
    assert found.steps == 2


def test_float_scores_are_measured_in_parts_of_their_range():
    output = ComparedOutput("logits", Meaning.SCORES)
    ours, theirs = image([-2.0, 6.0], dtype=np.float32), image([-1.0, 6.0], dtype=np.float32)
    found = compare_output(output, [ours], theirs=[theirs])
    assert found.steps is None
    assert found.relative == 1 / 8
    assert found.same_class == 1.0


def test_pictures_count_alike():
    output = ComparedOutput("logits", Meaning.SCORES, scale=1.0)
    ours = [image([1, 0]), image([0, 1])]
    found = compare_output(output, ours, theirs=[image([1, 0]), image([1, 0])])
    assert found.same_class == 0.5


def test_classes_have_no_distance():
    output = ComparedOutput("map", Meaning.CLASSES)
    ours, theirs = np.array([[0, 3, 9]], np.int64), np.array([[0, 3, 1]], np.int64)
    found = compare_output(output, [ours], theirs=[theirs])
    assert found.same_class == pytest.approx(2 / 3)
    assert (found.steps, found.relative) == (None, None)


def test_one_score_is_compared_at_its_threshold():
    output = ComparedOutput("mask", Meaning.SCORE, threshold=0.5)
    ours, theirs = (np.float32(values).reshape(1, 1, 2, 1) for values in ([0.4, 0.9], [0.6, 0.8]))
    assert compare_output(output, [ours], theirs=[theirs]).same_class == 0.5


def test_channels_first_and_flat_scores():
    ours = np.float32([[[[1, 5]], [[2, 3]]]])  # [1, classes, 1, 2]
    theirs = np.float32([[[[3, 5]], [[2, 3]]]])
    first = ComparedOutput("logits", Meaning.SCORES, axis=1)
    assert compare_output(first, [ours], theirs=[theirs]).same_class == 0.5
    flat = ComparedOutput("logits", Meaning.SCORES, shape=(1, 1, 2, 2))
    ours, theirs = np.float32([[1, 2, 5, 3]]), np.float32([[3, 2, 5, 3]])
    assert compare_output(flat, [ours], theirs=[theirs]).same_class == 0.5


def test_what_is_no_number_is_no_class():
    output = ComparedOutput("logits", Meaning.SCORES)
    ours = image([1, 0], [1, 0], dtype=np.float32)
    theirs = image([np.nan, 0], [1, 0], dtype=np.float32)
    found = compare_output(output, [ours], theirs=[theirs])
    assert found.same_class == 0.5
    assert not found.finite
    assert found.relative == float("inf")


def test_constant_outputs():
    output = ComparedOutput("boxes", Meaning.VALUES)
    zeros = np.zeros((1, 4), np.float32)
    assert compare_output(output, [zeros], theirs=[zeros]).relative == 0
    assert compare_output(output, [zeros], theirs=[zeros + 1]).relative == float("inf")
    assert compare_output(output, [zeros], theirs=[zeros]).same_class is None


@pytest.mark.parametrize("other", [np.zeros((1, 5), np.int8), np.zeros((1, 4), np.float32)])
def test_another_form_is_refused(other):
    output = ComparedOutput("logits", Meaning.SCORES, scale=1.0)
    with pytest.raises(ValueError, match=r"'logits': expected int8 \[1, 4\], got"):
        compare_output(output, [np.zeros((1, 4), np.int8)], theirs=[other])


def test_outputs_of_the_zoo():
    path = CAMVID / "int8.tflite"
    contract = read_contract(path)
    [output] = compared_outputs(read_graph(path), contract)
    assert output.meaning is Meaning.SCORES
    assert output.scale == contract.output_quantization[0]
    [unread] = compared_outputs(read_graph(path), None)
    assert unread.meaning is Meaning.SCORES
