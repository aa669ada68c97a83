"""Which weights of a run are its best: chosen over classes that are the same at every step."""

import types

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data.dataset import Subset
from deeplab_tf.data.registry import open_dataset
from deeplab_tf.training.loop import CHOICE_KEY, TrainingRun
from deeplab_tf.training.run_folder import Phase


def planted_validator(matrix):
    picture = np.zeros((1, 4, 4), np.uint8)
    return types.SimpleNamespace(
        confusion_matrix=lambda weights: matrix,
        pictures=lambda: (np.zeros((1, 4, 4, 3), np.float32), picture, picture),
    )


def test_the_best_weights_are_not_chosen_by_a_class_that_is_not_there():
    """The second step finds more of both classes, and has one pixel of a third: over the classes
    with a union its mean is a third lower."""
    dataset = open_dataset("synthetic", None, split="train")
    run = types.SimpleNamespace(training=dataset, validation=Subset(dataset, (0,), split="val"))
    classes = dataset.label_set.num_classes
    lines = []
    for hits, stray in ((800, 0), (900, 1)):
        matrix = np.zeros((classes, classes + 1), np.int64)
        matrix[range(2), range(2)], matrix[:2, classes] = hits, 1000 - hits
        matrix[0, 2], matrix[0, classes] = stray, 1000 - hits - stray
        with tf.summary.create_noop_writer().as_default():
            lines.append(
                TrainingRun._validate(run, planted_validator(matrix), [], phase=Phase.FLOAT, step=1)
            )
    assert [line["miou"] for line in lines] == pytest.approx([0.8, 0.6])
    assert [line["classes"] for line in lines] == [2, 3]
    assert [line[CHOICE_KEY] for line in lines] == pytest.approx([0.8, 0.9])
