"""What the page knows of a model: the numbers of its contract, as plain values for its scripts."""

from deeplab_tf.data.alignment import Alignment, nearest_indices
from deeplab_tf.data.labels import voc_colormap
from tflite_tools.contract import ModelContract, class_count
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.flatbuffer.graph import Graph
from tflite_tools.input_contract import PreprocessingSource
from tflite_tools.manifest import sha256_of

_ANY_CLASS = 256
"""Most classes; so many have a colour if a graph does not tell how many there are."""


def model_values(contract: ModelContract, graph: Graph) -> dict:
    """Returns what the page must know to feed a file and to read its output.

    Args:
        contract: of the file.
        graph: of the file.

    Raises:
        ValueError: the input is no RGB photo, there are too many classes, or the normalization is
            stated nowhere.
    """
    if contract.channels != 3:
        raise ValueError(
            f"{contract.path}: expected 3 input channels (RGB), got {contract.channels}; the page "
            "feeds photos"
        )
    if (contract.num_classes or 0) > _ANY_CLASS:
        raise ValueError(
            f"{contract.path}: expected at most {_ANY_CLASS} classes, got {contract.num_classes}; "
            "masks have one byte per pixel"
        )
    if contract.preprocessing_source is PreprocessingSource.ASSUMED:
        raise ValueError(
            f"{contract.path}: neither a manifest nor the file states how its "
            f"{contract.input_dtype} input is normalized; give --mean and --std (127.5 and 127.5 "
            "for -1 to 1, 0 and 255 for 0 to 1)"
        )
    names, colors = _classes(contract, graph)
    return {
        "name": contract.name,
        "file": contract.path.name,
        "sha256": sha256_of(read_model_bytes(contract.path)),
        "sizeBytes": contract.size_bytes,
        "variant": contract.variant,
        "height": contract.height,
        "width": contract.width,
        "input": _input(contract),
        "output": _output(contract),
        "names": names,
        "colors": colors,
        "warnings": list(contract.warnings),
    }


def _classes(contract: ModelContract, graph: Graph) -> tuple[list[str], list[list[int]]]:
    if contract.label_set is not None:
        return list(contract.label_set.names), [list(color) for color in contract.label_set.colors]
    output = graph.outputs[contract.output_position]
    count = class_count(graph, contract.num_classes, output=output) or _ANY_CLASS
    names = [f"class {label}" for label in range(count)]
    if contract.threshold is not None:
        names = ["background", "foreground"]
    return names, [list(color) for color in voc_colormap(count)]


def _input(contract: ModelContract) -> dict:
    table = contract.quantize_table()
    mean, std = contract.preprocessing.mean, contract.preprocessing.std
    return {
        "channels": contract.channels,
        "channelsFirst": contract.channels_first,
        "dtype": str(contract.input_dtype),
        "table": None if table is None else table.T.tolist(),
        "mean": list(mean),
        "std": list(std),
        "source": contract.preprocessing_source.value,
    }


def _output(contract: ModelContract) -> dict:
    height, width = contract.output_size
    alignment = contract.alignment or Alignment.HALF_PIXEL
    sides = ((height, contract.height), (width, contract.width))
    rows = columns = None
    if contract.classes_output:
        rows, columns = (nearest_indices(*side, alignment=alignment).tolist() for side in sides)
    elif contract.needs_resize:
        rows, columns = (alignment.positions(*side).tolist() for side in sides)
    return {
        "position": contract.output_position,
        "height": height,
        "width": width,
        "channels": 1 if contract.classes_output else contract.output_shape[3],
        "channelsFirst": contract.output_channels_first,
        "isClassMap": contract.classes_output,
        "threshold": None if contract.threshold is None else float(contract.threshold),
        "rows": rows,
        "columns": columns,
    }
