"""The contract of a file's input: how 8-bit pixels become its values, and where that is stated.

It holds for any file, whatever its output is; `contract` builds on it for segmentation models. All
commands read it here:

real = (pixel - mean) / std,   quantized = round(real / scale) + zero_point
"""

import dataclasses
import enum
import math
import pathlib

import numpy as np

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.flatbuffer.graph import Graph, Tensor
from tflite_tools.manifest import Manifest, read_manifest
from tflite_tools.metadata import packing
from tflite_tools.metadata.segmenter import SegmenterMetadata

LARGEST_INPUT = 1 << 28
"""Values: the largest photo that is read, in three channels."""
MOST_CHANNELS = 1024

_SCALE_TOLERANCE = 0.02
"""Relative. 1/127.5 against 1/128 differs by 0.4%: half a gray level at the brightest pixel."""
_ROUNDING = 1e-3
"""Levels; a scale is stored as float32."""
NOT_ON_RECORD = (
    "the normalization of its pixels is not on record: (pixel - 128) / 128 is assumed; give the "
    "training's --mean and --std"
)


class PreprocessingSource(enum.Enum):
    """Where the normalization of pixels is stated; the first of these that states it is used."""

    GIVEN = "given"
    """Given by the caller: --mean and --std."""
    MANIFEST = "manifest"
    """The JSON next to the file."""
    METADATA = "metadata"
    """NormalizationOptions inside the file."""
    QUANTIZATION = "quantization"
    """The input's own scale and zero point; integers without a scale are the pixels themselves."""
    ASSUMED = "assumed"
    """Nowhere: (x - 128) / 128, with a warning. Never evidence against a file."""


@dataclasses.dataclass(frozen=True)
class FileDescription:
    """What the manifest next to a file, else the metadata inside it, states about it.

    Attributes:
        manifest: the manifest, or None.
        preprocessing: normalization of the manifest, else of the metadata; None if not stated.
        source: which of the two.
        labels: class names of the manifest, else of the file; () if there are none.
        warnings: what cannot be used, one line each.
    """

    manifest: Manifest | None = None
    preprocessing: Preprocessing | None = None
    source: PreprocessingSource = PreprocessingSource.METADATA
    labels: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def alignment(self) -> Alignment | None:
        """How the training resizes logits, by the manifest; None if not on record."""
        resize = self.manifest.resize if self.manifest else None
        return None if resize is None else Alignment(resize)


@dataclasses.dataclass(frozen=True)
class InputContract:
    """What the input of any file takes, an image or not, and its class names.

    Attributes:
        tensor: name of the input in the file.
        shape: with the batch.
        dtype: of the input, "uint8" for example.
        quantization: (scale, zero point) of the input or None.
        preprocessing: one value per channel of an image, one for all values of anything else.
        source: where it is stated.
        labels: class names, or ().
        warnings: what does not fit together, one line each.
        alignment: how the training resizes logits, by the manifest; None if not on record.
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
        """Whether the normalization is stated anywhere."""
        return self.source is not PreprocessingSource.ASSUMED

    def check_known(self) -> None:
        """Checks that the normalization is stated.

        Raises:
            ValueError: it is an assumption.
        """
        if not self.is_known:
            raise ValueError(
                f"neither a manifest nor the file states how its {self.dtype} input is normalized; "
                "give --mean and --std"
            )

    def real_values(self, pixels: np.ndarray) -> np.ndarray:
        """Computes the real values that the file computes with.

        Args:
            pixels: uint8 [..., channels].

        Returns:
            float32 of the same shape: for a quantized input those of the integers that are fed.

        Raises:
            ValueError: the normalization is not stated.
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
        """Returns the contract for JSON; mean and std are None if they are an assumption."""
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
    given: Preprocessing | None = None,
) -> InputContract:
    """Reads the contract of a file's input: given, manifest, metadata, quantization, assumed.

    Args:
        path: the file.
        graph: of the file.
        given: normalization by the caller, or None; one value stands for all channels.

    Raises:
        ValueError: the manifest is of another file, or a normalization of other channels.
    """
    path = pathlib.Path(path)
    image = graph.tensors[graph.inputs[0]]
    return input_contract(
        image, read_description(path, _channels(image)), given=given, name=str(path)
    )


