"""Where a file's normalization and labels come from, and what is said where they are a guess."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.labels import IGNORE_LABEL
from deeplab_tf.data.preprocessing import Preprocessing, place, place_label
from deeplab_tf.data.readers.synthetic import draw_scene
from tests.paths import CAMVID
from tests.tflite_tools.surgery import (
    last_resize_with,
    low_logits,
    twin_bytes,
    unpacked,
    write,
    write_manifest,
)
from tflite_tools.contract import read_contract
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.input_contract import PreprocessingSource, pixel_table, read_input_contract
from tflite_tools.metadata import packing
from tflite_tools.metadata.segmenter import Activation, SegmenterMetadata
from tflite_tools.runtime.runner import ModelRunner
from tflite_tools.to_keras.importer import import_file
from tflite_tools.to_keras.run import as_run

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
    image, _ = place(draw_scene(0)[0], (contract.height, contract.width))
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
    assert "cover [-1, 0.992], the preprocessing gives [0, 1]" in contract.warnings[0]


def test_one_value_in_the_metadata_is_for_every_channel(tmp_path):
    one = Preprocessing((127.5,), (127.5,))
    contract = read_contract(saying(tmp_path, preprocessing=one))
    assert contract.preprocessing == Preprocessing((127.5,) * 3, (127.5,) * 3)


def test_a_guess_is_said(plain, tmp_path):
    (warning,) = read_contract(plain).warnings
    assert "(pixel - 128) / 128 is assumed" in warning
    assert "--mean and --std" in warning
    assert read_contract(plain, WIDE).warnings == ()
    assert read_contract(saying(tmp_path, INT8.read_bytes(), preprocessing=None)).warnings == ()


@pytest.mark.parametrize("labels", [NAMES[1:], (*NAMES, "one more")])
def test_labels_that_do_not_fit_are_not_used(tmp_path, labels):
    contract = read_contract(saying(tmp_path, labels=labels))
    assert contract.label_set is None
    assert contract.preprocessing == ZERO_TO_ONE
    (warning,) = contract.warnings
    assert f"expected 11 names (one per class of the output), got {len(labels)}" in warning


def test_damaged_metadata_costs_a_warning_not_the_file(tmp_path):
    path = saying(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b"sky\nbuilding")] ^= 1  # the ZIP's checksum tells
    path.write_bytes(content)
    contract = read_contract(path, WIDE)
    (warning,) = contract.warnings
    assert "its metadata are ignored" in warning
    assert "\n" not in warning
    assert ModelRunner(contract).class_map(np.zeros((368, 480, 3), np.uint8)).shape == (368, 480)


def test_metadata_with_other_channels_is_not_used(tmp_path):
    two = Preprocessing((1.0, 2.0), (3.0, 4.0))
    contract = read_contract(saying(tmp_path, INT8.read_bytes(), preprocessing=two))
    assert contract.preprocessing == Preprocessing()  # of the input's scale
    assert "its metadata is ignored: expected 3 channels, got 2" in contract.warnings[0]


def test_normalization_of_other_channels_is_refused(tmp_path):
    one = read_contract(INT8, Preprocessing((3.0,), (4.0,)))
    assert one.preprocessing == Preprocessing((3.0,) * 3, (4.0,) * 3)  # of all channels alike
    with pytest.raises(ValueError, match=r"of 3 channel\(s\), got 2 \(\w+\); give --mean and"):
        read_contract(INT8, Preprocessing((128.0,) * 2, (128.0,) * 2))
    path = saying(tmp_path)
    write_manifest(path, lambda values: values["input"].update(mean=[128] * 4, std=[128] * 4))
    with pytest.raises(ValueError, match=r"of 3 channel\(s\), got 4 \(\w+\); give --mean and"):
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
    image, label = place(scene, (368, 480))[0], place_label(label, (368, 480), fill=IGNORE_LABEL)
    runners = [ModelRunner(read_contract(path)) for path in (whole, low)]
    masks = [runner.class_map(image) for runner in runners]
    losses = [total / count for total, count in (r.cross_entropy(label) for r in runners)]
    # The graph resizes and rounds in 8-bit integers, the reader in floats: near-ties differ.
    assert np.mean(masks[0] == masks[1]) > 0.99
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


def feed(scale, zero_point, dtype="uint8", mean=127.5, std=127.5):
    preprocessing = Preprocessing((mean,) * 3, (std,) * 3)
    return pixel_table(preprocessing, np.dtype(dtype), quantization=(scale, zero_point))[
        :, 0
    ].astype(int)


@pytest.mark.parametrize("scale", [2 / 255, 1 / 128])
def test_pixels_on_rounding_ties_go_in_as_bytes(scale):
    """x / 127.5 - 1 in steps of 2/255 from zero point 128 is x + 0.5: rint gives even numbers."""
    bytes_ = np.arange(256)
    by_hand = np.clip(np.rint((bytes_ / 127.5 - 1) / scale) + 128, 0, 255)
    assert len(np.unique(by_hand)) < 256
    np.testing.assert_array_equal(feed(scale, 128), bytes_)
    np.testing.assert_array_equal(feed(scale, 0, "int8"), bytes_ - 128)


def test_zero_point_on_either_side_of_the_mean_takes_bytes():
    for zero_point in (127, 128):
        np.testing.assert_array_equal(feed(2 / 255, zero_point), np.arange(256))
    np.testing.assert_array_equal(feed(2 / 255, -1, "int8"), np.arange(-128, 128))


def test_other_inputs_are_rounded_as_before():
    # (192 - 128) / 64 = 1 -> 1 * 128 + 128, clipped; half a level more would be 126 or 129.
    assert feed(1 / 128, 128, mean=128.0, std=64.0)[[0, 128, 192]].tolist() == [0, 128, 255]
    shifted = feed(2 / 255, 126)  # 1.5 from the mean: the pixel less 1.5, ties to even
    assert shifted[[100, 101]].tolist() == [98, 100]
    narrow = feed(1 / 120, 128)  # 255 * (120 / 127.5 - 1) = 15 levels apart
    assert narrow[255] == 248


def test_bytes_instead_of_ties_are_said(tmp_path):
    model = unpacked()
    image = model.graph.tensors[model.graph.inputs[0]]
    image.quantization.scale = np.array([2 / 255], np.float32)
    path = write(tmp_path / "tie.tflite", model)
    write_manifest(path, lambda v: v["input"].update(mean=[127.5] * 3, std=[127.5] * 3))
    contract = read_contract(path)
    assert contract.quantize_table() is None
    (warning,) = contract.warnings
    assert "pixels are fed as unchanged bytes" in warning
    assert "would leave 129 of 256 levels" in warning
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    reals = read_input_contract(path, read_graph(path)).real_values(every)
    np.testing.assert_allclose(reals, (every - 128.0) * 2 / 255, atol=1e-6)


def test_every_reader_believes_the_same(plain, tmp_path):
    """Given, manifest, metadata, quantization, assumed: to_keras as the evaluation."""
    with_metadata = saying(tmp_path)
    in_manifest = tmp_path / "manifest.tflite"
    in_manifest.write_bytes(twin_bytes())
    write_manifest(in_manifest, lambda v: v["input"].update(mean=[1, 2, 3], std=[4, 5, 6]))
    for path, source in (
        (plain, PreprocessingSource.ASSUMED),
        (INT8, PreprocessingSource.MANIFEST),
        (with_metadata, PreprocessingSource.METADATA),
        (in_manifest, PreprocessingSource.MANIFEST),
    ):
        ours, theirs = read_contract(path), import_file(path).contract
        assert (theirs.preprocessing, theirs.source) == (ours.preprocessing, source)
        assert theirs.warnings == ours.warnings
        given = import_file(path, given=Preprocessing((3.0,), (2.0,))).contract
        assert given.source is PreprocessingSource.GIVEN
        assert given.preprocessing == Preprocessing((3.0,) * 3, (2.0,) * 3)
    assert import_file(in_manifest).contract.preprocessing.std == (4, 5, 6)
    assert import_file(with_metadata).contract.labels == NAMES
    pixel = np.full((1, 1, 1, 3), 51, np.uint8)
    np.testing.assert_allclose(import_file(with_metadata).contract.real_values(pixel), 0.2)
    with pytest.raises(ValueError, match="give --mean and --std"):
        import_file(plain).contract.real_values(pixel)


def test_labels_of_a_zip_without_metadata_are_found(plain):
    with zipfile.ZipFile(plain, "a") as packed:
        packed.writestr("readme.txt", "none")
        packed.writestr("labelmap.txt", "\n".join(NAMES) + "\n\n")
    assert read_contract(plain).label_set.names == NAMES
    assert import_file(plain).contract.labels == NAMES


def test_uint8_input_without_a_scale_takes_the_pixels(tmp_path):
    model = unpacked()
    model.graph.tensors[model.graph.inputs[0]].quantization = None
    contract = read_contract(write(tmp_path / "plain.tflite", model))
    assert contract.preprocessing == Preprocessing((0.0,) * 3, (1.0,) * 3)
    assert contract.quantize_table() is None


def test_a_network_of_small_logits_keeps_the_manifests_resize(tmp_path):
    """Nothing in the graph tells; trained on or exported again it would shift."""
    low = write(tmp_path / "low.tflite", low_logits(unpacked()))
    write_manifest(low, lambda values: values["output"].update(resize="align_corners"))
    network = import_file(low)
    run = as_run(network.description, network.arrays, contract=network.contract, label_set=None)
    assert run.config.model.logits_alignment is Alignment.ALIGN_CORNERS
    assert run.label_set.names == NAMES
    assert not run.assumed
    whole = write(tmp_path / "whole.tflite", unpacked())  # its graph resizes half-pixel
    write_manifest(whole, lambda values: values["output"].update(resize="align_corners"))
    network = import_file(whole)
    run = as_run(network.description, network.arrays, contract=network.contract, label_set=None)
    assert run.config.model.logits_alignment is Alignment.HALF_PIXEL
