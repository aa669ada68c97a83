"""Runs one file on devices that this machine does not have, and compares the numbers."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging

from deeplab_tf.data.images import read_upright
from deeplab_tf.data.preprocessing import Preprocessing, place
from tflite_tools.contract import ModelContract, read_contract
from tflite_tools.deployment.devices import arm64, browser_gpu, gpu, npu
from tflite_tools.deployment.devices.comparison import (
    ComparedOutput,
    OutputDifference,
    compare_output,
    compared_outputs,
)
from tflite_tools.deployment.devices.names import Device, DeviceKind
from tflite_tools.deployment.devices.programs import UnavailableError
from tflite_tools.deployment.devices.reference import Outputs, Reference, run_reference
from tflite_tools.deployment.devices.result import DeviceRun
from tflite_tools.deployment.golden import required_agreement
from tflite_tools.flatbuffer.graph import Graph, read_checked_graph
from tflite_tools.runtime.interpreter import Kernels
from tflite_tools.to_keras.pictures import built_in_pictures

_BUILT_IN = 2
"""Of the built-in pictures, the drawn scenes: a run under emulation takes about ten seconds."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A file with the pictures that every device gets.

    Attributes:
        path: of the file.
        graph: of the file.
        outputs: what is compared.
        inputs: values of its input, one array per picture.
        pictures: what they show, for people.
        reference: what the runtime here computes.
    """

    path: pathlib.Path
    graph: Graph
    outputs: tuple[ComparedOutput, ...]
    inputs: list[np.ndarray]
    pictures: str
    reference: Reference

    @functools.cached_property
    def kernel_agreement(self) -> float | None:
        """Fraction of classes that XNNPACK's and the builtin kernels here agree on, or None."""
        if self.reference.kernels is not Kernels.XNNPACK or self.reference.builtin is None:
            return None
        differences = compare(self, self.reference.builtin)
        shares = [found.same_class for found in differences if found.same_class is not None]
        return min(shares, default=None)

    @property
    def required(self) -> float:
        """Least fraction of equal classes: several times what two kernel sets here differ by."""
        return required_agreement(self.kernel_agreement)


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """A run with its differences from the reference.

    Attributes:
        run: of the device.
        differences: one per output; () if the run failed.
    """

    run: DeviceRun
    differences: tuple[OutputDifference, ...] = ()


