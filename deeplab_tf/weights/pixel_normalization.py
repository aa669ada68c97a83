"""Weights of networks that took their pixels otherwise, made to take (pixel - 128) / 128."""

import dataclasses

import numpy as np

FIRST = {
    "resnet18": ("conv1", "bn1"),
    "resnet50": ("conv1", "bn1"),
    "resnet101": ("conv1", "bn1"),
    "resnet50_v1": ("conv1", "bn1"),
    "resnet101_v1": ("conv1", "bn1"),
    "vgg11_bn": ("block1_conv1", "block1_bn1"),
}
"""By backbone: the convolution that reads the image, and its batch norm."""


@dataclasses.dataclass(frozen=True)
class PixelNormalization:
    """What the torch network was trained on: (pixel / 255 - mean) / std.

    Attributes:
        mean, std: one value a channel; the defaults are torchvision's.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self):
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise ValueError(
                f"mean and std need one value a channel, std above 0; got {self.mean}, {self.std}"
            )


def fold_normalization(
    arrays: dict[str, np.ndarray], backbone: str, *, normalization: PixelNormalization
) -> dict[str, np.ndarray]:
    """Makes the first convolution take this project's pixels, (pixel - 128) / 128.

        (pixel / 255 - mean) / std = scale * (pixel - 128) / 128 + shift
        scale = 128 / (255 std),   shift = (128 / 255 - mean) / std

    Kernels take the scale; the shift times the kernel's sum goes out of the mean that the batch
    norm behind takes off. Exact but for the border, where torch pads with the mean colour and
    this project with gray 128.

    Raises:
        ValueError: another number of channels than the kernel has.
    """
    convolution, batch_norm = FIRST[backbone]
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
