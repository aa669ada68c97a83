"""Derives the metadata of a model from its contract, and checks its labels."""

from deeplab_tf.data.preprocessing import PAD_PIXEL
from tflite_tools.contract import ModelContract, class_count
from tflite_tools.flatbuffer.graph import Graph
from tflite_tools.metadata.segmenter import Activation, SegmenterMetadata


def describe(
    contract: ModelContract,
    labels: tuple[str, ...],
    *,
    graph: Graph,
    name: str = "",
    license_text: str = "",
) -> SegmenterMetadata:
    """Returns the metadata of a model.

    Args:
        contract: of the file.
        labels: in the order of the output.
        graph: of the file; gives the number of classes of a class map.
        name: default: the file's stem.
        license_text: of the weights.

    Raises:
        ValueError: labels are missing, empty or repeated, or not as many as the model's classes.
    """
    read = graph.outputs[contract.output_position]
    classes = class_count(graph, contract.num_classes, output=read)
    check_labels(labels, classes, name=str(contract.path))
    outputs = tuple(graph.tensors[index].name for index in graph.outputs)
    form = "class map" if contract.classes_output else "logits"
    return SegmenterMetadata(
        name=name or contract.name,
        description=(
            f"Semantic segmentation, {len(labels)} classes, output: {form}. Input: photo scaled to "
            f"fit {contract.width}x{contract.height} with its aspect kept, top left, the rest "
            f"filled with pixel value {PAD_PIXEL}."
        ),
        license=license_text,
        preprocessing=contract.preprocessing,
        input_range=_input_range(contract),
        labels=labels,
        classes_output=contract.classes_output,
        activation=Activation.NONE if contract.classes_output else Activation.SOFTMAX,
        outputs=outputs if len(outputs) > 1 else (),
        position=contract.output_position,
    )


def check_labels(labels: tuple[str, ...], classes: int | None, *, name: str) -> None:
    """Checks that labels are distinct and as many as the classes.

    Readers do not check this: MediaPipe shows a wrong name instead.

    Args:
        labels: in the order of the output.
        classes: of the output, or None if not known.
        name: of the file, for messages.

    Raises:
        ValueError: see `describe`.
    """
    if classes is not None and len(labels) != classes:
        raise ValueError(
            f"{name}: expected {classes} labels (classes of the output), got {len(labels)}; give "
            "one name per line, background included, in the order of the output's channels"
        )
    seen: set[str] = set()
    for number, label in enumerate(labels, 1):
        if not label.strip() or "\n" in label or "\r" in label:
            raise ValueError(f"{name}: label {number}: expected one line of text, got {label!r}")
        if label in seen:
            raise ValueError(f"{name}: label {number}, {label!r}, occurs twice; rename one")
        seen.add(label)


def _input_range(
    contract: ModelContract,
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if contract.input_dtype == "uint8":
        return (0.0,), (255.0,)
    if contract.input_dtype != "float32":
        return None
    used = contract.preprocessing
    pairs = list(zip(used.mean, used.std, strict=True))
    low = tuple((0.0 - mean) / std for mean, std in pairs)
    return low, tuple((255.0 - mean) / std for mean, std in pairs)
