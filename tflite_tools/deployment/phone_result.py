"""Reads the result that a phone's page saved, and compares its masks with our interpreter's.

The file carries the pixels that the phone fed to the model, so no decoder of photos and no resize
stands between the two masks.
"""

import base64
import dataclasses
import math
import pathlib
import zlib

import numpy as np

from deeplab_tf import bounded_file
from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.deployment.golden import (
    Comparison,
    PairMask,
    masks_of_both_kernel_sets,
    pair_mask,
    required_agreement,
)
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.manifest import sha256_of

KIND = "phone_result"
FORMAT = 1
LARGEST_RESULT_BYTES = 64_000_000
"""Of the result file; a page of four models writes about 3 MB."""
LARGEST_ARRAYS_BYTES = 256_000_000
"""Of all pixels and masks, unpacked: 1 kB of the file can become 1 MB."""
_LARGEST_SIDE = 1 << 14


@dataclasses.dataclass(frozen=True)
class PhoneRun:
    """One model on one accelerator of the phone.

    Attributes:
        accelerator: "cpu" or "gpu", with what the page knows more: the build, the threads.
        mask: uint8 [height, width] on the model's canvas.
        latency_ms: median, p90 and the number of runs, or None if it was not measured.
    """

    accelerator: str
    mask: np.ndarray
    latency_ms: tuple[float, float, int] | None


@dataclasses.dataclass(frozen=True)
class PhoneModel:
    """One model of the page.

    Attributes:
        file: its name.
        sha256: its digest.
        pixels: uint8 [height, width, 3], the canvas that the phone fed.
        preprocessing: normalization that the page fed them with.
        runs: one for each accelerator.
    """

    file: str
    sha256: str
    pixels: np.ndarray
    preprocessing: Preprocessing
    runs: tuple[PhoneRun, ...]


@dataclasses.dataclass(frozen=True)
class PhoneResult:
    """What the page saved.

    Attributes:
        device: name that the user gave, else the browser's.
        photo: name of the photo.
        models: of the page.
    """

    device: str
    photo: str
    models: tuple[PhoneModel, ...]


@dataclasses.dataclass(frozen=True)
class RunComparison:
    """A run of the phone compared with our mask.

    Attributes:
        file: name of the model.
        run: of the phone.
        comparison: with our mask.
    """

    file: str
    run: PhoneRun
    comparison: Comparison


def is_phone_result(path: pathlib.Path) -> bool:
    """Returns whether a file is meant as a result of the page: its name ends in .json.

    Args:
        path: of the file.
    """
    return path.suffix.lower() == ".json"


