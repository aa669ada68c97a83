"""Reads networks from `.keras` and `.h5` files, built from the configuration that was checked.

Keras' own loader reads the architecture a second time, by its own rules. Here the first bytes
decide the format; the configuration is parsed once, checked completely, and built; then only the
weights are read.
"""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import tf_keras as keras
from tf_keras.src.saving.legacy import hdf5_format

from deeplab_tf.graph.stock_layers import DEEPEST, NETWORKS
from deeplab_tf.scratch import scratch_folder
from deeplab_tf.weights import hdf5 as hdf5_file
from deeplab_tf.weights.hdf5 import open_hdf5
from export.conversion.keras3_file import keras2_configuration, load_keras3_weights
from export.conversion.keras_archive import (
    WEIGHTS,
    made_by_keras3,
    open_keras_archive,
    parse_configuration,
    refuse_foreign_parts,
)

_ZIP_SIGNATURE = b"PK\x03\x04"
_ENDINGS = {".h5": "HDF5", ".hdf5": "HDF5", ".keras": "ZIP"}


def read_keras_file(path: pathlib.Path) -> keras.Model:
    """Reads the network of a Keras file that holds stock layers only.

    Runs no code from the file.

    Args:
        path: the `.keras`, `.h5` or `.hdf5` file.

    Returns:
        the network with its weights.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a Keras model file, its ending and content differ, a part is not on the
            list of stock layers, or the weights do not fit.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such Keras file")
    read = _read_hdf5 if _content_format(path) == "HDF5" else _read_archive
    model = read(path)
    try:
        _ = model.input_shape, model.output_shape
    except AttributeError as error:
        raise ValueError(
            f"{path}: the network has no input of a known shape; save it after it was built"
        ) from error
    return model


def _content_format(path: pathlib.Path) -> str:
    """Returns "HDF5" or "ZIP", by the first bytes; a known file ending must agree."""
    with path.open("rb") as stream:
        beginning = stream.read(8)
    known = {hdf5_file.SIGNATURE: "HDF5", _ZIP_SIGNATURE: "ZIP"}
    found = known.get(beginning) or known.get(beginning[:4])
    if found is None:
        raise ValueError(
            f"{path}: not a Keras model file; expected .keras (a ZIP archive) or .h5 (HDF5), got a "
            f"file that begins with {beginning!r}"
        )
    expected = _ENDINGS.get(path.suffix.lower(), found)
    if expected != found:
        raise ValueError(
            f"{path}: expected {expected} by the ending {path.suffix}, got {found} content; save "
            "the network again, or rename the file if you know where it comes from"
        )
    return found


def _read_hdf5(path: pathlib.Path) -> keras.Model:
    with open_hdf5(path) as content:
        if "model_config" not in content.attrs or "model_weights" not in content:
            raise ValueError(
                f"{path}: not a Keras model file with its architecture; give a file of weights "
                "only to --backbone_weights of a training"
            )
        config = _as_float32(path, parse_configuration(path, content.attrs["model_config"]))
        if not made_by_keras3(content.attrs.get("keras_version")):
            model = _built_from_json(path, config)
            with _weights_errors(path):
                hdf5_format.load_weights_from_hdf5_group(content["model_weights"], model)
            return model
        model = _built_from_json(path, _keras2_form(path, config))
        with _weights_errors(path):
            _load_by_name(model, content["model_weights"])
        return model


def _load_by_name(model: keras.Model, group: h5py.Group) -> None:
    """Loads weights by the names of layers: Keras 3 may order the layers in another way."""
    stored = {str(name) for name in group.attrs.get("layer_names", ())}
    named = [layer.name for layer in model.layers if layer.weights]
    if missing := [name for name in named if name not in stored]:
        raise ValueError(f"no weights of layer {missing[0]!r}")
    hdf5_format.load_weights_from_hdf5_group_by_name(group, model)


def _read_archive(path: pathlib.Path) -> keras.Model:
    with open_keras_archive(path) as archive:
        config = _as_float32(path, archive.configuration)
        for key in ("compile_config", "build_config"):
            config.pop(key, None)  # not used here
        if archive.made_by_keras3:
            config = _keras2_form(path, config)
            model = _built_from_json(path, config)
        else:
            model = _built(
                path, config, build=lambda: keras.saving.deserialize_keras_object(config)
            )
        with scratch_folder("keras") as folder:
            weights = folder / WEIGHTS
            archive.extract_weights(weights)
            with open_hdf5(weights, path) as content, _weights_errors(path):
                if archive.made_by_keras3:
                    load_keras3_weights(model, config, group=content)
                else:
                    model.load_weights(str(weights))
        return model


def _keras2_form(path: pathlib.Path, config: dict) -> dict:
    try:
        return keras2_configuration(config)
    except ValueError as error:
        raise ValueError(
            f"{path}: Keras 2, which builds the network here, cannot ({error}); export a "
            "SavedModel (model.export) and give --saved_model"
        ) from error


def _in_float32(value: Any, depth: int = 0) -> Any:
    """Returns a configuration whose layers compute in float32; weights of both are the same."""
    if depth > DEEPEST:
        raise ValueError(f"the configuration is nested more than {DEEPEST} levels deep")
    if isinstance(value, list):
        return [_in_float32(part, depth + 1) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        key: "float32" if key == "dtype" and _is_policy(part) else _in_float32(part, depth + 1)
        for key, part in value.items()
    }


def _is_policy(value: Any) -> bool:
    """Returns whether a value stands for a number format of layers, not of integer tensors."""
    if isinstance(value, dict):
        return value.get("class_name") in ("Policy", "DTypePolicy")
    return isinstance(value, str) and "float16" in value


def _as_float32(path: pathlib.Path, config: dict) -> dict:
    try:
        return _in_float32(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; save the network again") from error


def _built(path: pathlib.Path, config: dict, *, build: Callable[[], keras.Model]) -> keras.Model:
    """Builds the network of a configuration after checking all of it."""
    remedy = "rebuild the network from stock layers and load the weights"
    refuse_foreign_parts(path, config, remedy=remedy)
    if config.get("class_name") not in NETWORKS:
        raise ValueError(
            f"{path}: expected a network ({', '.join(sorted(NETWORKS))}), got "
            f"{config.get('class_name')}; save the whole network"
        )
    try:
        return build()
    except Exception as error:  # Keras raises all kinds of errors for unusual values
        raise ValueError(
            f"{path}: Keras cannot build the network ({type(error).__name__}: {error}); save it "
            "again with Keras 2"
        ) from error


def _built_from_json(path: pathlib.Path, config: dict) -> keras.Model:
    return _built(path, config, build=lambda: keras.models.model_from_json(json.dumps(config)))


@contextlib.contextmanager
def _weights_errors(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # as above
        raise ValueError(
            f"{path}: the weights do not fit the network ({type(error).__name__}: {error}); save "
            "both again in one file"
        ) from error
