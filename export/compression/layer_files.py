"""Files of one convolution each, to measure what it costs with any number of channels."""

import dataclasses

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from deeplab_tf.graph.kernels import kernel_key
from deeplab_tf.graph.network import Node
from export.compression.number_format import NumberFormat
from tflite_tools.flatbuffer.editor import Editor, symmetric

_SCALE = 1 / 128


@dataclasses.dataclass(frozen=True)
class LayerForm:
    """What decides the time of a layer beside its channels.

    Attributes:
        depthwise: whether each channel has its own kernel.
        height, width: of the input.
        kernel: (height, width) of the kernel.
        strides, dilation: in y and x.
        padding: "same" or "valid".
    """

    depthwise: bool
    height: int
    width: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: str

    @classmethod
    def of(
        cls, node: Node, arrays: dict[str, np.ndarray], *, shape: tuple[int, ...]
    ) -> "LayerForm":
        """Returns the form of a convolution or dense layer; the latter is a 1x1 convolution.

        Args:
            node: the layer.
            arrays: its weights.
            shape: of its input, without the batch.
        """
        height, width = shape[:2] if len(shape) == 3 else (1, int(np.prod(shape[:-1], dtype=int)))
        kernel = (1, 1) if node.kind == "dense" else arrays[kernel_key(node)].shape[:2]
        settings = node.attributes
        return cls(
            node.kind == "depthwise_conv2d",
            int(height),
            int(width),
            kernel=(int(kernel[0]), int(kernel[1])),
            strides=_pair(settings.get("strides", 1)),
            dilation=_pair(settings.get("dilation_rate", 1)),
            padding=str(settings.get("padding", "valid")),
        )

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        sizes = []
        for size, taps, stride, rate in zip(
            (self.height, self.width), self.kernel, self.strides, self.dilation, strict=True
        ):
            covered = size if self.padding == "same" else size - (taps - 1) * rate
            sizes.append(-(-covered // stride))
        return sizes[0], sizes[1]


def _pair(value: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def layer_file(form: LayerForm, inputs: int, *, outputs: int, number: NumberFormat) -> bytes:
    """Returns a `.tflite` of one layer with int8 input and output.

    Args:
        form: of the layer.
        inputs: channels that it reads.
        outputs: channels that it computes.
        number: format that it computes in; others than int8 are converted to and from, as in a
            file of mixed precision.
    """
    editor = Editor()
    random = np.random.default_rng(0)
    kernel_shape = (outputs, *form.kernel, inputs)
    if form.depthwise:
        kernel_shape = (1, *form.kernel, outputs)
    integer = number is not NumberFormat.FLOAT32
    wide = number is NumberFormat.INT16
    source = _tensor(editor, "input", (1, form.height, form.width, inputs), kind="INT8")
    target = _tensor(editor, "output", (1, *form.output_size, outputs), kind="INT8")
    own = "INT16" if wide else "INT8" if integer else "FLOAT32"
    read, made = source, target
    operators = []
    if own != "INT8":
        read = _tensor(editor, "read", (1, form.height, form.width, inputs), kind=own)
        made = _tensor(editor, "made", (1, *form.output_size, outputs), kind=own)
        operators.append(_conversion(editor, source, read, kinds=("INT8", own)))
    weights: np.ndarray
    bias: np.ndarray
    if integer:
        fine = symmetric(np.full(outputs, 2.0**-12))
        fine.quantizedDimension = 3 if form.depthwise else 0
        bias_type: type = np.int64 if wide else np.int32
        weights = random.integers(-127, 128, kernel_shape, np.int8)
        bias = random.integers(-500, 500, outputs).astype(bias_type)
        scale = symmetric(np.full(outputs, 2.0**-12 * (_SCALE / 256 if wide else _SCALE)))
    else:
        fine = scale = None
        weights = random.normal(0, 0.05, kernel_shape).astype(np.float32)
        bias = random.normal(0, 1, outputs).astype(np.float32)
    constants = [
        editor.add_constant("weights", weights, quantization=fine),
        editor.add_constant("bias", bias, quantization=scale),
    ]
    kind = "DEPTHWISE_CONV_2D" if form.depthwise else "CONV_2D"
    operators.append(
        editor.new_operator(
            kind,
            [read, *constants],
            outputs=[made],
            options=_options(form, inputs, outputs=outputs),
            version=(5 if form.depthwise else 4) if wide else None,
        )
    )
    if own != "INT8":
        operators.append(_conversion(editor, made, target, kinds=(own, "INT8")))
    editor.graph.operators = operators
    editor.graph.inputs, editor.graph.outputs = [source], [target]
    return editor.to_bytes()


def _tensor(editor: Editor, name: str, shape: tuple[int, ...], *, kind: str) -> int:
    scale = {"INT8": _SCALE, "INT16": _SCALE / 256}.get(kind)
    return editor.add_tensor(
        name,
        shape,
        kind=getattr(schema.TensorType, kind),
        quantization=None if scale is None else symmetric(scale),
    )


def _conversion(
    editor: Editor, source: int, target: int, *, kinds: tuple[str, str]
) -> schema.OperatorT:
    kind = "DEQUANTIZE" if kinds[1] == "FLOAT32" else "QUANTIZE"
    version = 2 if "INT16" in kinds else None
    return editor.new_operator(kind, [source], outputs=[target], version=version)


def _options(form: LayerForm, inputs: int, *, outputs: int) -> object:
    options = schema.DepthwiseConv2DOptionsT() if form.depthwise else schema.Conv2DOptionsT()
    padding = schema.Padding.SAME if form.padding == "same" else schema.Padding.VALID
    options.padding = padding
    options.strideH, options.strideW = form.strides
    options.dilationHFactor, options.dilationWFactor = form.dilation
    if form.depthwise:
        options.depthMultiplier = outputs // inputs
    return options
