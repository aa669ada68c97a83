"""Versions of the software that a result was made with."""

import importlib.metadata
import platform

_PACKAGES = ("ai-edge-litert", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Returns the version of each package that decides a result, of Python and of the machine."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return found | {"python": platform.python_version(), "machine": platform.machine()}
