"""Converts a Keras 3 file or a SavedModel; a process of its own, with TensorFlow's Keras 3."""

import importlib.metadata
import importlib.util
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

os.environ.pop("TF_USE_LEGACY_KERAS", None)

import numpy as np
import protocol
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

_Function = Callable[[tf.Tensor], dict[str, tf.Tensor]]
_Shape = tuple[int | None, ...]
LOWEST_PIXEL_STD = 8.0
"""A layer that divides by at least this takes pixels, not normalized values."""


def load(request: dict[str, Any]) -> tuple[_Function, _Shape, bool]:
    """Returns a function of an image to {name: output}, its input's shape, if it takes pixels."""
    source = pathlib.Path(request["source"])
    return _saved_model(source, request) if source.is_dir() else _keras_file(source, request)


def _keras_file(path: pathlib.Path, request: dict[str, Any]) -> tuple[_Function, _Shape, bool]:
    import keras  # noqa: PLC0415 - a SavedModel does not need it

    if request["python_file"]:
        _run(pathlib.Path(request["python_file"]))
    try:
        model = keras.saving.load_model(str(path), compile=False, safe_mode=True)
    except Exception as error:
        raise protocol.RefusalError(
            f"{path}: Keras {keras.__version__} cannot load it ({type(error).__name__}: "
            f"{str(error)[:300]}); layers of your own need --python_file, the file that registers "
            "them"
        ) from error
    if len(model.inputs) != 1:
        raise protocol.RefusalError(f"expected one input, got {len(model.inputs)}")
    names = list(getattr(model, "output_names", []))

    def function(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(_named(model(image, training=False), names))

    # The converter multiplies a mere factor into the first weights, where nobody can see it.
    first = [step for step in model.layers if not isinstance(step, keras.layers.InputLayer)][:1]
    return function, tuple(model.inputs[0].shape), any(_divides_pixels(step) for step in first)


def _divides_pixels(layer: Any) -> bool:
    """Returns whether a layer makes small values of pixels from 0 to 255."""
    if type(layer).__name__ == "Rescaling":
        return float(np.max(layer.scale)) <= 1 / LOWEST_PIXEL_STD
    if type(layer).__name__ == "Normalization":
        return float(np.min(np.sqrt(layer.variance))) >= LOWEST_PIXEL_STD
    return False


def _run(path: pathlib.Path) -> None:
    """Runs the user's file, which registers its layers with Keras."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    file = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = file
    spec.loader.exec_module(file)


def _named(value: Any, names: list[str]) -> list[tuple[str, tf.Tensor]]:
    if isinstance(value, dict):
        return list(value.items())
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(names) != len(values) or len(set(names)) < len(names):
        names = [f"output_{position}" for position in range(len(values))]
    return list(zip(names, values, strict=True))


def _saved_model(folder: pathlib.Path, request: dict[str, Any]) -> tuple[_Function, _Shape, bool]:
    loaded = tf.saved_model.load(str(folder))
    known = list(loaded.signatures)
    wanted = request["signature"] or (known[0] if len(known) == 1 else "serving_default")
    if wanted not in known:
        raise protocol.RefusalError(
            f"{folder}: expected a signature {wanted}, got {', '.join(known) or 'none'}; choose "
            "one with --signature"
        )
    _, inputs = loaded.signatures[wanted].structured_input_signature
    if len(inputs) != 1:
        raise protocol.RefusalError(f"{folder}: expected one input, got {', '.join(inputs)}")
    ((name, spec),) = inputs.items()

    def function(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(loaded.signatures[wanted](**{name: image}))

    return function, tuple(spec.shape), False


def input_shape(shape: _Shape, request: dict[str, Any]) -> tuple[list[int], bool]:
    """Returns [1, height, width, channels], and whether the channels are first."""
    if len(shape) != 4:
        raise protocol.RefusalError(f"expected an image input of 4 dimensions, got {list(shape)}")
    first = shape[1] in (1, 2, 3, 4) and shape[3] not in (1, 2, 3, 4)
    stored = [length for length in (shape[2:] if first else shape[1:3]) if length is not None]
    size = request["size"]
    if len(stored) < 2 and not size:
        raise protocol.RefusalError("the network takes any size; give --size=height,width")
    if len(stored) == 2 and size and list(stored) != list(size):
        raise protocol.RefusalError(
            f"--size: the network takes {stored[0]} x {stored[1]}, got {size[0]} x {size[1]}; "
            "leave it out, or build the network at that size"
        )
    channels = (shape[1] if first else shape[3]) or request["channels"] or 3
    height, width = stored if len(stored) == 2 else size
    return [1, height, width, channels], first


def main() -> None:
    """Converts, waits for the inputs, writes what TensorFlow computes from them."""
    request, folder = protocol.read_request()
    function, stored, pixels = load(request)
    shape, first = input_shape(stored, request)
    kept: list[str] = request["outputs"]
    names: list[str] = []

    @tf.function
    def serve(image: tf.Tensor) -> list[tf.Tensor]:
        found = function(tf.transpose(image, [0, 3, 1, 2]) if first else image)
        if wrong := [name for name in kept if name not in found]:
            raise protocol.RefusalError(
                f"--outputs: the network has no output {wrong[0]}; it has {', '.join(found)}"
            )
        chosen = [value for name, value in found.items() if not kept or name in kept]
        names[:] = [name for name in found if not kept or name in kept]
        rank4 = (0, 2, 3, 1)
        return [tf.transpose(v, rank4) if first and len(v.shape) == 4 else v for v in chosen]

    concrete = serve.get_concrete_function(tf.TensorSpec(shape, tf.float32, name="image"))
    frozen = convert_variables_to_constants_v2(concrete)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    (folder / "model.tflite").write_bytes(converter.convert())
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    protocol.write_result(folder, outputs=names, versions=versions, takes_pixels=pixels)
    images = protocol.wait_for_inputs(folder)
    protocol.write_references(
        folder, [[value.numpy() for value in concrete(tf.constant(image))] for image in images]
    )


if __name__ == "__main__":
    protocol.run(main)
