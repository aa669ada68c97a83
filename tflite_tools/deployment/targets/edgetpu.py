"""Coral Edge TPU: its documented table of operators, and the split of its compiler.

The compiler is not on the package index and runs on x86 Linux only, so this module applies
what Coral documents ("TensorFlow models on the Edge TPU", model requirements and supported
operations) and what official compiled models show:

- Tensors are int8 or uint8, of constant size, with at most three dimensions above 1, the
  three innermost ones. Parameters are constant.
- ONE partition, one connected run: the first operator after its start that cannot be mapped, and
  everything that depends on it, runs on the CPU.
- Operators in front of it may stay on the CPU: those that cannot be mapped and do not depend on
  mapped ones, such as the QUANTIZE of a float input or the CAST of a camera's bytes.

What it cannot know: Coral does not publish which resizes lose too much precision to be mapped,
nor which tensors are too large for the chip. A resize counts as mapped up to the growth that
compiled models show (`SEEN_RESIZE_FACTOR`); larger ones, 1 -> 33 and 33 -> 513 among them, were
left on the CPU where they were seen. Only `edgetpu_compiler -s FILE` is authoritative.
"""

import collections
import math
from collections.abc import Callable

import numpy as np

from tflite_tools.deployment.targets import operands
from tflite_tools.deployment.targets.partition import name_of, one_run
from tflite_tools.deployment.targets.result import Placement, TargetResult
from tflite_tools.flatbuffer.graph import Graph, Operator, Tensor
from tflite_tools.flatbuffer.operators import traits

SRAM_BYTES = 8 * 2**20
"""On the chip: first for the compiled program, then for parameters."""
SEEN_CACHE_BYTES = 6 * 2**20
"""Space for parameters that every compile log had: 6.15 to 7.06 MiB."""
SEEN_RESIZE_FACTOR = 2.0
"""6 -> 12, 12 -> 24 and 24 -> 48 are mapped in official models, and 33 -> 33."""
MAX_SOFTMAX = 16_000
_EIGHT_BITS = ("INT8", "UINT8")
_SOURCE = "Coral's documented table of operators and official compiled models; no compiler was run"

_Rule = Callable[[Graph, Operator], str]


def check(graph: Graph, target: str) -> TargetResult:
    """Predicts what the Edge TPU compiler maps.

    Args:
        graph: a checked file.
        target: name to report.
    """
    own = {operator.position: reason(graph, operator) for operator in graph.operators}
    refused = {position: text for position, text in own.items() if text}
    front, reasons = one_run(graph, refused, inputs=_float_inputs(graph, refused))
    placements = tuple(
        Placement(operator, reasons.get(operator.position, "")) for operator in graph.operators
    )
    return TargetResult(
        target,
        graph,
        placements=placements,
        partition=_partition(graph, reasons, front=front),
        source=_SOURCE,
        warnings=tuple(_warnings(graph, placements)),
        estimates={
            "parameters_mib": _parameter_bytes(graph, placements) / 2**20,
            "sram_mib": SRAM_BYTES / 2**20,
        },
    )


def reason(graph: Graph, operator: Operator) -> str:
    """Returns why an operator cannot be mapped by itself; "" if it can.

    Args:
        graph: the file.
        operator: of the file.
    """
    rule = _RULES.get(operator.kind)
    if rule is None:
        return "not in the Edge TPU's table of operators"
    return _tensors(graph, operator) or rule(graph, operator)


def _tensors(graph: Graph, operator: Operator) -> str:
    """Applies the rules for tensors, which hold for every operator."""
    for tensor in operands.computed(graph, operator):
        # An LSTM's cell state is int16; only its inputs and outputs must have 8 bits.
        state = "LSTM" in operator.kind and tensor.type_name == "INT16"
        if tensor.type_name not in _EIGHT_BITS and not state:
            return f"{tensor.type_name} tensor; the Edge TPU computes in int8 and uint8"
        if min(tensor.shape_signature, default=1) < 0:
            return f"tensor of dynamic size {list(tensor.shape_signature)}; convert a fixed size"
        if any(size > 1 for size in tensor.shape[:-3]):
            return f"tensor {list(tensor.shape)} has more than 3 dimensions above 1 (batch?)"
    return ""


def _any(graph: Graph, operator: Operator) -> str:
    return ""