def input_contract(
    image: Tensor,
    description: FileDescription,
    *,
    given: Preprocessing | None = None,
    name: str = "the file",
) -> InputContract:
    """Builds the contract of an input tensor.

    Args:
        image: the tensor.
        description: what is stated about the file.
        given: normalization by the caller, or None.
        name: of the file, for messages.

    Raises:
        ValueError: the normalization is for another number of channels.
    """
    used, source = choose_preprocessing(image, description, given=given, name=name)
    quantization = per_tensor(image)
    return InputContract(
        image.name,
        image.shape,
        dtype=image.type_name.lower(),
        quantization=quantization,
        preprocessing=used,
        source=source,
        labels=description.labels,
        warnings=(*description.warnings, *input_warnings(used, source, image=image)),
        alignment=description.alignment,
    )


def check_input_size(shape: tuple[int, ...] | list[int], name: str) -> None:
    """Refuses an image input for which pixels and numbers per channel would fill the memory.

    Args:
        shape: of the input.
        name: of the file and its input, for the message.

    Raises:
        ValueError: a length below 1, too many values, or too many channels.
    """
    too_many = len(shape) == 4 and shape[3] > MOST_CHANNELS
    if too_many or min(shape, default=1) < 1 or math.prod(shape) > LARGEST_INPUT:
        raise ValueError(f"{name} has no usable size {list(shape)}")


def _channels(image: Tensor) -> int:
    if len(image.shape) != 4:
        return 1
    check_input_size((1, 1, 1, max(image.shape[3], 1)), f"input {image.name!r}")
    return image.shape[3]


