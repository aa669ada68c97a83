"""Tells the result of a check of devices: a table, one sentence per device, JSON."""

from tflite_tools.deployment.devices.check import ComparedRun, DeviceResult, Subject
from tflite_tools.deployment.devices.comparison import Meaning, OutputDifference
from tflite_tools.deployment.devices.names import ARM_CPUS, DeviceKind
from tflite_tools.json_values import finite
from tflite_tools.text_table import align
from tflite_tools.versions import versions

NUMBERS_ONLY = (
    "These are checks of numbers, never of speed: emulators and software drivers stand for the "
    "devices, and a real chip or driver may round differently."
)
_WHAT = {
    DeviceKind.GPU: "the GPU path in single precision",
    DeviceKind.GPU_F16: "the GPU path in half precision",
    DeviceKind.BROWSER_GPU: "a browser's GPU path (WebGPU)",
    DeviceKind.NPU: "the vendor's compiler; nothing ran, so that no number is checked",
}
_HEADER = [
    ("device", "<"),
    ("run by", "<"),
    ("output", "<"),
    ("equal values", ">"),
    ("same class", ">"),
    ("largest difference", ">"),
]


def title(subject: Subject) -> str:
    """Returns the first lines: what is compared with what, and what is expected.

    Args:
        subject: the file.
    """
    found = versions()
    text = (
        f"{subject.path}, {subject.pictures}; compared with ai-edge-litert "
        f"{found['ai-edge-litert']} on this machine ({found['machine']}), "
        f"{subject.reference.kernels} kernels"
    )
    if subject.kernel_agreement is None:
        return text
    return (
        f"{text}\nXNNPACK's and the builtin kernels here: the same class in "
        f"{subject.kernel_agreement:.2%}; of a device at least {subject.required:.2%} are expected"
    )


def table(results: list[DeviceResult]) -> str:
    """Returns one line per device, run and output; "" if nothing ran.

    Args:
        results: of the devices.
    """
    rows = [
        [result.device.name, compared.run.title, *_cells(found)]
        for result in results
        for compared in result.runs
        for found in compared.differences
    ]
    return align(_HEADER, rows) if rows else ""


def _cells(found: OutputDifference) -> list[str]:
    same = "" if found.same_class is None else f"{found.same_class:.4%}"
    return [found.output.name, f"{found.equal:.2%}", same, largest(found)]


def largest(found: OutputDifference) -> str:
    """Returns the largest difference of an output, in words.

    Args:
        found: of the output.
    """
    if not found.finite:
        return "not a number"
    if found.output.meaning is Meaning.CLASSES:
        return ""
    if found.steps is not None:
        return f"{found.steps:.0f} steps" if found.steps != 1 else "1 step"
    return f"{found.relative or 0.0:.1e} of the range"


def sentence(result: DeviceResult) -> str:
    """Returns one plain sentence on a device.

    Args:
        result: of the device.
    """
    name = result.device.name
    if result.skipped:
        return f"{name}: skipped: {result.skipped}"
    said = "; ".join(_run_sentence(compared, result) for compared in result.runs)
    return f"{name}: {_what(result)}: {said}."


def _what(result: DeviceResult) -> str:
    device = result.device
    if device.kind is DeviceKind.ARM64:
        return f"an emulated Arm processor ({device.detail}, {ARM_CPUS[device.detail]})"
    titles = [compared.run.title for compared in result.runs if compared.run.outputs is not None]
    return f"{_WHAT[device.kind]}{f', on {titles[0]}' if titles else ''}"


def _run_sentence(compared: ComparedRun, result: DeviceResult) -> str:
    run = compared.run
    prefix = f"{run.title}: " if run.title and len(result.runs) > 1 else ""
    if run.failure:
        return f"{prefix}FAILED: {run.failure}"
    parts = [prefix + (_agreement(compared, result.required) if run.outputs else run.title)]
    if run.fallback:
        parts.append(f"on the CPU: {', '.join(run.fallback)}")
    return ", ".join([*parts, *run.notes])


def _agreement(compared: ComparedRun, required: float) -> str:
    differences = compared.differences
    if all(found.identical for found in differences):
        return "every value is the same as here"
    bad = [found for found in differences if not found.finite]
    if bad:
        return f"FAILED: output {bad[0].output.name!r} holds values that are no numbers"
    many = len(differences) > 1
    return ", ".join(_output_agreement(found, required, many=many) for found in differences)


def _output_agreement(found: OutputDifference, required: float, *, many: bool) -> str:
    where = f" of {found.output.name!r}" if many else ""
    difference = largest(found)
    apart = f"values{where} at most {difference} apart" if difference else ""
    if found.same_class is None:
        return apart or f"{found.equal:.2%} of the values{where} are equal"
    verdict = "" if found.same_class >= required else f"FAILED, at least {required:.2%} expected: "
    same = f"{verdict}the same class in {found.same_class:.2%}{where}"
    return f"{same}, {apart}" if apart else same


def to_json(subject: Subject, results: list[DeviceResult]) -> dict:
    """Returns the result for other programs.

    Args:
        subject: the file.
        results: of the devices.
    """
    content = {
        "model": str(subject.path),
        "pictures": subject.pictures,
        "reference": {"kernels": str(subject.reference.kernels), **versions()},
        "class_agreement_of_kernels_here": subject.kernel_agreement,
        "required_class_agreement": subject.required,
        "note": NUMBERS_ONLY,
        "devices": [_device_json(result) for result in results],
    }
    return finite(content)


def _device_json(result: DeviceResult) -> dict:
    return {
        "device": result.device.name,
        "skipped": result.skipped or None,
        "passed": None if result.skipped else result.passed,
        "sentence": sentence(result),
        "runs": [
            {
                "run_by": compared.run.title,
                "failure": compared.run.failure or None,
                "fallback": list(compared.run.fallback),
                "notes": list(compared.run.notes),
                "outputs": [_output_json(found) for found in compared.differences],
            }
            for compared in result.runs
        ],
    }


def _output_json(found: OutputDifference) -> dict:
    return {
        "name": found.output.name,
        "meaning": found.output.meaning.value,
        "scale": found.output.scale,
        "equal": found.equal,
        "same_class": found.same_class,
        "largest_difference_steps": found.steps,
        "largest_difference_of_range": found.relative,
        "finite": found.finite,
    }
