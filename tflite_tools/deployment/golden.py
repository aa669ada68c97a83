"""An input and the output that a file gives for it, as raw bytes for a self-test on a device.

A device that feeds `input.bin` and gets another answer than `output.bin` has other kernels,
which round differently, or a fault. The tolerance is measured: the same file on the same
input through XNNPACK and through the builtin kernels. What it leaves room for is a multiple
of that, still far from what swapped channels or a second normalization do.
"""

import dataclasses
import json
import pathlib

import numpy as np

from deeplab_tf import atomic_file
from deeplab_tf.data.images import read_image
from deeplab_tf.data.preprocessing import place
from tflite_tools.contract import ModelContract, read_contract
from tflite_tools.manifest import sha256_of
from tflite_tools.runtime.interpreter import Kernels
from tflite_tools.runtime.output_reader import OutputReader
from tflite_tools.runtime.pool import InterpreterPool, Task
from tflite_tools.runtime.runner import FileInterpreter, ModelRunner

FORMAT = 1
INPUT, OUTPUT, DESCRIPTION = "input.bin", "output.bin", "golden.json"
_ROOM = 5
"""Times the disagreement of two kernel sets here; a third one may lie on the other side."""
_STRICTEST, _LOOSEST = 0.995, 0.9
"""Bounds of the demanded agreement; trained int8 files agree on 92-99.9% between kernel sets."""


