"""Writes test vectors: an input and a file's output for it, as raw bytes for a test on a device.

A device that gets another output than `output.bin` for `input.bin` has other kernels, which round
differently, or an error. The tolerance is derived from a measurement: the disagreement of XNNPACK
and the builtin kernels on the same file and input. It is a multiple of that, still far below the
effect of swapped channels or a second normalization.
"""

import dataclasses
import json
import math
import pathlib

import numpy as np

from deeplab_tf import atomic_file, bounded_file
from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.images import exif_orientation, read_image
from deeplab_tf.data.preprocessing import Preprocessing, place
from tflite_tools.contract import ModelContract, read_contract
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.manifest import sha256_of
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.file_interpreter import FileInterpreter
from tflite_tools.runtime.interpreter import Kernels
from tflite_tools.runtime.output_reader import OutputReader
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner

FORMAT = 1
LARGEST_PAIR_BYTES = 2**31 - 1
"""No tensor is larger."""
INPUT, OUTPUT, DESCRIPTION = "input.bin", "output.bin", "golden.json"
_TOLERANCE_FACTOR = 5
"""Times the disagreement of two kernel sets here; a third may differ the other way."""
_STRICTEST, _LOOSEST = 0.995, 0.9
"""Bounds of the required agreement; trained int8 files agree on 92-99.9% between kernel sets."""


@dataclasses.dataclass(frozen=True)
class GoldenOptions:
    """Input and output of `write_golden`.

    Attributes:
        model: the `.tflite`.
        photo: image file; placed on the canvas as in evaluation.
        output_dir: folder of the three files.
        overwrite: replace existing files.
    """

    model: pathlib.Path
    photo: pathlib.Path
    output_dir: pathlib.Path
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in (INPUT, OUTPUT, DESCRIPTION):
            if (self.output_dir / name).exists() and not self.overwrite:
                raise FileExistsError(
                    f"{self.output_dir / name} exists; give --overwrite or another --output_dir"
                )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A device's output compared with the golden output.

    Attributes:
        agreement: fraction of pixels with the same class; 0 for one class everywhere if the golden
            mask has several.
        required: smallest fraction that passes.
        largest_difference: of the raw values, in the output's own units (steps if quantized);
            NaN where only masks are compared.
    """

    agreement: float
    required: float
    largest_difference: float

    @classmethod
    def of_masks(
        cls,
        golden: np.ndarray,
        given: np.ndarray,
        *,
        required: float,
        largest_difference: float = math.nan,
    ) -> "Comparison":
        """Compares two class maps.

        Args:
            golden: integers, any shape.
            given: of the device, of the same shape.
            required: smallest fraction of equal pixels that passes.
            largest_difference: of the raw values, NaN where only masks are known.
        """
        constant = len(np.unique(golden)) > 1 and len(np.unique(given)) == 1
        return cls(
            agreement=0.0 if constant else float(np.mean(golden == given)),
            required=required,
            largest_difference=largest_difference,
        )

    @property
    def passed(self) -> bool:
        """Whether the device's output is close enough."""
        return self.agreement >= self.required


def write_golden(options: GoldenOptions) -> dict:
    """Runs the file and writes input, output and their description.

    Args:
        options: the files.

    Returns:
        The content of `golden.json`.

    Raises:
        FileNotFoundError: no such model or photo.
        ValueError: not a segmentation model of RGB photos.
        RuntimeError: the runtime refuses or crashes, or its own kernel sets disagree too much.
    """
    contract = read_contract(options.model)
    if not options.photo.is_file():
        raise FileNotFoundError(f"{options.photo}: no such image; check --photo")
    photo = read_image(options.photo)
    if contract.channels != photo.shape[2]:
        raise ValueError(
            f"{options.model}: expected {photo.shape[2]} input channels as in the photo, got "
            f"{contract.channels}; golden pairs are made from RGB photos"
        )
    canvas, _ = place(photo, (contract.height, contract.width))
    fed, output, other, kernels = _run(contract, canvas)
    agreement = float(np.mean(_classes(contract, output) == _classes(contract, other)))
    if agreement < _LOOSEST:
        raise RuntimeError(
            f"{options.model}: XNNPACK and builtin kernels agree on {agreement:.1%} of the pixels, "
            f"below {_LOOSEST:.0%}: no device can be tested with this pair; look for the cause "
            "with tflite_tools.diagnose"
        )
    description = _description(
        options,
        contract,
        fed=fed,
        output=output,
        agreement=agreement,
        kernels=kernels,
        pixels_sha256=sha256_of(canvas.tobytes()),
    )
    atomic_file.write_bytes(options.output_dir / INPUT, fed.tobytes())
    atomic_file.write_bytes(options.output_dir / OUTPUT, output.tobytes())
    text = json.dumps(description, indent=2) + "\n"
    atomic_file.write_text(options.output_dir / DESCRIPTION, text)
    return description


