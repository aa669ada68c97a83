"""Describes the processor that numbers are measured on."""

import os
import pathlib
import platform

FEATURES = (
    *("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("neon", "asimd", "asimddp", "i8mm", "fphp", "asimdhp", "sve", "sve2", "sme"),
)
"""Flags of /proc/cpuinfo that decide which kernels run. `asimd` is NEON on 64-bit Arm,
`asimddp` its dot product, `avx512_vnni` and `avx_vnni` the integer dot product of x86."""


def describe_machine(cpuinfo: pathlib.Path = pathlib.Path("/proc/cpuinfo")) -> dict:
    """Returns name, cores and features of the processor.

    Args:
        cpuinfo: file in the format of /proc/cpuinfo; without it, the features are empty.
    """
    fields: dict[str, str] = {}
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return {
        "processor": fields.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count() or 1,
        "features": [name for name in FEATURES if name in flags],
        "integer_dot_product": bool(
            flags & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
        ),
    }
