"""What a network is, as data: read from flags, stored in run folders and manifests."""

import dataclasses
import enum

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.labels import MAX_CLASSES
from deeplab_tf.graph.network import NetworkDescription
from deeplab_tf.models.backbones.form import BackboneForm

OUTPUT_STRIDES = (8, 16, 32)
IMPORTED = "imported"
"""Network whose graph is data: `ModelConfig.description`."""
_FORMER_NAMES = {"deeplab_mobilenet_v2": ("deeplab", "mobilenet_v2")}
"""Networks of older runs: what they are now."""


class Aspp(enum.Enum):
    """The pyramid between backbone and decoder."""

    ATROUS = "atrous"
    """Image pooling, 1x1 and one depthwise-separable branch for each atrous rate."""
    SLIM = "slim"
    """Image pooling and 1x1 only: the published mobile models."""
    NONE = "none"
    """Backbone features go straight on."""


def default_aspp(network: str) -> Aspp:
    """The pyramid that a network has where nothing is said."""
    return Aspp.ATROUS if network == "deeplab" else Aspp.NONE


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A network without its input size.

    Attributes:
        num_classes: with background.
        channels: of the input image.
        network: key of `models.registry.NETWORKS`.
        backbone: key of `models.backbones.BACKBONES`, for networks that have one.
        width_multiplier: of the backbone, 0.25 to 1.4.
        output_stride: input size over the size of the backbone's last features.
        aspp: form of the pyramid.
        atrous_rates: of the pyramid's atrous branches.
        aspp_channels: of each branch and of the projection.
        decoder: whether low-level features (stride 4) are joined in.
        decoder_channels: of the decoder's two convolutions; of UNet's at stride 8.
        keep_rows: the first stride goes along the width alone, for range images.
        batch_norm_momentum: of the moving statistics.
        logits_alignment: how logits are brought to the photo's size.
        description: graph of the network "imported", which ends in logits; None for others.
            The fields from backbone to keep_rows then mean nothing.
    """

    num_classes: int
    channels: int = 3
    network: str = "deeplab"
    backbone: str = "mobilenet_v2"
    width_multiplier: float = 1.0
    output_stride: int = 16
    aspp: Aspp = Aspp.ATROUS
    atrous_rates: tuple[int, ...] = (6, 12, 18)
    aspp_channels: int = 256
    decoder: bool = True
    decoder_channels: int = 128
    batch_norm_momentum: float = 0.95
    keep_rows: bool = False
    logits_alignment: Alignment = Alignment.HALF_PIXEL
    description: NetworkDescription | None = None

    def __post_init__(self):
        if not 1 <= self.num_classes <= MAX_CLASSES:
            raise ValueError(f"num_classes must be 1 to {MAX_CLASSES}; got {self.num_classes}")
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1; got {self.channels}")
        if self.output_stride not in OUTPUT_STRIDES:
            raise ValueError(
                f"output_stride must be one of {OUTPUT_STRIDES}; got {self.output_stride}"
            )
        if not 0.25 <= self.width_multiplier <= 1.4:
            raise ValueError(f"width_multiplier must be 0.25 to 1.4; got {self.width_multiplier}")
        if self.aspp is Aspp.ATROUS and (not self.atrous_rates or min(self.atrous_rates) < 1):
            raise ValueError(
                f"atrous_rates must be positive integers; got {self.atrous_rates}; "
                "use aspp=slim for a pyramid without atrous branches"
            )
        if min(self.aspp_channels, self.decoder_channels) < 1:
            raise ValueError("aspp_channels and decoder_channels must be at least 1")
        if not 0 < self.batch_norm_momentum < 1:
            raise ValueError(
                f"batch_norm_momentum must lie between 0 and 1; got {self.batch_norm_momentum}"
            )
        if (self.network == IMPORTED) != (self.description is not None):
            raise ValueError(
                f"network {IMPORTED!r} and a description belong together; "
                "give --init_from=FOLDER of tflite_tools.to_keras"
            )

    def describe(self) -> str:
        """One line for manifests and logs."""
        if self.description is not None:
            return f"{self.network}, {len(self.description.nodes)} nodes"
        return f"{self.network}, {self.backbone}, width {self.width_multiplier}"

    def backbone_form(self) -> BackboneForm:
        """What the network asks of its backbone."""
        return BackboneForm(
            self.output_stride,
            self.batch_norm_momentum,
            width_multiplier=self.width_multiplier,
            keep_rows=self.keep_rows,
        )

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError unless both are a multiple of the output stride, or one more.

        An imported network is asked when it is built.
        """
        if self.description is not None:
            return
        for word, size in (("height", height), ("width", width)):
            if size < self.output_stride or size % self.output_stride > 1:
                padded = -(-size // self.output_stride) * self.output_stride
                raise ValueError(
                    f"{word} {size} is not a multiple of output_stride {self.output_stride}, "
                    f"nor one more; pad to {padded}"
                )

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The smallest size that the network takes and that holds the given one.

        An imported network has one size: photos are scaled onto it.
        """
        if self.description is not None:
            return self.description.input_shape[0], self.description.input_shape[1]
        return tuple(
            size
            if size >= self.output_stride and size % self.output_stride <= 1
            else -(-size // self.output_stride) * self.output_stride
            for size in (height, width)
        )

    def to_json(self) -> dict:
        values = {**dataclasses.asdict(self), "aspp": self.aspp.value}
        return values | {
            "logits_alignment": self.logits_alignment.value,
            "description": self.description.to_json() if self.description else None,
        }

    @classmethod
    def from_json(cls, values: dict) -> "ModelConfig":
        """Raises ValueError for an unknown key."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = set(values) - known
        if unknown:
            raise ValueError(f"unknown model keys {sorted(unknown)}; known: {sorted(known)}")
        former = values.get("network")
        if former in _FORMER_NAMES:
            network, backbone = _FORMER_NAMES[former]
            values = {**values, "network": network, "backbone": backbone}
        description = values.get("description")
        return cls(
            **{
                **values,
                "aspp": Aspp(values.get("aspp", "atrous")),
                "atrous_rates": tuple(values.get("atrous_rates", (6, 12, 18))),
                "logits_alignment": Alignment(values.get("logits_alignment", "half_pixel")),
                "description": NetworkDescription.from_json(description) if description else None,
            }
        )