def read_phone_result(path: pathlib.Path) -> PhoneResult:
    """Reads a result file.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a result of this page, or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check --check")
    try:
        values = bounded_file.read_json(path, limit=LARGEST_RESULT_BYTES)
        if values["kind"] != KIND or values["format"] != FORMAT:
            raise ValueError(
                f"expected {KIND} of format {FORMAT}, got {values['kind']!r} of "
                f"{values['format']!r}"
            )
        _check_sizes(values["models"])
        models = tuple(map(_model, values["models"]))
        device = str(values["device"]["name"] or values["device"]["browser"])
        return PhoneResult(device, str(values["photo"]), models)
    except bounded_file.PARSING_ERRORS as error:
        raise ValueError(
            f"{path}: not a result that a phone page saved ({type(error).__name__}: {error}); "
            "save it again"
        ) from error


def _check_sizes(models: list[dict]) -> None:
    """Refuses a result whose arrays would fill the memory, before one of them is unpacked."""
    total = 0
    for values in models:
        height, width = _size(values)
        total += height * width * (3 + len(values["runs"]))
    if total > LARGEST_ARRAYS_BYTES:
        raise ValueError(
            f"expected pixels and masks of at most {LARGEST_ARRAYS_BYTES:,} bytes, got {total:,}"
        )


def _size(values: dict) -> tuple[int, int]:
    height, width = int(values["height"]), int(values["width"])
    if not (1 <= height <= _LARGEST_SIDE and 1 <= width <= _LARGEST_SIDE):
        raise ValueError(f"no usable size {height} x {width}")
    return height, width


def _model(values: dict) -> PhoneModel:
    height, width = _size(values)
    pixels = _unpacked(values["pixels"], (height, width, 3))
    runs = tuple(_run(run, (height, width)) for run in values["runs"])
    return PhoneModel(
        str(values["file"]),
        str(values["sha256"]),
        pixels=pixels,
        preprocessing=Preprocessing(tuple(values["mean"]), tuple(values["std"])),
        runs=runs,
    )


def _run(values: dict, size: tuple[int, int]) -> PhoneRun:
    words = [str(values["accelerator"]), f"{values['build']} build"]
    if values["accelerator"] == "gpu" and values["on_gpu"] != "full":
        words.append("in part on the CPU" if values["on_gpu"] == "part" else "refused: on the CPU")
    if values["threads"]:
        count = int(values["threads"])
        words.append(f"{count} thread{'s' if count > 1 else ''}")
    latency = values["latency_ms"]
    times = latency and (float(latency["median"]), float(latency["p90"]), len(latency["runs"]))
    if times and not all(math.isfinite(value) and value >= 0 for value in times):
        raise ValueError(f"no usable times {times[0]:g} and {times[1]:g} ms")
    return PhoneRun(", ".join(words), _unpacked(values["mask"], size), times or None)


def _unpacked(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """Decodes gzip in base64; never more bytes than the shape has."""
    count = int(np.prod(shape))
    decoder = zlib.decompressobj(wbits=31)
    try:
        content = decoder.decompress(base64.b64decode(text, validate=True), count + 1)
    except zlib.error as error:
        raise ValueError(f"damaged data: {error}") from error
    if len(content) != count:
        raise ValueError(f"expected {count} bytes for {list(shape)}, got {len(content)}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def compare_with_file(result: PhoneResult, model: pathlib.Path) -> list[RunComparison]:
    """Runs our interpreter on the phone's own pixels and compares the masks.

    Args:
        result: of the phone.
        model: the file that the phone ran.

    Returns:
        One comparison for each run of this file.

    Raises:
        FileNotFoundError: no such model.
        ValueError: the phone ran other files, or another size.
        RuntimeError: the runtime refuses the file.
    """
    digest = sha256_of(read_model_bytes(model))
    found = [entry for entry in result.models if entry.sha256 == digest]
    if not found:
        names = ", ".join(f"{entry.file} ({entry.sha256[:12]})" for entry in result.models)
        raise ValueError(
            f"{model}: the phone ran other files: expected sha256 {digest[:12]}, got {names}; "
            "write the page for this file"
        )
    ours, agreement = masks_of_both_kernel_sets(
        model, found[0].pixels, preprocessing=found[0].preprocessing
    )
    return _compared(found[0], PairMask(ours, required_agreement(agreement)))


def compare_with_pair(result: PhoneResult, golden_dir: pathlib.Path) -> list[RunComparison]:
    """Compares the phone's masks with a golden pair of the same photo.

    Args:
        result: of the phone.
        golden_dir: folder of the pair.

    Returns:
        One comparison for each run of the pair's model.

    Raises:
        FileNotFoundError: no such pair.
        ValueError: the pair is of another file or photo.
    """
    pair, model_sha256, pixels_sha256 = pair_mask(golden_dir)
    found = [entry for entry in result.models if entry.sha256 == model_sha256]
    if not found:
        raise ValueError(
            f"{golden_dir}: the pair is of another file than the phone's "
            f"{', '.join(entry.file for entry in result.models)}; give --model=FILE to run our "
            "interpreter on the phone's pixels"
        )
    if sha256_of(found[0].pixels.tobytes()) != pixels_sha256:
        raise ValueError(
            f"{golden_dir}: the phone ran {result.photo}, the pair is of another photo; give "
            "--model=FILE to run our interpreter on the phone's pixels"
        )
    return _compared(found[0], pair)


def _compared(model: PhoneModel, pair: PairMask) -> list[RunComparison]:
    if not model.runs:
        raise ValueError(f"{model.file}: the phone saved no mask of it; run a photo, then save")
    return [
        RunComparison(
            model.file, run, Comparison.of_masks(pair.mask, run.mask, required=pair.required)
        )
        for run in model.runs
    ]
