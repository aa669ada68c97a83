"""Everything that the content of an exported file depends on, as one digest.

An export that was killed goes on with the same command: files that are complete and have the same
digest in their manifest are kept.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import pathlib
import typing

import deeplab_tf
import export
from export.conversion.variants import RULES, FileSpec
from tflite_tools import flatbuffer
from tflite_tools.manifest import Manifest, read_manifest

if typing.TYPE_CHECKING:
    from export.conversion.pipeline import ExportPlan

PACKAGES = ("tensorflow", "tf-keras", "tensorflow-model-optimization", "ai-edge-litert")
"""Whose versions a file depends on."""
_READ_BYTES = 1 << 20


def file_digest(*paths: pathlib.Path) -> str:
    """Returns the sha256 of some files, one after the other; none is read whole.

    Args:
        *paths: of the files.
    """
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while part := stream.read(_READ_BYTES):
                digest.update(part)
    return digest.hexdigest()


def folder_digest(folder: pathlib.Path) -> str:
    """Returns a digest of all files of a folder, by name.

    Args:
        folder: such as a SavedModel.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder).as_posix()} {file_digest(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@functools.cache
def code_digest() -> str:
    """Returns the sha256 of the sources that the content of a file depends on."""
    packages = (deeplab_tf, export, flatbuffer)
    paths = [
        path for package in packages for path in pathlib.Path(package.__path__[0]).rglob("*.py")
    ]
    return file_digest(*sorted(paths))


def recipe_of(
    plan: ExportPlan, spec: FileSpec, *, network: str, calibration_file: pathlib.Path | None
) -> str | None:
    """Returns the digest of everything that a file's content depends on.

    Args:
        plan: the export.
        spec: the file.
        network: fingerprint of the source; "" if it has none.
        calibration_file: the calibration images, or None.

    Returns:
        Hexadecimal digits; None without a fingerprint.
    """
    if not network:
        return None
    images = RULES[spec.variant].calibrated and calibration_file is not None
    values = {
        "network": network,
        "file": [spec.variant.value, spec.head.value],
        "types": [spec.input_dtype.value, spec.output_dtype.value],
        "size": [plan.height, plan.width],
        "preprocessing": dataclasses.asdict(plan.preprocessing),
        "labels": dataclasses.asdict(plan.label_set),
        "calibration": file_digest(calibration_file) if images and calibration_file else None,
        "steps": plan.post_training.to_json() if plan.post_training else None,
        "target": plan.target.value,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "code": code_digest(),
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def existing_manifest(path: pathlib.Path) -> Manifest | None:
    """Returns the manifest of an exported file that is complete and says how it was made.

    Args:
        path: of the `.tflite`.

    Returns:
        None where the file, its manifest or the recipe in it is missing, or they do not fit.
    """
    try:
        manifest = read_manifest(path) if path.is_file() else None
    except (ValueError, OSError):
        return None
    return manifest if manifest is not None and manifest.recipe else None
