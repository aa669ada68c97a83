"""What every reader gives: images and labels by index, in one form."""

import abc
import dataclasses
import pathlib

import numpy as np

from deeplab_tf.data import images
from deeplab_tf.data.labels import IGNORE_LABEL, LabelSet
from deeplab_tf.data.lidar.sensor import Sensor


class SegmentationDataset(abc.ABC):
    """One split of a data set. Reading is random access, so that a training run can go on
    at any step without replaying the steps before it.

    Attributes:
        name: registry name, for example "camvid".
        split: for example "train".
        label_set: the classes.
        channels: number of channels of an image.
        photographs: False where pixels are measurements, whose values mean nothing any more
            when colours are jittered or sizes scaled.
        antisymmetric_channels: those that change sign in a mirror, such as "metres to the left"; 128
            stands for their mean, which should be about zero. None where a mirrored image is not
            one of a mirrored scene.
        sensor: what range images were made by; None for photos.
    """

    name: str
    split: str
    label_set: LabelSet
    channels: int = 3
    photographs: bool = True
    antisymmetric_channels: tuple[int, ...] | None = ()
    sensor: Sensor | None = None

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def sample_name(self, index: int) -> str:
        """A name that finds the sample again: a path below the data folder, or a seed."""

    @abc.abstractmethod
    def image(self, index: int) -> np.ndarray:
        """uint8 [height, width, channels]; RGB for photos."""

    @abc.abstractmethod
    def label(self, index: int) -> np.ndarray:
        """uint8 [height, width], 0..num_classes-1 or 255 (ignored)."""

    def notes(self, index: int) -> list[str]:
        """What is wrong with a sample although it reads, one line each."""
        del index
        return []

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and label of a sample.

        Raises:
            FileNotFoundError, ValueError: naming the file at fault.
        """
        image, label = self.image(index), self.label(index)
        if image.shape[:2] != label.shape:
            raise ValueError(
                f"{self.sample_name(index)}: the mask is {label.shape[1]}x{label.shape[0]}, its "
                f"photo {image.shape[1]}x{image.shape[0]}; both must have one size"
            )
        return image, label


@dataclasses.dataclass(frozen=True)
class Sample:
    """One photo with its mask, as paths below the data folder."""

    image: str
    label: str


def read_lines(path: pathlib.Path) -> list[str]:
    """Lines of a UTF-8 text file; ValueError naming the file if it is not one."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error


def read_stems(listing: pathlib.Path) -> list[str]:
    """Names of a list with one name a line; blank lines are allowed.

    Raises:
        FileNotFoundError: the list does not exist; the message names its neighbours.
        ValueError: a line holds more than a name, or one name stands twice.
    """
    if not listing.is_file():
        known = sorted(path.stem for path in listing.parent.glob("*.txt"))
        raise FileNotFoundError(
            f"{listing}: no such list; lists there: {', '.join(known) or 'none'}; check --split"
        )
    stems: dict[str, int] = {}
    for number, line in enumerate(read_lines(listing), 1):
        stem = line.strip()
        if not stem:
            continue
        if len(stem.split()) > 1:
            raise ValueError(f"{listing}:{number}: expected one name a line, got {line!r}")
        if stem in stems:
            raise ValueError(
                f"{listing}:{number}: {stem} stands in line {stems[stem]} too; remove one"
            )
        stems[stem] = number
    return list(stems)


def pair_by_stem(
    photos: dict[str, str], masks: dict[str, str], *, where: str
) -> tuple[Sample, ...]:
    """Joins photos and masks of one name, in the order of the sorted names.

    Args:
        photos, masks: path below the data folder of each name.
        where: the folder, for messages.

    Raises:
        ValueError: a photo has no mask, or a mask no photo.
    """
    for have, lack, rule in (
        (photos, masks, "photo without a mask"),
        (masks, photos, "mask without a photo"),
    ):
        lonely = sorted(have.keys() - lack.keys())
        if lonely:
            more = f" and {len(lonely) - 1} more" if len(lonely) > 1 else ""
            raise ValueError(
                f"{where}: {rule}: {have[lonely[0]]}{more}; add its other half or remove it"
            )
    return tuple(Sample(photos[stem], masks[stem]) for stem in sorted(photos))


def identity_ids(num_classes: int) -> np.ndarray:
    """Table for masks that already store class ids: 0..num_classes-1 and 255."""
    table = np.full(256, -1, np.int16)
    table[:num_classes] = np.arange(num_classes)
    table[IGNORE_LABEL] = IGNORE_LABEL
    return table


