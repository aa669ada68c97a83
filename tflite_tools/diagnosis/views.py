"""Other ways of feeding the same photos; the one that scores best is that of the training."""

import dataclasses
from collections.abc import Callable

import numpy as np

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.contract import ModelContract
from tflite_tools.diagnosis.case import Case
from tflite_tools.input_contract import quantized_preprocessing
from tflite_tools.likely_normalizations import likely_normalizations

DECLARED = "declared"
REVERSED = "reversed channels"
TRANSPOSED = "transposed"
UPSIDE_DOWN = "turned by 180 degrees"
_SAME_RANGE = 0.05
"""Fraction of the wider range; 127.5 for 128 is not another normalization."""


@dataclasses.dataclass(frozen=True)
class View:
    """One way of feeding.

    Attributes:
        name: for messages.
        contract: the file, with the normalization of this view.
        dataset: the photos as fed in this view.
    """

    name: str
    contract: ModelContract
    dataset: SegmentationDataset


@dataclasses.dataclass(frozen=True)
class TransformedDataset(SegmentationDataset):
    """Another data set with every image and label transformed."""

    source: SegmentationDataset
    transform_image: Callable[[np.ndarray], np.ndarray]
    transform_label: Callable[[np.ndarray], np.ndarray]

    @property
    def name(self) -> str:  # type: ignore[override]
        """Name of the source."""
        return self.source.name

    @property
    def split(self) -> str:  # type: ignore[override]
        """Split of the source."""
        return self.source.split

    @property
    def label_set(self) -> LabelSet:  # type: ignore[override]
        """Classes of the source."""
        return self.source.label_set

    @property
    def channels(self) -> int:  # type: ignore[override]
        """Channels of the source."""
        return self.source.channels

    def __len__(self) -> int:
        return len(self.source)

    def group(self, index: int) -> str:
        """Returns the source's group of a sample.

        Args:
            index: of the sample.
        """
        return self.source.group(index)

    def sample_name(self, index: int) -> str:
        """Returns the source's name of a sample.

        Args:
            index: of the sample.
        """
        return self.source.sample_name(index)

    def image(self, index: int) -> np.ndarray:
        """Returns the transformed image, uint8 [height, width, channels].

        Args:
            index: of the sample.
        """
        return np.ascontiguousarray(self.transform_image(self.source.image(index)))

    def label(self, index: int) -> np.ndarray:
        """Returns the transformed label, uint8 [height, width].

        Args:
            index: of the sample.
        """
        return np.ascontiguousarray(self.transform_label(self.source.label(index)))


def _same(value: np.ndarray) -> np.ndarray:
    return value


def _reverse_channels(image: np.ndarray) -> np.ndarray:
    return image[..., ::-1]


def _transpose(value: np.ndarray) -> np.ndarray:
    return value.swapaxes(0, 1)


def _rotate_half_turn(image: np.ndarray) -> np.ndarray:
    return image[::-1, ::-1]


def all_views(case: Case, photos: SegmentationDataset) -> list[View]:
    """Returns the declared way of feeding first, then others.

    Args:
        case: the file.
        photos: to feed.
    """
    contract = case.contract
    views = [
        View(DECLARED, contract, dataset=photos),
        View(
            TRANSPOSED,
            contract,
            dataset=TransformedDataset(photos, _transpose, transform_label=_transpose),
        ),
        View(
            UPSIDE_DOWN,
            contract,
            dataset=TransformedDataset(photos, _rotate_half_turn, transform_label=_same),
        ),
    ]
    if contract.channels == 3:
        views.append(
            View(
                REVERSED,
                contract,
                dataset=TransformedDataset(photos, _reverse_channels, transform_label=_same),
            )
        )
    for preprocessing in _other_normalizations(case):
        other = dataclasses.replace(contract, preprocessing=preprocessing)
        views.append(View(describe(preprocessing), other, dataset=photos))
    return views


def describe(preprocessing: Preprocessing) -> str:
    """Formats the range of normalized pixels.

    Args:
        preprocessing: the normalization.
    """
    low, high = preprocessing.input_range
    # + 0.0 turns the -0.0 of a zero mean into 0.
    return f"[{low + 0.0:.3g}, {high:.3g}]"


def _other_normalizations(case: Case) -> list[Preprocessing]:
    own = quantized_preprocessing(case.input_tensor, case.contract.channels)
    if own is not None:
        candidates = [own]
    else:
        photo = case.contract.channels == 3
        candidates = list(likely_normalizations(3)) if photo else []
    return [p for p in candidates if not _alike(p, case.contract.preprocessing)]


def _alike(first: Preprocessing, second: Preprocessing) -> bool:
    (low, high), (other_low, other_high) = first.input_range, second.input_range
    slack = _SAME_RANGE * max(high - low, other_high - other_low)
    return abs(low - other_low) <= slack and abs(high - other_high) <= slack
