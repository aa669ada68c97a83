"""Faults that only show on photos, each planted in the zoo's file or in what it is fed."""

import dataclasses

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from deeplab_tf.data.dataset import Subset
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.lidar.sensor import Sensor
from deeplab_tf.data.preprocessing import Preprocessing, place
from deeplab_tf.data.readers.synthetic import draw_scene
from deeplab_tf.data.registry import open_dataset
from tests.paths import CAMVID
from tests.tflite_tools.surgery import (
    INT8,
    calibrate,
    float_twin,
    set_constant,
    swap_height_and_width,
    tensor_named,
    twin_bytes,
    unpacked,
    write,
    writer_of,
)
from tflite_tools.diagnosis.case import open_case
from tflite_tools.diagnosis.diagnosis import diagnose
from tflite_tools.diagnosis.feeding import channel_order
from tflite_tools.diagnosis.finding import Severity
from tflite_tools.diagnosis.observation import Effort, Observations
from tflite_tools.diagnosis.views import DECLARED, REVERSED, TransformedDataset

PHOTOS = 3
FLOAT32 = schema.TensorType.FLOAT32
RAW = Preprocessing((0.0,) * 3, (1.0,) * 3)
TWICE = Preprocessing((128.0 * 129,) * 3, (128.0 * 128,) * 3)
"""((x - 128) / 128 - 128) / 128"""


def spread(dataset, count=PHOTOS):
    chosen = np.linspace(0, len(dataset) - 1, count).astype(int)
    return Subset(dataset, tuple(chosen.tolist()), split=dataset.split)


@pytest.fixture(scope="module")
def camvid(shared_dir):
    """Three photos from all over the validation list."""
    return spread(open_dataset("camvid", shared_dir / "data" / "camvid", split="val"))


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    path = tmp_path_factory.mktemp("twin") / "float.tflite"
    path.write_bytes(twin_bytes())
    return path


@pytest.fixture(scope="module")
def six(shared_dir):
    """Enough photos for a finding on how they are fed to be a problem."""
    return spread(open_dataset("camvid", shared_dir / "data" / "camvid", split="val"), 6)


def found(path, dataset, **given):
    diagnosis = diagnose(
        open_case(path, dataset=dataset, **given), Effort(0, len(dataset), processes=1)
    )
    return {finding.name: finding for finding in diagnosis.findings}


def problems(findings):
    return {name for name, finding in findings.items() if finding.severity is Severity.PROBLEM}


def normalized(image):
    return Preprocessing().normalize(place(image, (368, 480))[0])


def same(value):
    return value


@pytest.mark.parametrize("name", ["int8", pytest.param("qat_int8", marks=pytest.mark.slow)])
def test_the_zoo_is_healthy_on_real_photos(name, camvid, twin):
    assert found(CAMVID / f"{name}.tflite", camvid, reference=twin) == {}


@pytest.mark.parametrize("name", ["qat_int8", pytest.param("int8", marks=pytest.mark.slow)])
def test_the_other_zoo_is_healthy_on_real_photos(name, shared_dir):
    photos = spread(open_dataset("voc", shared_dir / "data" / "voc_animals", split="val"), 8)
    path = CAMVID.parent / "voc_animals_deeplab_mobilenet_v2" / f"{name}.tflite"
    assert problems(found(path, photos)) == set()


@pytest.mark.parametrize(("given", "name"), [(RAW, "raw_pixels"), (TWICE, "normalized_twice")])
def test_float_file_that_is_fed_in_other_units(camvid, twin, given, name):
    findings = found(twin, camvid, preprocessing=given)
    assert "--mean=128,128,128 --std=128,128,128" in findings[name].cure


@pytest.mark.slow
def test_float_file_is_healthy(camvid, twin):
    assert found(twin, camvid) == {}


def test_integer_file_that_is_fed_raw_gives_the_published_empty_masks(six):
    findings = found(INT8, six, preprocessing=RAW)
    assert "raw_pixels" in problems(findings)
    # The same bytes, once read as pixels and once clipped: what scores better is said too.
    assert "mIoU" in findings["raw_pixels"].evidence


