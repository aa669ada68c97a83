"""Which output is which, and how far they are apart."""

import numpy as np
import pytest

from export.frameworks.agreement import compare_output, match_outputs

RANDOM = np.random.default_rng(5)
MASKS = RANDOM.normal(size=(2, 1, 6, 8, 4)).astype(np.float32)
VECTOR = RANDOM.normal(size=(2, 1, 4)).astype(np.float32)


def test_equal_outputs_agree():
    result = compare_output("out", MASKS, found=MASKS)
    assert result.deviation == 0
    assert result.equal_classes == 1
    assert not result.deviates


@pytest.mark.parametrize(("share", "deviates"), [(0.9e-3, False), (1.1e-3, True)])
def test_the_limit_is_a_thousandth_of_the_range(share, deviates):
    found = MASKS.copy()
    found[1, 0, 3, 3, 2] += share * (MASKS.max() - MASKS.min())
    assert compare_output("out", MASKS, found=found).deviates is deviates


def test_not_a_number_deviates():
    found = MASKS.copy()
    found[0, 0, 0, 0, 0] = np.nan
    assert compare_output("out", MASKS, found=found).deviates


def test_a_constant_output_that_differs_deviates():
    zeros = np.zeros((1, 1, 4), np.float32)
    assert compare_output("out", zeros, found=zeros + 1e-9).deviates
    assert not compare_output("out", zeros, found=zeros).deviates


def test_channels_first_is_seen():
    found = np.moveaxis(MASKS, -1, 2)
    result = compare_output("out", MASKS, found=found)
    assert result.channels_first
    assert result.deviation == 0
    assert result.shape == (1, 4, 6, 8)


def test_outputs_are_matched_by_value():
    order, results = match_outputs(
        ("a", "b", "c"), (MASKS, VECTOR, -MASKS), found=(-MASKS, MASKS, VECTOR)
    )
    assert order == [1, 2, 0]
    assert [result.name for result in results] == ["a", "b", "c"]
    assert not any(result.deviates for result in results)


def test_another_number_of_outputs_is_refused():
    with pytest.raises(ValueError, match="expected the framework's 2 outputs, got 1"):
        match_outputs(("a", "b"), (MASKS, VECTOR), found=(MASKS,))


def test_another_size_is_refused():
    with pytest.raises(ValueError, match="expected outputs of the shapes"):
        match_outputs(("a",), (MASKS,), found=(VECTOR,))


def test_class_maps_compare_as_numbers():
    classes = RANDOM.integers(0, 11, (1, 1, 6, 8))
    other = classes.copy()
    other[0, 0, 0, 0] = (other[0, 0, 0, 0] + 1) % 11
    assert compare_output("out", classes, found=other).equal_classes == 47 / 48


def test_matrices_have_values_and_no_classes():
    boxes = RANDOM.normal(size=(2, 1, 4, 252)).astype(np.float32)
    result = compare_output("boxes", boxes, found=boxes + np.float32(1e-6))
    assert result.equal_classes == 1
    assert result.line().endswith("100.000% of values equal")
    assert compare_output("out", MASKS, found=MASKS).line().endswith("100.000% of classes equal")
