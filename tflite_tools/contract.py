"""The contract of a segmentation model: what its input takes and what its output gives.

It is read from the file's own tensors, its manifest and its metadata. `input_contract` has the part
that any file has, the meaning of its input; this module adds the output, and refuses files that are
no segmentation models.
"""

import dataclasses
import pathlib

import numpy as np

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.labels import MAX_CLASSES, LabelSet
from deeplab_tf.data.lidar.sensor import Sensor
from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.download_size import download_bytes
from tflite_tools.flatbuffer.graph import Graph, Tensor, read_graph
from tflite_tools.flatbuffer.layout import channels_first_input
from tflite_tools.flatbuffer.operators import CONVOLUTIONS, traits
from tflite_tools.input_contract import (
    FileDescription,
    PreprocessingSource,
    check_input_size,
    choose_preprocessing,
    input_warnings,
    per_tensor,
    pixel_table,
    read_description,
)
from tflite_tools.output_form import OutputForm, output_form
from tflite_tools.runtime.fixed_inputs import inputs_advice
from tflite_tools.runtime.fixed_size import has_any_size, size_advice
from tflite_tools.runtime.memory import UNKNOWN, needed_bytes
from tflite_tools.runtime.runtime_shapes import with_known_shapes

INPUT_DTYPES = ("FLOAT32", "UINT8", "INT8")


@dataclasses.dataclass(frozen=True)
class ModelContract:
    """How a file is fed and read.

    Attributes:
        path: the file.
        name: short name for tables.
        size_bytes: of the file.
        height, width, channels: of the input.
        input_dtype, output_dtype: NumPy dtypes.
        input_quantization, output_quantization: (scale, zero point) or None.
        preprocessing: normalization of the pixels.
        preprocessing_source: where the normalization is stated.
        classes_output: True for a class map, False for logits.
        output_shape: of the output, [1, h, w, channels] also where the file stores it flat.
        num_classes: channels of the logits, 2 of one score; None for a class map.
        label_set: of the manifest, else of the file's metadata if it fits, or None.
        variant: of the manifest, else derived from the number formats in the graph.
        sensor: of the manifest: the sensor of the range images that it was trained on, or None.
        probabilities: whether the graph ends in a softmax or sigmoid.
        output_position: of the output that is read, in the file's list.
        threshold: value of the file's own units above which a pixel of one score is class 1, the
            foreground; None where every class has a score.
        alignment: how the training resizes logits to the input's size, by the manifest; None: not
            on record, half-pixel is assumed where it matters.
        channels_first: whether the input is stored as [1, channels, height, width].
        output_channels_first: whether the output is.
        warnings: what does not fit together, one line each.
        memory_bytes: the most that its interpreter should take.
    """

    path: pathlib.Path
    name: str
    size_bytes: int
    height: int
    width: int
    channels: int
    input_dtype: np.dtype
    output_dtype: np.dtype
    input_quantization: tuple[float, int] | None
    output_quantization: tuple[float, int] | None
    preprocessing: Preprocessing
    preprocessing_source: PreprocessingSource
    classes_output: bool
    output_shape: tuple[int, ...]
    num_classes: int | None
    label_set: LabelSet | None
    variant: str
    warnings: tuple[str, ...]
    sensor: Sensor | None = None
    probabilities: bool = False
    output_position: int = 0
    threshold: float | None = None
    alignment: Alignment | None = None
    channels_first: bool = False
    output_channels_first: bool = False
    memory_bytes: int = UNKNOWN

    @property
    def download_bytes(self) -> int:
        """Bytes of the deflated file, as shops and browsers send it."""
        return download_bytes(self.path)

    @property
    def gives_logits(self) -> bool:
        """Whether a softmax of the output is its distribution over the classes."""
        return not (self.classes_output or self.probabilities or self.threshold is not None)

    @property
    def takes_plain_bytes(self) -> bool:
        """Whether the input takes integers without a scale, such as a uint8 that a CAST reads."""
        return self.input_quantization is None and self.input_dtype.kind in "iu"

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        shape = self.output_shape
        spatial = [size for size in shape if size != 1] if self.classes_output else shape[1:3]
        return spatial[0], spatial[1]

    @property
    def needs_resize(self) -> bool:
        """Whether the output must be resized to the input's size."""
        return self.output_size != (self.height, self.width)

    def arranged(self, image: np.ndarray) -> np.ndarray:
        """Returns an image in the order of the file's input.

        Args:
            image: [height, width, channels].

        Returns:
            [1, height, width, channels], or [1, channels, height, width].
        """
        return (image.transpose(2, 0, 1) if self.channels_first else image)[None]

    def arranged_output(self, output: np.ndarray) -> np.ndarray:
        """Returns the file's output with its channels last.

        Args:
            output: as the file gives it.
        """
        return output.transpose(0, 2, 3, 1) if self.output_channels_first else output

    def quantize_table(self) -> np.ndarray | None:
        """Returns the input value of each pixel value, or None if pixels are fed unchanged.

        Returns:
            [256, channels] in the input's dtype.
        """
        table = pixel_table(
            self.preprocessing, self.input_dtype, quantization=self.input_quantization
        )
        unchanged = table.dtype == np.uint8 and (table == np.arange(256)[:, None]).all()
        return None if unchanged else table


