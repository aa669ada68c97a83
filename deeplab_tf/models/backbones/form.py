"""What a network asks of a backbone, and how strides become atrous rates past the output stride.

Chen et al. 2017, DeepLabv3, arXiv:1706.05587, section 3.1.
"""

import dataclasses

from deeplab_tf.models.blocks import BatchNorm


@dataclasses.dataclass(frozen=True)
class BackboneForm:
    """The form that a backbone takes in a network.

    Attributes:
        output_stride: 8, 16 or 32; later strides become atrous rates.
        batch_norm_momentum: of the moving statistics.
        width_multiplier: of backbones that are published in several widths.
        keep_rows: the first stride goes along the width alone. Range images are many times
            wider than high: 64 rows over 16 would leave four.
    """

    output_stride: int
    batch_norm_momentum: float = 0.95
    width_multiplier: float = 1.0
    keep_rows: bool = False

    def batch_norm(self, epsilon: float) -> BatchNorm:
        return BatchNorm(self.batch_norm_momentum, epsilon)


@dataclasses.dataclass(frozen=True)
class Step:
    """How a layer moves.

    Attributes:
        strides: (rows, columns).
        rate: atrous rate of its own 3x3 kernel.
    """

    strides: tuple[int, int]
    rate: int


class StrideWalk:
    """Follows a backbone from layer to layer.

    Attributes:
        stride: of the columns so far.
        rate: atrous rate of the next layer that keeps the resolution.
    """

    def __init__(self, form: BackboneForm):
        self._form = form
        self.stride = 1
        self.rate = 1

    def step(self, stride: int = 1) -> Step:
        """The next layer, published with this stride.

        A layer that would go past the output stride keeps the resolution: its own kernel keeps
        the old rate, those after it take twice as wide a one.
        """
        rate = self.rate
        if stride == 1:
            return Step((1, 1), rate)
        if self.stride * stride > self._form.output_stride:
            self.rate *= stride
            return Step((1, 1), rate)
        rows = 1 if self._form.keep_rows and self.stride == 1 else stride
        self.stride *= stride
        return Step((rows, stride), 1)
