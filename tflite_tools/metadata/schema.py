"""The tables of TFLite's metadata schema that an image segmenter needs, as data.

The order of fields matters: a flatbuffer finds a field by its position in the table. Source:
metadata_schema.fbs 1.5.0 (file identifier M001) and image_segmenter_metadata_schema.fbs 1.0.0
(V001), both shipped in MediaPipe's wheel; `clients/` reads our files with MediaPipe's own
generated classes. Tables that no segmenter uses (audio, text, boxes) have no fields here.
"""

MODEL_IDENTIFIER = b"M001"
SEGMENTER_IDENTIFIER = b"V001"

TENSOR_AXIS_LABELS = 2
"""AssociatedFileType: one label for each channel of the tensor."""
TENSOR_VALUE_LABELS = 3
"""AssociatedFileType: one label for each value that the tensor holds."""
RGB, GRAYSCALE = 1, 2
"""ColorSpaceType."""

UNIONS = {
    "ContentProperties": (
        "FeatureProperties",
        "ImageProperties",
        "BoundingBoxProperties",
        "AudioProperties",
    ),
    "ProcessUnitOptions": (
        "NormalizationOptions",
        "ScoreCalibrationOptions",
        "ScoreThresholdingOptions",
        "BertTokenizerOptions",
        "SentencePieceTokenizerOptions",
        "RegexTokenizerOptions",
    ),
}
"""Members in the order of their type number, which starts at 1."""

TABLES: dict[str, tuple[tuple[str, str], ...]] = {
    "ModelMetadata": (
        ("name", "string"),
        ("description", "string"),
        ("version", "string"),
        ("subgraph_metadata", "[SubGraphMetadata]"),
        ("author", "string"),
        ("license", "string"),
        ("associated_files", "[AssociatedFile]"),
        ("min_parser_version", "string"),
    ),
    "SubGraphMetadata": (
        ("name", "string"),
        ("description", "string"),
        ("input_tensor_metadata", "[TensorMetadata]"),
        ("output_tensor_metadata", "[TensorMetadata]"),
        ("associated_files", "[AssociatedFile]"),
        ("input_process_units", "[ProcessUnit]"),
        ("output_process_units", "[ProcessUnit]"),
        ("input_tensor_groups", "[TensorGroup]"),
        ("output_tensor_groups", "[TensorGroup]"),
        ("custom_metadata", "[CustomMetadata]"),
    ),
    "TensorMetadata": (
        ("name", "string"),
        ("description", "string"),
        ("dimension_names", "[string]"),
        ("content", "Content"),
        ("process_units", "[ProcessUnit]"),
        ("stats", "Stats"),
        ("associated_files", "[AssociatedFile]"),
    ),
    "AssociatedFile": (
        ("name", "string"),
        ("description", "string"),
        ("type", "byte"),
        ("locale", "string"),
        ("version", "string"),
    ),
    "Content": (("content_properties", "union ContentProperties"), ("range", "ValueRange")),
    "ValueRange": (("min", "int"), ("max", "int")),
    "ImageProperties": (("color_space", "byte"), ("default_size", "ImageSize")),
    "ImageSize": (("width", "uint"), ("height", "uint")),
    "ProcessUnit": (("options", "union ProcessUnitOptions"),),
    "NormalizationOptions": (("mean", "[float]"), ("std", "[float]")),
    "Stats": (("max", "[float]"), ("min", "[float]")),
    "TensorGroup": (("name", "string"), ("tensor_names", "[string]")),
    "CustomMetadata": (("name", "string"), ("data", "[ubyte]")),
    # of the other schema, packed into CustomMetadata.data
    "ImageSegmenterOptions": (("activation", "byte"), ("min_parser_version", "string")),
}
