"""The configuration of a new run: what the data set says, and the caller's settings."""

import collections.abc
import dataclasses
from typing import Any

from deeplab_tf.data.augmentation import Augmentation
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import open_dataset
from deeplab_tf.models.config import DeepLabConfig, ModelConfig, configure
from deeplab_tf.runs.config import TrainingConfig


def new_run_config(
    dataset: str,
    data_dir: str = "",
    *,
    network: str = DeepLabConfig.network,
    model: collections.abc.Mapping[str, Any] | None = None,
    augmentation: collections.abc.Mapping[str, Any] | None = None,
    split: str = "train",
    **settings: Any,
) -> TrainingConfig:
    """Returns the configuration of a run on a data set, whose classes and channels are its own.

    Args:
        dataset: registry name of the data set.
        data_dir: its folder; not used for drawn scenes.
        network: name of the network.
        model: settings of the network by name, such as `width_multiplier`.
        augmentation: fields of `Augmentation` that are not to have their default.
        split: training list.
        **settings: settings of `TrainingConfig` by their flat names, such as `train_steps`.

    Returns:
        the configuration.

    Raises:
        FileNotFoundError: the data set is missing.
        ValueError: an unknown name, or values that do not fit together.
    """
    opened = open_dataset(dataset, data_dir, split=split)
    return TrainingConfig.from_settings(
        model=_model(network, dict(model or {}), opened),
        dataset=dataset,
        data_dir=data_dir,
        split=split,
        preprocessing=Preprocessing.of(opened.channels),
        augmentation=augmentation_for(opened, augmentation or {}),
        sensor=opened.sensor,
        **settings,
    )


def _model(network: str, settings: dict[str, Any], dataset: SegmentationDataset) -> ModelConfig:
    settings["num_classes"] = dataset.label_set.num_classes
    settings["channels"] = dataset.channels
    model = configure(network, settings)
    known = {field.name for field in dataclasses.fields(model)}
    if unknown := sorted(set(settings) - known):  # a flag may be of another network, a name not
        raise ValueError(
            f"network {network!r} has no setting {', '.join(unknown)}; it has "
            f"{', '.join(sorted(known))}"
        )
    return model


def augmentation_for(
    dataset: SegmentationDataset, given: collections.abc.Mapping[str, Any]
) -> Augmentation:
    """Returns the augmentation; by default, measurements keep their values and their size.

    Args:
        dataset: that is trained on.
        given: fields of `Augmentation` that the caller chose.

    Raises:
        ValueError: a chosen one would falsify the measurements of the data set.
    """
    chosen = Augmentation(**given)
    if dataset.photographs:
        return chosen
    if given.get("color_jitter"):
        raise ValueError(
            f"--color_jitter={chosen.color_jitter} would falsify the measurements of "
            f"{dataset.name}; leave it out"
        )
    flip = chosen.flip
    if flip and dataset.antisymmetric_channels is None:
        if "flip" in given:
            raise ValueError(
                f"--flip would falsify {dataset.name}: this sensor looks along neither axis, so "
                "it could not record the mirrored image; leave it out"
            )
        flip = False
    scales = {name: given.get(name, 1.0) for name in ("min_scale", "max_scale")}
    return dataclasses.replace(chosen, color_jitter=0.0, flip=flip, **scales)