def test_photos_that_were_normalized_before_they_were_given(camvid):
    stored = TransformedDataset(
        camvid, lambda image: (image // 128).astype(np.uint8), transform_label=same
    )
    finding = found(INT8, stored)["normalized_twice"]
    assert "3 of 3 photos hold only pixel values 0..1" in finding.evidence


def blue_first(dataset):
    return TransformedDataset(dataset, lambda image: image[..., ::-1], transform_label=same)


def test_photos_with_blue_first(six):
    assert problems(found(INT8, blue_first(six))) == {"channel_order"}


def test_few_photos_with_blue_first_are_no_proof(camvid):
    finding = found(INT8, blue_first(camvid))["channel_order"]
    assert finding.severity is Severity.WARNING
    assert "3 photos, too few to be sure" in finding.evidence


@pytest.mark.parametrize("count", [2, 5])
def test_official_model_on_few_photos_has_no_problem(shared_dir, count):
    photos = open_dataset("voc", shared_dir / "data" / "voc_animals", split="val")
    first = Subset(photos, tuple(range(count)), split="val")
    path = shared_dir / "models" / "deeplabv3_257_mv_gpu.tflite"
    assert problems(found(path, first)) == set()


def test_class_of_one_photo_that_is_missed_is_no_problem(shared_dir):
    photos = open_dataset("voc", shared_dir / "data" / "voc_animals", split="train")
    first = Subset(photos, tuple(range(8)), split="train")
    findings = found(shared_dir / "models" / "deeplabv3_257_mv_gpu.tflite", first)
    assert "'chair' (1.21% of the labelled pixels" in findings["never_predicted"].evidence
    assert problems(findings) == set()


def test_a_way_to_feed_is_not_better_for_classes_that_no_photo_holds():
    # Declared: 2 % of the pixels as a class that is not there. mIoU with it (0.98 + 0) / 2.
    declared, other = np.zeros((2, 8, 2, 3), np.uint32)
    declared[:, 0, :2], other[:, 0, 0] = (98, 2), 100
    seen = Observations(views={DECLARED: declared, REVERSED: other})
    assert channel_order(None, seen) == []
    declared[:, 0, :2] = 90, 10  # now it costs the class that is there
    assert "gain 10.0% to 10.0%" in channel_order(None, seen)[0].evidence


@pytest.mark.slow
def test_network_with_blue_first(six, tmp_path):
    model = unpacked()
    first = model.operators("CONV_2D")[0]
    kernel = model.constant(first.inputs[1])
    set_constant(model, first.inputs[1], kernel[..., ::-1])
    assert "channel_order" in problems(found(write(tmp_path / "bgr.tflite", model), six))


def test_photos_on_their_side(six):
    turned = TransformedDataset(
        six, lambda image: image.swapaxes(0, 1), transform_label=lambda label: label.T
    )
    finding = found(INT8, turned)["width_height_swapped"]
    assert finding.severity is Severity.PROBLEM


def test_photos_on_their_head_are_no_wrong_labels(six):
    findings = found(
        INT8, TransformedDataset(six, lambda image: image[::-1, ::-1], transform_label=same)
    )
    assert findings["upside_down"].severity is Severity.PROBLEM
    assert not problems(findings) & {"label_order", "channel_order", "never_predicted"}


def test_canvas_with_width_and_height_swapped(camvid, tmp_path):
    path = write(tmp_path / "tall.tflite", swap_height_and_width(unpacked()))
    finding = found(path, camvid)["width_height_swapped"]
    assert finding.severity is Severity.PROBLEM
    assert "canvas 480 x 368" in finding.evidence


def noise(_):
    rng = np.random.default_rng(0)
    return [rng.uniform(-1, 1, (368, 480, 3)) for _ in range(4)]


def one_drawn_scene(_):
    return [normalized(draw_scene(0)[0])]


def pixels_that_were_not_normalized(camvid):
    return [place(camvid.image(i), (368, 480))[0].astype(np.float32) for i in range(PHOTOS)]


@pytest.mark.parametrize("images", [noise, one_drawn_scene, pixels_that_were_not_normalized])
@pytest.mark.parametrize("with_reference", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_calibration_on_wrong_images(camvid, twin, tmp_path, images, with_reference):
    path = write(tmp_path / "wrong.tflite", calibrate(unpacked(), images(camvid)))
    findings = found(path, camvid, reference=twin if with_reference else None)
    assert "saturated_ranges" in problems(findings)
    # The logits are cut first: ReLU6 bounds most of what lies before them.
    assert "deeplab/logits" in findings["saturated_ranges"].evidence


@pytest.mark.slow
def test_calibration_on_photos_of_the_list_is_healthy(camvid, twin, tmp_path):
    images = [normalized(camvid.image(index)) for index in range(PHOTOS)]
    path = write(tmp_path / "right.tflite", calibrate(unpacked(), images))
    assert found(path, camvid, reference=twin) == {}


def test_ranges_forty_times_too_wide(camvid, tmp_path):
    # What un-normalized images do to a network whose activations nothing bounds.
    images = [normalized(camvid.image(index)) for index in range(PHOTOS)]
    path = write(tmp_path / "wide.tflite", calibrate(unpacked(), images, stretch=40))
    assert "unused_ranges" in problems(found(path, camvid))


def change_channels(model, layer, channels, weights=None, bias=None):
    """Overwrites some output channels of a convolution; bias in quantized steps."""
    index, tensor = tensor_named(model, layer)
    operator = writer_of(model, index)
    if weights is not None:
        values = model.constant(operator.inputs[1]).copy()
        depthwise = values.shape[0] == 1 and values.shape[-1] == tensor.shape[-1]
        values[(..., channels) if depthwise else channels] = weights
        set_constant(model, operator.inputs[1], values)
    if bias is not None:
        values = model.constant(operator.inputs[2]).copy()
        values[channels] = bias
        set_constant(model, operator.inputs[2], values)
    return model


def test_dead_channels(camvid, tmp_path):
    model = change_channels(unpacked(), "block_5_expand_relu", slice(0, 120), 0, 0)
    findings = found(write(tmp_path / "dead.tflite", model), camvid)
    assert "'deeplab/block_5_expand_relu/Relu6'" in findings["dead_channels"].evidence
    assert "dead_channels" in problems(findings)


def test_few_dead_channels_show_against_the_reference(camvid, twin, tmp_path):
    model = change_channels(unpacked(), "block_5_project_BN", slice(0, 5), 0, 0)
    path = write(tmp_path / "dead.tflite", model)
    evidence = found(path, camvid, reference=twin)["dead_channels"].evidence
    assert "20 CONV_2D 'deeplab/block_5_project_BN/FusedBatchNormV3' 5 of 32" in evidence


def test_saturated_channels(camvid, tmp_path):
    model = change_channels(unpacked(), "decoder_conv1_pointwise_relu", slice(0, 3), None, 2**24)
    finding = found(write(tmp_path / "stuck.tflite", model), camvid)["saturated_channels"]
    assert "deeplab/decoder_conv1_pointwise_relu/Relu6' 3 of 128" in finding.evidence


@pytest.mark.parametrize(
    "layer", ["block_6_project_BN", pytest.param("aspp_project_relu", marks=pytest.mark.slow)]
)
def test_tensor_at_which_the_error_explodes(camvid, twin, tmp_path, layer):
    model = unpacked()
    index, _ = tensor_named(model, layer)
    weights = model.graph.tensors[writer_of(model, index).inputs[1]]
    weights.quantization.scale = np.asarray(weights.quantization.scale)[::-1].copy()
    path = write(tmp_path / "exploding.tflite", model)
    finding = found(path, camvid, reference=twin)["exploding_error"]
    assert f"'deeplab/{layer}" in finding.evidence
    assert finding.severity is Severity.PROBLEM


def test_class_that_is_never_predicted(camvid, tmp_path):
    road = 3
    model = change_channels(unpacked(), "logits", slice(road, road + 1), None, -(2**24))
    findings = found(write(tmp_path / "no_road.tflite", model), camvid)
    assert "'road'" in findings["never_predicted"].evidence
    assert "never_predicted" in problems(findings)
    assert "in 3 of 3 photos" in findings["never_predicted"].evidence
    two = Subset(camvid, (0, 1), split=camvid.split)
    assert found(tmp_path / "no_road.tflite", two)["never_predicted"].severity is Severity.WARNING


def test_constant_mask(camvid, tmp_path):
    model = change_channels(unpacked(), "logits", slice(None), 0, None)
    finding = found(write(tmp_path / "constant.tflite", model), camvid)["constant_mask"]
    assert "3 of 3 masks have a single class" in finding.evidence
    assert not {"label_order", "never_predicted"} & set(found(tmp_path / "constant.tflite", camvid))
    assert finding.severity is Severity.PROBLEM


def test_label_list_in_the_wrong_order(camvid, tmp_path):
    names = list(camvid.label_set.names)
    names[0], names[3] = names[3], names[0]
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(names))
    finding = found(INT8, camvid, labels=labels)["label_order"]
    assert "index 0 is called 'road', contains 'sky'" in finding.evidence
    assert "index 3 is called 'sky', contains 'road'" in finding.evidence


@dataclasses.dataclass(frozen=True)
class Renumbered(TransformedDataset):
    """Another data set with other class ids."""

    order: tuple[int, ...] = ()

    @property
    def label_set(self):
        names = self.source.label_set.names
        return LabelSet.from_names([names[index] for index in self.order])


def renumbered(dataset):
    """With sky and road in each other's place."""
    order = (3, 1, 2, 0, *range(4, 11))
    table = np.arange(256, dtype=np.uint8)
    table[list(order)] = np.arange(11)
    return Renumbered(dataset, same, lambda label: table[label], order)


@pytest.mark.slow
def test_classes_in_another_order_and_no_manifest(camvid, tmp_path):
    path = write(tmp_path / "no_manifest.tflite", unpacked())
    assert "label_order" in problems(found(path, renumbered(camvid)))


def test_data_set_that_counts_its_classes_otherwise(camvid):
    finding = found(INT8, renumbered(camvid))["label_order"]
    assert finding.severity is Severity.WARNING  # the manifest's list is right
    assert "'road' is predicted as index 3" in finding.evidence


def test_file_that_does_not_run(camvid, tmp_path):
    model = unpacked()
    model.operators("CONCATENATION")[0].builtinOptions.axis = 9
    findings = found(write(tmp_path / "refused.tflite", model), camvid)
    assert set(findings) == {"does_not_run"}


def test_other_classes_than_the_data_set(twin):
    drawn = Subset(open_dataset("synthetic", None, split="val"), tuple(range(2)), split="val")
    diagnosis = diagnose(open_case(INT8, dataset=drawn), Effort(0, 2, processes=1))
    assert "label_count" in {finding.name for finding in diagnosis.findings}
    reasons = {item.check: item.reason for item in diagnosis.skipped}
    assert reasons["constant mask"] == "expected 7 classes (synthetic), got 11"
    assert "saturated ranges" not in reasons


def test_scans_of_another_sensor_say_nothing_of_masks():
    case = open_case(CAMVID / "int8.tflite", dataset=open_dataset("synthetic", None, split="val"))
    contract = dataclasses.replace(
        case.contract, sensor=Sensor(64, 512, fov_up=3.0, fov_down=-25.0)
    )
    obstacle = dataclasses.replace(case, contract=contract).truth_obstacle()
    assert obstacle == "the file was trained on range images of another sensor (no sensor)"


def test_network_of_other_pixels_is_not_called_broken(six, tmp_path):
    """Trained on pixel / 255, and nothing says so: fed by the assumption it scores badly."""
    model = float_twin(unpacked())
    graph = model.graph
    image = int(graph.inputs[0])
    shape = graph.tensors[image].shape
    factor = model.add_constant("factor", np.array([255 / 128], np.float32))
    offset = model.add_constant("offset", np.array([-1], np.float32))
    scaled, shifted = (
        model.add_tensor(name, shape, kind=FLOAT32) for name in ("scaled", "shifted")
    )
    for operator in graph.operators:
        operator.inputs = np.where(operator.inputs == image, shifted, operator.inputs)
    graph.operators[:0] = [
        model.new_operator("MUL", [image, factor], outputs=[scaled], options=schema.MulOptionsT()),
        model.new_operator(
            "ADD", [scaled, offset], outputs=[shifted], options=schema.AddOptionsT()
        ),
    ]
    path = write(tmp_path / "other.tflite", model)
    findings = found(path, six)
    assert problems(findings) == set()
    assert "--mean=0,0,0 --std=255,255,255" in findings["unknown_normalization"].cure
    said = found(path, six, preprocessing=Preprocessing((0.0,) * 3, (255.0,) * 3))
    assert "unknown_normalization" not in said
