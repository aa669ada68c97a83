"""Faults planted in the zoo's files: changes of a flatbuffer, its manifest, its photos."""

import functools
import json
import pathlib
import warnings

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from tests.paths import CAMVID
from tflite_tools.flatbuffer.graph import parse_model
from tflite_tools.manifest import sha256_of

INT8 = CAMVID / "int8.tflite"
CODES = schema.BuiltinOperator
DTYPES = {
    schema.TensorType.INT8: np.int8,
    schema.TensorType.UINT8: np.uint8,
    schema.TensorType.INT32: np.int32,
}


def unpacked(path=INT8) -> schema.ModelT:
    return parse_model(path.read_bytes(), path.name)


def write(path: pathlib.Path, model: schema.ModelT) -> pathlib.Path:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def write_manifest(path: pathlib.Path, change=lambda values: None, source=INT8) -> None:
    """The zoo's manifest beside another file, with that file's checksum."""
    values = json.loads(source.with_suffix(".json").read_text())
    values["sha256"] = sha256_of(path.read_bytes())
    change(values)
    path.with_suffix(".json").write_text(json.dumps(values))


def code_of(model, operator) -> int:
    code = model.operatorCodes[operator.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def operators(model, *codes):
    return [op for op in model.subgraphs[0].operators if code_of(model, op) in codes]


def opcode(model, builtin: int) -> int:
    """Index of an operator code, added where it is missing."""
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def new_buffer(model, values: np.ndarray) -> int:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def new_tensor(model, name: str, kind: int, shape, values=None) -> int:
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.shape = name.encode(), kind, np.array(shape, np.int32)
    tensor.buffer = new_buffer(model, values) if values is not None else 0
    graph = model.subgraphs[0]
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def new_operator(model, builtin: int, inputs, outputs, options=None, option_type=0):
    operator = schema.OperatorT()
    operator.opcodeIndex = opcode(model, builtin)
    operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
    operator.builtinOptions, operator.builtinOptionsType = options, option_type
    return operator


def constant(model, index: int) -> np.ndarray | None:
    """Stored integers of a tensor, or None."""
    tensor = model.subgraphs[0].tensors[index]
    data = model.buffers[tensor.buffer].data
    if data is None or not len(data):
        return None
    values = np.frombuffer(np.asarray(data, np.uint8).tobytes(), DTYPES[tensor.type])
    return values.reshape(tensor.shape)


def set_constant(model, index: int, values: np.ndarray) -> None:
    """In a buffer of its own: equal constants may share one."""
    model.subgraphs[0].tensors[index].buffer = new_buffer(model, values)


def float_twin(model: schema.ModelT) -> schema.ModelT:
    """The integer file computed in float32: dequantized weights, no QUANTIZE, same names."""
    graph = model.subgraphs[0]
    first, last = operators(model, CODES.QUANTIZE)
    graph.operators = [op for op in graph.operators if op is not first and op is not last]
    for operator in graph.operators:
        operator.inputs = np.where(
            operator.inputs == first.outputs[0], first.inputs[0], operator.inputs
        ).astype(np.int32)
        operator.outputs = np.where(
            operator.outputs == last.inputs[0], last.outputs[0], operator.outputs
        ).astype(np.int32)
    for index, tensor in enumerate(graph.tensors):
        quantization = tensor.quantization
        if quantization is None or quantization.scale is None:
            continue
        if (values := constant(model, index)) is not None:
            along = [1] * values.ndim
            if len(quantization.scale) > 1:
                along[quantization.quantizedDimension] = -1
            real = values * np.asarray(quantization.scale).reshape(along)
            set_constant(model, index, real.astype(np.float32))
        tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
    return model


def low_logits(model: schema.ModelT) -> schema.ModelT:
    """The file cut in front of the resize that brings its logits to the photo's size."""
    graph = model.subgraphs[0]
    last = operators(model, CODES.RESIZE_BILINEAR)[-1]
    graph.outputs = np.array([last.inputs[0]], np.int32)
    graph.operators = graph.operators[: graph.operators.index(last)]
    model.signatureDefs = None
    return model


def last_resize_with(model: schema.ModelT, half_pixel: bool, align_corners: bool) -> schema.ModelT:
    options = operators(model, CODES.RESIZE_BILINEAR)[-1].builtinOptions
    options.halfPixelCenters, options.alignCorners = half_pixel, align_corners
    return model


@functools.lru_cache(maxsize=1)
def twin_bytes() -> bytes:
    model = float_twin(unpacked())
    builder = flatbuffers.Builder(1 << 24)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def activation_ranges(images: list[np.ndarray]) -> dict[int, tuple[float, float]]:
    """Smallest and largest value of each tensor of the twin, by index; float32 images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = Interpreter(
            model_content=twin_bytes(), experimental_preserve_all_tensors=True
        )
        interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    details = interpreter.get_tensor_details()
    wanted = [d["index"] for d in details if len(d["shape"]) == 4 and d["shape"][0] == 1]
    ranges: dict[int, tuple[float, float]] = {}
    for image in images:
        interpreter.set_tensor(source, image[None].astype(np.float32))
        interpreter.invoke()
        for index in wanted:
            try:
                values = interpreter.get_tensor(index)
            except ValueError:  # dropped with the QUANTIZE operators
                continue
            low, high = ranges.get(index, (0.0, 0.0))
            ranges[index] = min(low, float(values.min())), max(high, float(values.max()))
    return ranges


def calibrate(model: schema.ModelT, images: list[np.ndarray], stretch=1.0) -> schema.ModelT:
    """Gives the integer file the activation ranges of these images, as the converter would.

    Args:
        images: float32 [height, width, 3], as the calibration sees them.
        stretch: factor of every range.
    """
    graph = model.subgraphs[0]
    found = activation_ranges(images)
    ranges = {index: (low * stretch, high * stretch) for index, (low, high) in found.items()}
    final = operators(model, CODES.QUANTIZE)[1]
    ranges[final.inputs[0]] = ranges[final.outputs[0]]
    tied = operators(model, CODES.RESIZE_BILINEAR, CODES.CONCATENATION)
    for _ in range(4):  # kernels that demand one scale for input and output
        for operator in tied:
            resize = code_of(model, operator) == CODES.RESIZE_BILINEAR
            members = [*(operator.inputs[:1] if resize else operator.inputs), *operator.outputs]
            low = min(ranges[index][0] for index in members)
            high = max(ranges[index][1] for index in members)
            ranges |= dict.fromkeys(members, (low, high))
    first = operators(model, CODES.QUANTIZE)[0]
    written = {int(op.outputs[0]) for op in graph.operators} - {int(first.outputs[0])}
    for index in written:
        low, high = ranges[index]
        scale = max(high - low, 1e-6) / 255
        unsigned = graph.tensors[index].type == schema.TensorType.UINT8
        zero_point = int(np.clip(round(-low / scale), 0, 255)) - (0 if unsigned else 128)
        _set_scale(graph.tensors[index], scale, zero_point)
    for operator in operators(model, CODES.CONV_2D, CODES.DEPTHWISE_CONV_2D):
        source, weights, bias = (graph.tensors[index] for index in operator.inputs)
        scale = np.asarray(source.quantization.scale) * np.asarray(weights.quantization.scale)
        real = constant(model, operator.inputs[2]) * np.asarray(bias.quantization.scale)
        steps = np.rint(real / scale).clip(-(2**31) + 1, 2**31 - 1)
        set_constant(model, operator.inputs[2], steps.astype(np.int32))
        bias.quantization.scale = scale.astype(np.float32)
    return model


def _set_scale(tensor, scale: float, zero_point: int) -> None:
    tensor.quantization.scale = np.array([scale], np.float32)
    tensor.quantization.zeroPoint = np.array([zero_point], np.int64)


def tensor_named(model, part: str):
    """Index and table of the computed tensor whose name begins with `deeplab/<part>`."""
    graph = model.subgraphs[0]
    for operator in graph.operators:
        index = int(operator.outputs[0])
        if graph.tensors[index].name.decode().startswith(f"deeplab/{part}"):
            return index, graph.tensors[index]
    raise KeyError(part)


def writer_of(model, index: int):
    return next(op for op in model.subgraphs[0].operators if index in op.outputs)


def swap_height_and_width(model: schema.ModelT) -> schema.ModelT:
    """The same network on a canvas that is as wide as it was high."""
    for operator in operators(model, CODES.RESIZE_BILINEAR):
        set_constant(model, operator.inputs[1], constant(model, operator.inputs[1])[::-1])
    graph = model.subgraphs[0]
    written = {int(index) for op in graph.operators for index in op.outputs}
    for index in written | set(map(int, graph.inputs)):
        tensor = graph.tensors[index]
        if len(tensor.shape) == 4:
            tensor.shape = np.asarray(tensor.shape)[[0, 2, 1, 3]]
            tensor.shapeSignature = None
    return model
