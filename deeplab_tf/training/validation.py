"""Validation mIoU of a model in training, on the whole list at the photos' own size."""

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.pipeline import validation_batches
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.graph.resize import resize_bilinear
from deeplab_tf.metrics import confusion


class Validator:
    """Runs a copy of the network, built at the validation size, over a list.

    The size is that of the first photo, padded to what the network takes; others are placed on
    the same canvas.

    Attributes:
        model: the copy, with the weights of the last `confusion_matrix`.
    """

    def __init__(
        self,
        model: keras.Model,
        dataset: SegmentationDataset,
        *,
        preprocessing: Preprocessing,
        batch_size: int = 4,
        alignment: Alignment = Alignment.HALF_PIXEL,
    ):
        """`model` must have the weights' order of the trained one; its own are overwritten."""
        self.model = model
        self._num_classes = dataset.label_set.num_classes
        _, height, width, _ = model.input_shape
        self._batches = validation_batches(
            dataset, preprocessing, height=height, width=width, batch_size=batch_size
        )

        @tf.function
        def predict(image):
            low = model(image, training=False)
            logits = resize_bilinear(low, (height, width), alignment=alignment)
            return tf.argmax(logits, axis=-1, output_type=tf.int32)

        self._predict = predict
        self._height, self._width = height, width

    def confusion_matrix(self, weights: list[np.ndarray]) -> np.ndarray:
        """int64 [num_classes, num_classes + 1] over the whole list."""
        self.model.set_weights(weights)
        total = np.zeros((self._num_classes, self._num_classes + 1), np.int64)
        for image, label in self._batches:
            total += confusion.confusion_matrix(
                label.numpy(), self._predict(image).numpy(), num_classes=self._num_classes
            )
        return total

    def pictures(self, count: int = 3):
        """Photos, truths and predictions of the first samples.

        Returns:
            uint8 [count, height, width, channels], uint8 [count, height, width] and
            int32 [count, height, width].
        """
        image, label = next(iter(self._batches))
        image, label = image[:count], label[:count]
        return image.numpy(), label.numpy(), self._predict(image).numpy()
