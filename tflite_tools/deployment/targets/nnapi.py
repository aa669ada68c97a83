"""Android's NNAPI through the TFLite delegate: the operators it passes to NNAPI, by API level.

Source: `Validate` in TensorFlow's `lite/delegates/nnapi/nnapi_delegate.cc`, whose rules name the
NNAPI version of each operator: API level 28 (NNAPI 1.1, Android 9), 29 (1.2, Android 10),
30 (1.3, Android 11, and everything later). It also checks the version number of an operator; this
module checks types and options instead.

An operator that is passed to NNAPI may still run on the phone's CPU, depending on the driver.
NNAPI is deprecated from Android 15 on.
"""

import math
from collections.abc import Callable

import numpy as np

from tflite_tools.deployment.targets import operands
from tflite_tools.deployment.targets.partition import delegated_parts, largest
from tflite_tools.deployment.targets.result import Placement, TargetResult
from tflite_tools.flatbuffer.graph import Graph, Operator
from tflite_tools.flatbuffer.operators import traits

NEWEST = 30
PARTS = 3
"""`max_number_delegated_partitions` of the delegate's default options."""
_SOURCE = "the rules of TensorFlow's NNAPI delegate; drivers were not asked"
_FLOAT = ("FLOAT32",)
_FLOAT_OR_8 = ("FLOAT32", "UINT8", "INT8")
_WITH_INT32 = (*_FLOAT_OR_8, "INT32")

_Rule = Callable[[Graph, Operator, int], str]


def check(graph: Graph, target: str) -> TargetResult:
    """Predicts which operators the delegate passes to NNAPI.

    Args:
        graph: a checked file.
        target: "nnapi" for the newest level, or "nnapi-28", "nnapi-29", "nnapi-30".
    """
    _, _, level_name = target.partition("-")
    level = int(level_name or NEWEST)
    reasons = {o.position: reason(graph, o, level=level) for o in graph.operators}
    parts = delegated_parts(graph, {p for p, text in reasons.items() if not text})
    kept = largest(parts, PARTS)
    outside = f"supported, but outside the {PARTS} largest parts"
    placements = tuple(
        Placement(o, reasons[o.position] or ("" if o.position in kept else outside))
        for o in graph.operators
    )
    total = len(graph.operators)
    partition = (
        f"parts for NNAPI at API level {level}: {len(parts)}; "
        f"{len(kept)} of {total} operators are passed to it"
    )
    warnings = [
        "NNAPI is deprecated from Android 15 on, and a driver may refuse what the delegate passes"
    ]
    if len(parts) > 1:
        warnings.append("each part costs a copy to the accelerator and back")
    return TargetResult(
        target,
        graph,
        placements=placements,
        partition=partition,
        source=_SOURCE,
        warnings=tuple(warnings),
    )


def reason(graph: Graph, operator: Operator, *, level: int = NEWEST) -> str:
    """Returns why the delegate keeps an operator on the CPU; "" if it passes it to NNAPI.

    Args:
        graph: the file.
        operator: of the file.
        level: Android API level.
    """
    row = _TABLE.get(operator.kind)
    if row is None:
        return "not an operator of the NNAPI delegate"
    since, types, rule = row
    if level < since:
        return f"needs API level {since}"
    return _tensors(graph, operator, types=types) or rule(graph, operator, level)


def _tensors(graph: Graph, operator: Operator, *, types: tuple[str, ...]) -> str:
    slot = traits(operator.kind).data or 0  # of several data inputs the first
    tensor = graph.tensors[operator.inputs[slot]]
    if tensor.type_name not in types:
        return f"{tensor.type_name} input"
    for tensor in operands.computed(graph, operator):
        if min(tensor.shape_signature, default=1) < 0:
            return f"tensor of dynamic size {list(tensor.shape_signature)}"
    return ""


def _any(graph: Graph, operator: Operator, level: int) -> str:
    return ""


