"""PyTorch networks that prove the conversion; their file is code, as a user's would be."""

import itertools

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


class _Split(nn.Module):
    """Half of the channels pass two more convolutions; all stages are joined (YOLO's C2f)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.half = after // 2
        self.enter = _YoloConv(before, after, 1)
        self.steps = nn.ModuleList(
            nn.Sequential(_YoloConv(self.half, self.half), _YoloConv(self.half, self.half))
            for _ in range(2)
        )
        self.leave = _YoloConv(4 * self.half, after, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.enter(x).split(self.half, dim=1))
        for step in self.steps:
            parts.append(parts[-1] + step(parts[-1]))
        return self.leave(torch.cat(parts, dim=1))


class _YoloConv(nn.Sequential):
    """A convolution with batch norm and SiLU."""

    def __init__(self, before: int, after: int, kernel: int = 3, stride: int = 1) -> None:
        convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(after), nn.SiLU(inplace=True))


class YoloSegmentation(nn.Module):
    """The form of a YOLO that segments: boxes, scores, mask coefficients, mask prototypes.

    Prototypes: Bolya et al. 2019, YOLACT, arXiv:1904.02689. A distance to a side of a box is the
    mean of a distribution over bins: Li et al. 2020, arXiv:2006.04388.
    """

    BINS, COEFFICIENTS = 16, 32
    STRIDES = (8, 16, 32)

    def __init__(self, width: int = 16, classes: int = CLASSES) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.stem = _YoloConv(3, widths[0], stride=2)
        self.down = nn.ModuleList(
            nn.Sequential(_YoloConv(before, after, stride=2), _Split(after, after))
            for before, after in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(
            _Split(deep + shallow, shallow)
            for deep, shallow in zip(widths[:2:-1], widths[-2:1:-1], strict=False)
        )
        levels = widths[2:]
        sizes = {
            "boxes": 4 * self.BINS,
            "scores": classes,
            "coefficients": self.COEFFICIENTS,
        }
        self.heads = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    nn.Sequential(_YoloConv(level, 32), nn.Conv2d(32, size, 1)) for level in levels
                )
                for name, size in sizes.items()
            }
        )
        self.prototypes = nn.Sequential(
            _YoloConv(levels[0], 32),
            nn.ConvTranspose2d(32, 32, 2, stride=2),
            _YoloConv(32, 32),
            nn.Conv2d(32, self.COEFFICIENTS, 1),
        )

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x, kept = self.stem(image), []
        for down in self.down:
            x = down(x)
            kept.append(x)
        levels = [x]
        for up, skip in zip(self.up, kept[-2:0:-1], strict=True):
            x = up(torch.cat([nn.functional.interpolate(x, scale_factor=2), skip], dim=1))
            levels.insert(0, x)
        found = {
            name: torch.cat(
                [head(level).flatten(2) for head, level in zip(heads, levels, strict=True)], dim=2
            )
            for name, heads in self.heads.items()
        }
        return {
            "boxes": self._boxes(found["boxes"], levels),
            "scores": found["scores"].sigmoid(),
            "coefficients": found["coefficients"],
            "prototypes": self.prototypes(levels[0]),
        }

    def _boxes(self, bins: torch.Tensor, levels: list[torch.Tensor]) -> torch.Tensor:
        """Returns x, y of the centre, width and height in pixels, [1, 4, anchors]."""
        bins = bins.view(1, 4, self.BINS, -1).transpose(1, 2).softmax(dim=1)
        weights = torch.arange(self.BINS, dtype=torch.float32)[None, :, None, None]
        left_top, right_bottom = (bins * weights).sum(dim=1).chunk(2, dim=1)
        centres, strides = [], []
        for level, stride in zip(levels, self.STRIDES, strict=True):
            rows, columns = (torch.arange(size) + 0.5 for size in level.shape[2:])
            grid = torch.meshgrid(rows, columns, indexing="ij")
            centres.append(torch.stack(grid[::-1]).flatten(1))
            strides.append(torch.full((1, rows.numel() * columns.numel()), float(stride)))
        centre, stride = torch.cat(centres, dim=1), torch.cat(strides, dim=1)
        low, high = centre - left_top, centre + right_bottom
        return torch.cat([(low + high) / 2, high - low], dim=1) * stride
