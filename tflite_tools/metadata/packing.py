"""Writes and reads the metadata of a segmentation model in MediaPipe's format."""

import pathlib

from deeplab_tf.data.label_list import parse_label_lines
from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.metadata import codec, model_file, schema
from tflite_tools.metadata.segmenter import Activation, SegmenterMetadata

LABEL_FILE = "labels.txt"
PARSER_VERSION = "1.5.0"
"""The first metadata schema with custom metadata."""
_SEGMENTER_PARSER_VERSION = "1.0.0"
_SEGMENTER_NAME = "SEGMENTER_METADATA"


def add(content: bytes, metadata: SegmenterMetadata) -> bytes:
    """Adds metadata to a model, in place of those that it has.

    Args:
        content: a `.tflite`.
        metadata: to add.

    Raises:
        ValueError: the file is damaged, or its weights are too large to lie inside the tables.
    """
    values = {
        "name": metadata.name,
        "description": metadata.description,
        "license": metadata.license or None,
        "subgraph_metadata": [
            {
                "input_tensor_metadata": [_input(metadata)],
                "output_tensor_metadata": _outputs(metadata),
                "custom_metadata": _custom(metadata),
            }
        ],
        "min_parser_version": PARSER_VERSION,
    }
    encoded = codec.encode("ModelMetadata", values, identifier=schema.MODEL_IDENTIFIER)
    files = {LABEL_FILE: ("\n".join(metadata.labels) + "\n").encode()} if metadata.labels else {}
    return model_file.attach(content, encoded, files=files)


def _input(metadata: SegmenterMetadata) -> dict:
    values: dict = {
        "name": "image",
        "description": "RGB photo, [1, height, width, channels]",
        "content": {
            "content_properties": ("ImageProperties", {"color_space": schema.RGB}),
        },
    }
    if metadata.preprocessing is not None:
        options = {"mean": metadata.preprocessing.mean, "std": metadata.preprocessing.std}
        values["process_units"] = [{"options": ("NormalizationOptions", options)}]
        if metadata.preprocessing.channels != 3:
            values["content"] = None
            values["description"] = "planes, [1, height, width, channels]"
    if metadata.input_range is not None:
        values["stats"] = {"min": metadata.input_range[0], "max": metadata.input_range[1]}
    return values


def _outputs(metadata: SegmenterMetadata) -> list[dict]:
    """Describes every output: readers expect as many descriptions as the file has outputs."""
    found = [{"name": name, "description": "further output"} for name in metadata.outputs]
    if not found:
        return [_output(metadata)]
    found[metadata.position] = _output(metadata)
    return found


def _output(metadata: SegmenterMetadata) -> dict:
    kind = schema.TENSOR_VALUE_LABELS if metadata.classes_output else schema.TENSOR_AXIS_LABELS
    values: dict = {
        "name": "segmentation masks",
        "description": "class map" if metadata.classes_output else "logits of each class",
        "content": {
            "content_properties": ("ImageProperties", {"color_space": schema.GRAYSCALE}),
            "range": {"min": 1, "max": 2},  # the axes of the picture
        },
    }
    if metadata.labels:
        file = {"name": LABEL_FILE, "description": "labels of the classes", "type": kind}
        values["associated_files"] = [file]
    return values


def _custom(metadata: SegmenterMetadata) -> list[dict] | None:
    if metadata.activation is None:
        return None
    options = {
        "activation": int(metadata.activation),
        "min_parser_version": _SEGMENTER_PARSER_VERSION,
    }
    data = codec.encode("ImageSegmenterOptions", options, identifier=schema.SEGMENTER_IDENTIFIER)
    return [{"name": _SEGMENTER_NAME, "data": data}]


def read(path: str | pathlib.Path) -> SegmenterMetadata | None:
    """Reads the metadata of a file, by any writer; returns None if it has none.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or a label file is named but missing.
    """
    return _read(pathlib.Path(path))[0]


