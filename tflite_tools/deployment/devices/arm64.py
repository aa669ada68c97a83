"""The runtime for Arm processors, emulated by QEMU: the kernels that a phone's CPU runs.

A folder holds an aarch64 Debian Python, unpacked and not installed, and the aarch64 build of the
runtime. QEMU translates its instructions, so its numbers are those of the Arm kernels. The runtime
reads the processor from /proc/cpuinfo and crashes on that of an x86 machine; QEMU looks for files
in the folder first, so one that is there stands for it.
"""

import dataclasses
import importlib.metadata
import pathlib
import platform
import shutil
import sys

import numpy as np

from deeplab_tf.scratch import scratch_folder
from tflite_tools.deployment.devices import debian
from tflite_tools.deployment.devices.environments import environment
from tflite_tools.deployment.devices.names import ARM_CPUS
from tflite_tools.deployment.devices.programs import (
    UnavailableError,
    plain_environment,
    run_program,
)
from tflite_tools.deployment.devices.reference import Outputs
from tflite_tools.deployment.devices.result import DeviceRun
from tflite_tools.runtime.interpreter import Kernels

_GUEST = pathlib.Path(__file__).with_name("arm64_guest.py")
_RUNTIME = "ai-edge-litert"
_EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
_PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28")
_CPUINFO = """processor\t: 0
BogoMIPS\t: 100.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
"""Of a Cortex-A72. The kernels are chosen by what the emulated processor itself reports."""
_QEMU_CPUS = {"max": "max,sme=off"}
"""With SME, integer files give rubbish; whether the emulator or the kernels are wrong is open."""
_TIMEOUT_S = 1800.0
"""Of all pictures; a float file of 513x513 with the builtin kernels takes minutes."""
_INSTALL_S = 1200.0


def prepare(cache: pathlib.Path) -> pathlib.Path:
    """Returns the folder with the emulated Python and the runtime, made if missing.

    Args:
        cache: folder of all environments.

    Raises:
        UnavailableError: this machine cannot have it; the message says why.
        RuntimeError: it was made and does not work.
    """
    if platform.machine() in ("aarch64", "arm64"):
        raise UnavailableError(
            "this machine has an Arm processor: the reference itself is the check"
        )
    if sys.platform != "linux":
        raise UnavailableError(
            "QEMU emulates single programs on Linux only; run this in a container"
        )
    version = importlib.metadata.version(_RUNTIME)
    if not (cache / f"arm64-{version}").is_dir():
        debian.check_tools()
    return environment(
        cache / f"arm64-{version}",
        f"{_RUNTIME} {version}, recipe 1\n",
        make=lambda folder: _make(folder, version),
        works=_check,
    )


def _make(folder: pathlib.Path, version: str) -> None:
    root, work = folder / "root", folder / "work"
    python = debian.Request(("python3", "libstdc++6"), architecture="arm64")
    debian.unpack(python, root, work=work)
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "cpuinfo").write_text(_CPUINFO)
    if _emulator_here() is None:
        emulator = debian.Request(("qemu-user-static",), alone=True)
        debian.unpack(emulator, folder / "all_emulators", work=work)
        own = folder / "all_emulators" / "usr" / "bin"
        name = next(name for name in _EMULATORS if (own / name).is_file())
        shutil.move(own / name, folder / "qemu")
        shutil.rmtree(folder / "all_emulators")
    _, python_version = _python(folder)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-compile", "--only-binary=:all:", "--implementation=cp"]
    command += [f"--python-version={python_version}", f"--target={folder / 'site'}"]
    command += [f"--platform={name}_aarch64" for name in _PLATFORMS]
    try:
        run_program([*command, f"{_RUNTIME}=={version}"], timeout_s=_INSTALL_S)
    except RuntimeError as error:
        raise UnavailableError(
            f"the aarch64 build of {_RUNTIME} {version} for Python {python_version} cannot be "
            f"fetched: {error}; run it once with internet access"
        ) from error


def _check(folder: pathlib.Path) -> None:
    """Imports the runtime and computes with it: `allocate_tensors` is where it would crash."""
    code = "import ai_edge_litert.interpreter, platform; print(platform.machine())"
    found = _emulate(folder, next(iter(ARM_CPUS)), arguments=("-c", code), timeout_s=120.0)
    if found.strip() != "aarch64":
        raise RuntimeError(f"{folder}: expected an emulated aarch64, got {found.strip()!r}")


def _emulator_here() -> str | None:
    return next((path for name in _EMULATORS if (path := shutil.which(name))), None)


def _emulator(folder: pathlib.Path) -> pathlib.Path:
    own = folder / "qemu"
    found = own if own.is_file() else _emulator_here()
    if found is None:
        raise UnavailableError(
            f"QEMU is missing: apt-get install qemu-user-static, or remove {folder}, so that it is "
            "made again"
        )
    return pathlib.Path(found)


def _python(folder: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Returns the emulated Python and its version, such as 3.11."""
    [path] = (folder / "root" / "usr" / "bin").glob("python3.[0-9]*")
    return path, path.name.removeprefix("python")


def _emulate(
    folder: pathlib.Path, cpu: str, *, arguments: tuple[object, ...], timeout_s: float
) -> str:
    values = plain_environment(
        PYTHONPATH=str(folder / "site"),
        PYTHONDONTWRITEBYTECODE="1",
        QEMU_CPU=_QEMU_CPUS.get(cpu, cpu),
    )
    command = [_emulator(folder), "-L", folder / "root", _python(folder)[0], *arguments]
    return run_program(command, timeout_s=timeout_s, environment=values)


@dataclasses.dataclass(frozen=True)
class EmulatedTask:
    """A file to run on an emulated processor.

    Attributes:
        folder: of `prepare`.
        cpu: one of ARM_CPUS.
        model: the file.
        inputs: values of its input, one array per picture.
    """

    folder: pathlib.Path
    cpu: str
    model: pathlib.Path
    inputs: list[np.ndarray]

    def run(self, kernels: Kernels) -> DeviceRun:
        """Runs the file; a failure or a crash becomes part of the result.

        Args:
            kernels: which run it.
        """
        builtin = kernels is Kernels.BUILTIN
        title = f"{'builtin' if builtin else 'XNNPACK'} kernels"
        with scratch_folder("arm64") as work:
            for picture, values in enumerate(self.inputs):
                np.save(work / f"input_{picture}.npy", values)
            word = "builtin" if builtin else "xnnpack"
            arguments = (_GUEST, self.model.resolve(), work, word)
            try:
                _emulate(self.folder, self.cpu, arguments=arguments, timeout_s=_TIMEOUT_S)
            except RuntimeError as error:
                return DeviceRun(title, None, failure=str(error))
            return DeviceRun(title, _read_outputs(work, len(self.inputs)))


def _read_outputs(work: pathlib.Path, pictures: int) -> Outputs:
    positions = len(list(work.glob("0_*.npy")))
    return [
        [np.load(work / f"{picture}_{position}.npy") for position in range(positions)]
        for picture in range(pictures)
    ]
