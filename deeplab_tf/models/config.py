"""What a network is, as data: one configuration per network, stored in run folders.

The JSON has the same keys for every network; those that a network does not have are written with
fixed values and ignored when read.
"""

import collections.abc
import dataclasses
import enum
import types
from typing import Any, ClassVar

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.labels import MAX_CLASSES
from deeplab_tf.field_types import check_field_types
from deeplab_tf.graph.network import NetworkGraph
from deeplab_tf.models.backbones.form import BackboneForm

OUTPUT_STRIDES = (8, 16, 32)
MAX_CHANNELS = 16384
"""Of an image or a layer; the widest network known here has 2048."""
IMPORTED = "imported"
"""Name of the network whose graph is data: `ImportedConfig`."""
_FORMER_NAMES = {"deeplab_mobilenet_v2": ("deeplab", "mobilenet_v2")}
"""Networks of older runs: their network and backbone today."""


class Aspp(enum.Enum):
    """The pyramid between backbone and decoder."""

    ATROUS = "atrous"
    """Image pooling, 1x1 and one depthwise-separable branch for each atrous rate."""
    SLIM = "slim"
    """Image pooling and 1x1 only: the published mobile models."""
    NONE = "none"
    """No pyramid: backbone features are used as they are."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What all networks have in common; use the class of a network, or `configure`.

    Attributes:
        network: key of `models.registry.NETWORKS`, the same for all objects of a class.
        num_classes: number of classes, with background.
        channels: channels of the input image.
        batch_norm_momentum: momentum of the moving statistics.
        logits_alignment: how logits are resized to the size of the image.
    """

    network: ClassVar[str]
    _stored: ClassVar[collections.abc.Mapping[str, Any]] = types.MappingProxyType({})
    """JSON keys that this network does not have, where their value is not `_UNUSED`'s."""

    num_classes: int
    channels: int = 3
    batch_norm_momentum: float = 0.95
    logits_alignment: Alignment = Alignment.HALF_PIXEL

    def __post_init__(self) -> None:
        check_field_types(self)
        if not 1 <= self.num_classes <= MAX_CLASSES:
            raise ValueError(f"num_classes must be 1 to {MAX_CLASSES}; got {self.num_classes}")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ValueError(f"channels must be 1 to {MAX_CHANNELS}; got {self.channels}")
        if not 0 < self.batch_norm_momentum < 1:
            raise ValueError(
                f"batch_norm_momentum must lie between 0 and 1; got {self.batch_norm_momentum}"
            )

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """The only input size, (height, width), or None if the network takes many sizes."""
        return None

    def describe(self) -> str:
        """Returns one line for manifests and logs."""
        return self.network

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError unless the network can be built for this input size."""

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the smallest input size, (height, width), that contains the given one."""
        return height, width

    def to_json(self) -> dict[str, Any]:
        """Returns the values under the keys that all networks share."""
        own = {
            field.name: _to_json(getattr(self, field.name)) for field in dataclasses.fields(self)
        }
        return {**_UNUSED, **self._stored, **own, "network": self.network}

    @classmethod
    def from_json(cls, values: collections.abc.Mapping[str, Any]) -> "ModelConfig":
        """Reads the configuration of any network.

        Args:
            values: what `to_json` returned, now or in an older version.

        Returns:
            an object of the network's own class.

        Raises:
            ValueError: an unknown key or network, or a bad value.
        """
        if unknown := set(values) - _KEYS:
            raise ValueError(f"unknown model keys {sorted(unknown)}; known: {sorted(_KEYS)}")
        settings = {**_LEGACY_DEFAULTS, **values}
        network = settings.pop("network")
        if not isinstance(network, str):
            raise ValueError(f"network: expected text, got {network!r:.80}")
        if network in _FORMER_NAMES:
            network, settings["backbone"] = _FORMER_NAMES[network]
        for key, read in _READERS.items():
            if key in settings and (settings[key] is not None or key != "description"):
                settings[key] = read(settings[key])
        return configure(network, settings)


