"""Validation mIoU of a model in training, on the whole list at the images' own size."""

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.pipeline import validation_batches
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.graph.build import main_output
from deeplab_tf.graph.resize import resize_bilinear
from deeplab_tf.metrics import confusion


class Validator:
    """Runs a copy of the network, built at the validation size, over a list.

    The size is that of the first image, padded to a size that the network takes; other images are
    placed on a canvas of that size.

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
    ) -> None:
        """Prepares the batches.

        Args:
            model: network of the validation size, with its weights in the same order as in the
                trained one; they are overwritten.
            dataset: the list.
            preprocessing: how pixels are normalized.
            batch_size: images per batch.
            alignment: how logits are resized to the image.
        """
        self.model = model
        self._num_classes = dataset.label_set.num_classes
        _, height, width, _ = model.input_shape
        self._batches = validation_batches(
            dataset, preprocessing, height=height, width=width, batch_size=batch_size
        )

        network = main_output(model)

        @tf.function
        def predict(image: tf.Tensor) -> tf.Tensor:
            low = network(image, training=False)
            logits = resize_bilinear(low, (height, width), alignment=alignment)
            return tf.argmax(logits, axis=-1, output_type=tf.int32)

        self._predict = predict
        self._height, self._width = height, width

    def confusion_matrix(self, weights: list[np.ndarray]) -> np.ndarray:
        """Returns the confusion matrix of the network over the whole list.

        Args:
            weights: weights of the trained network, in its order.

        Returns:
            int64 [num_classes, num_classes + 1].
        """
        self.model.set_weights(weights)
        total = np.zeros((self._num_classes, self._num_classes + 1), np.int64)
        for image, label in self._batches:
            total += confusion.confusion_matrix(
                label.numpy(), self._predict(image).numpy(), num_classes=self._num_classes
            )
        return total

    def pictures(self, count: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns images, labels and predictions of the first samples.

        Args:
            count: number of samples, at most a batch.

        Returns:
            float32 [count, height, width, channels], normalized; uint8 [count, height, width];
            int32 [count, height, width].
        """
        image, label = next(iter(self._batches))
        image, label = image[:count], label[:count]
        return image.numpy(), label.numpy(), self._predict(image).numpy()
