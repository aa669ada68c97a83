"""Versions that a result was made with."""

import importlib.metadata
import platform

_PACKAGES = ("ai-edge-litert", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Of what decides a result."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return found | {"python": platform.python_version(), "machine": platform.machine()}
