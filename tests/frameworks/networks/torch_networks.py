"""PyTorch networks that prove the conversion; their file is code, as a user's would be."""

import torch
from torch import nn

CLASSES = 11


def _declare_operators_of_torchvision() -> None:
    """Lets torchvision load beside a CPU build of PyTorch.

    The registry's build of torchvision finds its C++ operators only beside a PyTorch with CUDA, and
    does not load unless the two that it names are declared. No network here needs them.
    """
    try:
        import torchvision  # noqa: F401, PLC0415
    except RuntimeError:
        for name in ("nms", "qnms"):
            arguments = "(Tensor dets, Tensor scores, float iou_threshold)"
            torch.library.define(f"torchvision::{name}", f"{arguments} -> Tensor")
    except ImportError:
        return


_declare_operators_of_torchvision()


def lraspp() -> nn.Module:
    """torchvision's LRASPP over MobileNetV3-Large (hard-swish, squeeze-and-excite)."""
    from torchvision.models import segmentation  # noqa: PLC0415

    return segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=CLASSES
    )


def deeplab() -> nn.Module:
    """torchvision's DeepLabV3 over MobileNetV3-Large, with its second output for training."""
    from torchvision.models import segmentation  # noqa: PLC0415

    return segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True
    )


def smp_unet() -> nn.Module:
    """segmentation_models.pytorch's UNet over ResNet-18."""
    import segmentation_models_pytorch as smp  # noqa: PLC0415

    return smp.Unet("resnet18", encoder_weights=None, classes=CLASSES)


def segformer() -> nn.Module:
    """SegFormer-B0's form in transformers: attention with reduced keys, layer norm, GELU."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation  # noqa: PLC0415

    return SegformerForSemanticSegmentation(SegformerConfig(num_labels=CLASSES))


class _Block(nn.Sequential):
    """Two convolutions with batch norm and ReLU."""

    def __init__(self, before: int, after: int) -> None:
        steps = []
        for source in (before, after):
            steps += [nn.Conv2d(source, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
            steps += [nn.ReLU(inplace=True)]
        super().__init__(*steps)


class UNet(nn.Module):
    """A small UNet with transpose convolutions."""

    def __init__(self, width: int = 16, classes: int = CLASSES) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        self.down = nn.ModuleList(
            _Block(before, after) for before, after in zip([3, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * after, after, 2, stride=2) for after in widths[-2::-1]
        )
        self.join = nn.ModuleList(_Block(2 * after, after) for after in widths[-2::-1])
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        kept = []
        x = image
        for level, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for up, join, skip in zip(self.up, self.join, kept[-2::-1], strict=True):
            x = join(torch.cat([up(x), skip], dim=1))
        return self.classify(x)


class _Conv(nn.Sequential):
    """A convolution with batch norm and ReLU."""

    def __init__(self, before: int, after: int, kernel: int = 3, stride: int = 1, groups: int = 1):
        convolution = nn.Conv2d(
            before, after, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        super().__init__(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class _Separable(nn.Sequential):
    """A depthwise and a pointwise convolution."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__(
            _Conv(before, before, stride=stride, groups=before), _Conv(before, after, 1)
        )


class _Inverted(nn.Module):
    """An inverted residual."""

    def __init__(self, before: int, after: int, stride: int, expand: int = 6) -> None:
        super().__init__()
        inner = before * expand
        self.steps = nn.Sequential(
            _Conv(before, inner, 1),
            _Conv(inner, inner, stride=stride, groups=inner),
            nn.Conv2d(inner, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.residual = stride == 1 and before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.steps(x) if self.residual else self.steps(x)


class _PyramidPooling(nn.Module):
    """Average pooling to 1, 2, 3 and 6 cells (Zhao et al. 2017, arXiv:1612.01105)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(_Conv(channels, channels // 4, 1) for _ in range(4))
        self.join = _Conv(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x]
        for cells, reduce in zip((1, 2, 3, 6), self.reduce, strict=True):
            pooled = reduce(nn.functional.adaptive_avg_pool2d(x, cells))
            parts.append(
                nn.functional.interpolate(pooled, x.shape[2:], mode="bilinear", align_corners=True)
            )
        return self.join(torch.cat(parts, dim=1))


class FastSCNN(nn.Module):
    """Fast-SCNN's form (Poudel et al. 2019, arXiv:1902.04502), align-corners resizes."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.learn = nn.Sequential(
            _Conv(3, 32, stride=2), _Separable(32, 48, 2), _Separable(48, 64, 2)
        )
        self.features = nn.Sequential(
            *(_Inverted(64, 64, 2 if step == 0 else 1) for step in range(3)),
            *(_Inverted(64 if step == 0 else 96, 96, 2 if step == 0 else 1) for step in range(3)),
            *(_Inverted(96 if step == 0 else 128, 128, 1) for step in range(3)),
            _PyramidPooling(128),
        )
        self.low = nn.Conv2d(64, 128, 1)
        self.deep = nn.Sequential(_Conv(128, 128, groups=128), nn.Conv2d(128, 128, 1))
        self.classify = nn.Sequential(
            _Separable(128, 128), _Separable(128, 128), nn.Conv2d(128, classes, 1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        low = self.learn(image)
        deep = nn.functional.interpolate(
            self.features(low), low.shape[2:], mode="bilinear", align_corners=True
        )
        x = self.classify(torch.relu(self.low(low) + self.deep(deep)))
        return nn.functional.interpolate(x, image.shape[2:], mode="bilinear", align_corners=True)
