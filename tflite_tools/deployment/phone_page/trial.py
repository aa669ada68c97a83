"""Runs a file once in the web runtime, in Node.js, and compares its mask with our interpreter's."""

import json
import pathlib
import shutil
import subprocess

import numpy as np

from deeplab_tf import child_process
from deeplab_tf.scratch import scratch_folder
from tflite_tools.contract import ModelContract
from tflite_tools.deployment.phone_page.web_runtime import WebRuntime
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner

TEMPLATES = pathlib.Path(__file__).parent / "templates"
_SECONDS = 300
_LEAST_AGREEMENT = 0.9
"""Trained int8 files agree on 92-99.9 % of the pixels between kernel sets."""


def our_mask(contract: ModelContract, pixels: np.ndarray) -> np.ndarray:
    """Returns the class map of our interpreter.

    Args:
        contract: of the file.
        pixels: uint8 [height, width, channels], of the input's size.

    Raises:
        RuntimeError: the runtime refuses the file, or crashes.
    """
    with InterpreterPool([contract], processes=1) as pool:
        [outcome] = pool.run([Task(0, ModelRunner.class_map, arguments=(pixels,))])
    if outcome.failure:
        raise RuntimeError(f"{contract.path}: {outcome.failure}")
    return outcome.value


def try_model(
    contract: ModelContract,
    values: dict,
    *,
    runtime: WebRuntime,
    pixels: np.ndarray,
    expected: np.ndarray,
) -> float:
    """Runs a file with the page's own scripts and the build that every browser runs.

    Args:
        contract: of the file.
        values: of `model_values`.
        runtime: the web runtime.
        pixels: uint8 [height, width, channels], of the input's size.
        expected: uint8 [height, width], the class map of our interpreter.

    Returns:
        Fraction of the pixels with the class that our interpreter gives.

    Raises:
        RuntimeError: Node.js is missing, the web runtime refuses the file, or gives another mask.
    """
    with scratch_folder("phone-page") as folder:
        (folder / "runtime.js").write_text(runtime.script(), encoding="utf-8")
        (folder / "loader.js").write_text(runtime.loader("compat"), encoding="utf-8")
        (folder / "runtime.wasm").write_bytes(runtime.wasm("compat"))
        (folder / "engine.js").write_bytes((TEMPLATES / "engine.js").read_bytes())
        (folder / "model.json").write_text(json.dumps(values), encoding="utf-8")
        (folder / "model.tflite").write_bytes(read_model_bytes(contract.path))
        (folder / "pixels.bin").write_bytes(np.ascontiguousarray(pixels).tobytes())
        _run_node(contract.path, folder)
        found = np.fromfile(folder / "mask.bin", np.uint8).reshape(expected.shape)
    agreement = float(np.mean(found == expected))
    if agreement < _LEAST_AGREEMENT:
        raise RuntimeError(
            f"{contract.path}: the web runtime agrees with our interpreter on {agreement:.1%} of "
            f"the pixels, expected at least {_LEAST_AGREEMENT:.0%}; a phone would show another mask"
        )
    return agreement


def _run_node(path: pathlib.Path, folder: pathlib.Path) -> None:
    node = shutil.which("node")
    if node is None:
        raise RuntimeError(
            "node is missing: each model is tried in the web runtime before the page is written; "
            "install Node.js 20 or newer"
        )
    try:
        done = subprocess.run(
            [node, TEMPLATES / "trial.mjs", folder],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            preexec_fn=child_process.end_child_with_parent,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{path}: the web runtime took longer than {_SECONDS} s") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(
            f"{path}: the web runtime cannot run it: {lines[-1] if lines else 'it crashed'}"
        )