@dataclasses.dataclass(frozen=True)
class DeviceResult:
    """A device's part of a check.

    Attributes:
        device: which.
        runs: how it ran the file.
        skipped: why it was not checked, with what is missing; "" if it was.
        required: least fraction of equal classes.
    """

    device: Device
    runs: tuple[ComparedRun, ...]
    skipped: str = ""
    required: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every run gave finite numbers and classes that are close enough."""
        return not self.skipped and all(
            not compared.run.failure
            and all(
                found.finite and (found.same_class is None or found.same_class >= self.required)
                for found in compared.differences
            )
            for compared in self.runs
        )


def read_subject(
    path: pathlib.Path, *, photos: Sequence[pathlib.Path], preprocessing: Preprocessing | None
) -> Subject:
    """Reads a file, prepares its pictures and runs it here.

    Args:
        path: the file.
        photos: images, upright, placed on the file's canvas as in evaluation; () for built-in
            pictures.
        preprocessing: normalization, or None for the file's own.

    Raises:
        FileNotFoundError: no such file or photo.
        ValueError: damaged, or no file with one image input.
        RuntimeError: the runtime refuses the file, or crashes.
    """
    graph = read_checked_graph(path)
    contract = read_contract(path, preprocessing, any_output=True)
    inputs = [_fed(contract, picture) for picture in _pictures(contract, photos)]
    return Subject(
        path,
        graph,
        outputs=compared_outputs(graph, _mask_contract(path)),
        inputs=inputs,
        pictures=_named(photos),
        reference=run_reference(path, inputs),
    )


def _mask_contract(path: pathlib.Path) -> ModelContract | None:
    try:
        return read_contract(path)
    except ValueError:  # no segmentation: every output is compared as it is
        return None


def _pictures(contract: ModelContract, photos: Sequence[pathlib.Path]) -> list[np.ndarray]:
    size = (contract.height, contract.width)
    if photos:
        return [place(read_upright(path, contract.channels), size)[0] for path in photos]
    drawn = built_in_pictures((*size, contract.channels))[:_BUILT_IN]
    return [picture[0] for picture in drawn]


def _named(photos: Sequence[pathlib.Path]) -> str:
    if not photos:
        return f"{_BUILT_IN} built-in pictures"
    return photos[0].name if len(photos) == 1 else f"{len(photos)} photos"


def _fed(contract: ModelContract, picture: np.ndarray) -> np.ndarray:
    """Returns the values of the input tensor for a picture of its size."""
    table = contract.quantize_table()
    fed = picture if table is None else table[picture, np.arange(contract.channels)]
    return np.ascontiguousarray(contract.arranged(fed))


def compare(subject: Subject, outputs: Outputs) -> tuple[OutputDifference, ...]:
    """Compares the outputs of a device with the reference.

    Args:
        subject: the file.
        outputs: of the device.

    Raises:
        ValueError: the device gave other outputs than the file has.
    """
    ours = subject.reference.outputs
    for picture in outputs:
        if len(picture) != len(subject.outputs):
            raise ValueError(f"expected {len(subject.outputs)} outputs, got {len(picture)}")
    return tuple(
        compare_output(
            output,
            [picture[position] for picture in ours],
            theirs=[picture[position] for picture in outputs],
        )
        for position, output in enumerate(subject.outputs)
    )


@dataclasses.dataclass(frozen=True)
class Folders:
    """Where a check keeps things.

    Attributes:
        cache: of the devices' environments.
        compiled: of files compiled for an NPU; None: they are removed.
    """

    cache: pathlib.Path
    compiled: pathlib.Path | None = None


def check_devices(
    subject: Subject, devices: Sequence[Device], *, folders: Folders
) -> list[DeviceResult]:
    """Checks a file on several devices, one after the other.

    Args:
        subject: the file.
        devices: which.
        folders: of what is kept.
    """
    results = []
    for device in devices:
        logging.info("%s: starts", device.name)
        results.append(check_device(subject, device, folders=folders))
    return _with_precision(results)


def check_device(subject: Subject, device: Device, *, folders: Folders) -> DeviceResult:
    """Checks a file on one device; what is missing or fails becomes part of the result.

    Args:
        subject: the file.
        device: which.
        folders: of what is kept.
    """
    try:
        runs = _RUNNERS[device.kind](subject, device, folders)
    except UnavailableError as error:
        return DeviceResult(device, (), skipped=str(error))
    except RuntimeError as error:
        runs = [DeviceRun("", None, failure=str(error))]
    compared = tuple(_compared(subject, run) for run in runs)
    return DeviceResult(device, compared, required=subject.required)


def _with_precision(results: list[DeviceResult]) -> list[DeviceResult]:
    """Adds a note where half precision gives what single precision gives: it may not be half."""
    single = next((found for found in results if found.device.kind is DeviceKind.GPU), None)
    if single is None or not single.runs or single.runs[0].run.outputs is None:
        return results
    return [
        dataclasses.replace(result, runs=tuple(_noted(one, single.runs[0]) for one in result.runs))
        if result.device.kind is DeviceKind.GPU_F16
        else result
        for result in results
    ]


def _noted(half: ComparedRun, single: ComparedRun) -> ComparedRun:
    outputs = half.run.outputs
    if outputs is None or single.run.outputs is None or not _identical(outputs, single.run.outputs):
        return half
    note = "exactly as in single precision: nothing shows that the driver computed in half"
    return dataclasses.replace(
        half, run=dataclasses.replace(half.run, notes=(*half.run.notes, note))
    )


def _identical(ours: Outputs, theirs: Outputs) -> bool:
    return all(
        np.array_equal(one, other)
        for left, right in zip(ours, theirs, strict=True)
        for one, other in zip(left, right, strict=True)
    )


def _compared(subject: Subject, run: DeviceRun) -> ComparedRun:
    if run.outputs is None:
        return ComparedRun(run)
    try:
        differences = compare(subject, run.outputs)
    except ValueError as error:
        return ComparedRun(dataclasses.replace(run, outputs=None, failure=str(error)))
    return ComparedRun(run, differences)


def _run_arm64(subject: Subject, device: Device, folders: Folders) -> list[DeviceRun]:
    folder = arm64.prepare(folders.cache)
    reference = subject.reference
    kernels = list(dict.fromkeys([reference.kernels, Kernels.BUILTIN]))
    if reference.builtin is None:  # what does not run here has nothing to be compared with
        kernels.remove(Kernels.BUILTIN)
    task = arm64.EmulatedTask(folder, device.detail, model=subject.path, inputs=subject.inputs)
    return [task.run(chosen) for chosen in kernels]


def _run_gpu(subject: Subject, device: Device, folders: Folders) -> list[DeviceRun]:
    gpu.check_runtime()
    half = device.kind is DeviceKind.GPU_F16
    driver = (gpu.prepare_lavapipe if half else gpu.prepare_swiftshader)(folders.cache)
    return gpu.run(driver, subject.graph, inputs=subject.inputs, half=half)


def _run_browser_gpu(subject: Subject, device: Device, folders: Folders) -> list[DeviceRun]:
    browser_gpu.find_browser()
    packages = browser_gpu.prepare(folders.cache)
    return browser_gpu.run(packages, subject.graph, inputs=subject.inputs)


def _run_npu(subject: Subject, device: Device, folders: Folders) -> list[DeviceRun]:
    return npu.run(device.detail, subject.path, output_dir=folders.compiled)


_Runner = Callable[[Subject, Device, Folders], list[DeviceRun]]
_RUNNERS: dict[DeviceKind, _Runner] = {
    DeviceKind.ARM64: _run_arm64,
    DeviceKind.GPU: _run_gpu,
    DeviceKind.GPU_F16: _run_gpu,
    DeviceKind.BROWSER_GPU: _run_browser_gpu,
    DeviceKind.NPU: _run_npu,
}