def _run(contract: ModelContract, canvas: np.ndarray) -> tuple:
    with InterpreterPool([contract], processes=1) as pool:
        [outcome] = pool.run([Task(0, _both_kernel_sets, arguments=(canvas,))])
    if outcome.failure:
        raise RuntimeError(f"{contract.path}: {outcome.failure}")
    return outcome.value


def _both_kernel_sets(runner: ModelRunner, canvas: np.ndarray) -> tuple:
    """Returns input, output, output of the builtin kernels, and the kernels of the first run."""
    fed = _fed_tensor(runner.contract, canvas)
    runner.set_image(canvas)
    runner.invoke()
    plain = FileInterpreter(runner.contract.path, kernels=Kernels.BUILTIN)
    plain.set_input(fed)
    plain.invoke()
    return fed, runner.output(), runner.contract.arranged_output(plain.output()), runner.kernels


def _fed_tensor(contract: ModelContract, canvas: np.ndarray) -> np.ndarray:
    """Returns the input tensor that `ModelRunner.set_image` feeds."""
    table = contract.quantize_table()
    fed = canvas if table is None else table[canvas, np.arange(contract.channels)]
    return contract.arranged(fed)


def _classes(contract: ModelContract, output: np.ndarray) -> np.ndarray:
    return OutputReader.of(contract).on_canvas(output)


def _description(
    options: GoldenOptions,
    contract: ModelContract,
    *,
    fed: np.ndarray,
    output: np.ndarray,
    agreement: float,
    kernels: Kernels,
    pixels_sha256: str,
) -> dict:
    # If only the builtin kernels run it, they were compared with themselves.
    measured = agreement if kernels is Kernels.XNNPACK else None
    return {
        "format": FORMAT,
        "model": {
            "file": contract.path.name,
            "sha256": sha256_of(read_model_bytes(contract.path)),
            "size_bytes": contract.size_bytes,
        },
        "photo": options.photo.name,
        "photo_exif_orientation": exif_orientation(options.photo),
        "pixels_sha256": pixels_sha256,
        "canvas": [contract.height, contract.width],
        "input": _tensor(INPUT, fed, quantization=contract.input_quantization),
        "output": _tensor(OUTPUT, output, quantization=contract.output_quantization),
        "output_is_class_map": contract.classes_output,
        "scores_shape": list(contract.output_shape),
        "threshold": contract.threshold,
        "resize": contract.alignment.value if contract.alignment else None,
        "tolerance": {
            "rule": "share of pixels with the same class (arg max of logits) as output.bin",
            "min_class_agreement": required_agreement(measured),
            "measured_between_kernel_sets": measured,
        },
        "made_with": "XNNPACK kernels" if kernels is Kernels.XNNPACK else "builtin kernels",
    }


def required_agreement(measured: float | None) -> float:
    """Returns the smallest share of equal pixels that a device passes with.

    Args:
        measured: share on which two kernel sets agree here; None if only one runs the file.
    """
    room = 1.0 if measured is None else _TOLERANCE_FACTOR * (1 - measured)
    return min(_STRICTEST, max(_LOOSEST, 1 - room))


def _tensor(name: str, values: np.ndarray, *, quantization: tuple[float, int] | None) -> dict:
    return {
        "file": name,
        "dtype": str(values.dtype),
        "byte_order": "little",
        "shape": list(values.shape),
        "quantization": quantization,
        "sha256": sha256_of(values.tobytes()),
    }


def compare(
    golden_dir: pathlib.Path, found: pathlib.Path, *, model: pathlib.Path | None = None
) -> Comparison:
    """Compares a device's raw output with the golden one.

    Args:
        golden_dir: folder of the pair.
        found: raw output tensor of the device.
        model: the file that the device runs, or None.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: `golden.json` or a file of the pair is damaged, or `found` has another size.
    """
    description = _read_description(golden_dir)
    output = description["output"]
    _pair_file(golden_dir, INPUT, sha256=description["input"]["sha256"])
    expected = _pair_file(golden_dir, OUTPUT, sha256=output["sha256"])
    if model is not None:
        _check_model(golden_dir, description["model"], model=model)
    if not found.is_file():
        raise FileNotFoundError(f"{found}: no such file; check --check")
    content = bounded_file.read_bytes(found, limit=LARGEST_PAIR_BYTES)
    if len(content) != len(expected):
        raise ValueError(
            f"{found}: expected {len(expected)} bytes ({output['dtype']} {output['shape']}), got "
            f"{len(content)}; save the raw output tensor of {description['model']['file']}"
        )
    with bounded_file.read_as(golden_dir / DESCRIPTION, "a golden pair"):
        golden, given = (
            np.frombuffer(data, output["dtype"]).reshape(output["shape"])
            for data in (expected, content)
        )
    if not np.isfinite(given).all():
        raise ValueError(f"{found}: contains NaN or infinity; the device's output is invalid")
    threshold = description.get("threshold")
    masks = [golden, given]
    if threshold is not None:
        masks = [values > threshold for values in masks]
    elif not description["output_is_class_map"]:
        masks = [values.argmax(-1) for values in masks]
    return Comparison.of_masks(
        *masks,
        required=float(description["tolerance"]["min_class_agreement"]),
        largest_difference=float(np.abs(golden.astype(np.float64) - given).max()),
    )