def read_contract(
    path: str | pathlib.Path,
    preprocessing: Preprocessing | None = None,
    *,
    name: str = "",
    alignment: Alignment | None = None,
    any_output: bool = False,
    output: str = "",
) -> ModelContract:
    """Reads and checks a file; it is run only if it does not store its shapes.

    Args:
        path: the file.
        preprocessing: normalization to use; default: see `PreprocessingSource`.
        name: for tables; default: the file's stem.
        alignment: how the training resizes logits; default: the manifest's.
        any_output: also accept files whose output is not a segmentation, to time them.
        output: name or number of the output to read, of a file with several; "" for the one that
            its manifest names, else the first that is a segmentation.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, not a segmentation model with one image input, or a normalization
            for another number of channels.
    """
    path = pathlib.Path(path)
    graph = with_known_shapes(read_graph(path), outputs=not any_output)
    if len(graph.inputs) != 1:
        raise ValueError(
            f"{path}: expected one input, got {len(graph.inputs)}; {inputs_advice(graph)}"
        )
    image = graph.tensors[graph.inputs[0]]
    channels_first = channels_first_input(graph)
    if channels_first:
        batch, channels, height, width = image.shape
        image = dataclasses.replace(image, shape=(batch, height, width, channels))
    input_dtype = _check_input(path, image)
    description = read_description(path, image.shape[3])
    first = graph.tensors[graph.outputs[0]]
    form = OutputForm(first.shape, False, num_classes=None, probabilities=False)
    if not any_output:
        own = (description.manifest and description.manifest.output_name) or ""
        chosen = (output or own) if len(graph.outputs) > 1 else ""
        form = output_form(path, graph, size=(image.shape[1], image.shape[2]), output=chosen)
        if min(form.shape) < 1:
            raise ValueError(f"{path}: its output has no usable size {list(form.shape)}")
    read = graph.tensors[graph.outputs[form.position]]
    warnings: list[str] = []
    if len(graph.outputs) > 1:
        warnings.append(f"{len(graph.outputs)} outputs; {read.name!r} is read")
    if channels_first:
        warnings.append(
            "its input is stored as [1, channels, height, width]: pixels are transposed before it; "
            "tflite_tools.to_keras rebuilds it with channels last, which cameras give"
        )
    manifest = description.manifest
    label_set, unnamed = _label_set(
        description, class_count(graph, form.num_classes, output=read.index)
    )
    used, source = choose_preprocessing(image, description, given=preprocessing, name=str(path))
    warnings += [*description.warnings, *unnamed, *input_warnings(used, source, image=image)]
    if preprocessing is not None and source is not PreprocessingSource.GIVEN:
        warnings.append(
            f"its {image.type_name.lower()} input has no scale: pixels go in as they are and the "
            "graph normalizes them; --mean and --std are ignored"
        )
    alignment = alignment or description.alignment
    contract = ModelContract(
        path=path,
        name=name or path.stem,
        size_bytes=graph.size_bytes,
        height=image.shape[1],
        width=image.shape[2],
        channels=image.shape[3],
        input_dtype=input_dtype,
        output_dtype=read.dtype,  # type: ignore[arg-type]
        input_quantization=per_tensor(image),
        output_quantization=per_tensor(read),
        preprocessing=used,
        preprocessing_source=source,
        classes_output=form.classes_output,
        output_shape=form.shape,
        num_classes=form.num_classes,
        label_set=label_set,
        variant=manifest.variant if manifest else guess_variant(graph),
        warnings=tuple(warnings),
        sensor=manifest.sensor if manifest else None,
        probabilities=form.probabilities,
        output_position=form.position,
        threshold=form.threshold,
        alignment=alignment,
        channels_first=channels_first,
        output_channels_first=form.channels_first,
        memory_bytes=needed_bytes(graph),
    )
    if not any_output and contract.needs_resize and alignment is None:
        return dataclasses.replace(contract, warnings=(*warnings, _unknown_resize(contract)))
    return contract