def _constant(slot: int) -> _Rule:
    def rule(graph: Graph, operator: Operator, level: int) -> str:
        given = (
            slot >= len(operator.inputs)
            or operands.constant(graph, operator, slot=slot) is not None
        )
        return "" if given else "shape, size or axis that is computed"

    return rule


def _arg_max(graph: Graph, operator: Operator, level: int) -> str:
    result = graph.tensors[operator.outputs[0]].type_name
    return "" if result == "INT32" else f"{result} class map; INT32 is needed"


def _arithmetic(graph: Graph, operator: Operator, level: int) -> str:
    integers = graph.tensors[operator.inputs[0]].type_name == "INT32"
    if integers and level < 30:
        return "INT32 input before API level 30"
    if integers and operands.option(operator, "fusedActivationFunction", default=0):
        return "fused activation of INT32"
    return _only_float(graph, operator, since=29)(level) if operator.kind == "SUB" else ""


def _average_pool(graph: Graph, operator: Operator, level: int) -> str:
    window = [operands.option(operator, f"filter{side}", default=1) for side in ("Height", "Width")]
    integers = not graph.tensors[operator.inputs[0]].is_float
    return f"window {window} above 256 elements" if integers and math.prod(window) > 256 else ""


def _batch_to_space(graph: Graph, operator: Operator, level: int) -> str:
    crops = operands.constant(graph, operator, slot=2)
    return "" if crops is not None and crops.size == 4 and not np.any(crops) else "crops"


def _cast(graph: Graph, operator: Operator, level: int) -> str:
    names = [graph.tensors[i].type_name for i in (operator.inputs[0], operator.outputs[0])]
    allowed = _WITH_INT32 if level >= 30 else ("FLOAT32", "UINT8", "INT32")
    return "" if set(names) <= set(allowed) else f"cast from {names[0]} to {names[1]}"


def _concatenation(graph: Graph, operator: Operator, level: int) -> str:
    if operands.option(operator, "fusedActivationFunction", default=0):
        return "fused activation function"
    inputs = operands.inputs(graph, operator)
    steps = {
        (tensor.quantization.scale[0], tensor.quantization.zero_point[0])
        for tensor in inputs
        if tensor.quantization
    }
    if level < 29 and len(steps) > 1:
        return "inputs of different scales before API level 29"
    return "" if len(inputs[0].shape) <= 4 else "more than 4 dimensions"


def _convolution(graph: Graph, operator: Operator, level: int) -> str:
    if operator.kind == "CONV_2D" and len(operands.inputs(graph, operator)) != 3:
        return "convolution without bias"
    if level >= 29:
        return ""
    if any(operands.option(operator, f"dilation{axis}Factor", default=1) != 1 for axis in "HW"):
        return "dilation before API level 29"
    data_slot, weight_slot, _ = traits(operator.kind).slots
    image, weights = (graph.tensors[operator.inputs[slot]] for slot in (data_slot, weight_slot))
    if image.type_name == "INT8" or image.is_float != weights.is_float:
        return f"{image.type_name} input with {weights.type_name} weights before API level 29"
    return _restricted_scales(graph, operator)


def _restricted_scales(graph: Graph, operator: Operator) -> str:
    indices = (*operator.inputs[:2], operator.outputs[0])
    steps = [graph.tensors[index].quantization for index in indices]
    if any(step is None for step in steps):
        return ""
    image, weights, result = (float(step.scale[0]) for step in steps if step is not None)
    if any(step.per_channel for step in steps if step is not None):
        return "scales per channel before API level 29"
    return "" if image * weights < result else "output scale too small before API level 29"


def _fully_connected(graph: Graph, operator: Operator, level: int) -> str:
    if operands.option(operator, "keepNumDims", default=False) and level < 30:
        return "kept dimensions before API level 30"
    return _convolution(graph, operator, level)