@dataclasses.dataclass(frozen=True)
class GoldenOptions:
    """What to write where.

    Attributes:
        model: the `.tflite`.
        photo: picture file; placed on the canvas as in evaluation.
        output_dir: gets three files.
        overwrite: replace them.
    """

    model: pathlib.Path
    photo: pathlib.Path
    output_dir: pathlib.Path
    overwrite: bool = False

    def __post_init__(self):
        for name in (INPUT, OUTPUT, DESCRIPTION):
            if (self.output_dir / name).exists() and not self.overwrite:
                raise FileExistsError(
                    f"{self.output_dir / name} exists; give --overwrite or another --output_dir"
                )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A device's output against the golden one.

    Attributes:
        agreement: share of pixels with the same class; 0 for one class everywhere, where the golden
            mask has several.
        demanded: smallest share that passes.
        largest_difference: of the raw values, in the output's own units (steps if quantized).
    """

    agreement: float
    demanded: float
    largest_difference: float

    @property
    def passed(self) -> bool:
        return self.agreement >= self.demanded


def write_golden(options: GoldenOptions) -> dict:
    """Runs the file and writes the pair; returns what `golden.json` holds.

    Raises:
        FileNotFoundError: no such model or photo.
        ValueError: not a segmentation model of RGB photos.
        RuntimeError: the runtime refuses or crashes, or its own kernel sets disagree too much.
    """
    contract = read_contract(options.model)
    if not options.photo.is_file():
        raise FileNotFoundError(f"{options.photo}: no such picture; check --photo")
    photo = read_image(options.photo)
    if contract.channels != photo.shape[2]:
        raise ValueError(
            f"{options.model} takes {contract.channels} channels and a photo has "
            f"{photo.shape[2]}; golden pairs are made from RGB photos"
        )
    canvas, _ = place(photo, (contract.height, contract.width))
    fed, output, other, kernels = _run(contract, canvas)
    agreement = float(np.mean(_classes(contract, output) == _classes(contract, other)))
    if agreement < _LOOSEST:
        raise RuntimeError(
            f"{options.model}: XNNPACK and builtin kernels agree on {agreement:.1%} of the pixels, "
            f"below {_LOOSEST:.0%}: no device could be judged by this pair; look for the cause "
            "with tflite_tools.diagnose"
        )
    description = _description(
        options, contract, fed=fed, output=output, agreement=agreement, kernels=kernels
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
    return outcome.value  # type: ignore[return-value]


def _both_kernel_sets(runner: ModelRunner, canvas: np.ndarray) -> tuple:
    """The input tensor, the output, the output through builtin kernels, kernels of the first."""
    fed = _fed_tensor(runner.contract, canvas)
    runner.set_image(canvas)
    runner.invoke()
    plain = FileInterpreter(runner.contract.path, kernels=Kernels.BUILTIN)
    plain.set_input(fed)
    plain.invoke()
    return fed, runner.output(), plain.output(), runner.kernels


def _fed_tensor(contract: ModelContract, canvas: np.ndarray) -> np.ndarray:
    """The input tensor [1, height, width, channels] that `ModelRunner.set_image` makes."""
    table = contract.quantize_table()
    fed = canvas if table is None else table[canvas, np.arange(contract.channels)]
    return fed[None]


def _classes(contract: ModelContract, output: np.ndarray) -> np.ndarray:
    return OutputReader.of(contract).on_canvas(output)


def _description(options, contract, *, fed, output, agreement: float, kernels: Kernels) -> dict:
    # Where only the builtin kernels run it, one set met itself: nothing was measured.
    measured = agreement if kernels is Kernels.XNNPACK else None
    room = 1.0 if measured is None else _ROOM * (1 - measured)
    demanded = min(_STRICTEST, max(_LOOSEST, 1 - room))
    return {
        "format": FORMAT,
        "model": {
            "file": contract.path.name,
            "sha256": sha256_of(contract.path.read_bytes()),
            "size_bytes": contract.size_bytes,
        },
        "photo": options.photo.name,
        "input": _tensor(INPUT, fed, quantization=contract.input_quantization),
        "output": _tensor(OUTPUT, output, quantization=contract.output_quantization),
        "output_is_class_map": contract.classes_output,
        "resize": contract.alignment.value if contract.alignment else None,
        "tolerance": {
            "rule": "share of pixels with the same class (arg max of logits) as output.bin",
            "min_class_agreement": demanded,
            "measured_between_kernel_sets": measured,
        },
        "made_with": "XNNPACK kernels" if kernels is Kernels.XNNPACK else "builtin kernels",
    }


def _tensor(name: str, values: np.ndarray, *, quantization) -> dict:
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
        model: the file that the device runs, where it is at hand.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: `golden.json` or a file of the pair damaged, or `found` of another size.
    """
    description = _read_description(golden_dir)
    output = description["output"]
    _pair_file(golden_dir, INPUT, sha256=description["input"]["sha256"])
    expected = _pair_file(golden_dir, OUTPUT, sha256=output["sha256"])
    if model is not None:
        _check_model(golden_dir, description["model"], model=model)
    if not found.is_file():
        raise FileNotFoundError(f"{found}: no such file; check --check")
    content = found.read_bytes()
    if len(content) != len(expected):
        raise ValueError(
            f"{found}: {len(content)} bytes where {output['dtype']} {output['shape']} takes "
            f"{len(expected)}; save the raw output tensor of {description['model']['file']}"
        )
    wanted, given = (
        np.frombuffer(data, output["dtype"]).reshape(output["shape"])
        for data in (expected, content)
    )
    if not np.isfinite(given).all():
        raise ValueError(f"{found}: holds NaN or infinity; the device's output is broken")
    masks = [wanted, given]
    if not description["output_is_class_map"]:
        masks = [values.argmax(-1) for values in masks]
    same = masks[0] == masks[1]
    constant = len(np.unique(masks[0])) > 1 and len(np.unique(masks[1])) == 1
    return Comparison(
        agreement=0.0 if constant else float(np.mean(same)),
        demanded=float(description["tolerance"]["min_class_agreement"]),
        largest_difference=float(np.abs(wanted.astype(np.float64) - given).max()),
    )


def _check_model(golden_dir: pathlib.Path, known: dict, *, model: pathlib.Path) -> None:
    if not model.is_file():
        raise FileNotFoundError(f"{model}: no such file; check --model")
    if sha256_of(model.read_bytes()) != known["sha256"]:
        raise ValueError(
            f"{golden_dir} was made from {known['file']} with another sha256 than {model}; make a "
            "pair for this file"
        )


def _pair_file(golden_dir: pathlib.Path, name: str, *, sha256: str) -> bytes:
    content = (golden_dir / name).read_bytes()
    if sha256_of(content) != sha256:
        raise ValueError(f"{golden_dir / name}: not the file of {DESCRIPTION}; write it again")
    return content


def _read_description(golden_dir: pathlib.Path) -> dict:
    path = golden_dir / DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; make the pair with --model and --photo")
    try:
        description = json.loads(path.read_text())
        found = description["format"]
        for side in ("input", "output"):
            _ = [description[side][key] for key in ("sha256", "dtype", "shape")]
        _ = [description["model"][key] for key in ("file", "sha256")]
        _ = description["output_is_class_map"]
        float(description["tolerance"]["min_class_agreement"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a golden pair ({error}); write it again") from error
    if found != FORMAT:
        raise ValueError(f"{path}: format {found} instead of {FORMAT}; write it again")
    return description