def _no_activation(graph: Graph, operator: Operator) -> str:
    if operands.option(operator, "fusedActivationFunction", default=0):
        return "fused activation function"
    return ""


def _concatenation(graph: Graph, operator: Operator) -> str:
    inputs = operands.inputs(graph, operator)
    constants = [tensor for tensor in inputs if tensor.data is not None]
    if constants and (len(inputs) != 2 or any(map(_not_zeros, constants))):
        return "constant input that is not the zeros of a padding with one other input"
    return _no_activation(graph, operator)


def _not_zeros(constant: Tensor) -> bool:
    zero_point = constant.quantization.zero_point[0] if constant.quantization else 0
    return bool(np.any(np.asarray(constant.data) != zero_point))


def _convolution(graph: Graph, operator: Operator) -> str:
    dilation = [operands.option(operator, f"dilation{axis}Factor", default=1) for axis in "HW"]
    if dilation[0] != dilation[1]:
        return f"dilation {dilation[0]} x {dilation[1]}; the same in x and y is needed"
    return _constant_weights(graph, operator)


def _constant_weights(graph: Graph, operator: Operator) -> str:
    _, weights, _ = traits(operator.kind).slots
    return _constant(graph, operator, slot=weights)


def _constant(graph: Graph, operator: Operator, *, slot: int) -> str:
    inputs = operands.inputs(graph, operator)
    if slot >= len(inputs) or inputs[slot].data is None:
        return "parameters that are computed, not constant"
    return ""


def _fully_connected(graph: Graph, operator: Operator) -> str:
    if operands.option(operator, "weightsFormat", default=0):
        return "shuffled weights format"
    output = graph.tensors[operator.outputs[0]]
    if math.prod(output.shape[:-1]) != 1:
        return f"output {list(output.shape)} is not one-dimensional"
    return _constant_weights(graph, operator)


def _reduction(graph: Graph, operator: Operator) -> str:
    axes = operands.axes(graph, operator, slot=1)
    if axes is None:
        return "axes that are computed, not constant"
    shape = graph.tensors[operator.inputs[0]].shape
    if 0 in axes and len(shape) > 3:
        return "reduction over the batch"
    if operator.kind == "MEAN" and len(shape) - 1 in axes and shape[-1] % 4:
        return f"mean over {shape[-1]} channels; a multiple of 4 is needed"
    return ""


def _pack(graph: Graph, operator: Operator) -> str:
    return "packing along the batch" if operands.option(operator, "axis", default=0) == 0 else ""


def _prelu(graph: Graph, operator: Operator) -> str:
    alpha = graph.tensors[operator.inputs[1]]
    if math.prod(alpha.shape[:-1]) != 1:
        return f"alpha {list(alpha.shape)} is not one-dimensional; share axes 1 and 2"
    return _constant(graph, operator, slot=1)


def _resize(graph: Graph, operator: Operator) -> str:
    source = graph.tensors[operator.inputs[0]].shape
    result = graph.tensors[operator.outputs[0]].shape
    if len(source) != 4 or len(result) != 4 or 0 in source + result:
        return f"resize of {list(source)} to {list(result)}; images of 4 dimensions are needed"
    pairs = list(zip(source[1:3], result[1:3], strict=True))
    if max(max(new / old, old / new) for old, new in pairs) <= SEEN_RESIZE_FACTOR:
        return ""
    sizes = " -> ".join("x".join(map(str, size)) for size in zip(*pairs, strict=True))
    return f"resize {sizes}: only factors up to {SEEN_RESIZE_FACTOR:g} were seen mapped"


def _softmax(graph: Graph, operator: Operator) -> str:
    shape = graph.tensors[operator.inputs[0]].shape
    if math.prod(shape[:-1]) != 1:
        return f"softmax of {list(shape)} is not one-dimensional"
    return f"softmax of more than {MAX_SOFTMAX} elements" if shape[-1] > MAX_SOFTMAX else ""


def _split(graph: Graph, operator: Operator) -> str:
    axes = operands.axes(graph, operator, slot=0, of=1)
    batched = len(graph.tensors[operator.inputs[1]].shape) > 3
    return "split of the batch" if axes is None or (batched and 0 in axes) else ""


def _squeeze(graph: Graph, operator: Operator) -> str:
    shape = list(graph.tensors[operator.inputs[0]].shape)
    rest = shape[next((i for i, size in enumerate(shape) if size > 1), len(shape)) :]
    kept = list(graph.tensors[operator.outputs[0]].shape)
    return "" if kept[len(kept) - len(rest) :] == rest else "squeeze behind a dimension above 1"


