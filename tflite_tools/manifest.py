"""The manifest: a JSON file next to a `.tflite` about its input, its output and its source."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence

from deeplab_tf import atomic_file, bounded_file
from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.lidar.sensor import Sensor
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.field_types import check_field_types
from tflite_tools.flatbuffer.file_bytes import read_model_bytes

FORMAT = 1
RESIZES = tuple(alignment.value for alignment in Alignment)


def sha256_of(content: bytes) -> str:
    """Returns the SHA-256 digest in hexadecimal.

    Args:
        content: of a file.
    """
    return hashlib.sha256(content).hexdigest()


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Everything that a program needs to feed a file and to read its output.

    Attributes:
        variant: number format, `export.conversion.variants.Variant` by value.
        head: `export.conversion.variants.Head` by value.
        height, width: of the input.
        preprocessing: normalization of pixels; an image is placed top left, its aspect kept, the
            rest of the canvas gray (`deeplab_tf.data.preprocessing.place`).
        label_set: classes in the order of the output.
        input_dtype, output_dtype: of the file's tensors.
        input_quantization, output_quantization: (scale, zero point), or None for float.
        calibration: images that the ranges were measured on, or None.
        source: what the file was made from.
        versions: of the libraries that made it.
        sha256: of the `.tflite`.
        size_bytes: of the `.tflite`.
        quantization: post-training steps and the result of each, or None.
        resize: one of `RESIZES`, how the training resized logits to the image's size; None if not
            on record.
        sensor: of the range images that it was trained on; None for camera images.
        recipe: digest of everything that the file's content depends on, or None.
        outputs: names of several outputs, in the file's order; empty where there is one.
        output_name: which of them is the segmentation that the manifest describes.
    """

    variant: str
    head: str
    height: int
    width: int
    preprocessing: Preprocessing
    label_set: LabelSet
    input_dtype: str
    output_dtype: str
    input_quantization: tuple[float, int] | None
    output_quantization: tuple[float, int] | None
    calibration: dict | None
    source: str
    versions: dict
    sha256: str
    size_bytes: int
    quantization: dict | None = None
    resize: str | None = None
    sensor: Sensor | None = None
    recipe: str | None = None
    outputs: tuple[str, ...] = ()
    output_name: str | None = None

    def __post_init__(self) -> None:
        check_field_types(self)
        if self.resize is not None and self.resize not in RESIZES:
            raise ValueError(f"resize: expected one of {', '.join(RESIZES)}, got {self.resize!r}")

    def to_json(self) -> dict:
        """Returns the values to store."""
        return {
            "format": FORMAT,
            "variant": self.variant,
            "head": self.head,
            "input": {
                "height": self.height,
                "width": self.width,
                "channels": self.preprocessing.channels,
                "layout": "NHWC, batch 1, RGB for 3 channels",
                "placement": "top left, aspect kept, padded with pixel value 128",
                "mean": self.preprocessing.mean,
                "std": self.preprocessing.std,
                "dtype": self.input_dtype,
                "quantization": self.input_quantization,
            },
            "output": {
                "dtype": self.output_dtype,
                "quantization": self.output_quantization,
                "resize": self.resize,
                "name": self.output_name,
            },
            "outputs": self.outputs,
            "labels": self.label_set.names,
            "colors": self.label_set.colors,
            "calibration": self.calibration,
            "source": self.source,
            "versions": self.versions,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "quantization": self.quantization,
            "sensor": self.sensor.to_json() if self.sensor else None,
            "recipe": self.recipe,
        }

    def write(self, path: pathlib.Path) -> None:
        """Writes the manifest as JSON.

        Args:
            path: file to write; a previous one is replaced.
        """
        atomic_file.write_text(path, json.dumps(self.to_json(), indent=2) + "\n")

    @classmethod
    def from_json(cls, values: dict) -> "Manifest":
        """Builds a manifest from stored values.

        Args:
            values: as returned by `to_json`; later fields may be missing.

        Raises:
            KeyError, TypeError, ValueError: a value is missing or cannot be used.
        """
        image, output = values["input"], values["output"]
        return cls(
            variant=values["variant"],
            head=values["head"],
            height=image["height"],
            width=image["width"],
            preprocessing=Preprocessing(tuple(image["mean"]), tuple(image["std"])),
            label_set=LabelSet(
                tuple(values["labels"]), tuple(tuple(color) for color in values["colors"])
            ),
            input_dtype=image["dtype"],
            output_dtype=output["dtype"],
            input_quantization=_pair(image["quantization"]),
            output_quantization=_pair(output["quantization"]),
            calibration=values["calibration"],
            source=values["source"],
            versions=values["versions"],
            sha256=values["sha256"],
            size_bytes=values["size_bytes"],
            quantization=values.get("quantization"),
            resize=output.get("resize"),
            sensor=Sensor.from_json(values["sensor"]) if values.get("sensor") else None,
            recipe=values.get("recipe"),
            outputs=tuple(values.get("outputs", ())),
            output_name=output.get("name"),
        )


def _pair(value: Sequence[float] | None) -> tuple[float, int] | None:
    return None if value is None else (float(value[0]), int(value[1]))


def manifest_path(model: pathlib.Path) -> pathlib.Path:
    """Returns the manifest's path: `int8.json` for `int8.tflite`.

    Args:
        model: the `.tflite` file.
    """
    return model.with_suffix(".json")


def read_manifest(model: pathlib.Path) -> Manifest | None:
    """Reads the manifest of a file and checks that it describes this file.

    Args:
        model: the `.tflite` file.

    Returns:
        The manifest, or None if there is none.

    Raises:
        ValueError: the manifest cannot be read, or describes another file.
    """
    path = manifest_path(model)
    if not path.is_file():
        return None
    with bounded_file.read_as(path, "a readable manifest"):
        values = bounded_file.read_json(path)
        if values.get("format") != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {values.get('format')!r}")
        manifest = Manifest.from_json(values)
    found = sha256_of(read_model_bytes(model))
    if found != manifest.sha256:
        raise ValueError(
            f"{model}: expected sha256 {manifest.sha256[:12]} (its manifest), got {found[:12]}; "
            "the file was changed or damaged, export it again"
        )
    return manifest
