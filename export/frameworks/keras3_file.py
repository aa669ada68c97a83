"""Makes a copy of a Keras 3 file that Keras 3 may load: checked, and no code of the file runs.

Keras 3 writes other module names than Keras 2, and operations on tensors as objects of their own.
They are put into the form that the list of stock layers knows; everything else is checked as it is.
`export.conversion.keras3_file` goes further: it translates a file for Keras 2.
"""

import json
import pathlib
import re
import zipfile
from typing import Any

from deeplab_tf.graph.stock_layers import DEEPEST
from deeplab_tf.weights.hdf5 import open_hdf5
from export.conversion.keras_archive import (
    CONFIGURATION,
    METADATA,
    WEIGHTS,
    KerasArchive,
    open_keras_archive,
    refuse_foreign_parts,
)

_NETWORK_MODULES = re.compile(r"keras\.src\.models\.(?:functional|sequential|model)")
_OPERATION_MODULES = re.compile(r"keras\.src\.ops\.(?:numpy|nn|image|math)")
_OPERATION = re.compile(r"[A-Z][A-Za-z0-9]*")


def checked_keras3_file(path: pathlib.Path, *, folder: pathlib.Path) -> pathlib.Path:
    """Writes a copy of a file with what was checked: stock layers and arrays, and nothing else.

    Args:
        path: the `.keras` file.
        folder: where to write the copy, which keeps its name.

    Returns:
        The copy.

    Raises:
        ValueError: not a file of Keras 3, a part that is not on the list of stock layers, or
            weights that are stored elsewhere.
    """
    with open_keras_archive(path) as archive:
        config = _checked_configuration(archive)
        weights = folder / WEIGHTS
        archive.extract_weights(weights)
        with open_hdf5(weights, path):
            pass
    copy = folder / path.name
    with zipfile.ZipFile(copy, "w") as target:
        target.writestr(METADATA, json.dumps({"keras_version": archive.version}))
        target.writestr(CONFIGURATION, json.dumps(config))
        target.write(weights, WEIGHTS)
    weights.unlink()
    return copy


def _checked_configuration(archive: KerasArchive) -> dict:
    if not archive.made_by_keras3:
        raise ValueError(
            f"{archive.path}: expected a file of Keras 3, got Keras "
            f"{archive.version or 'of no version'}; give it to export.to_tflite as --keras_file"
        )
    try:
        config = _without_training(archive.configuration)
        stock = _as_stock(config)
    except ValueError as error:
        raise ValueError(f"{archive.path}: {error}") from error
    remedy = "if it is yours, give --python_file, the file that registers it"
    refuse_foreign_parts(archive.path, stock, remedy=remedy)
    return config


def _without_training(value: Any, depth: int = 0) -> Any:
    """Returns a configuration without losses and metrics: Keras looks those of nested models up."""
    if depth > DEEPEST:
        raise ValueError(f"the configuration is nested more than {DEEPEST} levels deep")
    if isinstance(value, list):
        return [_without_training(part, depth + 1) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_training(part, depth + 1)
        for key, part in value.items()
        if key != "compile_config"
    }


def _as_stock(value: Any) -> Any:
    """Returns a configuration in the words of Keras 2; what has none there stays, and is found."""
    if isinstance(value, list):
        return [_as_stock(part) for part in value]
    if not isinstance(value, dict):
        return value
    found = {key: _as_stock(part) for key, part in value.items()}
    name, module = found.get("class_name"), found.get("module")
    if name == "__keras_tensor__":
        return {"tensor": found.get("config")}
    if name == "DTypePolicy" and module == "keras":
        return {"policy": found.get("config")}
    if isinstance(module, str) and _NETWORK_MODULES.fullmatch(module):
        found["module"] = "keras"
    operation = isinstance(module, str) and _OPERATION_MODULES.fullmatch(module)
    if operation and isinstance(name, str) and _OPERATION.fullmatch(name):
        found.update(class_name="Layer", module="keras.layers", registered_name=None)
    return found
