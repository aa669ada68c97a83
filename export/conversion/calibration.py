"""Calibration images: chosen to cover the classes, placed by the one contract."""

import dataclasses

import numpy as np

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.preprocessing import place
from deeplab_tf.quantization.calibration.checks import warn_about_repeats

MAX_CANDIDATES = 1000
"""Labels looked at when images are chosen; of a larger list, this many by seed."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Which images gave the activation ranges; goes into the manifest.

    Attributes:
        dataset, split, seed: where they come from.
        samples: names of the chosen samples.
        classes_covered: how many classes occur on them.
    """

    dataset: str
    split: str
    seed: int
    samples: tuple[str, ...]
    classes_covered: int

    def to_json(self) -> dict:
        return {**dataclasses.asdict(self), "images": len(self.samples)}


def choose_samples(dataset: SegmentationDataset, count: int, *, seed: int) -> list[int]:
    """Chooses samples so that every class is seen about equally often.

    Takes, again and again, the class that the chosen images show least often, and adds the
    first image, in an order given by the seed, that shows it.

    Raises:
        ValueError: fewer than 1 or more images asked for than the split has.
    """
    if not 1 <= count <= len(dataset):
        raise ValueError(
            f"calibration needs 1 to {len(dataset)} images of split {dataset.split!r}; got "
            f"{count}; change --calibration_images"
        )
    order = np.random.default_rng(seed).permutation(len(dataset))[: max(count, MAX_CANDIDATES)]
    present = np.zeros((len(order), dataset.label_set.num_classes), bool)
    for row, index in enumerate(order):
        values = np.unique(dataset.label(int(index)))
        present[row, values[values < present.shape[1]]] = True
    free = np.ones(len(order), bool)
    shown = np.zeros(present.shape[1], np.int64)
    chosen = []
    for _ in range(count):
        available = present[free].any(0)
        if available.any():
            wanted = np.where(available, shown, np.iinfo(np.int64).max).argmin()
            row = int(np.flatnonzero(free & present[:, wanted])[0])
        else:  # only images without any labelled pixel are left
            row = int(np.flatnonzero(free)[0])
        free[row] = False
        shown += present[row]
        chosen.append(int(order[row]))
    return chosen


def disjoint_samples(
    dataset: SegmentationDataset, counts: tuple[int, ...], *, seed: int
) -> list[list[int]]:
    """Class-covering sets of samples without a sample in common.

    Args:
        dataset: the list.
        counts: size of each set.
        seed: of the choice and of the dealing.

    Raises:
        ValueError: the list is too short.
    """
    if sum(counts) > len(dataset):
        raise ValueError(
            f"{' + '.join(map(str, counts))} different images are needed, split {dataset.split!r} "
            f"has {len(dataset)}; give smaller --calibration_images and --score_images"
        )
    chosen = np.array(choose_samples(dataset, sum(counts), seed=seed))
    dealt = np.random.default_rng(seed).permutation(chosen)
    return [part.tolist() for part in np.split(dealt, np.cumsum(counts)[:-1])]


def calibrate(
    dataset: SegmentationDataset,
    size: tuple[int, int],
    *,
    count: int,
    seed: int,
) -> tuple[np.ndarray, Calibration]:
    """Reads the chosen images at the network's size.

    One pixel of the first image is set to 0 and one to 255: only a range that runs exactly
    from the darkest to the brightest pixel makes the camera's bytes the quantized input.

    Returns:
        uint8 [count, height, width, channels] and the record of what was chosen.
    """
    height, width = size
    chosen = choose_samples(dataset, count, seed=seed)
    images = np.stack([place(dataset.image(index), (height, width))[0] for index in chosen])
    warn_about_repeats(images)
    images[0, 0, 0], images[0, 0, 1] = 0, 255
    seen = np.zeros(256, bool)
    for index in chosen:
        seen[np.unique(dataset.label(index))] = True
    covered = int(seen[: dataset.label_set.num_classes].sum())
    names = tuple(dataset.sample_name(index) for index in chosen)
    return images, Calibration(
        dataset.name, dataset.split, seed=seed, samples=names, classes_covered=covered
    )