def _only_float(graph: Graph, operator: Operator, *, since: int) -> Callable[[int], str]:
    float_input = graph.tensors[operator.inputs[0]].is_float
    return lambda level: "" if float_input or level >= since else f"integers before level {since}"


def _integers_since_29(graph: Graph, operator: Operator, level: int) -> str:
    return _only_float(graph, operator, since=29)(level)


def _mean(graph: Graph, operator: Operator, level: int) -> str:
    source, result = (
        graph.tensors[index].quantization for index in (operator.inputs[0], operator.outputs[0])
    )
    if source is not None and result is not None:
        same = source.scale[0] == result.scale[0] and source.zero_point[0] == result.zero_point[0]
        if not same:
            return "input and output have different scales"
    return _integers_since_29(graph, operator, level)


def _pack(graph: Graph, operator: Operator, level: int) -> str:
    last = operands.option(operator, "axis", default=0) in (-1, len(_shape(graph, operator)))
    return "packing along the last axis" if last else ""


def _quantize(graph: Graph, operator: Operator, level: int) -> str:
    result = graph.tensors[operator.outputs[0]].type_name
    allowed = ("UINT8", "INT8") if level >= 30 else ("UINT8",)
    return "" if result in allowed else f"output {result} at API level {level}"


def _dequantize(graph: Graph, operator: Operator, level: int) -> str:
    source = graph.tensors[operator.inputs[0]]
    if source.type_name == "FLOAT16":
        # Constant: the delegate takes the float16 weights, at any level.
        given = source.data is not None or level >= 30
        return "" if given else "dequantization of a computed FLOAT16"
    if source.type_name == "INT8" and level < 30:
        symmetric = source.quantization is not None and not source.quantization.zero_point[0]
        return "" if level == 29 and symmetric else "dequantization of INT8"
    return ""


def _resize(graph: Graph, operator: Operator, level: int) -> str:
    if len(_shape(graph, operator)) != 4:
        return "input that is not 4-dimensional"
    centres = ("alignCorners", "halfPixelCenters")
    if level < 30 and any(operands.option(operator, name, default=False) for name in centres):
        return "half-pixel centres or aligned corners before API level 30"
    height, width = graph.tensors[operator.outputs[0]].shape[1:3]
    if level < 29 and height != width:
        return "result that is not square before API level 29"
    return _integers_since_29(graph, operator, level) or _constant(1)(graph, operator, level)


def _softmax(graph: Graph, operator: Operator, level: int) -> str:
    rank = len(_shape(graph, operator))
    allowed = rank <= 4 if level >= 29 else rank in (2, 4)
    return "" if allowed else f"softmax of a tensor with {rank} dimensions"


def _select(graph: Graph, operator: Operator, level: int) -> str:
    shapes = [tensor.shape for tensor in operands.inputs(graph, operator)]
    return "" if shapes[0] == shapes[1] else "condition and values of different shapes"


def _scalar(graph: Graph, operator: Operator, level: int) -> str:
    return "" if graph.tensors[operator.outputs[0]].shape else "a scalar as result"


def _shape(graph: Graph, operator: Operator) -> tuple[int, ...]:
    return graph.tensors[operator.inputs[0]].shape