def _read(path: pathlib.Path) -> tuple[SegmenterMetadata | None, dict[str, bytes]]:
    """Reads the metadata, or None, and the associated files by name."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a .tflite model")
    encoded, files = model_file.extract(read_model_bytes(path), str(path))
    if encoded is None:
        return None, files
    try:
        return parse(encoded, files), files
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_labels(path: str | pathlib.Path) -> tuple[str, ...]:
    """Reads the class names inside a file; returns () if it has none.

    They are those of its metadata, else of the packed text file whose name contains "label", else
    of any packed text file: old files have a ZIP and no metadata.

    Args:
        path: the file.

    Raises:
        ValueError: damaged, see `read`.
    """
    return read_with_labels(path)[1]


def read_with_labels(
    path: str | pathlib.Path,
) -> tuple[SegmenterMetadata | None, tuple[str, ...]]:
    """Reads what `read` and `read_labels` give, and the file only once.

    Args:
        path: the file.

    Raises:
        ValueError: damaged, see `read`.
    """
    metadata, files = _read(pathlib.Path(path))
    if metadata is not None and metadata.labels:
        return metadata, metadata.labels
    return metadata, _packed_labels(files, str(path))


def _packed_labels(files: dict[str, bytes], name: str) -> tuple[str, ...]:
    texts = sorted(
        (text for text in files if text.endswith(".txt")), key=lambda text: "label" not in text
    )
    if not texts:
        return ()
    try:
        lines = files[texts[0]].decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name}: its label file {texts[0]!r} is not UTF-8 text ({error.reason})"
        ) from error
    return tuple(label for label in parse_label_lines(lines) if label)


def parse(encoded: bytes, files: dict[str, bytes]) -> SegmenterMetadata:
    """Decodes metadata.

    Args:
        encoded: the metadata buffer.
        files: associated files by name.

    Raises:
        ValueError: see `read`.
    """
    values = codec.decode(encoded, "ModelMetadata", identifier=schema.MODEL_IDENTIFIER)
    subgraph = _first(values.get("subgraph_metadata"))
    image = _first(subgraph.get("input_tensor_metadata"))
    outputs = subgraph.get("output_tensor_metadata") or [{}]
    named = [place for place, output in enumerate(outputs) if output.get("associated_files")]
    position = named[0] if named else 0
    labels, classes_output = _labels(outputs[position], files)
    stats = image.get("stats", {})
    low, high = (tuple(stats.get(edge, ())) for edge in ("min", "max"))
    return SegmenterMetadata(
        name=values.get("name", ""),
        description=values.get("description", ""),
        license=values.get("license", ""),
        preprocessing=_normalization(image),
        input_range=(low, high) if low and high else None,
        labels=labels,
        classes_output=classes_output,
        activation=_activation(subgraph.get("custom_metadata", [])),
        outputs=tuple(output.get("name", "") for output in outputs) if len(outputs) > 1 else (),
        position=position,
    )


def _first(items: list | None) -> dict:
    return items[0] if items else {}


def _normalization(image: dict) -> Preprocessing | None:
    for unit in image.get("process_units", []):
        member, options = unit.get("options", ("", {}))
        if member == "NormalizationOptions":
            return Preprocessing(tuple(options.get("mean", ())), tuple(options.get("std", ())))
    return None


def _labels(output: dict, files: dict[str, bytes]) -> tuple[tuple[str, ...], bool]:
    kinds = (schema.TENSOR_AXIS_LABELS, schema.TENSOR_VALUE_LABELS)
    for file in output.get("associated_files", []):
        if file.get("type", 0) not in kinds:
            continue
        name = file.get("name", "")
        if name not in files:
            raise ValueError(f"label file {name!r} is named but not packed; add the metadata again")
        lines = files[name].decode("utf-8-sig").rstrip("\n").split("\n")
        return tuple(line.rstrip("\r") for line in lines), file["type"] == kinds[1]
    return (), False


def _activation(custom: list[dict]) -> Activation | None:
    for entry in custom:
        if entry.get("name") == _SEGMENTER_NAME:
            options = codec.decode(
                entry.get("data", b""),
                "ImageSegmenterOptions",
                identifier=schema.SEGMENTER_IDENTIFIER,
            )
            return Activation(options.get("activation", 0))
    return None
