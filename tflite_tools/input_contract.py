"""How 8-bit pixels become a file's input, and who says so: one reader for every command.

real = (pixel - mean) / std,   quantized = round(real / scale) + zero_point
"""

import dataclasses
import enum
import pathlib

import numpy as np

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.flatbuffer.graph import Graph, Tensor
from tflite_tools.manifest import Manifest, read_manifest
from tflite_tools.metadata import packing
from tflite_tools.metadata.segmenter import SegmenterMetadata

_SCALE_TOLERANCE = 0.02
"""Relative. 1/127.5 against 1/128 differs by 0.4%: half a gray level at the brightest pixel."""
_ROUNDING = 1e-3
"""Levels; a scale is stored as float32."""
_GUESS = (
    "nothing says how its pixels are normalized: (pixel - 128) / 128 is a guess; give the "
    "training's own --mean and --std"
)


class PreprocessingSource(enum.Enum):
    """Who says how pixels are normalized; the first that speaks is believed."""

    GIVEN = "given"
    """The caller: --mean and --std."""
    MANIFEST = "manifest"
    """The JSON beside the file."""
    METADATA = "metadata"
    """NormalizationOptions inside the file."""
    QUANTIZATION = "quantization"
    """The input's own scale and zero point; integers without a scale are the pixels themselves."""
    ASSUMED = "assumed"
    """Nobody: (x - 128) / 128, with a warning. Never evidence against a file."""


@dataclasses.dataclass(frozen=True)
class FileDescription:
    """What stands beside or inside a file.

    Attributes:
        manifest: beside it, or None.
        preprocessing: normalization of the manifest, else of the metadata; None: not said.
        source: which of the two.
        labels: class names of the manifest, else of the file; () where there are none.
        warnings: what was found and cannot be used, one line each.
    """

    manifest: Manifest | None = None
    preprocessing: Preprocessing | None = None
    source: PreprocessingSource = PreprocessingSource.METADATA
    labels: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def alignment(self) -> Alignment | None:
        """How the training resizes logits, by the manifest; None: not on record."""
        resize = self.manifest.resize if self.manifest else None
        return None if resize is None else Alignment(resize)


