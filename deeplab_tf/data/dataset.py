"""The common interface of all dataset readers: images and labels by index."""

import abc
import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from deeplab_tf import bounded_file
from deeplab_tf.data import images
from deeplab_tf.data.labels import IGNORE_LABEL, LabelSet
from deeplab_tf.data.lidar.sensor import Sensor


class UnknownIdError(ValueError):
    """A mask stores ids that the data set does not know.

    Attributes:
        ids: all ids that the mask stores.
    """

    def __init__(self, message: str, ids: frozenset[int]) -> None:
        super().__init__(message)
        self.ids = ids


class SegmentationDataset(abc.ABC):
    """One split of a data set.

    Samples are read by index in any order, so that a training run can resume at any step
    without replaying earlier steps.

    Attributes:
        name: name in the registry, for example "camvid".
        split: name of the split, for example "train".
        label_set: the classes.
        channels: number of channels of an image.
        photographs: False if pixels are measurements, whose values lose their meaning when colours
            are jittered or sizes scaled.
        antisymmetric_channels: indices of channels that change sign when the scene is mirrored,
            such as "metres to the left"; byte 128 stands for their mean, which should be about
            zero. None if a mirrored image is not an image of the mirrored scene.
        sensor: the LiDAR sensor that range images are made for; None for photographs.
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
        """Returns a name that identifies the sample: a path below the data folder, or a seed."""

    @abc.abstractmethod
    def image(self, index: int) -> np.ndarray:
        """Reads an image.

        Args:
            index: of the sample.

        Returns:
            uint8 [height, width, channels]; RGB for photographs.
        """

    @abc.abstractmethod
    def label(self, index: int) -> np.ndarray:
        """Reads a label map.

        Args:
            index: of the sample.

        Returns:
            uint8 [height, width], 0..num_classes-1 or 255 (ignored).
        """

    def notes(self, index: int) -> list[str]:
        """Returns warnings about a readable sample, one line per warning."""
        del index
        return []

    def group(self, index: int) -> str:
        """Returns the name of what the sample was taken with; "" if that is not known.

        Samples of one group depend on each other: frames of a drive, scans of a sequence, tiles
        of a photo. A sample that depends on no other is a group of its own.

        Args:
            index: of the sample.
        """
        del index
        return ""

    def with_channels(self, channels: int) -> "SegmentationDataset":
        """Returns the same samples with images of another number of channels.

        Args:
            channels: that a network takes.

        Raises:
            ValueError: the images cannot be read so.
        """
        if channels == self.channels:
            return self
        raise ValueError(
            f"the network takes images of {channels} channel(s), {self.name} has {self.channels}; "
            "give images of the network's own kind"
        )

    def groups(self, count: int) -> tuple[str, ...]:
        """Returns the groups of the first `count` samples; () if one is not known.

        Args:
            count: number of samples.
        """
        names = tuple(self.group(index) for index in range(count))
        return names if all(names) else ()

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads the image and the label of a sample.

        Args:
            index: of the sample.

        Returns:
            The image and the label, as `image` and `label` return them.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is invalid, or the sizes of image and mask differ.
        """
        image, label = self.image(index), self.label(index)
        if image.shape[:2] != label.shape:
            raise ValueError(
                f"{self.sample_name(index)}: the mask is {label.shape[1]}x{label.shape[0]}, its "
                f"image {image.shape[1]}x{image.shape[0]}; both must have the same size"
            )
        return image, label


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image and its mask.

    Attributes:
        image: path of the image, relative to the data folder.
        label: path of the mask, relative to the data folder.
        group: what the image was taken with (drive, sequence, photo that it was cut from); "" if
            that is not known.
    """

    image: str
    label: str
    group: str = ""


def read_lines(path: pathlib.Path) -> list[str]:
    """Reads the lines of a UTF-8 text file.

    Args:
        path: of the file.

    Returns:
        The lines without their ends.

    Raises:
        ValueError: the file is not UTF-8, or too large for a list.
    """
    return bounded_file.read_text(path).splitlines()


def read_stems(listing: pathlib.Path) -> list[str]:
    """Reads a list with one name per line; blank lines are allowed.

    Args:
        listing: path of the list.

    Returns:
        The names, in the order of the list.

    Raises:
        FileNotFoundError: the list does not exist; the message names the lists of that folder.
        ValueError: a line contains more than a name, or a name occurs twice.
    """
    if not listing.is_file():
        known = sorted(path.stem for path in listing.parent.glob("*.txt"))
        raise FileNotFoundError(
            f"{listing}: no such list; available: {', '.join(known) or 'none'}; check --split"
        )
    stems: dict[str, int] = {}
    for number, line in enumerate(read_lines(listing), 1):
        stem = line.strip()
        if not stem:
            continue
        if len(stem.split()) > 1:
            raise ValueError(f"{listing}:{number}: expected one name per line, got {line!r}")
        if stem in stems:
            raise ValueError(
                f"{listing}:{number}: {stem} is listed in line {stems[stem]} already; remove one"
            )
        stems[stem] = number
    return list(stems)


def pair_by_stem(
    image_paths: dict[str, str],
    mask_paths: dict[str, str],
    *,
    where: str,
    group_of: Callable[[str], str] = lambda name: "",
) -> tuple[Sample, ...]:
    """Joins images and masks of the same name, sorted by name.

    Args:
        image_paths: {name: path of the image relative to the data folder}.
        mask_paths: {name: path of the mask relative to the data folder}.
        where: the folder, for messages.
        group_of: the group of an image, from its name; by default it is not known.

    Returns:
        The pairs.

    Raises:
        ValueError: an image without a mask, or a mask without an image.
    """
    for present, other, rule in (
        (image_paths, mask_paths, "image without a mask"),
        (mask_paths, image_paths, "mask without an image"),
    ):
        unpaired = sorted(present.keys() - other.keys())
        if unpaired:
            more = f" and {len(unpaired) - 1} more" if len(unpaired) > 1 else ""
            raise ValueError(
                f"{where}: {rule}: {present[unpaired[0]]}{more}; add the missing file or remove "
                "this one"
            )
    return tuple(
        Sample(image_paths[stem], mask_paths[stem], group=group_of(stem))
        for stem in sorted(image_paths)
    )


def identity_ids(num_classes: int) -> np.ndarray:
    """Builds the table for masks that already store class ids: 0..num_classes-1 and 255.

    Args:
        num_classes: number of classes.

    Returns:
        int16 [256], -1 for ids that must not occur.
    """
    table = np.full(256, -1, np.int16)
    table[:num_classes] = np.arange(num_classes)
    table[IGNORE_LABEL] = IGNORE_LABEL
    return table


@dataclasses.dataclass(frozen=True)
class FileDataset(SegmentationDataset):
    """A data set of image files and mask files.

    Attributes:
        name: name in the registry.
        split: name of the split.
        label_set: the classes.
        data_dir: the folder that the samples' paths are relative to.
        samples: image and mask of each sample.
        id_table: int16 [number of raw ids]; class of each stored id, 255 for ignored ids, -1
            for ids that must not occur.
        channels: how images are read: 1 gray, 3 RGB, 4 RGB with a stored fourth channel.
    """

    name: str
    split: str
    label_set: LabelSet
    data_dir: pathlib.Path
    samples: tuple[Sample, ...]
    id_table: np.ndarray
    channels: int = dataclasses.field(default=3, kw_only=True)

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError(
                f"{self.name}, split {self.split!r}: no samples in {self.data_dir}; "
                "check --split and --data_dir"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def sample_name(self, index: int) -> str:
        """Returns the path of the image, relative to the data folder."""
        return self.samples[index].image

    def group(self, index: int) -> str:
        """Returns the group that the sample names."""
        return self.samples[index].group

    def image(self, index: int) -> np.ndarray:
        """Reads an image, uint8 [height, width, channels]."""
        return images.read_image(self.data_dir / self.samples[index].image, self.channels)

    def with_channels(self, channels: int) -> SegmentationDataset:
        """Returns the same samples, read as gray, as RGB, or with a fourth channel."""
        if channels == self.channels:
            return self
        if channels not in images.IMAGE_CHANNELS:
            return super().with_channels(channels)
        other = dataclasses.replace(self, channels=channels)
        other.image(0)  # has no fourth channel? before any work is done
        return other

    def notes(self, index: int) -> list[str]:
        """Returns a warning if the image has an EXIF orientation."""
        note = images.orientation_note(self.data_dir / self.samples[index].image)
        return [note] if note else []

    def label(self, index: int) -> np.ndarray:
        """Reads a mask and maps its stored ids to classes, uint8 [height, width]."""
        path = self.data_dir / self.samples[index].label
        raw = images.read_mask(path)
        if raw.max(initial=0) >= len(self.id_table) or raw.min(initial=0) < 0:
            outside = raw[(raw < 0) | (raw >= len(self.id_table))]
            raise self._unknown_id(path, outside[0], raw=raw)
        label = self.id_table[raw]
        if label.min(initial=0) < 0:
            raise self._unknown_id(path, raw[label < 0].max(), raw=raw)
        return label.astype(np.uint8)

    def _unknown_id(self, path: pathlib.Path, raw_id: int, *, raw: np.ndarray) -> UnknownIdError:
        return UnknownIdError(
            f"{path}: class id {raw_id} is unknown to {self.name} "
            f"({self.label_set.num_classes} classes); correct the mask or the class list",
            frozenset(np.unique(raw).tolist()),
        )


@dataclasses.dataclass(frozen=True)
class Subset(SegmentationDataset):
    """Some samples of another data set.

    Attributes:
        source: the other data set.
        indices: of the samples in `source`.
        split: name of the subset.
    """

    source: SegmentationDataset
    indices: tuple[int, ...]
    split: str

    def __post_init__(self) -> None:
        if not self.indices:
            raise ValueError(
                f"{self.source.name}: split {self.split!r} would be empty "
                f"(of {len(self.source)} samples); choose another number of samples"
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        """Name of the source in the registry."""
        return self.source.name

    @property
    def label_set(self) -> LabelSet:  # type: ignore[override]
        """Classes of the source."""
        return self.source.label_set

    @property
    def channels(self) -> int:  # type: ignore[override]
        """Number of channels of an image."""
        return self.source.channels

    @property
    def photographs(self) -> bool:  # type: ignore[override]
        """Whether the source holds photographs rather than measurements."""
        return self.source.photographs

    @property
    def antisymmetric_channels(self) -> tuple[int, ...] | None:  # type: ignore[override]
        """Channels that change sign when the scene is mirrored."""
        return self.source.antisymmetric_channels

    @property
    def sensor(self) -> Sensor | None:  # type: ignore[override]
        """LiDAR sensor of the source, if any."""
        return self.source.sensor

    def __len__(self) -> int:
        return len(self.indices)

    def sample_name(self, index: int) -> str:
        """Returns the source's name of the sample."""
        return self.source.sample_name(self.indices[index])

    def image(self, index: int) -> np.ndarray:
        """Reads an image, uint8 [height, width, channels]."""
        return self.source.image(self.indices[index])

    def label(self, index: int) -> np.ndarray:
        """Reads a label map, uint8 [height, width]."""
        return self.source.label(self.indices[index])

    def notes(self, index: int) -> list[str]:
        """Returns the source's warnings about the sample."""
        return self.source.notes(self.indices[index])

    def with_channels(self, channels: int) -> SegmentationDataset:
        """Returns the same samples with images of another number of channels."""
        return dataclasses.replace(self, source=self.source.with_channels(channels))

    def group(self, index: int) -> str:
        """Returns the source's group of the sample."""
        return self.source.group(self.indices[index])