_TABLE: dict[str, tuple[int, tuple[str, ...], _Rule]] = {
    **dict.fromkeys(("MAX_POOL_2D", "HARD_SWISH", "DEPTH_TO_SPACE"), (27, _FLOAT_OR_8, _any)),
    **dict.fromkeys(("SPACE_TO_DEPTH", "RELU", "RELU6"), (27, _FLOAT_OR_8, _any)),
    **dict.fromkeys(("RELU_N1_TO_1", "LOGISTIC"), (27, _FLOAT_OR_8, _any)),
    **dict.fromkeys(("L2_POOL_2D", "FLOOR", "LOCAL_RESPONSE_NORMALIZATION"), (27, _FLOAT, _any)),
    **dict.fromkeys(("ADD", "MUL"), (27, _WITH_INT32, _arithmetic)),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), (27, _FLOAT_OR_8, _convolution)),
    **dict.fromkeys(("TANH", "L2_NORMALIZATION"), (27, _FLOAT_OR_8, _integers_since_29)),
    **dict.fromkeys(("PAD", "PADV2"), (28, _FLOAT_OR_8, _integers_since_29)),
    **dict.fromkeys(("ABS", "EXP", "LOG", "LOG_SOFTMAX"), (29, _FLOAT, _any)),
    **dict.fromkeys(("POW", "RSQRT", "SIN", "SQRT"), (29, _FLOAT, _any)),
    **dict.fromkeys(("MAXIMUM", "MINIMUM"), (29, _WITH_INT32, _any)),
    **dict.fromkeys(("LEAKY_RELU", "PRELU"), (29, _FLOAT_OR_8, _any)),
    **dict.fromkeys(("REDUCE_MAX", "REDUCE_MIN"), (29, _FLOAT_OR_8, _any)),
    **dict.fromkeys(("REDUCE_PROD", "SUM"), (29, _FLOAT, _scalar)),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN"), (29, (*_WITH_INT32, "FLOAT16"), _arg_max)),
    **dict.fromkeys(("SLICE", "TILE", "GATHER", "TOPK_V2"), (29, _WITH_INT32, _any)),
    **dict.fromkeys(("LESS", "LESS_EQUAL", "GREATER"), (28, (*_WITH_INT32, "BOOL"), _any)),
    **dict.fromkeys(("GREATER_EQUAL", "EQUAL", "NOT_EQUAL"), (28, (*_WITH_INT32, "BOOL"), _any)),
    **dict.fromkeys(("LOGICAL_AND", "LOGICAL_OR", "LOGICAL_NOT"), (29, ("BOOL",), _any)),
    "AVERAGE_POOL_2D": (27, _FLOAT_OR_8, _average_pool),
    "BATCH_TO_SPACE_ND": (28, _FLOAT_OR_8, _batch_to_space),
    "CAST": (29, _WITH_INT32, _cast),
    "CONCATENATION": (27, (*_FLOAT_OR_8, "FLOAT16"), _concatenation),
    "DEQUANTIZE": (27, ("UINT8", "INT8", "FLOAT16"), _dequantize),
    "DIV": (28, _FLOAT, _any),
    "ELU": (30, _FLOAT, _any),
    "EXPAND_DIMS": (29, _WITH_INT32, _constant(1)),
    "FULLY_CONNECTED": (27, _FLOAT_OR_8, _fully_connected),
    "MEAN": (28, _FLOAT_OR_8, _mean),
    "NEG": (28, ("FLOAT32", "INT32"), _any),
    "PACK": (30, ("FLOAT32", "INT32", "INT8"), _pack),
    "QUANTIZE": (29, _FLOAT_OR_8, _quantize),
    "RESHAPE": (27, _FLOAT_OR_8, _constant(1)),
    "RESIZE_BILINEAR": (27, _FLOAT_OR_8, _resize),
    "RESIZE_NEAREST_NEIGHBOR": (29, _FLOAT_OR_8, _resize),
    "SELECT": (28, ("BOOL",), _select),
    "SOFTMAX": (27, _FLOAT_OR_8, _softmax),
    "SPACE_TO_BATCH_ND": (28, _FLOAT_OR_8, _any),
    "SPLIT": (29, _WITH_INT32, _constant(0)),
    "SQUEEZE": (28, _FLOAT_OR_8, _any),
    "STRIDED_SLICE": (28, _FLOAT_OR_8, _any),
    "SUB": (28, _WITH_INT32, _arithmetic),
    "TRANSPOSE": (28, _FLOAT_OR_8, _constant(1)),
    "TRANSPOSE_CONV": (29, _FLOAT_OR_8, _constant(1)),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (29, _FLOAT, _any),
}