@dataclasses.dataclass(frozen=True)
class FileDataset(SegmentationDataset):
    """Photos and masks in files.

    Attributes:
        data_dir: the folder that samples' paths start from.
        samples: photo and mask of each sample.
        id_table: int16 [number of raw ids]; class of each stored id, 255 for ignored ids, -1
            for ids that must not occur.
    """

    name: str
    split: str
    label_set: LabelSet
    data_dir: pathlib.Path
    samples: tuple[Sample, ...]
    id_table: np.ndarray

    def __post_init__(self):
        if not self.samples:
            raise ValueError(
                f"{self.name}, split {self.split!r}: no samples below {self.data_dir}; "
                "check --split and --data_dir"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def sample_name(self, index: int) -> str:
        return self.samples[index].image

    def image(self, index: int) -> np.ndarray:
        return images.read_image(self.data_dir / self.samples[index].image)

    def notes(self, index: int) -> list[str]:
        note = images.orientation_note(self.data_dir / self.samples[index].image)
        return [note] if note else []

    def label(self, index: int) -> np.ndarray:
        path = self.data_dir / self.samples[index].label
        raw = images.read_mask(path)
        if raw.max(initial=0) >= len(self.id_table) or raw.min(initial=0) < 0:
            outside = raw[(raw < 0) | (raw >= len(self.id_table))]
            raise ValueError(self._unknown_id(path, outside[0]))
        label = self.id_table[raw]
        if label.min(initial=0) < 0:
            raise ValueError(self._unknown_id(path, raw[label < 0].max()))
        return label.astype(np.uint8)

    def _unknown_id(self, path, raw_id) -> str:
        return (
            f"{path}: class id {raw_id} is unknown to {self.name} "
            f"({self.label_set.num_classes} classes); repair the mask or the class list"
        )


@dataclasses.dataclass(frozen=True)
class Subset(SegmentationDataset):
    """Some samples of another data set, by index."""

    source: SegmentationDataset
    indices: tuple[int, ...]
    split: str

    def __post_init__(self):
        if not self.indices:
            raise ValueError(
                f"{self.source.name}: split {self.split!r} would be empty "
                f"(of {len(self.source)} samples); choose a smaller or larger part"
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.source.name

    @property
    def label_set(self) -> LabelSet:  # type: ignore[override]
        return self.source.label_set

    @property
    def channels(self) -> int:  # type: ignore[override]
        return self.source.channels

    @property
    def photographs(self) -> bool:  # type: ignore[override]
        return self.source.photographs

    @property
    def antisymmetric_channels(self) -> tuple[int, ...] | None:  # type: ignore[override]
        return self.source.antisymmetric_channels

    @property
    def sensor(self) -> Sensor | None:  # type: ignore[override]
        return self.source.sensor

    def __len__(self) -> int:
        return len(self.indices)

    def sample_name(self, index: int) -> str:
        return self.source.sample_name(self.indices[index])

    def image(self, index: int) -> np.ndarray:
        return self.source.image(self.indices[index])

    def label(self, index: int) -> np.ndarray:
        return self.source.label(self.indices[index])

    def notes(self, index: int) -> list[str]:
        return self.source.notes(self.indices[index])


def hold_out(
    source: SegmentationDataset, count: int, *, seed: int
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Splits off `count` samples, chosen by `seed`, for tuning and checkpoint selection.

    The reported list must not steer anything; a held-out part of the training list may.

    Returns:
        (rest, held out), each in the order of the source.
    """
    if not 0 < count < len(source):
        raise ValueError(
            f"cannot hold out {count} of {len(source)} samples; give 1 to {len(source) - 1}"
        )
    chosen = set(np.random.default_rng(seed).permutation(len(source))[:count].tolist())
    rest = tuple(index for index in range(len(source)) if index not in chosen)
    return (
        Subset(source, rest, split=f"{source.split}-minus-holdout"),
        Subset(source, tuple(sorted(chosen)), split="holdout"),
    )


def class_frequencies(source: SegmentationDataset) -> tuple[np.ndarray, np.ndarray]:
    """Counts pixels over all labels of a split.

    Returns:
        pixels: int64 [num_classes], labelled pixels of each class.
        present: int64 [num_classes], labelled pixels of all images in which the class occurs
            (the denominator of median frequency balancing, Eigen & Fergus 2015).
    """
    pixels = np.zeros(source.label_set.num_classes, np.int64)
    present = np.zeros(source.label_set.num_classes, np.int64)
    for index in range(len(source)):
        counts = np.bincount(source.label(index).ravel(), minlength=256)[: len(pixels)]
        pixels += counts
        present += np.where(counts > 0, counts.sum(), 0)
    return pixels, present