def hold_out(
    source: SegmentationDataset, count: int, *, seed: int
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Splits off `count` random samples for tuning and checkpoint selection.

    The split that results are reported on must not influence any choice; a held-out part of
    the training split may.

    Args:
        source: the training split.
        count: number of samples to hold out.
        seed: of the random choice.

    Returns:
        (rest, held out), each in the order of the source.

    Raises:
        ValueError: one of the two parts would be empty.
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


def hold_out_groups(
    source: SegmentationDataset, groups: Sequence[str]
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Splits off all samples of some groups, which depend on none of the others.

    Args:
        source: the training split.
        groups: names as `SegmentationDataset.group` gives them.

    Returns:
        (rest, held out), each in the order of the source.

    Raises:
        ValueError: the data set has no such group, or one of the two parts would be empty.
    """
    names = [source.group(index) for index in range(len(source))]
    if unknown := [group for group in groups if group not in names]:
        known = list(dict.fromkeys(filter(None, names)))
        shown = ", ".join(known[:20]) + (" ..." if len(known) > 20 else "")
        raise ValueError(
            f"{source.name}, split {source.split!r}: no group {', '.join(unknown)}; "
            f"{f'it has {shown}' if known else 'its samples name no group'}"
        )
    rest = tuple(index for index, name in enumerate(names) if name not in groups)
    held = tuple(index for index, name in enumerate(names) if name in groups)
    return (
        Subset(source, rest, split=f"{source.split}-minus-{'+'.join(groups)}"),
        Subset(source, held, split="holdout"),
    )


def only_class(source: SegmentationDataset) -> str | None:
    """Returns what all labelled pixels of a split are, None if there are two classes or more.

    Labels are read in random order until a second class is found, so that this is fast on any split
    that is worth training on.

    Args:
        source: the split.

    Returns:
        name of the only class, "" if no pixel is labelled, or None.
    """
    seen: set[int] = set()
    for index in np.random.default_rng(0).permutation(len(source)).tolist():
        seen |= set(np.unique(source.label(index)).tolist()) - {IGNORE_LABEL}
        if len(seen) > 1:
            return None
    return source.label_set.names[seen.pop()] if seen else ""


def one_class_fault(source: SegmentationDataset) -> str:
    """Returns why nothing can be learned or measured on a split; "" if it has two classes or more.

    Args:
        source: the split.
    """
    name = only_class(source)
    if name is None:
        return ""
    which = f"is {name!r}" if name else "is missing: all pixels are ignored (255)"
    return (
        f"{source.name}, split {source.split!r}: every labelled pixel {which}; "
        f"python -m deeplab_tf.data.check --dataset={source.name} shows what the masks hold"
    )


def class_frequencies(source: SegmentationDataset) -> tuple[np.ndarray, np.ndarray]:
    """Counts the pixels of each class over all labels of a split.

    Args:
        source: the split.

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
