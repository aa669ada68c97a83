"""The files of a training run's folder; each is complete or absent if the run is killed.

config.json                 the run's TrainingConfig
labels.json                 class names and colours
checkpoints/<phase>/        tf.train.CheckpointManager: weights, optimizer, step
float.npz, quantized.npz    weights at the end of each phase
best_<phase>.npz            weights with the best validation mIoU of a phase
history.jsonl               one line per validation
events/                     TensorBoard
lock                        locked while a training runs here
"""

import contextlib
import dataclasses
import enum
import json
import os
import pathlib
import shutil

from absl import logging

from deeplab_tf import atomic_file, bounded_file, folder_lock, scratch
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.runs.config import TrainingConfig, read_config


class Phase(enum.Enum):
    """The two parts of a run with delayed quantization."""

    FLOAT = "float"
    """Float training."""
    QUANTIZED = "quantized"
    """Quantization-aware training."""


@dataclasses.dataclass(frozen=True, init=False)
class RunFolder:
    """Paths of one run.

    Attributes:
        path: the folder.
    """

    path: pathlib.Path

    def __init__(self, path: str | os.PathLike[str]) -> None:
        object.__setattr__(self, "path", pathlib.Path(path))

    @property
    def config(self) -> pathlib.Path:
        """File of the configuration."""
        return self.path / "config.json"

    @property
    def labels(self) -> pathlib.Path:
        """File of the class names and colours."""
        return self.path / "labels.json"

    @property
    def events(self) -> pathlib.Path:
        """Folder of the TensorBoard events."""
        return self.path / "events"

    @property
    def history(self) -> pathlib.Path:
        """File of the validations."""
        return self.path / "history.jsonl"

    def checkpoints(self, phase: Phase) -> pathlib.Path:
        """Returns the folder of a phase's checkpoints."""
        return self.path / "checkpoints" / phase.value

    def weights(self, phase: Phase) -> pathlib.Path:
        """Returns the file of the weights at the end of a phase."""
        return self.path / f"{phase.value}.npz"

    def best_weights(self, phase: Phase) -> pathlib.Path:
        """Returns the file of a phase's weights with the best validation mIoU."""
        return self.path / f"best_{phase.value}.npz"

    @property
    def began(self) -> bool:
        """Whether anything was trained."""
        made = [self.history, *(self.weights(phase) for phase in Phase)]
        made += [self.checkpoints(phase) / "checkpoint" for phase in Phase]
        return any(path.exists() for path in made)

    def lock(self) -> contextlib.AbstractContextManager[int]:
        """Locks the folder, so that no other process trains in it; a killed one frees it.

        Raises:
            RuntimeError: another process trains in it.
        """
        return folder_lock.exclusive(
            self.path,
            "another training is running here; wait until it ends, or end it",
            name="lock",
        )

    def sweep(self) -> None:
        """Removes what a killed training left: files and checkpoints that are not complete."""
        scratch.sweep_files(self.path, scratch.ANY_PARTIAL)
        for phase in Phase:
            for path in self.checkpoints(phase).glob("*_temp"):
                logging.info("%s: removed, left by a killed training", path)
                shutil.rmtree(path, ignore_errors=True)

    def prepare(self, config: TrainingConfig, label_set: LabelSet) -> None:
        """Creates the folder, or checks that it belongs to the same run.

        A folder whose run failed before anything was trained takes new settings.

        Args:
            config: configuration of the run.
            label_set: its classes.

        Raises:
            FileExistsError: the folder holds a run with other settings.
        """
        expected = json.dumps(config.to_json(), indent=2, sort_keys=True) + "\n"
        if self.config.is_file():
            stored = json.loads(json.dumps(read_config(self.path).to_json()))
            changed = _differences(stored, json.loads(expected))
            if changed and self.began:
                raise FileExistsError(
                    f"{self.path} holds a run with other settings ({'; '.join(changed)}); "
                    "give another --run_dir, or the same settings to resume"
                )
            if not changed:
                return
        atomic_file.write_text(self.labels, labels_to_json(label_set))
        atomic_file.write_text(self.config, expected)

    def read_labels(self) -> LabelSet:
        """Returns the class names and colours of the run."""
        return labels_from_json(self.labels)

    def check_classes(self, dataset: SegmentationDataset) -> None:
        """Checks that a list can be scored with this run's network; other class names are logged.

        Args:
            dataset: the list.

        Raises:
            ValueError: it has another number of classes.
        """
        own, theirs = self.read_labels().names, dataset.label_set.names
        if len(own) != len(theirs):
            raise ValueError(
                f"{self.path} has {len(own)} classes, {dataset.name} has {len(theirs)}; give the "
                "data set that the run was trained on"
            )
        if own != theirs:
            logging.warning("%s names other classes than %s", self.path, dataset.name)


def _differences(stored: dict, expected: dict, *, prefix: str = "") -> list[str]:
    """Returns "key old -> new" for each setting that differs, also inside groups of settings."""
    lines = []
    for key, value in expected.items():
        old = stored.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            lines += _differences(old, value, prefix=f"{prefix}{key}.")
        elif old != value:
            lines.append(f"{prefix}{key} {old!r} -> {value!r}")
    return lines


def labels_to_json(label_set: LabelSet) -> str:
    """Returns the content of `labels.json`."""
    return json.dumps({"names": label_set.names, "colors": label_set.colors}, indent=1) + "\n"


def labels_from_json(path: pathlib.Path) -> LabelSet:
    """Reads a `labels.json`."""
    with bounded_file.read_as(path, "the class names and colours of a run"):
        values = bounded_file.read_json(path)
        return LabelSet(tuple(values["names"]), tuple(tuple(color) for color in values["colors"]))
