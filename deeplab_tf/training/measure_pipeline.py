"""Measures the cost of reading and augmenting: real steps compared with steps on a cached batch.

    python -m deeplab_tf.training.measure_pipeline --dataset=camvid --data_dir=DIR \
        --crop_size=288,384

The two kinds of step take turns in blocks, so that other load on the machine affects both.
"""

import itertools
import sys
import time

import numpy as np
import tensorflow as tf
from absl import flags

from deeplab_tf import command
from deeplab_tf.data.augmentation import Augmentation
from deeplab_tf.data.pipeline import TrainingPipeline
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import DATASETS, open_dataset
from deeplab_tf.models.config import DeepLabConfig
from deeplab_tf.models.registry import build_network
from deeplab_tf.runs.config import TrainingConfig
from deeplab_tf.training.schedules import Decay
from deeplab_tf.training.stepper import Stepper

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Data set.", required=True)
    flags.DEFINE_string("data_dir", "", "Folder of the data set.")
    flags.DEFINE_string("split", "train", "Training list.")
    flags.DEFINE_list("crop_size", ["288", "384"], "Height,width of a training example.")
    flags.DEFINE_integer("batch_size", 8, "Examples per step.")
    flags.DEFINE_integer("blocks", 8, "Blocks of each kind.")
    flags.DEFINE_integer("block_steps", 8, "Steps per block; longer than the prefetch queue.")


def step_ratio(config: TrainingConfig, blocks: int, *, block_steps: int) -> tuple[float, float]:
    """Times both kinds of step.

    Args:
        config: configuration of the run.
        blocks: number of blocks of each kind.
        block_steps: steps per block.

    Returns:
        medians over the blocks of seconds per step, on real data and on a cached batch.
    """
    dataset = open_dataset(config.data.dataset, config.data.data_dir, split=config.data.split)
    crop = config.data.crop_size
    pipeline = TrainingPipeline(
        dataset,
        config.data.preprocessing,
        augmentation=config.data.augmentation,
        crop_height=crop[0],
        crop_width=crop[1],
        batch_size=config.data.batch_size,
        seed=config.execution.seed,
    )
    stepper = Stepper(
        build_network(config.model, crop),
        config,
        class_weights=np.ones(config.model.num_classes, np.float32),
        strategy=tf.distribute.get_strategy(),
        schedule=Decay(1e-4, 1_000_000),
        first_step=0,
    )
    real = iter(pipeline.batches(0))
    cached = iter(tf.data.Dataset.from_tensors(next(real)).cache().repeat())
    seconds: dict[str, list[float]] = {"real": [], "cached": []}
    for iterator in (real, cached):  # traced, and the first images decoded
        for _ in range(block_steps):
            stepper.take(iterator).numpy()
    for _, (kind, iterator) in itertools.product(
        range(blocks), (("real", real), ("cached", cached))
    ):
        started = time.perf_counter()
        for _ in range(block_steps):
            stepper.take(iterator).numpy()
        seconds[kind].append((time.perf_counter() - started) / block_steps)
    return float(np.median(seconds["real"])), float(np.median(seconds["cached"]))


def main() -> None:
    """Measures and prints what the flags say."""
    dataset = open_dataset(FLAGS.dataset, FLAGS.data_dir, split=FLAGS.split)
    height, width = (int(value) for value in FLAGS.crop_size)
    config = TrainingConfig.from_settings(
        model=DeepLabConfig(num_classes=dataset.label_set.num_classes, channels=dataset.channels),
        dataset=FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        split=FLAGS.split,
        preprocessing=Preprocessing.of(dataset.channels),
        augmentation=Augmentation(),
        crop_height=height,
        crop_width=width,
        batch_size=FLAGS.batch_size,
    )
    real, cached = step_ratio(config, FLAGS.blocks, block_steps=FLAGS.block_steps)
    sys.stdout.write(
        f"real {real:.3f} s, cached {cached:.3f} s per step, ratio {real / cached:.3f} "
        f"({FLAGS.blocks} blocks of {FLAGS.block_steps} steps each, medians)\n"
    )


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()