@dataclasses.dataclass(frozen=True)
class InputContract:
    """What any file takes, an image or not, and the class names that come with it.

    Attributes:
        tensor: name of the input in the file.
        shape: with the batch.
        dtype: of the input, "uint8" for example.
        quantization: (scale, zero point) of the input or None.
        preprocessing: one value a channel of an image, one for all values of anything else.
        source: who says so.
        labels: class names, or ().
        warnings: what does not fit together, one line each.
        alignment: how the training resizes logits, by the manifest; None: not on record.
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    quantization: tuple[float, int] | None
    preprocessing: Preprocessing
    source: PreprocessingSource
    labels: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    alignment: Alignment | None = None

    @property
    def is_known(self) -> bool:
        """Whether anybody says what the input means."""
        return self.source is not PreprocessingSource.ASSUMED

    def check_known(self) -> None:
        """Raises ValueError where the normalization is an assumption."""
        if not self.is_known:
            raise ValueError(
                f"neither a manifest nor the file says what its {self.dtype} input means; give "
                "--mean and --std"
            )

    def real_values(self, pixels: np.ndarray) -> np.ndarray:
        """The real values that the file computes with.

        Args:
            pixels: uint8 [..., channels].

        Returns:
            float32 of the same shape: for a quantized input those of the integers that are fed.

        Raises:
            ValueError: nobody says what the input means.
        """
        self.check_known()
        if self.quantization is None:
            return self.preprocessing.normalize(pixels)
        scale, zero_point = self.quantization
        table = pixel_table(
            self.preprocessing, np.dtype(self.dtype), quantization=self.quantization
        )
        reals = np.float32(scale) * (table.astype(np.float32) - np.float32(zero_point))
        return reals[pixels, np.arange(reals.shape[1])]

    def to_json(self) -> dict:
        scale, zero_point = self.quantization or (None, None)
        known = self.preprocessing if self.is_known else None
        return {
            "tensor": self.tensor,
            "shape": self.shape,
            "dtype": self.dtype,
            "scale": scale,
            "zero_point": zero_point,
            "mean": known.mean if known else None,
            "std": known.std if known else None,
            "source": self.source.value,
            "warnings": self.warnings,
        }


def read_input_contract(
    path: str | pathlib.Path,
    graph: Graph,
    *,
    mean: float | None = None,
    std: float | None = None,
) -> InputContract:
    """Reads what a file's input means: given, manifest, metadata, quantization, assumed.

    Args:
        path: the file.
        graph: of the file.
        mean, std: of every channel, where the caller says it.

    Raises:
        ValueError: mean without std, or the manifest is of another file or of other channels.
    """
    path = pathlib.Path(path)
    image = graph.tensors[graph.inputs[0]]
    given = None
    if mean is not None or std is not None:
        if mean is None or std is None or std <= 0:
            raise ValueError(f"mean and a positive std belong together; got {mean} and {std}")
        given = Preprocessing((mean,) * _channels(image), (std,) * _channels(image))
    return input_contract(
        image, read_description(path, _channels(image)), given=given, name=str(path)
    )


def input_contract(
    image: Tensor,
    said: FileDescription,
    *,
    given: Preprocessing | None = None,
    name: str = "the file",
) -> InputContract:
    """The contract of an input tensor.

    Raises:
        ValueError: the normalization is for another number of channels.
    """
    used, source = choose_preprocessing(image, said, given=given, name=name)
    quantization = per_tensor(image)
    return InputContract(
        image.name,
        image.shape,
        dtype=image.type_name.lower(),
        quantization=quantization,
        preprocessing=used,
        source=source,
        labels=said.labels,
        warnings=(*said.warnings, *input_warnings(used, source, image=image)),
        alignment=said.alignment,
    )


def _channels(image: Tensor) -> int:
    return image.shape[3] if len(image.shape) == 4 else 1


def read_description(path: pathlib.Path, channels: int) -> FileDescription:
    """What the manifest says, else the metadata; a damaged metadata is a warning.

    Raises:
        ValueError: the manifest cannot be read, or is of another file.
    """
    manifest = read_manifest(path)
    if manifest is not None:
        return FileDescription(
            manifest,
            manifest.preprocessing,
            source=PreprocessingSource.MANIFEST,
            labels=manifest.label_set.names,
        )
    try:
        metadata, labels = packing.read(path), packing.read_labels(path)
    except ValueError as error:  # what other programs wrote may be damaged or meant otherwise
        return FileDescription(warnings=(f"its metadata is not used: {error}",))
    preprocessing, unfit = _said_preprocessing(metadata, channels)
    return FileDescription(preprocessing=preprocessing, labels=labels, warnings=tuple(unfit))


def _said_preprocessing(
    metadata: SegmenterMetadata | None, channels: int
) -> tuple[Preprocessing | None, list[str]]:
    said = metadata.preprocessing if metadata else None
    if said is not None and said.channels == 1:  # the schema's way to say: all alike
        said = Preprocessing(said.mean * channels, said.std * channels)
    if said is None or said.channels == channels:
        return said, []
    return None, [
        f"its metadata normalizes {said.channels} channels, the input has {channels}: not used; "
        "give --mean and --std"
    ]


def choose_preprocessing(
    image: Tensor, said: FileDescription, *, given: Preprocessing | None, name: str
) -> tuple[Preprocessing, PreprocessingSource]:
    """The normalization of the first that speaks.

    Raises:
        ValueError: it is for another number of channels.
    """
    channels = _channels(image)
    own = quantized_preprocessing(image, channels)
    if own is not None and image.quantization is None:
        return own, PreprocessingSource.QUANTIZATION
    found = (
        (given, PreprocessingSource.GIVEN),
        (said.preprocessing, said.source),
        (own, PreprocessingSource.QUANTIZATION),
        (Preprocessing.of(channels), PreprocessingSource.ASSUMED),
    )
    used, source = next((value, source) for value, source in found if value is not None)
    if used.channels != channels:
        raise ValueError(
            f"{name}: the normalization ({source.value}) is for {used.channels} channel(s), the "
            f"input has {channels}; give --mean and --std with one value a channel"
        )
    return used, source


def per_tensor(tensor: Tensor) -> tuple[float, int] | None:
    """(scale, zero point) of an integer tensor, None without."""
    if tensor.quantization is None or tensor.is_float:
        return None
    return float(tensor.quantization.scale[0]), int(tensor.quantization.zero_point[0])


def quantized_preprocessing(image: Tensor, channels: int) -> Preprocessing | None:
    """What a quantized image's scale and zero point stand for, or its bytes; None for floats.

    A uint8 pixel is the quantized value, an int8 one is the pixel less 128; without a scale the
    bytes go in as they are, and the graph casts them itself.
    """
    if image.type_name not in ("UINT8", "INT8"):
        return None
    shift = 128 if image.type_name == "INT8" else 0
    if image.quantization is None:
        return Preprocessing((float(shift),) * channels, (1.0,) * channels)
    mean = float(image.quantization.zero_point[0] + shift)
    std = 1.0 / float(image.quantization.scale[0])
    return Preprocessing((mean,) * channels, (std,) * channels)


def pixel_table(
    preprocessing: Preprocessing, dtype: np.dtype, *, quantization: tuple[float, int] | None
) -> np.ndarray:
    """Input value of each pixel value, [256, channels] in the input's dtype.

    The bytes themselves (int8: less 128) where `takes_bytes`, else rounded to the nearest.
    """
    if takes_bytes(preprocessing, dtype, quantization=quantization):
        return _bytes(preprocessing.channels, dtype)
    return _rounded(preprocessing, dtype, quantization=quantization)


def takes_bytes(
    preprocessing: Preprocessing, dtype: np.dtype, *, quantization: tuple[float, int] | None
) -> bool:
    """Whether 8-bit pixels are the input's integers up to a rounding.

        quantized = pixel / (scale * std) - mean / (scale * std) + zero_point

    So where scale * std is 1, within one level over the range, and the zero point (int8: plus
    128) within half of the mean. A mean of 127.5 puts every pixel on a rounding tie, and ties
    that are rounded to even leave 129 of the 256 levels.
    """
    if dtype not in (np.uint8, np.int8):
        return False
    if quantization is None:  # the graph casts and normalizes them itself
        return True
    scale, zero_point = quantization
    shift = 128 if dtype == np.int8 else 0
    return all(
        abs(255 / (scale * std) - 255) <= 1 + _ROUNDING
        and abs(zero_point + shift - mean) <= 0.5 + _ROUNDING
        for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)
    )


def _bytes(channels: int, dtype: np.dtype) -> np.ndarray:
    pixels = np.repeat(np.arange(256)[:, None], channels, axis=1)
    return (pixels - (128 if dtype == np.int8 else 0)).astype(dtype)


def _rounded(
    preprocessing: Preprocessing, dtype: np.dtype, *, quantization: tuple[float, int] | None
) -> np.ndarray:
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], preprocessing.channels, axis=1)
    normalized = preprocessing.normalize(pixels)
    if np.issubdtype(dtype, np.floating):
        return normalized.astype(dtype)
    scale, zero_point = quantization or (1.0, 0)
    limits = np.iinfo(dtype)
    return (np.rint(normalized / scale) + zero_point).clip(limits.min, limits.max).astype(dtype)


def input_warnings(
    preprocessing: Preprocessing, source: PreprocessingSource, *, image: Tensor
) -> list[str]:
    """What a user should know of an input, one line each."""
    quantization = per_tensor(image)
    found = [_GUESS] if source is PreprocessingSource.ASSUMED else []
    if quantization is None or image.dtype is None:
        return found
    found += _check_range(preprocessing, image, quantization=quantization)
    if takes_bytes(preprocessing, image.dtype, quantization=quantization):
        levels = _rounded(preprocessing, image.dtype, quantization=quantization)
        if not np.array_equal(levels, _bytes(preprocessing.channels, image.dtype)):
            mean = preprocessing.mean[0]
            found.append(
                f"fed the pixels' bytes unchanged: scale times std is 1 and the zero point is "
                f"within half a level of the mean {mean:g}; rounding (pixel - mean) / std / scale "
                f"would leave {len(np.unique(levels[:, 0]))} of 256 levels"
            )
    return found


def _check_range(preprocessing: Preprocessing, image: Tensor, *, quantization) -> list[str]:
    """Whether the input's range holds the normalized pixels, and not much more."""
    scale, zero_point = quantization
    limits = np.iinfo(image.dtype)
    low, high = (scale * (edge - zero_point) + 0.0 for edge in (limits.min, limits.max))
    wanted_low, wanted_high = (edge + 0.0 for edge in preprocessing.input_range)  # no -0
    slack = _SCALE_TOLERANCE * (wanted_high - wanted_low)
    if abs(low - wanted_low) <= slack and abs(high - wanted_high) <= slack:
        return []
    return [
        f"input scale {scale:.6g} and zero point {zero_point} stand for [{low:.3g}, {high:.3g}], "
        f"the preprocessing gives [{wanted_low:.3g}, {wanted_high:.3g}]: calibrated on images "
        "that were normalized in another way? Calibrate again, or give the file's own --mean, --std"
    ]