@dataclasses.dataclass(frozen=True)
class StridedConfig(ModelConfig):
    """A network for all sizes that are a multiple of its output stride, or one more.

    Attributes:
        output_stride: input size over the size of the backbone's last features.
        keep_rows: apply the first stride to the width only, for range images.
    """

    output_stride: int = 16
    keep_rows: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_stride not in OUTPUT_STRIDES:
            raise ValueError(
                f"output_stride must be one of {OUTPUT_STRIDES}; got {self.output_stride}"
            )

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError unless both are a multiple of the output stride, or one more."""
        for word, size in (("height", height), ("width", width)):
            if (padded := self._padded(size)) != size:
                raise ValueError(
                    f"{word} {size} is not a multiple of output_stride {self.output_stride}, "
                    f"nor one more; pad to {padded}"
                )

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the smallest input size, (height, width), that contains the given one."""
        return self._padded(height), self._padded(width)

    def _padded(self, size: int) -> int:
        if size >= self.output_stride and size % self.output_stride <= 1:
            return size
        return max(1, -(-size // self.output_stride)) * self.output_stride


@dataclasses.dataclass(frozen=True)
class BackboneConfig(StridedConfig):
    """A network with a backbone, an optional pyramid and a decoder.

    Attributes:
        backbone: key of `models.backbones.registry.BACKBONES`.
        width_multiplier: of the backbone, 0.25 to 1.4.
        aspp: form of the pyramid.
        atrous_rates: rates of the pyramid's atrous branches.
        aspp_channels: channels of each branch and of the projection.
        decoder_channels: channels of DeepLab's two decoder convolutions; of UNet's at stride 8.
    """

    backbone: str = "mobilenet_v2"
    width_multiplier: float = 1.0
    aspp: Aspp = Aspp.ATROUS
    atrous_rates: tuple[int, ...] = (6, 12, 18)
    aspp_channels: int = 256
    decoder_channels: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.25 <= self.width_multiplier <= 1.4:
            raise ValueError(f"width_multiplier must be 0.25 to 1.4; got {self.width_multiplier}")
        if self.aspp is Aspp.ATROUS and (not self.atrous_rates or min(self.atrous_rates) < 1):
            raise ValueError(
                f"atrous_rates must be positive integers; got {self.atrous_rates}; "
                "use aspp=slim for a pyramid without atrous branches"
            )
        for name in ("aspp_channels", "decoder_channels"):
            if not 1 <= getattr(self, name) <= MAX_CHANNELS:
                raise ValueError(f"{name} must be 1 to {MAX_CHANNELS}; got {getattr(self, name)}")

    def describe(self) -> str:
        """Returns one line for manifests and logs."""
        return f"{self.network}, {self.backbone}, width {self.width_multiplier}"

    def backbone_form(self) -> BackboneForm:
        """Returns what the network requires of its backbone."""
        return BackboneForm(
            self.output_stride,
            self.batch_norm_momentum,
            width_multiplier=self.width_multiplier,
            keep_rows=self.keep_rows,
        )


@dataclasses.dataclass(frozen=True)
class DeepLabConfig(BackboneConfig):
    """DeepLabV3+, see `models.deeplab`.

    Attributes:
        decoder: whether low-level features (stride 4) are joined in.
    """

    network: ClassVar[str] = "deeplab"
    decoder: bool = True


@dataclasses.dataclass(frozen=True)
class UNetConfig(BackboneConfig):
    """UNet, see `models.unet`; without a pyramid unless one is given."""

    network: ClassVar[str] = "unet"
    aspp: Aspp = Aspp.NONE


@dataclasses.dataclass(frozen=True)
class ENetConfig(StridedConfig):
    """ENet, see `models.enet`. Its own stride is 8; `output_stride` only restricts the sizes."""

    network: ClassVar[str] = "enet"
    _stored = types.MappingProxyType({"aspp": Aspp.NONE.value})


@dataclasses.dataclass(frozen=True)
class ENetMaxUnpoolingConfig(ENetConfig):
    """ENet with the paper's max-unpooling: a float network, for comparison only."""

    network: ClassVar[str] = "enet_max_unpooling"


@dataclasses.dataclass(frozen=True)
class ImportedConfig(ModelConfig):
    """A network whose graph is data, imported from a file. It has one input size.

    Attributes:
        description: the graph, which ends in logits.
    """

    network: ClassVar[str] = IMPORTED
    description: NetworkGraph = dataclasses.field(kw_only=True)

    @property
    def fixed_size(self) -> tuple[int, int]:
        """The only input size, (height, width)."""
        return self.description.input_shape[0], self.description.input_shape[1]

    def describe(self) -> str:
        """Returns one line for manifests and logs."""
        return f"{self.network}, {len(self.description.nodes)} nodes"

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the only input size, (height, width): images are scaled to it."""
        return self.fixed_size


CONFIGS: dict[str, type[ModelConfig]] = {
    config.network: config
    for config in (DeepLabConfig, UNetConfig, ENetConfig, ENetMaxUnpoolingConfig, ImportedConfig)
}
"""The configuration class of each network by name."""

_UNUSED: dict[str, Any] = {
    "backbone": "mobilenet_v2",
    "width_multiplier": 1.0,
    "output_stride": 16,
    "keep_rows": False,
    "aspp": Aspp.ATROUS.value,
    "atrous_rates": (6, 12, 18),
    "aspp_channels": 256,
    "decoder": True,
    "decoder_channels": 128,
    "description": None,
}
"""What is stored for the keys that a network does not have."""
_KEYS = {"network", *_UNUSED, *(field.name for field in dataclasses.fields(ModelConfig))}
_LEGACY_DEFAULTS = {"network": DeepLabConfig.network, "aspp": Aspp.ATROUS.value}
"""Values of keys that the files of older versions may lack and networks have no default for."""
_READERS: dict[str, collections.abc.Callable[[Any], Any]] = {
    "aspp": Aspp,
    "atrous_rates": tuple,
    "logits_alignment": Alignment,
    "description": NetworkGraph.from_json,
}


def configure(network: str, settings: collections.abc.Mapping[str, Any]) -> ModelConfig:
    """Builds the configuration of a network.

    Args:
        network: its name.
        settings: values by field name, also of fields that only other networks have, which are
            ignored: the flags of a command are the same for all networks.

    Returns:
        an object of the network's own class.

    Raises:
        ValueError: an unknown network, or a bad value.
    """
    if network not in CONFIGS:
        raise ValueError(f"unknown network {network!r}; known: {sorted(CONFIGS)}")
    if (network == IMPORTED) != (settings.get("description") is not None):
        raise ValueError(
            f"network {IMPORTED!r} and a description belong together; "
            "give --init_from=FOLDER of tflite_tools.to_keras"
        )
    if network == UNetConfig.network and not settings.get("decoder", True):
        raise ValueError("unet cannot be built without its decoder; give --decoder")
    kind = CONFIGS[network]
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in settings.items() if name in names})


def _to_json(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return value.to_json() if isinstance(value, NetworkGraph) else value
