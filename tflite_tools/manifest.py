"""The JSON beside a `.tflite`: what goes in, what comes out, what it was made from."""

import dataclasses
import hashlib
import json
import pathlib

from deeplab_tf import atomic_file
from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.lidar.sensor import Sensor
from deeplab_tf.data.preprocessing import Preprocessing

FORMAT = 1
RESIZES = tuple(alignment.value for alignment in Alignment)


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Everything that a program needs to feed a file and read its answer.

    Attributes:
        variant: number format, `export.conversion.variants.Variant` by value.
        head: `export.conversion.variants.Head` by value.
        height, width: of the input.
        preprocessing: normalization of pixels; a photo is placed top left, aspect kept, the rest
            of the canvas gray (`deeplab_tf.data.preprocessing.place`).
        label_set: classes in the order of the output.
        input_dtype, output_dtype: of the file's tensors.
        input_quantization, output_quantization: (scale, zero point), or None for float.
        calibration: images that gave the ranges, or None.
        source: what the file was made from.
        versions: of the libraries that made it.
        sha256: of the `.tflite`.
        size_bytes: of the `.tflite`.
        quantization: post-training steps and what each did, or None.
        resize: one of `RESIZES`, how the training brought logits to the photo's size; None: not
            on record.
        sensor: that made the range images which it was trained on; None for photos.
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

    def __post_init__(self):
        if self.resize is not None and self.resize not in RESIZES:
            raise ValueError(f"resize {self.resize!r} is none of {', '.join(RESIZES)}")

    def to_json(self) -> dict:
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
            },
            "labels": self.label_set.names,
            "colors": self.label_set.colors,
            "calibration": self.calibration,
            "source": self.source,
            "versions": self.versions,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "quantization": self.quantization,
            "sensor": self.sensor.to_json() if self.sensor else None,
        }

    def write(self, path: pathlib.Path) -> None:
        atomic_file.write_text(path, json.dumps(self.to_json(), indent=2) + "\n")

    @classmethod
    def from_json(cls, values: dict) -> "Manifest":
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
        )


def _pair(value):
    return None if value is None else (float(value[0]), int(value[1]))


def manifest_path(model: pathlib.Path) -> pathlib.Path:
    """`int8.json` for `int8.tflite`."""
    return model.with_suffix(".json")


def read_manifest(model: pathlib.Path) -> Manifest | None:
    """The manifest beside a file, checked against it; None where there is none.

    Raises:
        ValueError: it cannot be read, or the file is not the one that it describes.
    """
    path = manifest_path(model)
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text())
        if values.get("format") != FORMAT:
            raise ValueError(f"format {values.get('format')!r} instead of {FORMAT}")
        manifest = Manifest.from_json(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a readable manifest ({error})") from error
    found = sha256_of(model.read_bytes())
    if found != manifest.sha256:
        raise ValueError(
            f"{model}: sha256 {found[:12]} is not the manifest's {manifest.sha256[:12]}; "
            "the file was changed or damaged, export it again"
        )
    return manifest