def read_description(path: pathlib.Path, channels: int) -> FileDescription:
    """Reads the manifest of a file, else its metadata; damaged metadata become a warning.

    Args:
        path: the file.
        channels: of its input.

    Raises:
        ValueError: the manifest cannot be read, or describes another file.
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
        metadata, labels = packing.read_with_labels(path)
    except ValueError as error:  # what other programs wrote may be damaged or meant otherwise
        return FileDescription(warnings=(f"its metadata are ignored: {error}",))
    preprocessing, unfit = _stated_preprocessing(metadata, channels)
    return FileDescription(preprocessing=preprocessing, labels=labels, warnings=tuple(unfit))


def _stated_preprocessing(
    metadata: SegmenterMetadata | None, channels: int
) -> tuple[Preprocessing | None, list[str]]:
    stated = metadata.preprocessing if metadata else None
    if stated is not None and stated.channels == 1:  # the schema's form of "all channels alike"
        stated = Preprocessing(stated.mean * channels, stated.std * channels)
    if stated is None or stated.channels == channels:
        return stated, []
    return None, [
        f"the normalization in its metadata is ignored: expected {channels} channels, got "
        f"{stated.channels}; give --mean and --std"
    ]


def choose_preprocessing(
    image: Tensor, description: FileDescription, *, given: Preprocessing | None, name: str
) -> tuple[Preprocessing, PreprocessingSource]:
    """Chooses the normalization; see `PreprocessingSource` for the order.

    Args:
        image: the input.
        description: what is stated about the file.
        given: normalization by the caller, or None; one value stands for all channels.
        name: of the file, for messages.

    Returns:
        The normalization and where it is stated.

    Raises:
        ValueError: it is for another number of channels.
    """
    channels = _channels(image)
    own = quantized_preprocessing(image, channels)
    if own is not None and image.quantization is None:
        return own, PreprocessingSource.QUANTIZATION
    if given is not None and given.channels == 1:
        given = Preprocessing(given.mean * channels, given.std * channels)
    found = (
        (given, PreprocessingSource.GIVEN),
        (description.preprocessing, description.source),
        (own, PreprocessingSource.QUANTIZATION),
        (Preprocessing.of(channels), PreprocessingSource.ASSUMED),
    )
    used, source = next((value, source) for value, source in found if value is not None)
    if used.channels != channels:
        raise ValueError(
            f"{name}: expected a normalization of {channels} channel(s), got {used.channels} "
            f"({source.value}); give --mean and --std with one value per channel"
        )
    return used, source


def per_tensor(tensor: Tensor) -> tuple[float, int] | None:
    """Returns (scale, zero point) of an integer tensor, or None if it has none.

    Args:
        tensor: quantized per tensor, or not at all.
    """
    if tensor.quantization is None or tensor.is_float:
        return None
    return float(tensor.quantization.scale[0]), int(tensor.quantization.zero_point[0])


def quantized_preprocessing(image: Tensor, channels: int) -> Preprocessing | None:
    """Returns the normalization that a quantized image's scale and zero point imply.

    A uint8 input takes the pixel itself as the quantized value, an int8 input the pixel less 128.
    Without a scale the bytes are fed as they are, and the graph casts them itself.

    Args:
        image: the input.
        channels: of the input.

    Returns:
        The normalization, or None for a float input.

    Raises:
        ValueError: its scale is 0.
    """
    if image.type_name not in ("UINT8", "INT8"):
        return None
    shift = 128 if image.type_name == "INT8" else 0
    if image.quantization is None:
        return Preprocessing((float(shift),) * channels, (1.0,) * channels)
    if not image.quantization.scale[0] > 0:
        raise ValueError(f"input {image.name!r} has no positive scale; convert it again")
    mean = float(image.quantization.zero_point[0] + shift)
    std = 1.0 / float(image.quantization.scale[0])
    return Preprocessing((mean,) * channels, (std,) * channels)


def pixel_table(
    preprocessing: Preprocessing, dtype: np.dtype, *, quantization: tuple[float, int] | None
) -> np.ndarray:
    """Computes the input value of each pixel value.

    They are the bytes themselves (int8: less 128) if `takes_bytes`, else rounded to the nearest.

    Args:
        preprocessing: normalization of the pixels.
        dtype: of the input.
        quantization: (scale, zero point) of the input, or None.

    Returns:
        [256, channels] in the input's dtype.
    """
    if takes_bytes(preprocessing, dtype, quantization=quantization):
        return _bytes(preprocessing.channels, dtype)
    return _rounded(preprocessing, dtype, quantization=quantization)


def takes_bytes(
    preprocessing: Preprocessing, dtype: np.dtype, *, quantization: tuple[float, int] | None
) -> bool:
    """Returns whether 8-bit pixels equal the input's integers except for rounding.

        quantized = pixel / (scale * std) - mean / (scale * std) + zero_point

    This holds if scale * std is 1, within one level over the range, and the zero point (int8: plus
    128) is within half a level of the mean. A mean of 127.5 puts every pixel on a rounding tie, and
    ties rounded to even leave 129 of the 256 levels.

    Args:
        preprocessing: normalization of the pixels.
        dtype: of the input.
        quantization: (scale, zero point) of the input, or None.
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
    """Lists what a user should know of an input, one line each.

    Args:
        preprocessing: normalization in use.
        source: where it is stated.
        image: the input.
    """
    quantization = per_tensor(image)
    found = [NOT_ON_RECORD] if source is PreprocessingSource.ASSUMED else []
    if quantization is None or image.dtype is None:
        return found
    found += _check_range(preprocessing, image, quantization=quantization)
    if takes_bytes(preprocessing, image.dtype, quantization=quantization):
        levels = _rounded(preprocessing, image.dtype, quantization=quantization)
        if not np.array_equal(levels, _bytes(preprocessing.channels, image.dtype)):
            mean = preprocessing.mean[0]
            found.append(
                f"pixels are fed as unchanged bytes: scale times std is 1 and the zero point is "
                f"within half a level of the mean {mean:g}; rounding (pixel - mean) / std / scale "
                f"would leave {len(np.unique(levels[:, 0]))} of 256 levels"
            )
    return found


def _check_range(
    preprocessing: Preprocessing, image: Tensor, *, quantization: tuple[float, int]
) -> list[str]:
    """Warns if the input's range does not match the range of the normalized pixels."""
    scale, zero_point = quantization
    limits = np.iinfo(image.dtype)
    low, high = (scale * (edge - zero_point) + 0.0 for edge in (limits.min, limits.max))
    expected_low, expected_high = (edge + 0.0 for edge in preprocessing.input_range)  # no -0
    slack = _SCALE_TOLERANCE * (expected_high - expected_low)
    if abs(low - expected_low) <= slack and abs(high - expected_high) <= slack:
        return []
    return [
        f"input scale {scale:.6g} and zero point {zero_point} cover [{low:.3g}, {high:.3g}], "
        f"the preprocessing gives [{expected_low:.3g}, {expected_high:.3g}]: calibrated on images "
        "that were normalized differently? Calibrate again, or give the file's own --mean, --std"
    ]
