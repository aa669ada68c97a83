"""What the metadata of a segmentation model says."""

import dataclasses
import enum

from deeplab_tf.data.preprocessing import Preprocessing


class Activation(enum.IntEnum):
    """What a reader still has to apply to the output before it is a probability."""

    NONE = 0
    SIGMOID = 1
    SOFTMAX = 2


@dataclasses.dataclass(frozen=True)
class SegmenterMetadata:
    """What a file says about itself.

    Attributes:
        name, description, license: for people.
        preprocessing: (pixel - mean) / std gives the real input values; None: not said.
        input_range: smallest and largest input value of each channel (stats), or None.
        labels: in the order of the classes; empty: not said.
        classes_output: True where labels name the output's values (a class map), False where
            they name its channels (logits).
        activation: SOFTMAX for logits, None where the file does not say.
    """

    name: str
    description: str
    license: str
    preprocessing: Preprocessing | None
    input_range: tuple[tuple[float, ...], tuple[float, ...]] | None
    labels: tuple[str, ...]
    classes_output: bool
    activation: Activation | None
