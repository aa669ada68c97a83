"""Turns an imported network into a training run: its `config.json` and `labels.json`."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.lidar.sensor import Sensor
from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.edit import cut_after
from deeplab_tf.graph.network import RESIZE, NetworkGraph
from deeplab_tf.models.config import ImportedConfig
from deeplab_tf.runs.config import DataConfig, TrainingConfig
from tflite_tools.input_contract import InputContract
from tflite_tools.to_keras.split_head import split_head


@dataclasses.dataclass(frozen=True)
class ImportedRun:
    """The settings of a training run that starts from an imported network.

    Attributes:
        config: settings of a run before its first step; its model's graph ends in logits.
        label_set: classes of the data set if their number fits, else of the file, else numbered.
        head: nodes of the file that follow the logits.
        assumed: whether the normalization is a guess.
    """

    config: TrainingConfig
    label_set: LabelSet
    head: tuple[str, ...]
    assumed: bool


def as_run(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    contract: InputContract,
    label_set: LabelSet | None,
    dataset: str = "",
    data_dir: str = "",
    sensor: Sensor | None = None,
    keep_outputs: bool = True,
) -> ImportedRun:
    """Returns an imported network as a run.

    Args:
        description: the network.
        arrays: its weights.
        contract: preprocessing of its input, with the class names of the file.
        label_set: classes of the data set, or None.
        dataset: default data set of export and evaluation.
        data_dir: folder of that data set.
        sensor: sensor of the range images that the network was trained on; None for photos.
        keep_outputs: whether its files also give the further outputs.

    Raises:
        ValueError: the network does not end in logits of an image.
    """
    shorter, _, alignment, head = split_head(description, arrays)
    if not keep_outputs:
        shorter, _ = cut_after(shorter, {}, name=shorter.output_name)
    kinds = {node.name: node.kind for node in description.nodes}
    if RESIZE not in [kinds[name] for name in head]:  # only the manifest specifies it then
        alignment = contract.alignment or alignment
    num_classes = build_model(shorter).output_shape[-1]
    height, width, channels = shorter.input_shape
    model = ImportedConfig(
        num_classes=num_classes,
        channels=channels,
        logits_alignment=alignment,
        description=shorter,
    )
    data = DataConfig(
        dataset,
        data_dir,
        preprocessing=contract.preprocessing,
        crop_height=height,
        crop_width=width,
        sensor=sensor,
    )
    labels = _labels(num_classes, contract.labels, label_set=label_set)
    return ImportedRun(
        TrainingConfig(model, data), labels, head=head, assumed=not contract.is_known
    )


def _labels(num_classes: int, names: Sequence[str], *, label_set: LabelSet | None) -> LabelSet:
    if label_set is not None and label_set.num_classes == num_classes:
        return label_set
    if len(names) == num_classes:
        return LabelSet.from_names(names)
    return LabelSet.from_names(f"class_{index}" for index in range(num_classes))
