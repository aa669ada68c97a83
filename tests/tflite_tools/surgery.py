"""Faults planted in the zoo's files: changes of a flatbuffer, its manifest, its photos."""

import functools
import json
import pathlib
import warnings

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from tests.paths import CAMVID
from tflite_tools.flatbuffer.editor import Editor
from tflite_tools.flatbuffer.pack import pack
from tflite_tools.manifest import sha256_of

INT8 = CAMVID / "int8.tflite"


def unpacked(path=INT8) -> Editor:
    return Editor(path.read_bytes(), name=path.name)


def write(path: pathlib.Path, model: Editor) -> pathlib.Path:
    """Every tensor keeps its number, unlike in `to_bytes`: tests compare files by number."""
    path.write_bytes(pack(model.model, 1 << 20))
    return path


def write_manifest(path: pathlib.Path, change=lambda values: None, source=INT8) -> None:
    """The zoo's manifest beside another file, with that file's checksum."""
    values = json.loads(source.with_suffix(".json").read_text())
    values["sha256"] = sha256_of(path.read_bytes())
    change(values)
    path.with_suffix(".json").write_text(json.dumps(values))


def set_constant(model, index: int, values: np.ndarray) -> None:
    """In a buffer of its own: equal constants may share one."""
    own = model.add_constant("own", values)
    model.tensor(index).buffer = model.graph.tensors.pop(own).buffer


def float_twin(model: Editor) -> Editor:
    """The integer file computed in float32: dequantized weights, no QUANTIZE, same names."""
    graph = model.graph
    first, last = model.operators("QUANTIZE")
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
        if (values := model.constant(index)) is not None:
            along = [1] * values.ndim
            if len(quantization.scale) > 1:
                along[quantization.quantizedDimension] = -1
            real = values * np.asarray(quantization.scale).reshape(along)
            set_constant(model, index, real.astype(np.float32))
        tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
    return model


def low_logits(model: Editor) -> Editor:
    """The file cut in front of the resize that brings its logits to the photo's size."""
    graph = model.graph
    last = model.operators("RESIZE_BILINEAR")[-1]
    graph.outputs = np.array([last.inputs[0]], np.int32)
    graph.operators = graph.operators[: graph.operators.index(last)]
    model.model.signatureDefs = None
    return model


def last_resize_with(model: Editor, half_pixel: bool, align_corners: bool) -> Editor:
    options = model.operators("RESIZE_BILINEAR")[-1].builtinOptions
    options.halfPixelCenters, options.alignCorners = half_pixel, align_corners
    return model


@functools.lru_cache(maxsize=1)
def twin_bytes() -> bytes:
    model = float_twin(unpacked())
    return pack(model.model, 1 << 24)


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


def calibrate(model: Editor, images: list[np.ndarray], stretch=1.0) -> Editor:
    """Gives the integer file the activation ranges of these images, as the converter would.

    Args:
        images: float32 [height, width, 3], as the calibration sees them.
        stretch: factor of every range.
    """
    graph = model.graph
    found = activation_ranges(images)
    ranges = {index: (low * stretch, high * stretch) for index, (low, high) in found.items()}
    final = model.operators("QUANTIZE")[1]
    ranges[final.inputs[0]] = ranges[final.outputs[0]]
    tied = model.operators("RESIZE_BILINEAR", "CONCATENATION")
    for _ in range(4):  # kernels that demand one scale for input and output
        for operator in tied:
            resize = model.kind(operator) == "RESIZE_BILINEAR"
            members = [*(operator.inputs[:1] if resize else operator.inputs), *operator.outputs]
            low = min(ranges[index][0] for index in members)
            high = max(ranges[index][1] for index in members)
            ranges |= dict.fromkeys(members, (low, high))
    first = model.operators("QUANTIZE")[0]
    written = {int(op.outputs[0]) for op in graph.operators} - {int(first.outputs[0])}
    for index in written:
        low, high = ranges[index]
        scale = max(high - low, 1e-6) / 255
        unsigned = graph.tensors[index].type == schema.TensorType.UINT8
        zero_point = int(np.clip(round(-low / scale), 0, 255)) - (0 if unsigned else 128)
        _set_scale(graph.tensors[index], scale, zero_point)
    for operator in model.operators("CONV_2D", "DEPTHWISE_CONV_2D"):
        source, weights, bias = (graph.tensors[index] for index in operator.inputs)
        scale = np.asarray(source.quantization.scale) * np.asarray(weights.quantization.scale)
        real = model.constant(operator.inputs[2]) * np.asarray(bias.quantization.scale)
        steps = np.rint(real / scale).clip(-(2**31) + 1, 2**31 - 1)
        set_constant(model, operator.inputs[2], steps.astype(np.int32))
        bias.quantization.scale = scale.astype(np.float32)
    return model


def _set_scale(tensor, scale: float, zero_point: int) -> None:
    tensor.quantization.scale = np.array([scale], np.float32)
    tensor.quantization.zeroPoint = np.array([zero_point], np.int64)


def tensor_named(model, part: str):
    """Index and table of the computed tensor whose name begins with `deeplab/<part>`."""
    graph = model.graph
    for operator in graph.operators:
        index = int(operator.outputs[0])
        if graph.tensors[index].name.decode().startswith(f"deeplab/{part}"):
            return index, graph.tensors[index]
    raise KeyError(part)


def writer_of(model, index: int):
    return next(op for op in model.graph.operators if index in op.outputs)


def swap_height_and_width(model: Editor) -> Editor:
    """The same network on a canvas that is as wide as it was high."""
    for operator in model.operators("RESIZE_BILINEAR"):
        set_constant(model, operator.inputs[1], model.constant(operator.inputs[1])[::-1])
    graph = model.graph
    written = {int(index) for op in graph.operators for index in op.outputs}
    for index in written | set(map(int, graph.inputs)):
        tensor = graph.tensors[index]
        if len(tensor.shape) == 4:
            tensor.shape = np.asarray(tensor.shape)[[0, 2, 1, 3]]
            tensor.shapeSignature = None
    return model
