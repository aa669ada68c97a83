"""tf.data pipelines: training batches by example number, validation batches in order."""

import dataclasses
import threading
import typing

import numpy as np
import tensorflow as tf

from deeplab_tf.data.augmentation import Augmentation, augment
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.labels import IGNORE_LABEL
from deeplab_tf.data.preprocessing import Preprocessing, place, place_label


class CachedReader:
    """Reads samples and caches decoded ones in memory up to a budget. Thread-safe.

    Args:
        dataset: the split to read.
        budget_bytes: memory for decoded samples.
    """

    def __init__(self, dataset: SegmentationDataset, budget_bytes: int) -> None:
        self._dataset = dataset
        self._budget_bytes = budget_bytes
        self._cached_bytes = 0
        self._samples: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._lock = threading.Lock()

    def __call__(self, index: typing.SupportsInt) -> tuple[np.ndarray, np.ndarray]:
        """Returns image and label of a sample, as `SegmentationDataset.read` does."""
        index = int(index)
        sample = self._samples.get(index)
        if sample is None:
            sample = self._dataset.read(index)
            size = sample[0].nbytes + sample[1].nbytes
            with self._lock:
                if index not in self._samples and self._cached_bytes + size <= self._budget_bytes:
                    self._samples[index] = sample
                    self._cached_bytes += size
        return sample


@dataclasses.dataclass(frozen=True)
class TrainingPipeline:
    """Endless training batches, each determined by the seed and the step alone.

    Attributes:
        dataset: the training split.
        preprocessing: normalization.
        augmentation: random changes.
        crop_height: height of an example.
        crop_width: width of an example.
        batch_size: examples per step, over all workers.
        seed: of order and augmentation.
        cache_mb: memory for decoded images, MiB; images that do not fit are decoded each time.
    """

    dataset: SegmentationDataset
    preprocessing: Preprocessing
    augmentation: Augmentation
    crop_height: int
    crop_width: int
    batch_size: int
    seed: int
    cache_mb: int = 2048

    def __post_init__(self) -> None:
        if self.augmentation.flip and self.dataset.antisymmetric_channels is None:
            raise ValueError(
                f"{self.dataset.name}: a mirrored image is not an image of the mirrored scene; "
                "switch flip off"
            )

    def batches(
        self, first_step: int, shard: int = 0, num_shards: int = 1, num_replicas: int = 1
    ) -> tf.data.Dataset:
        """Builds the batches from `first_step` on.

        Args:
            first_step: step of the run to start or resume at.
            shard: number of this worker.
            num_shards: number of workers.
            num_replicas: number of devices of all workers; each gets its own batches.

        Returns:
            A data set of (image float32 [batch / num_replicas, crop_height, crop_width, channels]
            normalized, label uint8 [batch / num_replicas, crop_height, crop_width]).

        Raises:
            ValueError: the batch size is not a multiple of the number of devices.
        """
        num_replicas = max(num_replicas, num_shards)
        if self.batch_size % num_replicas:
            raise ValueError(
                f"batch size {self.batch_size} is not a multiple of {num_replicas} devices; "
                "change --batch_size"
            )
        reader = CachedReader(self.dataset, self.cache_mb << 20)
        count = len(self.dataset)
        channels = self.dataset.channels

        def example(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            epoch, position = number // count, number % count
            order_seed = tf.stack([tf.cast(self.seed, tf.int32), tf.cast(epoch, tf.int32)])
            index = tf.random.experimental.index_shuffle(
                position, order_seed, tf.constant(count - 1, tf.int64)
            )
            image, label = tf.numpy_function(reader, [index], (tf.uint8, tf.uint8), stateful=False)
            image.set_shape([None, None, channels])
            label.set_shape([None, None])
            seed = tf.stack([tf.cast(self.seed, tf.int32), tf.cast(number, tf.int32)])
            image, label = augment(
                image,
                label,
                seed,
                self.augmentation,
                self.crop_height,
                self.crop_width,
                self.dataset.antisymmetric_channels or (),
            )
            return self.preprocessing.normalize(image), label

        start = first_step * self.batch_size
        numbers = tf.data.Dataset.range(start, np.iinfo(np.int64).max)
        if num_shards > 1:
            numbers = numbers.shard(num_shards, shard)
        examples = numbers.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        batches = examples.batch(self.batch_size // num_replicas, drop_remainder=True)
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return batches.with_options(options).prefetch(2)


VALIDATION_WINDOW = (1024, 2048)
"""Height and width, the size of Cityscapes images. Of larger images, validation during training
uses the centre at full resolution: the activations of 6000 x 6000 pixels do not fit in memory."""


def _center_crop(array: np.ndarray) -> np.ndarray:
    corner = [max(0, (array.shape[axis] - VALIDATION_WINDOW[axis]) // 2) for axis in (0, 1)]
    rows, columns = (slice(corner[axis], corner[axis] + VALIDATION_WINDOW[axis]) for axis in (0, 1))
    return array[rows, columns]


def validation_batches(
    dataset: SegmentationDataset,
    preprocessing: Preprocessing,
    *,
    height: int,
    width: int,
    batch_size: int,
) -> tf.data.Dataset:
    """Builds batches over a whole split, once and in order.

    Each image, or the centre of a large one (`VALIDATION_WINDOW`), is scaled to fit the canvas.

    Args:
        dataset: the split.
        preprocessing: normalization.
        height: height of the canvas.
        width: width of the canvas.
        batch_size: images per batch; the last batch may be smaller.

    Returns:
        A data set of (image float32 [batch, height, width, channels] normalized,
        label uint8 [batch, height, width], 255 where the canvas is padded).
    """

    def read(index: typing.SupportsInt) -> tuple[np.ndarray, np.ndarray]:
        image, label = (_center_crop(array) for array in dataset.read(int(index)))
        canvas, _ = place(image, (height, width))
        return canvas, place_label(label, (height, width), fill=IGNORE_LABEL)

    def example(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, label = tf.numpy_function(read, [index], (tf.uint8, tf.uint8), stateful=False)
        image.set_shape([height, width, dataset.channels])
        label.set_shape([height, width])
        return preprocessing.normalize(image), label

    indices = tf.data.Dataset.range(len(dataset))
    return (
        indices.map(example, num_parallel_calls=2, deterministic=True).batch(batch_size).prefetch(1)
    )
