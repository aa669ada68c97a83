"""Names of devices: what `--device` takes.

| name | runs the file on |
|---|---|
| arm64, arm64:CPU | the aarch64 runtime on an emulated Arm processor |
| gpu | the runtime's GPU path, single precision, on a software Vulkan driver |
| gpu_f16 | the same in half precision, as phones run it |
| browser_gpu | LiteRT.js on WebGPU in headless Chromium |
| VENDOR:SOC | nothing: compiled for the vendor's NPU with its own compiler |
"""

import dataclasses
import enum

from tflite_tools.deployment.devices import npu_targets

ARM_CPUS = {
    "cortex-a72": "NEON",
    "cortex-a76": "NEON with dot products",
    "neoverse-n1": "NEON with dot products",
    "max": "integer matrix products and SVE; SME is off, which this emulator gets wrong",
}
"""Emulated processors, and what their kernels use."""
DEFAULT_ARM_CPU = "cortex-a72"


class DeviceKind(str, enum.Enum):
    """How a device is reached without having it."""

    ARM64 = "arm64"
    """The aarch64 runtime under user-mode emulation."""
    GPU = "gpu"
    """The runtime's WebGPU accelerator on SwiftShader, single precision."""
    GPU_F16 = "gpu_f16"
    """The same on Mesa's lavapipe, half precision."""
    BROWSER_GPU = "browser_gpu"
    """The web runtime on WebGPU, in a browser without a window."""
    NPU = "npu"
    """A vendor's compiler; nothing runs."""


@dataclasses.dataclass(frozen=True)
class Device:
    """A device to check.

    Attributes:
        kind: how it is reached.
        detail: the emulated processor of ARM64, `vendor:SoC` of NPU, else "".
    """

    kind: DeviceKind
    detail: str = ""

    @property
    def name(self) -> str:
        """The name as `--device` takes it."""
        if self.kind is DeviceKind.NPU:
            return self.detail
        if self.kind is DeviceKind.ARM64 and self.detail != DEFAULT_ARM_CPU:
            return f"{self.kind.value}:{self.detail}"
        return self.kind.value


def emulated_devices() -> list[Device]:
    """Returns the devices that need no vendor's software: the default of the command."""
    return [
        Device(DeviceKind.ARM64, DEFAULT_ARM_CPU),
        Device(DeviceKind.GPU),
        Device(DeviceKind.GPU_F16),
        Device(DeviceKind.BROWSER_GPU),
    ]


def parse_device(text: str) -> Device:
    """Returns the device of a name.

    Args:
        text: as `--device` takes it.

    Raises:
        ValueError: no such device, processor or SoC; the message lists what there is.
    """
    name, colon, detail = text.partition(":")
    if name == DeviceKind.ARM64.value:
        cpu = detail if colon else DEFAULT_ARM_CPU
        if cpu not in ARM_CPUS:
            raise ValueError(
                f"--device={text}: unknown processor {cpu!r}; known: {', '.join(ARM_CPUS)}"
            )
        return Device(DeviceKind.ARM64, cpu)
    for kind in (DeviceKind.GPU, DeviceKind.GPU_F16, DeviceKind.BROWSER_GPU):
        if text == kind.value:
            return Device(kind)
    vendors = npu_targets.vendors()
    if name in vendors:
        return Device(DeviceKind.NPU, npu_targets.check_soc(name, detail))
    known = ["arm64[:CPU]", "gpu", "gpu_f16", "browser_gpu", *(f"{name}:SOC" for name in vendors)]
    raise ValueError(f"--device: unknown {text!r}; known: {', '.join(known)}")
