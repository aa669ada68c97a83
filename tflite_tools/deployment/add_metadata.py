"""Writes a copy of a `.tflite` with metadata, and the manifest of the new file."""

import dataclasses
import pathlib

import numpy as np
from absl import logging

from deeplab_tf import atomic_file
from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.label_list import read_label_list
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.contract import ModelContract, read_contract
from tflite_tools.deployment.metadata_description import check_labels, describe
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.input_contract import PreprocessingSource
from tflite_tools.manifest import Manifest, manifest_path, read_manifest, sha256_of
from tflite_tools.metadata.packing import add
from tflite_tools.metadata.segmenter import SegmenterMetadata
from tflite_tools.runtime.file_interpreter import FileRunner
from tflite_tools.runtime.runtime_shapes import with_known_shapes


@dataclasses.dataclass(frozen=True)
class AddOptions:
    """What to add to which file.

    Attributes:
        model: the file; its manifest, else its own metadata, gives labels and normalization.
        output: the file to write.
        labels: text file, one name per line; None for the file's own.
        preprocessing: None for the file's own, else that of its input's scale.
        alignment: how the training resizes logits; None for the manifest's.
        name, license: for people; "" for the file's stem and no licence.
        overwrite: replace `output` and its manifest.
    """

    model: pathlib.Path
    output: pathlib.Path
    labels: pathlib.Path | None = None
    preprocessing: Preprocessing | None = None
    name: str = ""
    license: str = ""
    alignment: Alignment | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.output.suffix != ".tflite":
            raise ValueError(f"--output: expected a name ending in .tflite, got {self.output}")
        for path in (self.output, manifest_path(self.output)):
            if path.exists() and not self.overwrite:
                raise FileExistsError(f"{path} exists; give --overwrite or another --output")


def default_output(model: pathlib.Path) -> pathlib.Path:
    """Returns the default output: `int8_metadata.tflite` for `int8.tflite`.

    Args:
        model: the input file.
    """
    return model.with_name(f"{model.stem}_metadata.tflite")


def add_metadata(options: AddOptions) -> SegmenterMetadata:
    """Writes the output and its manifest.

    Args:
        options: the files and what to add.

    Returns:
        The metadata in the output.

    Raises:
        FileNotFoundError: no such model or label file.
        ValueError: not a segmentation model, no labels or not as many as classes, or a float input
            whose normalization is not stated.
        RuntimeError: the new file computes another output than the old one.
    """
    contract = read_contract(options.model, options.preprocessing, alignment=options.alignment)
    if contract.preprocessing_source is PreprocessingSource.ASSUMED:
        raise ValueError(
            f"{options.model}: the normalization of its {contract.input_dtype} input is not on "
            "record; give --mean and --std"
        )
    for warning in contract.warnings:
        logging.warning("%s: %s", options.model, warning)
    labels = _labels(options, contract)
    graph = with_known_shapes(read_graph(options.model))
    metadata = describe(
        contract, labels, graph=graph, name=options.name, license_text=options.license
    )
    content = add(read_model_bytes(options.model), metadata)
    manifest = _manifest(contract, labels, content=content)
    with atomic_file.atomic_path(options.output) as temporary:
        temporary.write_bytes(content)
        _check_run(options.model, temporary)
    manifest.write(manifest_path(options.output))
    return metadata


def _check_run(original: pathlib.Path, changed: pathlib.Path) -> None:
    """Runs both files once on seeded noise: metadata must not change the output."""
    graph = read_graph(original)
    shape = graph.tensors[graph.inputs[0]].shape
    noise = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    try:
        expected = FileRunner(original)(noise)
    except (ValueError, RuntimeError) as error:  # one for an accelerator, for example
        logging.warning("%s does not run here (%s): its copy is not checked", original, error)
        return
    if not np.array_equal(expected, FileRunner(changed)(noise), equal_nan=True):
        raise RuntimeError(
            f"{original}: the copy with metadata computes another output; it is not written"
        )


def _labels(options: AddOptions, contract: ModelContract) -> tuple[str, ...]:
    if options.labels is not None:
        names = read_label_list(options.labels)
        check_labels(names, None, name=str(options.labels))
        return names
    if contract.label_set is None:
        raise ValueError(
            f"{options.model}: neither its manifest nor its metadata have labels; give "
            "--labels=FILE, one name per line"
        )
    return contract.label_set.names


def _manifest(contract: ModelContract, labels: tuple[str, ...], *, content: bytes) -> Manifest:
    found = read_manifest(contract.path)
    sha256, size_bytes = sha256_of(content), len(content)
    if found is not None:
        label_set = LabelSet(labels, found.label_set.colors)
        return dataclasses.replace(
            found,
            preprocessing=contract.preprocessing,
            label_set=label_set,
            sha256=sha256,
            size_bytes=size_bytes,
            resize=contract.alignment.value if contract.alignment else None,
        )
    return Manifest(
        variant=contract.variant,
        head=_head(contract),
        height=contract.height,
        width=contract.width,
        preprocessing=contract.preprocessing,
        label_set=LabelSet.from_names(labels),
        input_dtype=str(contract.input_dtype),
        output_dtype=str(contract.output_dtype),
        input_quantization=contract.input_quantization,
        output_quantization=contract.output_quantization,
        calibration=None,
        source=f"{contract.path.name}, sha256 {sha256_of(read_model_bytes(contract.path))}",
        versions={},
        sha256=sha256,
        size_bytes=size_bytes,
        resize=contract.alignment.value if contract.alignment else None,
    )


def _head(contract: ModelContract) -> str:
    """Returns the name of this output among the heads of the export."""
    spatial = [size for size in contract.output_shape if size != 1]
    size = tuple(spatial[:2]) if contract.classes_output else contract.output_shape[1:3]
    form = "argmax" if contract.classes_output else "logits"
    if size == (contract.height, contract.width):
        return form
    halved = (-(-contract.height // 2), -(-contract.width // 2))
    return "argmax_half" if contract.classes_output and size == halved else f"{form}_low"
