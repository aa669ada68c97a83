"""Training batches as a function of the step alone, validation batches in order."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data import pipeline
from deeplab_tf.data.augmentation import Augmentation
from deeplab_tf.data.pipeline import CachedReader, TrainingPipeline, validation_batches
from deeplab_tf.data.preprocessing import Preprocessing

OFF = Augmentation(min_scale=1.0, max_scale=1.0, flip=False, color_jitter=0.0)


@pytest.fixture
def numbered(memory_dataset):
    """Photos of 4x6 whose every pixel and label is the number of the sample."""

    def make(count, channels=3):
        numbers = range(count)
        images = [np.full((4, 6, channels), n, np.uint8) for n in numbers]
        labels = [np.full((4, 6), n, np.uint8) for n in numbers]
        return memory_dataset(images, labels, channels=channels)

    return make


def _pipeline(dataset, augmentation=OFF, batch_size=4, seed=5, crop=(4, 6), **options):
    preprocessing = Preprocessing((128.0,) * dataset.channels, (128.0,) * dataset.channels)
    return TrainingPipeline(
        dataset,
        preprocessing,
        augmentation=augmentation,
        crop_height=crop[0],
        crop_width=crop[1],
        batch_size=batch_size,
        seed=seed,
        **options,
    )


def _take(batches, count):
    return [(image.numpy(), label.numpy()) for image, label in batches.take(count)]


def _numbers(batches):
    return [label[:, 0, 0].tolist() for _, label in batches]


@pytest.mark.parametrize("channels", [3, 5])
def test_batches_are_normalized_and_aligned(numbered, channels):
    image, label = _take(_pipeline(numbered(7, channels)).batches(0), 1)[0]
    assert (image.shape, label.shape) == ((4, 4, 6, channels), (4, 4, 6))
    assert (image.dtype, label.dtype) == (np.float32, np.uint8)
    np.testing.assert_array_equal(image[..., 0] * 128 + 128, label)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 30])
def test_every_sample_once_an_epoch_in_another_order(numbered, count):
    """Batches of 1, so that epochs end with a batch."""
    batches = _take(_pipeline(numbered(count), batch_size=1).batches(0), 3 * count)
    order = np.array(_numbers(batches)).reshape(3, count)
    for epoch in order:
        assert sorted(epoch) == list(range(count))
    if count == 30:  # one of 30! orders: never the same twice
        assert (order[0] != order[1]).any()
        assert (order[1] != order[2]).any()
        assert order[0].tolist() != list(range(30))


def test_batches_run_over_the_end_of_an_epoch(numbered):
    """7 samples in batches of 4: 28 examples are 7 batches and 4 whole epochs."""
    flat = np.ravel(_numbers(_take(_pipeline(numbered(7)).batches(0), 7)))
    assert np.bincount(flat).tolist() == [4] * 7
    assert sorted(flat[:7]) == list(range(7))


def test_resumed_run_reads_the_same_batches(memory_dataset, photo, mask):
    """Augmented bit for bit alike, over the end of an epoch (5 samples, batches of 4)."""
    dataset = memory_dataset(
        [photo(20, 24, seed=i) for i in range(5)], [mask(20, 24, seed=i) for i in range(5)]
    )
    pipeline = _pipeline(dataset, Augmentation(), crop=(16, 16))
    unbroken = _take(pipeline.batches(0), 6)
    for first_step in (1, 4):
        resumed = _take(pipeline.batches(first_step), 6 - first_step)
        for expected, got in zip(unbroken[first_step:], resumed, strict=True):
            np.testing.assert_array_equal(expected[0], got[0])
            np.testing.assert_array_equal(expected[1], got[1])
    assert (unbroken[0][0] != unbroken[1][0]).any()


def test_one_image_is_augmented_differently_each_time(memory_dataset, photo, mask):
    dataset = memory_dataset([photo(20, 24)], [mask(20, 24)])
    batches = _take(_pipeline(dataset, Augmentation(), crop=(16, 16)).batches(0), 2)
    assert len({image.tobytes() for images, _ in batches for image in images}) == 8


def test_cached_samples_are_not_changed_by_augmentation(memory_dataset, photo, mask):
    dataset = memory_dataset([photo(8, 9)], [mask(8, 9)])
    _take(_pipeline(dataset, Augmentation(), crop=(6, 6)).batches(0), 5)
    np.testing.assert_array_equal(dataset.images[0], photo(8, 9))
    np.testing.assert_array_equal(dataset.labels[0], mask(8, 9))


def test_another_seed_gives_another_order(numbered):
    orders = [
        _numbers(_take(_pipeline(numbered(30), batch_size=30, seed=seed).batches(0), 1))
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


@pytest.mark.parametrize("num_shards", [2, 4])
def test_workers_divide_each_batch(numbered, num_shards):
    pipeline = _pipeline(numbered(9))
    whole = _numbers(_take(pipeline.batches(1), 5))
    shards = [_numbers(_take(pipeline.batches(1, s, num_shards), 5)) for s in range(num_shards)]
    for step in range(5):
        parts = [shard[step] for shard in shards]
        assert [len(part) for part in parts] == [4 // num_shards] * num_shards
        # Worker s takes examples s, s + num_shards, ... of the batch.
        assert [whole[step][s::num_shards] for s in range(num_shards)] == parts


def test_batch_must_divide_among_workers(numbered):
    with pytest.raises(ValueError, match="batch size 4 is not a multiple of 3 devices"):
        _pipeline(numbered(4)).batches(0, 0, 3)


def test_cached_images_are_read_once(numbered):
    dataset = numbered(3)
    _take(_pipeline(dataset, batch_size=1).batches(0), 12)
    assert sorted(dataset.reads) == [0, 1, 2]


def test_reader_keeps_to_its_budget(numbered):
    """A sample is 4 * 6 * 3 + 4 * 6 = 96 bytes; 200 bytes hold two."""
    dataset = numbered(4)
    reader = CachedReader(dataset, 200)
    for _ in range(3):
        for index in range(4):
            image, label = reader(np.int64(index))
            assert (image[0, 0, 0], label[0, 0]) == (index, index)
    assert [dataset.reads.count(index) for index in range(4)] == [1, 1, 3, 3]


def test_reader_without_budget_holds_nothing(numbered):
    dataset = numbered(1)
    reader = CachedReader(dataset, 0)
    reader(0)
    reader(0)
    assert dataset.reads == [0, 0]


class TestValidation:
    def test_whole_list_in_order_with_a_short_last_batch(self, numbered):
        batches = list(
            validation_batches(numbered(5), Preprocessing(), height=4, width=6, batch_size=2)
        )
        assert [image.shape[0] for image, _ in batches] == [2, 2, 1]
        numbers = np.concatenate([label.numpy()[:, 0, 0] for _, label in batches])
        assert numbers.tolist() == [0, 1, 2, 3, 4]

    def test_images_of_any_size_are_placed_on_one_canvas(self, memory_dataset, photo, mask):
        """4x5 on 8x12 doubles to 8x10; the other two columns are padding."""
        dataset = memory_dataset([photo(4, 5), photo(8, 12)], [mask(4, 5), mask(8, 12)])
        [(images, labels)] = list(
            validation_batches(dataset, Preprocessing(), height=8, width=12, batch_size=2)
        )
        assert (images.shape, labels.shape) == ((2, 8, 12, 3), (2, 8, 12))
        assert set(labels[0, :, 10:].numpy().ravel()) == {255}
        assert set(images[0, :, 10:].numpy().ravel()) == {0.0}
        np.testing.assert_array_equal(labels[0, :, :10], mask(4, 5).repeat(2, 0).repeat(2, 1))
        np.testing.assert_array_equal(labels[1], mask(8, 12))
        np.testing.assert_array_equal(images[1] * 128 + 128, photo(8, 12))

    def test_fault_names_the_sample(self, memory_dataset, photo, mask):
        dataset = memory_dataset([photo(4, 5)], [mask(5, 4)])
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="sample 0: the mask is 4x5, its image 5x4"
        ):
            list(validation_batches(dataset, Preprocessing(), height=8, width=8, batch_size=1))


def test_each_device_gets_its_share_of_a_step(numbered):
    pipeline = _pipeline(numbered(9))
    whole = next(iter(pipeline.batches(3)))
    per_device = list(pipeline.batches(3, num_replicas=2).take(2))
    np.testing.assert_array_equal(np.concatenate([b[0] for b in per_device]), whole[0])
    np.testing.assert_array_equal(np.concatenate([b[1] for b in per_device]), whole[1])


def test_validation_uses_the_centre_of_a_large_image(memory_dataset, monkeypatch):
    monkeypatch.setattr(pipeline, "VALIDATION_WINDOW", (2, 4))
    image = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
    label = np.arange(30, dtype=np.uint8).reshape(5, 6)
    dataset = memory_dataset([image], [label])
    [(found, truth)] = validation_batches(dataset, Preprocessing(), height=2, width=4, batch_size=1)
    np.testing.assert_array_equal(truth[0], label[1:3, 1:5])
    np.testing.assert_allclose(found[0] * 128 + 128, image[1:3, 1:5])


def test_data_without_a_mirrored_form_is_not_flipped(memory_dataset):
    dataset = memory_dataset([np.zeros((4, 6, 3), np.uint8)], [np.zeros((4, 6), np.uint8)])
    dataset.antisymmetric_channels = None
    _pipeline(dataset, OFF)
    with pytest.raises(ValueError, match="not an image of the mirrored scene; switch flip off"):
        _pipeline(dataset, dataclasses.replace(OFF, flip=True))
