"""An imported network as a training run: what `config.json` and `labels.json` say."""

import dataclasses

import numpy as np

from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.lidar.sensor import Sensor
from deeplab_tf.graph.build import build_imported
from deeplab_tf.graph.network import RESIZE, NetworkDescription
from deeplab_tf.models.config import IMPORTED, ModelConfig
from deeplab_tf.training.config import TrainingConfig
from tflite_tools.input_contract import InputContract
from tflite_tools.to_keras.split_head import split_head


@dataclasses.dataclass(frozen=True)
class ImportedRun:
    """What makes a folder a run.

    Attributes:
        config: of a run that has taken no step; its model's graph ends in logits.
        label_set: of the file, else of the data set, else numbered.
        head: nodes of the file that stand behind the logits.
        assumed: whether the normalization is a guess.
    """

    config: TrainingConfig
    label_set: LabelSet
    head: tuple[str, ...]
    assumed: bool


def as_run(
    description: NetworkDescription,
    arrays: dict[str, np.ndarray],
    *,
    contract: InputContract,
    label_set: LabelSet | None,
    dataset: str = "",
    data_dir: str = "",
    sensor: Sensor | None = None,
) -> ImportedRun:
    """A run of an imported network.

    Args:
        description, arrays: the network.
        contract: of its input, with the class names that the file brings.
        label_set: of the data set, or None.
        dataset, data_dir: what export and evaluation take unless told otherwise.
        sensor: that made the range images which it was trained on; None for photos.

    Raises:
        ValueError: it does not end in logits of an image.
    """
    shorter, _, alignment, head = split_head(description, arrays)
    kinds = {node.name: node.kind for node in description.nodes}
    if RESIZE not in [kinds[name] for name in head]:  # only the manifest can tell
        alignment = contract.alignment or alignment
    num_classes = build_imported(shorter).output_shape[-1]
    height, width, channels = shorter.input_shape
    model = ModelConfig(
        num_classes=num_classes,
        channels=channels,
        network=IMPORTED,
        logits_alignment=alignment,
        description=shorter,
    )
    config = TrainingConfig(
        model=model,
        dataset=dataset,
        data_dir=data_dir,
        preprocessing=contract.preprocessing,
        crop_height=height,
        crop_width=width,
        sensor=sensor,
    )
    labels = _labels(num_classes, contract.labels, label_set=label_set)
    return ImportedRun(config, labels, head=head, assumed=not contract.is_known)


def _labels(num_classes: int, names, *, label_set: LabelSet | None) -> LabelSet:
    if label_set is not None and label_set.num_classes == num_classes:
        return label_set
    if len(names) == num_classes:
        return LabelSet.from_names(names)
    return LabelSet.from_names(f"class_{index}" for index in range(num_classes))