def _strided_slice(graph: Graph, operator: Operator) -> str:
    strides = operands.constant(graph, operator, slot=3)
    if strides is None or np.any(strides != 1):
        return "strides other than 1"
    masks = ("ellipsisMask", "newAxisMask")
    return (
        "ellipsis or new axis"
        if any(operands.option(operator, m, default=0) for m in masks)
        else ""
    )


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("ADD", "EXPAND_DIMS", "L2_NORMALIZATION", "LOGISTIC"), _any),
    **dict.fromkeys(("LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "MAXIMUM", "MINIMUM"), _any),
    **dict.fromkeys(("MUL", "QUANTIZE", "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE"), _any),
    **dict.fromkeys(("SLICE", "SPACE_TO_DEPTH", "SUB", "TANH"), _any),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), _no_activation),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), _convolution),
    **dict.fromkeys(("MEAN", "REDUCE_MAX", "REDUCE_MIN", "SUM"), _reduction),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _resize),
    "CONCATENATION": _concatenation,
    "FULLY_CONNECTED": _fully_connected,
    "PACK": _pack,
    "PAD": lambda graph, operator: _constant(graph, operator, slot=1),  # batch: see _tensors
    "PRELU": _prelu,
    "SOFTMAX": _softmax,
    "SPLIT": _split,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
    "TILE": _any,  # undocumented; mapped in the official Cityscapes model
    "TRANSPOSE_CONV": _constant_weights,
}

_NOT_EVERYWHERE = {
    "TILE": "not in the documented table, but mapped in an official model",
    "TRANSPOSE_CONV": "older compilers refuse it",
}


def _float_inputs(graph: Graph, refused: dict[int, str]) -> set[int]:
    """Returns positions of the QUANTIZE of float inputs, which may stay in front."""
    return {
        position
        for position in refused
        if graph.operators[position].kind == "QUANTIZE"
        and graph.operators[position].inputs[0] in graph.inputs
        and graph.tensors[graph.operators[position].outputs[0]].type_name in _EIGHT_BITS
    }


def _partition(graph: Graph, reasons: dict[int, str], *, front: set[int]) -> str:
    left, total = len(reasons), len(graph.operators)
    ends = [position for position in sorted(reasons) if position not in front]
    if left == total:
        first = graph.operators[min(reasons)]
        return f"nothing on the Edge TPU: {name_of(first)} cannot be mapped and all depends on it"
    text = f"one partition, {total - left} of {total} operators on the Edge TPU"
    if front:
        kinds = collections.Counter(graph.operators[position].kind for position in sorted(front))
        names = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        text += f", behind {names} on the CPU"
    if not ends:
        return text
    return f"{text}; it ends at {name_of(graph.operators[ends[0]])}; {left} run on the CPU"


def _parameter_bytes(graph: Graph, placements: tuple[Placement, ...]) -> int:
    used = {i for p in placements if p.mapped for i in p.operator.inputs if i >= 0}
    constants = (graph.tensors[i].data for i in used)
    return sum(data.nbytes for data in constants if data is not None)


def _warnings(graph: Graph, placements: tuple[Placement, ...]) -> list[str]:
    warnings = []
    parameters = _parameter_bytes(graph, placements)
    if parameters > SEEN_CACHE_BYTES:
        fit = "do not" if parameters > SRAM_BYTES else "may not"
        warnings.append(
            f"{parameters / 2**20:.2f} MiB of parameters {fit} fit on the chip together with the "
            f"program ({SRAM_BYTES >> 20} MiB in all): the rest is fetched again for every image"
        )
    for kind, text in _NOT_EVERYWHERE.items():
        if any(p.mapped and p.operator.kind == kind for p in placements):
            warnings.append(f"{kind}: {text}")
    if any(p.operator.kind.startswith("RESIZE") for p in placements):
        warnings.append("limits of resizes are not published: compile the file to be sure")
    size, largest = max(
        (math.prod(tensor.shape), list(tensor.shape))
        for p in placements
        for tensor in operands.computed(graph, p.operator)
    )
    if size > SRAM_BYTES:
        warnings.append(f"tensor {largest}: the compiler may fail on an activation of this size")
    return warnings
