"""What a network requires of a backbone, and how strides after the output stride become rates.

Chen et al. 2017, DeepLabv3, arXiv:1706.05587, section 3.1.
"""

import dataclasses

from deeplab_tf.models.blocks import BatchNorm


@dataclasses.dataclass(frozen=True)
class BackboneForm:
    """How a backbone is built for a network.

    Attributes:
        output_stride: 8, 16 or 32; later strides become atrous rates.
        batch_norm_momentum: momentum of the moving statistics.
        width_multiplier: factor of the channels, for backbones that are published in several
            widths.
        keep_rows: apply the first stride to the width only. Range images are much wider than
            high: with stride 16, 64 rows would become 4.
    """

    output_stride: int
    batch_norm_momentum: float = 0.95
    width_multiplier: float = 1.0
    keep_rows: bool = False

    def batch_norm(self, epsilon: float) -> BatchNorm:
        """Returns the settings of the batch norms."""
        return BatchNorm(self.batch_norm_momentum, epsilon)


@dataclasses.dataclass(frozen=True)
class Step:
    """Stride and rate of a layer.

    Attributes:
        strides: (rows, columns).
        rate: atrous rate of its 3x3 kernel.
    """

    strides: tuple[int, int]
    rate: int


class StrideTracker:
    """Tracks stride and rate from layer to layer of a backbone.

    Attributes:
        stride: of the width, over all layers so far.
        rate: atrous rate of the next layer that keeps the resolution.
    """

    def __init__(self, form: BackboneForm) -> None:
        self._form = form
        self.stride = 1
        self.rate = 1

    def step(self, stride: int = 1) -> Step:
        """Returns stride and rate of the next layer.

        A layer that would exceed the output stride keeps the resolution: its own kernel has the
        rate so far, the layers after it have `stride` times that rate.

        Args:
            stride: stride of the published layer.

        Returns:
            its stride and rate here.
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
