"""Checks the configuration of a Keras 3 file before Keras loads it: no code of the file runs.

Keras 3 writes other module names than Keras 2, and operations on tensors as objects of their own.
They are put into the form that the list of stock layers knows; everything else is checked as it is.
"""

import errno
import pathlib
import re
import shutil
import zipfile
import zlib
from typing import Any

from deeplab_tf import bounded_file
from deeplab_tf.graph.stock_layers import DEEPEST, foreign_part
from deeplab_tf.scratch import scratch_folder
from deeplab_tf.weights import hdf5

LARGEST_CONFIGURATION = 16_000_000
"""Bytes."""
_WEIGHTS = "model.weights.h5"
_ARCHIVE_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError),
    *(AttributeError, OverflowError),
)
"""What `zipfile` raises for damaged archives; RuntimeError for one with a password."""
_NETWORK_MODULES = re.compile(r"keras\.src\.models\.(?:functional|sequential|model)")
_OPERATION_MODULES = re.compile(r"keras\.src\.ops\.(?:numpy|nn|image|math)")
_OPERATION = re.compile(r"[A-Z][A-Za-z0-9]*")


def check_keras3_file(path: pathlib.Path) -> None:
    """Checks that a file holds stock layers only.

    Args:
        path: the `.keras` file.

    Raises:
        ValueError: not a file of Keras 3, or a part that is not on the list of stock layers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) < len(names) or not {"config.json", "metadata.json"} <= set(names):
                raise ValueError("config.json and metadata.json are missing, or a name is double")
            texts = [_member(archive, name) for name in ("metadata.json", "config.json")]
            _check_weights(archive, path)
        metadata, config = (bounded_file.parse_json(text) for text in texts)
        made_by = str(metadata.get("keras_version", ""))
    except (*_ARCHIVE_ERRORS, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # EINVAL alone comes from the archive: an impossible place in the file
        raise ValueError(f"{path}: not a Keras file ({error}); save the network again") from error
    if not made_by.startswith("3"):
        raise ValueError(
            f"{path}: expected a file of Keras 3, got Keras {made_by or 'of no version'}; give it "
            "to export.to_tflite as --keras_file"
        )
    try:
        found = foreign_part(_as_stock(config))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if found:
        raise ValueError(
            f"{path}: holds {found}, which is no stock Keras layer; loading it would run code; if "
            "it is yours, give --python_file, the file that registers it"
        )


def _check_weights(archive: zipfile.ZipFile, path: pathlib.Path) -> None:
    """Checks the weights, which Keras unpacks by its own rules: plain numbers, no other files."""
    size = path.stat().st_size
    unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > hdf5.ALWAYS_ALLOWED_BYTES + hdf5.LARGEST_EXPANSION * size:
        raise ValueError(f"it unpacks to {unpacked:,} bytes, but the file has only {size:,}")
    if _WEIGHTS not in archive.namelist():
        return  # Keras says so
    with scratch_folder("keras3") as folder:
        copy = folder / _WEIGHTS
        with archive.open(_WEIGHTS) as stream, copy.open("wb") as target:
            shutil.copyfileobj(stream, target)
        with hdf5.open_hdf5(copy, _WEIGHTS):
            pass  # opening it checks it


def _member(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(name) as stream:
        content = stream.read(LARGEST_CONFIGURATION + 1)
    if len(content) > LARGEST_CONFIGURATION:
        raise ValueError(f"{name} is larger than {LARGEST_CONFIGURATION} bytes")
    return content.decode()


def _as_stock(value: Any, depth: int = 0) -> Any:
    """Returns a configuration in the words of Keras 2; what has none there stays, and is found."""
    if depth > DEEPEST:
        raise ValueError(f"the configuration is nested more than {DEEPEST} levels deep")
    if isinstance(value, list):
        return [_as_stock(part, depth + 1) for part in value]
    if not isinstance(value, dict):
        return value
    found = {key: _as_stock(part, depth + 1) for key, part in value.items()}
    # What is saved for a training is not loaded here.
    for key in ("compile_config", "build_config"):
        found.pop(key, None)
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