def _unknown_resize(contract: ModelContract) -> str:
    form = "class map" if contract.classes_output else "logits"
    rows, columns = contract.output_size
    return (
        f"{form} of {rows}x{columns} for an input of {contract.height}x{contract.width}, and "
        "the training's resize convention is not on record: half_pixel is assumed, another "
        "convention shifts the masks; write it into a manifest (add_metadata "
        "--resize=align_corners)"
    )


def _check_input(path: pathlib.Path, image: Tensor) -> np.dtype:
    if has_any_size(image):
        raise ValueError(f"{path}: {size_advice(path)}")
    supported = image.dtype is not None and image.type_name in INPUT_DTYPES
    if len(image.shape) != 4 or image.shape[0] != 1 or not supported:
        raise ValueError(
            f"{path}: expected an image input uint8, int8 or float32 [1, height, width, channels], "
            f"got {image.name!r}: {image.type_name} {list(image.shape)}"
        )
    if image.quantization is not None and not (image.quantization.scale > 0).all():
        raise ValueError(f"{path}: input {image.name!r} has no positive scale; convert it again")
    check_input_size(image.shape, f"{path}: input {image.name!r}")
    return image.dtype  # type: ignore[return-value]


def class_count(graph: Graph, num_classes: int | None, *, output: int | None = None) -> int | None:
    """Returns the number of classes of the output, or None if the graph does not tell.

    Args:
        graph: of the file.
        num_classes: channels of the logits; None for a class map, whose classes are the channels
            that its ARG_MAX reads.
        output: the tensor; None for the first output.
    """
    if num_classes is not None:
        return num_classes
    index = graph.outputs[0] if output is None else output
    for _ in graph.operators:
        operator = graph.producer(index)
        if operator is None or not operator.inputs or operator.inputs[0] < 0:
            return None
        if operator.kind == "ARG_MAX":
            return graph.tensors[operator.inputs[0]].shape[-1]
        index = operator.inputs[0]
    return None


def _label_set(
    description: FileDescription, classes: int | None
) -> tuple[LabelSet | None, list[str]]:
    if description.manifest is not None:
        return description.manifest.label_set, []
    labels = description.labels
    if not labels:
        return None, []
    if len(labels) == 1 and classes == 2:  # of one score, only the foreground has a name
        labels = ("background", *labels)
    if len(labels) == (classes or len(labels)) and len(labels) <= MAX_CLASSES:
        return LabelSet.from_names(labels), []
    return None, [
        f"its labels are ignored: expected {classes or 'fewer'} names (one per class of the "
        f"output), got {len(labels)}"
    ]


def guess_variant(graph: Graph) -> str:
    """Names the number format of a file without a manifest.

    Args:
        graph: of the file.

    Returns:
        "float32", "float16", "dynamic_range", the types that convolutions give ("int8"), or
        "unknown" for a file without convolutions.
    """
    convolutions = [operator for operator in graph.operators if operator.kind in CONVOLUTIONS]
    weights = {
        graph.tensors[operator.inputs[slot]].type_name
        for operator in convolutions
        if (slot := traits(operator.kind).slots[1]) < len(operator.inputs)
    }
    computed = {graph.tensors[operator.outputs[0]].type_name for operator in convolutions}
    kinds = {operator.kind for operator in graph.operators}
    if weights == {"FLOAT32"}:
        return "float16" if "DEQUANTIZE" in kinds else "float32"
    if computed == {"FLOAT32"}:
        return "dynamic_range"
    return "/".join(sorted(name.lower() for name in computed)) or "unknown"
