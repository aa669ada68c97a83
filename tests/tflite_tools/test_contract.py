"""Where a file's normalization and labels come from, and what is said where they are a guess."""

import dataclasses
import json

import numpy as np
import pytest

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.labels import IGNORE_LABEL
from deeplab_tf.data.preprocessing import Preprocessing, place, place_label
from deeplab_tf.data.synthetic import draw_scene
from tests.diagnosis.surgery import (
    last_resize_with,
    low_logits,
    twin_bytes,
    unpacked,
    write,
    write_manifest,
)
from tests.zoo import CAMVID
from tflite_tools.contract import read_contract
from tflite_tools.metadata import packing
from tflite_tools.metadata.segmenter import Activation, SegmenterMetadata
from tflite_tools.runner import ModelRunner

INT8 = CAMVID / "int8.tflite"
NAMES = tuple(json.loads((CAMVID / "labels.json").read_text())["names"])
ZERO_TO_ONE = Preprocessing((0.0,) * 3, (255.0,) * 3)
WIDE = Preprocessing((128.0,) * 3, (64.0,) * 3)
SAID = SegmenterMetadata(
    name="theirs",
    description="",
    license="",
    preprocessing=ZERO_TO_ONE,
    input_range=None,
    labels=NAMES,
    classes_output=False,
    activation=Activation.SOFTMAX,
)


@pytest.fixture
def plain(tmp_path):
    """A float file that says nothing about itself."""
    path = tmp_path / "plain.tflite"
    path.write_bytes(twin_bytes())
    return path


def saying(folder, content=None, **changes):
    """A file with metadata of its own and no manifest; the float twin unless told otherwise."""
    path = folder / "saying.tflite"
    metadata = dataclasses.replace(SAID, **changes)
    path.write_bytes(packing.add(twin_bytes() if content is None else content, metadata))
    return path


def test_a_file_is_fed_as_its_own_metadata_says(plain, tmp_path):
    contract = read_contract(saying(tmp_path))
    assert contract.preprocessing == ZERO_TO_ONE
    assert contract.label_set.names == NAMES
    assert contract.warnings == ()
    image, _ = place(draw_scene(0)[0], contract.height, contract.width)
    by_hand = read_contract(plain, ZERO_TO_ONE)
    masks = [ModelRunner(c).class_map(image) for c in (contract, by_hand, read_contract(plain))]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).mean() > 0.01


def test_flags_go_before_manifest_before_metadata(tmp_path):
    path = saying(tmp_path)
    write_manifest(path)
    assert read_contract(path).preprocessing == Preprocessing()  # of the zoo's manifest
    assert read_contract(path, WIDE).preprocessing == WIDE


def test_metadata_goes_before_the_input_scale_which_is_told_against_it(tmp_path):
    contract = read_contract(saying(tmp_path, INT8.read_bytes()))
    assert contract.preprocessing == ZERO_TO_ONE
    assert "stand for [-1, 0.992], the preprocessing gives [0, 1]" in contract.warnings[0]


def test_one_value_in_the_metadata_is_for_every_channel(tmp_path):
    one = Preprocessing((127.5,), (127.5,))
    contract = read_contract(saying(tmp_path, preprocessing=one))
    assert contract.preprocessing == Preprocessing((127.5,) * 3, (127.5,) * 3)


def test_a_guess_is_said(plain, tmp_path):
    (warning,) = read_contract(plain).warnings
    assert "(pixel - 128) / 128 is a guess" in warning
    assert "--mean and --std" in warning
    assert read_contract(plain, WIDE).warnings == ()
    assert read_contract(saying(tmp_path, INT8.read_bytes(), preprocessing=None)).warnings == ()


@pytest.mark.parametrize("labels", [NAMES[1:], (*NAMES, "one more")])
def test_labels_that_do_not_fit_are_not_used(tmp_path, labels):
    contract = read_contract(saying(tmp_path, labels=labels))
    assert contract.label_set is None
    assert contract.preprocessing == ZERO_TO_ONE
    (warning,) = contract.warnings
    assert f"names {len(labels)} labels, the output has 11 classes" in warning


def test_damaged_metadata_costs_a_warning_not_the_file(tmp_path):
    path = saying(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b"sky\nbuilding")] ^= 1  # the ZIP's checksum tells
    path.write_bytes(content)
    contract = read_contract(path, WIDE)
    (warning,) = contract.warnings
    assert "its metadata is not used" in warning
    assert "\n" not in warning
    assert ModelRunner(contract).class_map(np.zeros((368, 480, 3), np.uint8)).shape == (368, 480)


def test_metadata_with_other_channels_is_not_used(tmp_path):
    two = Preprocessing((1.0, 2.0), (3.0, 4.0))
    contract = read_contract(saying(tmp_path, INT8.read_bytes(), preprocessing=two))
    assert contract.preprocessing == Preprocessing()  # of the input's scale
    assert "normalizes 2 channels, the input has 3" in contract.warnings[0]


def test_normalization_of_other_channels_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"for 1 channel\(s\), the input has 3; give --mean and"):
        read_contract(INT8, Preprocessing((128.0,), (128.0,)))
    path = saying(tmp_path)
    write_manifest(path, lambda values: values["input"].update(mean=[128] * 4, std=[128] * 4))
    with pytest.raises(ValueError, match=r"for 4 channel\(s\), the input has 3; give --mean and"):
        read_contract(path)


@pytest.mark.parametrize("convention", ["half_pixel", "align_corners", "legacy"])
def test_small_logits_are_scored_with_the_manifests_resize(tmp_path, convention):
    """The same weights, once with the resize in the graph and once with the reader's."""
    options = {"half_pixel": (True, False), "align_corners": (False, True)}
    model = last_resize_with(unpacked(), *options.get(convention, (False, False)))
    whole = write(tmp_path / "whole.tflite", model)
    low = write(tmp_path / "low.tflite", low_logits(unpacked()))
    for path in (whole, low):
        write_manifest(path, lambda values: values["output"].update(resize=convention))
    scene, label = draw_scene(0)
    image, label = place(scene, 368, 480)[0], place_label(label, 368, 480, IGNORE_LABEL)
    runners = [ModelRunner(read_contract(path)) for path in (whole, low)]
    masks = [runner.class_map(image) for runner in runners]
    losses = [total / count for total, count in (r.cross_entropy(label) for r in runners)]
    # The graph resizes in integers, the reader in floats: only near-ties differ.
    assert np.mean(masks[0] == masks[1]) > 0.995
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    others = [a for a in Alignment if a.value != convention]
    for other in others:
        theirs = ModelRunner(read_contract(low, alignment=other)).class_map(image)
        assert np.mean(masks[0] == theirs) < np.mean(masks[0] == masks[1])


def test_unknown_resize_of_small_logits_is_said(tmp_path):
    low = write(tmp_path / "low.tflite", low_logits(unpacked()))
    contract = read_contract(low)
    assert contract.alignment is None
    assert "logits of 92x120 for an input of 368x480" in contract.warnings[0]
    assert "half_pixel is assumed" in contract.warnings[0]
    assert read_contract(low, alignment=Alignment.LEGACY).warnings == ()
    write_manifest(low, lambda values: values["output"].update(resize="align_corners"))
    contract = read_contract(low)
    assert (contract.alignment, contract.warnings) == (Alignment.ALIGN_CORNERS, ())
