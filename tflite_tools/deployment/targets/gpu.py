"""The TFLite GPU delegate (Android, OpenCL or OpenGL): the operators that it supports.

Source: the delegate's own offline check in the TensorFlow repository,
`lite/tools/versioning/gpu_compatibility.cc`, and the list in its guide ("GPU delegates for
TensorFlow Lite"). `tf.lite.experimental.Analyzer(gpu_compatibility=True)` of TensorFlow 2.21
reports every file as compatible, custom operators included, so it is not used here.

It depends on versions: operators outside the guide's list came later and older delegates
refuse them; a driver may refuse what the delegate accepts. Integer files are computed in
float (quantized inference is on by default), which does not determine their speed. By
default the delegate takes only its largest part of the graph.
"""

from collections.abc import Callable

from tflite_tools.deployment.targets import operands
from tflite_tools.deployment.targets.partition import delegated_parts, largest
from tflite_tools.deployment.targets.result import Placement, TargetResult
from tflite_tools.flatbuffer.graph import Graph, Operator

PARTS = 1
"""`max_delegated_partitions` of the delegate's default options."""
_SOURCE = "the delegate's compatibility check in TensorFlow's repository; nothing was run"
_SIGN_BIT = 5
_RUNTIME_TYPES = ("FLOAT32", "FLOAT16", "INT8", "UINT8")
_OTHER_TYPES = {
    "CAST": ("INT32", "BOOL"),
    "GATHER": ("INT32",),
    "ONE_HOT": ("INT32",),
    "SELECT": ("BOOL",),
    "SELECT_V2": ("BOOL",),
    **dict.fromkeys(
        ("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "LOGICAL_AND"),
        ("BOOL",),
    ),
}
# fmt: off
GUIDE = frozenset((
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "EXP",
    "FULLY_CONNECTED", "LOGICAL_AND", "LOGISTIC", "LSTM", "MAX_POOL_2D", "MAXIMUM", "MEAN",
    "MINIMUM", "MUL", "PAD", "PRELU", "RELU", "RELU6", "RESHAPE", "RESIZE_BILINEAR",
    "SOFTMAX", "STRIDED_SLICE", "SUB", "TRANSPOSE_CONV",
))
"""Operators of the guide; the others came later. QUANTIZE and DEQUANTIZE belong to the
quantized inference, which the guide describes separately."""
_CUSTOM = ("Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D", "Resampler")

_UNARY = (
    "ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "GELU", "LOG", "LOGISTIC", "NEG", "RSQRT",
    "SIGN", "SIN", "SQRT", "SQUARE", "TANH",
)
_BINARY = (
    "ADD_N", "ATAN2", "BATCH_MATMUL", "DIV", "EQUAL", "FLOOR_DIV", "FLOOR_MOD", "GREATER",
    "GREATER_EQUAL", "LESS", "LESS_EQUAL", "LOGICAL_AND", "MAXIMUM", "MINIMUM", "NOT_EQUAL",
    "POW", "SQUARED_DIFFERENCE", "SUB",
)
# fmt: on

_Rule = Callable[[Graph, Operator], str]


def check(graph: Graph, target: str) -> TargetResult:
    """Predicts which operators the delegate takes.

    Args:
        graph: a checked file.
        target: name to report.
    """
    reasons = {operator.position: reason(graph, operator) for operator in graph.operators}
    parts = delegated_parts(graph, {p for p, text in reasons.items() if not text})
    kept = largest(parts, PARTS)
    outside = "supported, but outside the largest part, the only one that is delegated"
    placements = tuple(
        Placement(o, reasons[o.position] or ("" if o.position in kept else outside))
        for o in graph.operators
    )
    total = len(graph.operators)
    partition = (
        f"parts for the GPU: {len(parts)}; only the largest runs there, "
        f"{len(kept)} of {total} operators"
    )
    return TargetResult(
        target,
        graph,
        placements=placements,
        partition=partition,
        source=_SOURCE,
        warnings=tuple(_warnings(graph, placements)),
    )


def reason(graph: Graph, operator: Operator) -> str:
    """Returns why the delegate refuses an operator; "" if it does not.

    Args:
        graph: the file.
        operator: of the file.
    """
    if operator.kind.startswith("CUSTOM:"):
        known = operator.kind.removeprefix("CUSTOM:") in _CUSTOM
        return "" if known else "custom operator"
    rule = _RULES.get(operator.kind)
    if rule is None:
        return "not an operator of the GPU delegate"
    return _tensors(graph, operator) or rule(graph, operator)


def _tensors(graph: Graph, operator: Operator) -> str:
    allowed = _RUNTIME_TYPES + _OTHER_TYPES.get(operator.kind, ())
    for tensor in operands.computed(graph, operator):
        if tensor.type_name not in allowed:
            return f"{tensor.type_name} tensor"
        if len(tensor.shape) > 4:
            return f"tensor {list(tensor.shape)} of more than 4 dimensions"
        if min(tensor.shape_signature, default=1) < 0:
            return f"tensor of dynamic size {list(tensor.shape_signature)}"
    if operands.option(operator, "fusedActivationFunction", default=0) == _SIGN_BIT:
        return "fused activation SIGN_BIT"
    return ""


def _any(graph: Graph, operator: Operator) -> str:
    return ""


def _operands(count: int) -> _Rule:
    def rule(graph: Graph, operator: Operator) -> str:
        found = len(operands.inputs(graph, operator))
        return "" if found == count else f"{found} inputs; {count} are supported"

    return rule


def _one_computed(graph: Graph, operator: Operator) -> str:
    found = sum(tensor.data is None for tensor in operands.inputs(graph, operator))
    return "" if found == 1 else f"{found} computed inputs; 1 is supported"


def _broadcast(graph: Graph, operator: Operator) -> str:
    shapes = [tensor.shape for tensor in operands.inputs(graph, operator)]
    if len(shapes) != 2:
        return f"{len(shapes)} inputs; 2 are supported"
    pairs = list(zip(shapes[0][::-1], shapes[1][::-1], strict=False))
    if any(a != b and 1 not in (a, b) for a, b in pairs):
        return f"broadcast of {list(shapes[0])} and {list(shapes[1])}"
    both_grow = any(a < b for a, b in pairs) and any(a > b for a, b in pairs)
    if operator.kind == "MUL" and len(shapes[0]) == len(shapes[1]) and both_grow:
        return f"product of {list(shapes[0])} and {list(shapes[1])}, each smaller somewhere"
    return ""


def _cast(graph: Graph, operator: Operator) -> str:
    source = graph.tensors[operator.inputs[0]].type_name
    result = graph.tensors[operator.outputs[0]].type_name
    floats, numbers = {"FLOAT16", "FLOAT32"}, {"FLOAT32", "INT32"}
    through_bool = {source, result} - floats == {"BOOL"} and source != result
    if through_bool or {source, result} <= numbers:
        return ""
    return f"cast from {source} to {result}"


def _depthwise(graph: Graph, operator: Operator) -> str:
    multiplier = operands.option(operator, "depthMultiplier", default=1)
    channels = graph.tensors[operator.inputs[0]].shape[-1]
    if multiplier != 1 and channels != 1:
        return f"depth multiplier {multiplier} of {channels} channels"
    return ""


def _dequantize(graph: Graph, operator: Operator) -> str:
    int16 = graph.tensors[operator.inputs[0]].type_name == "INT16"
    return "dequantization of INT16" if int16 else ""


def _fully_connected(graph: Graph, operator: Operator) -> str:
    if operands.option(operator, "weightsFormat", default=0):
        return "shuffled weights format"
    return "constant input" if graph.tensors[operator.inputs[0]].data is not None else ""


def _gather(graph: Graph, operator: Operator) -> str:
    values, indices = (graph.tensors[index] for index in operator.inputs[:2])
    if values.type_name == "INT32":
        return "gather from INT32"
    ok = indices.type_name == "INT32" and len(indices.shape) == 1
    return "" if ok else "indices that are not one-dimensional INT32"


def _reduction(graph: Graph, operator: Operator) -> str:
    return "axes that are computed" if operands.axes(graph, operator, slot=1) is None else ""


def _pad(graph: Graph, operator: Operator) -> str:
    mirrored = operator.kind == "MIRROR_PAD" and operands.option(operator, "mode", default=0) != 0
    if mirrored:
        return "symmetric mirror padding"
    shape = graph.tensors[operator.inputs[1]].shape
    return "" if shape in ((3, 2), (4, 2)) else f"padding of {shape[0]} dimensions"


def _slice(graph: Graph, operator: Operator) -> str:
    rank = len(graph.tensors[operator.inputs[0]].shape)
    masks = ("ellipsisMask", "newAxisMask", "shrinkAxisMask")
    if any(operands.option(operator, mask, default=0) for mask in masks):
        return "ellipsis, new or shrunk axis"
    return "" if rank in (3, 4) else f"slice of a tensor with {rank} dimensions"


def _softmax(graph: Graph, operator: Operator) -> str:
    beta = operands.option(operator, "beta", default=1.0)
    return "" if beta == 1 else f"softmax with beta {beta:g}"


def _block(graph: Graph, operator: Operator) -> str:
    return "" if operands.option(operator, "blockSize", default=2) > 1 else "block of size 1"


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("CONCATENATION", "CONV_2D", "TRANSPOSE_CONV", "LSTM", "PACK"), _any),
    **dict.fromkeys(("PRELU", "RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU"), _any),
    **dict.fromkeys(("SPLIT", "SPLIT_V", "DENSIFY", "ONE_HOT", "SELECT", "SELECT_V2"), _any),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "HARD_SWISH", "QUANTIZE"), _one_computed),
    **dict.fromkeys(("RESHAPE", "TILE", "TRANSPOSE"), _one_computed),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _one_computed),
    **dict.fromkeys(_UNARY, _one_computed),
    **dict.fromkeys(_BINARY, _operands(2)),
    **dict.fromkeys(("ADD", "MUL"), _broadcast),
    **dict.fromkeys(("MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "SUM"), _reduction),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _pad),
    **dict.fromkeys(("SLICE", "STRIDED_SLICE"), _slice),
    **dict.fromkeys(("SPACE_TO_DEPTH", "DEPTH_TO_SPACE"), _block),
    "CAST": _cast,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEQUANTIZE": _dequantize,
    "FULLY_CONNECTED": _fully_connected,
    "GATHER": _gather,
    "SOFTMAX": _softmax,
}


def _warnings(graph: Graph, placements: tuple[Placement, ...]) -> list[str]:
    mapped = {p.operator.kind for p in placements if p.mapped}
    warnings = []
    if later := sorted(mapped - GUIDE - {"QUANTIZE", "DEQUANTIZE"}):
        warnings.append(f"{', '.join(later)}: not in the guide's list; older delegates refuse them")
    if any(graph.tensors[p.operator.outputs[0]].quantization for p in placements if p.mapped):
        warnings.append("integer tensors are computed in float: masks differ from the CPU's")
    return warnings
