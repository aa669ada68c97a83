"""Small data sets, written to disk or held in memory."""

import dataclasses
import pathlib

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.labels import LabelSet


@dataclasses.dataclass
class MemoryDataset(SegmentationDataset):
    """Arrays as a data set; counts how often each sample is read."""

    images: list
    labels: list
    label_set: LabelSet = dataclasses.field(
        default_factory=lambda: LabelSet.from_names(("a", "b", "c"))
    )
    name: str = "memory"
    split: str = "all"
    channels: int = 3
    reads: list = dataclasses.field(default_factory=list)

    def __len__(self):
        return len(self.images)

    def sample_name(self, index):
        return f"sample {index}"

    def image(self, index):
        self.reads.append(index)
        return self.images[index]

    def label(self, index):
        return self.labels[index]


@pytest.fixture
def memory_dataset():
    return MemoryDataset


@pytest.fixture
def write_image():
    """Writes an array as an image file and makes its folders."""

    def write(path: pathlib.Path, array, **options) -> pathlib.Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(array)).save(path, **options)
        return path

    return write


@pytest.fixture
def photo():
    """Seeded random RGB, uint8 [height, width, 3]."""

    def make(height=6, width=8, seed=0):
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make


@pytest.fixture
def mask():
    """Seeded random class ids, uint8 [height, width]."""

    def make(height=6, width=8, num_classes=3, seed=0):
        return np.random.default_rng(seed).integers(0, num_classes, (height, width), dtype=np.uint8)

    return make
