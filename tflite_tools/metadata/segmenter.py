"""The metadata of a segmentation model."""

import dataclasses
import enum

from deeplab_tf.data.preprocessing import Preprocessing


class Activation(enum.IntEnum):
    """The function that turns the output into probabilities."""

    NONE = 0
    SIGMOID = 1
    SOFTMAX = 2


@dataclasses.dataclass(frozen=True)
class SegmenterMetadata:
    """The metadata inside a file.

    Attributes:
        name, description, license: for people.
        preprocessing: (pixel - mean) / std gives the real input values; None if not stated.
        input_range: smallest and largest input value of each channel (stats), or None.
        labels: in the order of the classes; empty if not stated.
        classes_output: True if labels name the output's values (a class map), False if they name
            its channels (logits).
        activation: SOFTMAX for logits, None if not stated.
        outputs: names of several outputs in the file's order; empty where there is one.
        position: of the output that the other fields describe.
    """

    name: str
    description: str
    license: str
    preprocessing: Preprocessing | None
    input_range: tuple[tuple[float, ...], tuple[float, ...]] | None
    labels: tuple[str, ...]
    classes_output: bool
    activation: Activation | None
    outputs: tuple[str, ...] = ()
    position: int = 0
