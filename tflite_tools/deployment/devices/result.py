"""What running a file on a device gives."""

import dataclasses

from tflite_tools.deployment.devices.reference import Outputs


@dataclasses.dataclass(frozen=True)
class DeviceRun:
    """One way in which a device ran a file.

    Attributes:
        title: what ran it, such as "XNNPACK kernels on cortex-a72".
        outputs: raw outputs by picture and position; None if it failed.
        failure: one line, or "".
        fallback: operators that did not run on the device, one line each, as the runtime says it.
        notes: what else the runtime says, one line each.
    """

    title: str
    outputs: Outputs | None
    failure: str = ""
    fallback: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
