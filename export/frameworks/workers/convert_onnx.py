"""Converts an ONNX file with onnx2tf and runs it with ONNX Runtime, in the ONNX environment."""

import importlib.metadata
import pathlib
from typing import Any

import numpy as np
import onnx
import onnxruntime
import protocol

_MOST_CHANNELS = 4


def read(path: pathlib.Path) -> onnx.ModelProto:
    """Returns the checked model; weights in other files must lie beside it."""
    try:
        onnx.checker.check_model(str(path))
        return onnx.load(str(path))
    except Exception as error:
        raise protocol.RefusalError(
            f"{path}: onnx cannot read it ({type(error).__name__}: {str(error)[:300]}); export it "
            "again"
        ) from error


def image_input(model: onnx.ModelProto) -> tuple[str, list[int | None]]:
    """Returns (name, shape with None for any length) of the one input of a model."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise protocol.RefusalError(
            f"expected one input, got {len(inputs)}: {', '.join(value.name for value in inputs)}"
        )
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise protocol.RefusalError(f"expected a float32 input, got {kind}; export a float network")
    return inputs[0].name, [d.dim_value or None for d in tensor.shape.dim]


def fixed_shape(shape: list[int | None], request: dict[str, Any]) -> tuple[list[int], bool]:
    """Returns [1, ...] without unknown lengths, and whether the channels are first."""
    if len(shape) != 4:
        raise protocol.RefusalError(f"expected an image input of 4 dimensions, got {shape}")
    last = shape[3] is not None and shape[3] <= _MOST_CHANNELS
    first = not (last and not (shape[1] is not None and shape[1] <= _MOST_CHANNELS))
    size = request["size"]
    stored = [length for length in (shape[2:] if first else shape[1:3]) if length is not None]
    if len(stored) < 2 and not size:
        raise protocol.RefusalError("the file takes any size; give --size=height,width")
    if len(stored) == 2 and size and list(stored) != list(size):
        raise protocol.RefusalError(
            f"--size: the file takes {stored[0]} x {stored[1]}, got {size[0]} x {size[1]}; leave "
            "it out, or export the file again"
        )
    height, width = stored if len(stored) == 2 else size
    channels = (shape[1] if first else shape[3]) or request["channels"] or 3
    return ([1, channels, height, width] if first else [1, height, width, channels]), first


def fix_shape(model: onnx.ModelProto, name: str, *, shape: list[int]) -> onnx.ModelProto:
    """Returns the model with one shape of its input; the shapes of all other values follow.

    onnx2tf would read the name of an unknown length, such as "batch", as a length.
    """
    (image,) = [value for value in model.graph.input if value.name == name]
    for dimension, length in zip(image.type.tensor_type.shape.dim, shape, strict=True):
        dimension.dim_value = length
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model)


def keep_outputs(model: onnx.ModelProto, kept: list[str]) -> list[str]:
    """Leaves only some outputs in a model, in its own order; returns all names that stay."""
    names = [value.name for value in model.graph.output]
    if wrong := [name for name in kept if name not in names]:
        raise protocol.RefusalError(
            f"--outputs: the file has no output {wrong[0]}; it has {', '.join(names)}"
        )
    for value in [v for v in model.graph.output if kept and v.name not in kept]:
        model.graph.output.remove(value)
    return [value.name for value in model.graph.output]


def main() -> None:
    """Converts, waits for the inputs, writes what ONNX Runtime computes from them."""
    request, folder = protocol.read_request()
    source = pathlib.Path(request["source"])
    model = read(source)
    name, stored = image_input(model)
    shape, first = fixed_shape(stored, request)
    names = keep_outputs(model, request["outputs"])
    if shape != stored:
        model = fix_shape(model, name, shape=shape)
    fixed = folder / "fixed.onnx"
    onnx.save(model, str(fixed))
    session = onnxruntime.InferenceSession(str(fixed), providers=["CPUExecutionProvider"])
    # onnx2tf would fetch this file from the internet to try the network on.
    name_of_samples = "calibration_image_sample_data_20x128x128x3_float32.npy"
    np.save(name_of_samples, np.random.default_rng(0).random((20, 128, 128, 3), np.float32))
    import onnx2tf  # noqa: PLC0415 - takes seconds; the user's mistakes come first

    onnx2tf.convert(
        input_onnx_file_path=str(fixed),
        output_folder_path=str(folder / "onnx2tf"),
        overwrite_input_shape=[f"{name}:{','.join(map(str, shape))}"],
        # It takes every input for one with the channels first.
        keep_shape_absolutely_input_names=None if first else [name],
        not_use_onnxsim=False,
        non_verbose=True,
    )
    (made,) = (folder / "onnx2tf").glob("*_float32.tflite")
    made.replace(folder / "model.tflite")
    packages = ("onnx", "onnx2tf", "onnxruntime")
    versions = {package: importlib.metadata.version(package) for package in packages}
    protocol.write_result(folder, outputs=names, versions=versions)
    outputs = []
    for image in protocol.wait_for_inputs(folder):
        value = image.transpose(0, 3, 1, 2) if first else image
        found = session.run(names, {name: np.ascontiguousarray(value)})
        outputs.append([_channels_last(one) if first else one for one in found])
    protocol.write_references(folder, outputs)


def _channels_last(value: np.ndarray) -> np.ndarray:
    return value.transpose(0, 2, 3, 1) if value.ndim == 4 else value


if __name__ == "__main__":
    protocol.run(main)
