"""Adapts weights trained with another pixel normalization to (pixel - 128) / 128."""

import dataclasses

import numpy as np

FIRST_LAYERS = {
    "resnet18": ("conv1", "bn1"),
    "resnet50": ("conv1", "bn1"),
    "resnet101": ("conv1", "bn1"),
    "resnet50_v1": ("conv1", "bn1"),
    "resnet101_v1": ("conv1", "bn1"),
    "vgg11_bn": ("block1_conv1", "block1_bn1"),
}
"""{backbone: (the convolution that reads the image, its batch norm)}."""


@dataclasses.dataclass(frozen=True)
class PixelNormalization:
    """Pixel normalization that a network was trained with: (pixel / 255 - mean) / std.

    Attributes:
        mean: one value per channel; the default is torchvision's.
        std: one value per channel; the default is torchvision's.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise ValueError(
                f"mean and std need one value per channel, std above 0; got {self.mean}, {self.std}"
            )


def fold_normalization(
    arrays: dict[str, np.ndarray], backbone: str, *, normalization: PixelNormalization
) -> dict[str, np.ndarray]:
    """Adapts the first convolution to this project's pixels, (pixel - 128) / 128.

        (pixel / 255 - mean) / std = scale * (pixel - 128) / 128 + shift
        scale = 128 / (255 std),   shift = (128 / 255 - mean) / std

    The kernel is multiplied by the scale. The shift times the sum of the kernel is subtracted from
    the moving mean of the following batch norm. Exact except at the border, where torch pads with
    the mean colour and this project with gray 128.

    Args:
        arrays: "layer/weight" arrays of the backbone.
        backbone: key of `FIRST_LAYERS`.
        normalization: that the weights were trained with.

    Returns:
        The adapted arrays.

    Raises:
        ValueError: the kernel has another number of channels.
    """
    convolution, batch_norm = FIRST_LAYERS[backbone]
    kernel = arrays[f"{convolution}/kernel"]
    mean, std = (np.array(values) for values in (normalization.mean, normalization.std))
    if len(mean) != kernel.shape[2]:
        raise ValueError(
            f"the first kernel takes {kernel.shape[2]} channels; mean and std have {len(mean)}"
        )
    scale, shift = 128 / (255 * std), (128 / 255 - mean) / std
    constant = np.einsum("hwio,i->o", kernel.astype(np.float64), shift)
    folded = dict(arrays)
    folded[f"{convolution}/kernel"] = (kernel * scale[:, None]).astype(np.float32)
    moved = arrays[f"{batch_norm}/moving_mean"] - constant
    folded[f"{batch_norm}/moving_mean"] = moved.astype(np.float32)
    return folded
