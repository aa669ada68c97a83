"""Reads a file's metadata with MediaPipe's own classes and writes them as JSON to stdout."""

import io
import json
import pathlib
import sys
import zipfile

from mediapipe.tasks.metadata import image_segmenter_metadata_schema_py_generated as segmenter
from mediapipe.tasks.metadata import metadata_schema_py_generated as schema
from mediapipe.tasks.metadata import schema_py_generated as model_schema


def _metadata(content: bytes) -> schema.ModelMetadataT:
    model = model_schema.ModelT.InitFromObj(model_schema.Model.GetRootAsModel(content, 0))
    [entry] = [entry for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
    buffer = bytes(bytearray(model.buffers[entry.buffer].data))
    if not schema.ModelMetadata.ModelMetadataBufferHasIdentifier(buffer, 0):
        raise ValueError("wrong identifier")
    return schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAsModelMetadata(buffer, 0))


def main(model: str) -> None:
    """Writes the metadata to standard output.

    Args:
        model: path of a `.tflite`.
    """
    content = pathlib.Path(model).read_bytes()
    metadata = _metadata(content)
    [subgraph] = metadata.subgraphMetadata
    [image], [output] = subgraph.inputTensorMetadata, subgraph.outputTensorMetadata
    [unit], [file], [custom] = image.processUnits, output.associatedFiles, subgraph.customMetadata
    data = bytes(bytearray(custom.data))
    options = segmenter.ImageSegmenterOptions.GetRootAsImageSegmenterOptions(data, 0)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        labels = archive.read(file.name.decode()).decode().splitlines()
    found = {
        "name": metadata.name.decode(),
        "min_parser_version": metadata.minParserVersion.decode(),
        "mean": [float(value) for value in unit.options.mean],
        "std": [float(value) for value in unit.options.std],
        "color_space": image.content.contentProperties.colorSpace,
        "output_axes": [output.content.range.min, output.content.range.max],
        "label_type": file.type,
        "labels": labels,
        "custom_name": custom.name.decode(),
        "activation": options.Activation(),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
