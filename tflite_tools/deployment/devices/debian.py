"""Fetches Debian packages and unpacks them into a folder; nothing is installed on this machine.

apt-get resolves and checks them with lists of its own, so that packages of another processor or
from backports need no change of the machine's configuration, and no rights.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence

from tflite_tools.deployment.devices.programs import UnavailableError, run_program

_SECONDS = 900
_C_LIBRARY = "libc6"


@dataclasses.dataclass(frozen=True)
class Request:
    """Packages to fetch.

    Attributes:
        packages: names; what they depend on comes with them.
        architecture: Debian's name of the processor, or "" for this machine's.
        backports: prefer the release's backports.
        c_library: unpack the C library, too. Never for programs of this machine, which have one.
        alone: only the packages themselves.
    """

    packages: tuple[str, ...]
    architecture: str = ""
    backports: bool = False
    c_library: bool = True
    alone: bool = False


def unpack(request: Request, root: pathlib.Path, *, work: pathlib.Path) -> None:
    """Fetches packages and unpacks them.

    Args:
        request: which.
        root: folder to unpack into, created.
        work: empty folder for lists and archives; removed.

    Raises:
        UnavailableError: no apt-get, or the packages cannot be fetched.
    """
    check_tools()
    for name in ("lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()  # nothing counts as installed, so that all dependencies come
    options = _options(request, work)
    names = " ".join(request.packages)
    try:
        run_program(["apt-get", *options, "update"], timeout_s=_SECONDS)
        if request.backports:
            options += _add_backports(options, work)
            run_program(["apt-get", *options, "update"], timeout_s=_SECONDS)
        _download(request, options, work=work)
    except RuntimeError as error:
        raise UnavailableError(
            f"Debian's packages ({names}) cannot be fetched: {error}; run it once with internet "
            "access, or copy the cache folder from a machine that has it"
        ) from error
    root.mkdir(parents=True, exist_ok=True)
    for archive in sorted((work / "cache" / "archives").glob("*.deb")):
        if request.c_library or not archive.name.startswith(f"{_C_LIBRARY}_"):
            run_program(["dpkg", "--extract", archive, root], timeout_s=_SECONDS)
    shutil.rmtree(work)


def check_tools() -> None:
    """Checks that this machine fetches Debian packages.

    Raises:
        UnavailableError: apt-get or dpkg is missing.
    """
    missing = [name for name in ("apt-get", "dpkg") if shutil.which(name) is None]
    if missing:
        raise UnavailableError(
            f"{' and '.join(missing)} missing: its parts come from Debian; run this on Debian 12 "
            "or newer, or in a container of it"
        )


def native_architecture() -> str:
    """Returns Debian's name of this machine's processor, such as amd64."""
    return run_program(["dpkg", "--print-architecture"], timeout_s=_SECONDS).strip()


def _download(request: Request, options: Sequence[str], *, work: pathlib.Path) -> None:
    if request.alone:
        command = ["apt-get", *options, "download", *request.packages]
        run_program(command, timeout_s=_SECONDS, cwd=work / "cache" / "archives")
        return
    wanted = ["install", "--yes", "--download-only", "--no-install-recommends"]
    run_program(["apt-get", *options, *wanted, *request.packages], timeout_s=_SECONDS)


def _options(request: Request, work: pathlib.Path) -> list[str]:
    architecture = request.architecture or native_architecture()
    values = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
        "Debug::NoLocking": "1",
        "Dir::State": work,
        "Dir::State::lists": work / "lists",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
    }
    return [f"--option={name}={value}" for name, value in values.items()]


def _add_backports(options: Sequence[str], work: pathlib.Path) -> list[str]:
    """Returns options with which the release's backports are a source, too, and preferred."""
    name, address = _release(options)
    own = pathlib.Path("/etc/apt/sources.list")
    kept = own.read_text() if own.is_file() else ""
    path = work / "sources.list"
    path.write_text(f"{kept}\ndeb {address} {name}-backports main\n")
    return [f"--option=Dir::Etc::sourcelist={path}", f"--target-release={name}-backports"]


def _release(options: Sequence[str]) -> tuple[str, str]:
    """Returns the name of this machine's release, and the address that it comes from."""
    form = "$(ORIGIN) $(CODENAME) $(REPO_URI)"
    command = ["apt-get", *options, "indextargets", "--format", form]
    for line in run_program(command, timeout_s=_SECONDS).splitlines():
        origin, _, rest = line.partition(" ")
        name, _, address = rest.partition(" ")
        if origin == "Debian" and name.isalpha():  # neither -updates nor -security
            return name, address
    raise UnavailableError(
        "apt-get's sources hold no Debian release; run this on Debian 12 or newer"
    )
