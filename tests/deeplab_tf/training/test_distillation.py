"""Distillation terms against numbers worked out by hand, and the teacher's checks."""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.lidar.sensor import Sensor
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.models.config import Aspp, ModelConfig
from deeplab_tf.models.registry import build_network
from deeplab_tf.training.config import TrainingConfig, read_config
from deeplab_tf.training.distillation import Distillation, DistillLoss, distillation_loss
from deeplab_tf.training.run_folder import Phase, RunFolder
from deeplab_tf.training.start import teacher_maker
from deeplab_tf.weights.matching import named_arrays
from deeplab_tf.weights.npz import save_weights

HALF_PIXEL = Alignment.HALF_PIXEL


def term(student, teacher, loss=DistillLoss.LOGITS, temperature=1.0, label=None):
    options = Distillation("x", 0.5, temperature=temperature, loss=loss)
    student, teacher = (tf.constant([value], tf.float32) for value in (student, teacher))
    label = np.zeros(student.shape[1:3], np.uint8) if label is None else np.array(label, np.uint8)
    return float(
        distillation_loss(
            label[None], student, teacher=teacher, options=options, alignment=HALF_PIXEL
        )
    )


def divergence(wanted, found):
    return sum(p * math.log(p / q) for p, q in zip(wanted, found, strict=True))


def softmax(values):
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def test_logits_are_compared_pixel_by_pixel():
    student, teacher = [[[1, 0], [0, 2]]], [[[0, 0], [1, 0]]]
    by_hand = [
        divergence(softmax(t), softmax(s)) for s, t in zip(student[0], teacher[0], strict=True)
    ]
    assert term(student, teacher) == pytest.approx(sum(by_hand) / 2, rel=1e-5)
    assert term(teacher, teacher) == pytest.approx(0, abs=1e-7)


def test_temperature_softens_and_is_made_up_for():
    by_hand = 4**2 * divergence(softmax([0, 0.5]), softmax([0.25, 0]))
    assert term([[[1, 0]]], [[[0, 2]]], temperature=4) == pytest.approx(by_hand, rel=1e-5)


def test_channel_wise_compares_where_each_class_is():
    # Classes are columns: over the pixels, class 0 is (1, 0) against (0, 1), class 1 equal.
    found = term([[[1, 5], [0, 5]]], [[[0, 9], [1, 9]]], DistillLoss.CHANNEL_WISE)
    assert found == pytest.approx(divergence(softmax([0, 1]), softmax([1, 0])) / 2, rel=1e-5)


@pytest.mark.parametrize("loss", DistillLoss)
def test_ignored_pixels_do_not_count(loss):
    student, teacher = [[[1, 0], [0, 2], [7, 1]]], [[[0, 0], [1, 0], [0, 9]]]
    without = term([student[0][:2]], [teacher[0][:2]], loss)
    assert term(student, teacher, loss, label=[[0, 1, 255]]) == pytest.approx(without, rel=1e-5)
    assert term(student, teacher, loss, label=[[255, 255, 255]]) == pytest.approx(0, abs=1e-7)


def test_teacher_is_brought_to_the_students_size_and_gets_no_gradient():
    student, teacher = tf.Variable(tf.zeros([1, 2, 2, 3])), tf.Variable(tf.ones([1, 4, 4, 3]))
    teacher.assign(tf.random.stateless_normal(teacher.shape, (1, 2)))
    with tf.GradientTape() as tape:
        label = np.zeros((1, 8, 8), np.uint8)
        value = distillation_loss(
            label, student, teacher=teacher, options=Distillation("x"), alignment=HALF_PIXEL
        )
    gradients = tape.gradient(value, [student, teacher])
    assert gradients[0] is not None
    assert gradients[1] is None


@pytest.mark.parametrize("values", [{"weight": 1.1}, {"temperature": 0.0}, {"weight": -0.1}])
def test_bad_settings(values):
    with pytest.raises(ValueError, match="distill_"):
        Distillation(**values)


@pytest.fixture
def student(tmp_path):
    """Configuration whose teacher, a small network with random weights, lies in a folder."""
    model = ModelConfig(3, width_multiplier=0.35, aspp=Aspp.SLIM, aspp_channels=8)
    config = TrainingConfig(model=model, dataset="folder", crop_height=32, crop_width=32)
    folder = RunFolder(tmp_path / "teacher")
    folder.prepare(config, LabelSet.from_names(("a", "b", "c")))
    save_weights(named_arrays(build_network(model, (32, 32))), folder.weights(Phase.FLOAT))
    return dataclasses.replace(config, distillation=Distillation(str(folder.path)))


def test_teacher_is_built_with_its_weights(student):
    teacher = teacher_maker(student, ("a", "b", "c"))(student)
    folder = RunFolder(pathlib.Path(student.distillation.teacher))
    with np.load(folder.weights(Phase.FLOAT)) as stored:
        np.testing.assert_array_equal(
            teacher.model.get_layer("logits").get_weights()[0], stored["logits/kernel"]
        )
    assert not teacher.model.trainable_variables
    assert teacher_maker(dataclasses.replace(student, distillation=Distillation()), ("a",)) is None


def test_teacher_with_other_classes_or_pixels_is_refused(student):
    with pytest.raises(ValueError, match=r"knows 3 classes \(a, b, c\), the student 2 \(a, b\)"):
        teacher_maker(student, ("a", "b"))
    other = dataclasses.replace(student, preprocessing=Preprocessing((127.5,) * 3, (127.5,) * 3))
    with pytest.raises(ValueError, match="they must be the same"):
        teacher_maker(other, ("a", "b", "c"))
    folder = RunFolder(pathlib.Path(student.distillation.teacher))
    taught = dataclasses.replace(
        read_config(folder.path), sensor=Sensor(64, 512, fov_up=3.0, fov_down=-25.0)
    )
    (folder.path / "config.json").write_text(json.dumps(taught.to_json()))
    scans = dataclasses.replace(student, sensor=Sensor(32, 512, fov_up=3.0, fov_down=-25.0))
    with pytest.raises(ValueError, match=r"another sensor \(height 64 -> 32\); they must be"):
        teacher_maker(scans, ("a", "b", "c"))
    missing = dataclasses.replace(student, distillation=Distillation("missing"))
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        teacher_maker(missing, ("a", "b", "c"))


def test_configuration_keeps_the_teacher(student):
    stored = json.loads(json.dumps(student.to_json()))
    assert TrainingConfig.from_json(stored) == student
    del stored["distillation"]  # runs from before it existed
    assert TrainingConfig.from_json(stored).distillation == Distillation()