@dataclasses.dataclass(frozen=True)
class PairMask:
    """The mask that a device should give.

    Attributes:
        mask: uint8 [height, width], on the canvas.
        required: fraction of equal pixels that passes.
    """

    mask: np.ndarray
    required: float


def pair_mask(golden_dir: pathlib.Path) -> tuple[PairMask, str, str]:
    """Returns the mask of a pair, the sha256 of its model, and that of its canvas of pixels.

    Args:
        golden_dir: folder of the pair.

    Raises:
        FileNotFoundError: no such pair.
        ValueError: it is damaged, or an older one that does not tell how its output is read.
    """
    description = _read_description(golden_dir)
    output = description["output"]
    content = _pair_file(golden_dir, OUTPUT, sha256=output["sha256"])
    try:
        reader = OutputReader(
            *description["canvas"],
            output_shape=tuple(description["scores_shape"]),
            classes=description["output_is_class_map"],
            alignment=Alignment(description["resize"] or Alignment.HALF_PIXEL.value),
            threshold=description["threshold"],
        )
        pixels = description["pixels_sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{golden_dir / DESCRIPTION}: does not tell how its output becomes a mask ({error}); "
            "write the pair again"
        ) from error
    values = np.frombuffer(content, output["dtype"]).reshape(output["shape"])
    required = float(description["tolerance"]["min_class_agreement"])
    return PairMask(reader.on_canvas(values), required), description["model"]["sha256"], pixels


def masks_of_both_kernel_sets(
    model: pathlib.Path, canvas: np.ndarray, *, preprocessing: Preprocessing | None = None
) -> tuple[np.ndarray, float | None]:
    """Returns our mask, and the share of pixels on which XNNPACK and the builtin kernels agree.

    Args:
        model: the file.
        canvas: uint8 [height, width, channels], of its input's size.
        preprocessing: normalization to use; None for the file's own.

    Returns:
        uint8 [height, width], and the share; None if only the builtin kernels run the file.

    Raises:
        ValueError: no segmentation model of this size.
        RuntimeError: the runtime refuses the file, or crashes.
    """
    contract = read_contract(model, preprocessing)
    expected = (contract.height, contract.width, contract.channels)
    if canvas.shape != expected:
        raise ValueError(f"{model}: expected pixels of {list(expected)}, got {list(canvas.shape)}")
    _, output, other, kernels = _run(contract, canvas)
    mask = _classes(contract, output)
    if kernels is not Kernels.XNNPACK:
        return mask, None
    return mask, float(np.mean(mask == _classes(contract, other)))


def _check_model(golden_dir: pathlib.Path, known: dict, *, model: pathlib.Path) -> None:
    if not model.is_file():
        raise FileNotFoundError(f"{model}: no such file; check --model")
    if sha256_of(read_model_bytes(model)) != known["sha256"]:
        raise ValueError(
            f"{golden_dir}: expected the sha256 of {known['file']}, got another one from {model}; "
            "write a pair for this file"
        )


def _pair_file(golden_dir: pathlib.Path, name: str, *, sha256: str) -> bytes:
    content = bounded_file.read_bytes(golden_dir / name, limit=LARGEST_PAIR_BYTES)
    if sha256_of(content) != sha256:
        raise ValueError(f"{golden_dir / name}: not the file of {DESCRIPTION}; write it again")
    return content


def _read_description(golden_dir: pathlib.Path) -> dict:
    path = golden_dir / DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; write the pair with --model and --photo")
    try:
        description = bounded_file.read_json(path)
        found = description["format"]
        for side in ("input", "output"):
            _ = [description[side][key] for key in ("sha256", "dtype", "shape")]
        _ = [description["model"][key] for key in ("file", "sha256")]
        _ = description["output_is_class_map"]
        float(description["tolerance"]["min_class_agreement"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a golden pair ({error}); write it again") from error
    if found != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT}, got {found}; write it again")
    return description
