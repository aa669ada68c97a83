"""NPUs that the runtime's package has a compiler plugin for, as the package itself lists them."""

import importlib
import importlib.util
import pkgutil
from typing import Any

_PACKAGE = "ai_edge_litert.aot.vendors"
_ALL = "ALL"
"""The plugins' own name for every SoC; a check is of one."""


def vendors() -> tuple[str, ...]:
    """Returns the vendors of NPUs, by the names of their modules; () if the package has none."""
    try:
        package = importlib.import_module(_PACKAGE)
    except ImportError:  # a build of the runtime without compiler plugins
        return ()
    found = []
    for module in pkgutil.iter_modules(package.__path__):
        if module.ispkg and importlib.util.find_spec(f"{_PACKAGE}.{module.name}.target"):
            found.append(module.name)
    return tuple(sorted(found))


def target_module(vendor: str) -> Any:
    """Returns the vendor's module with `SocModel` and `Target`.

    Args:
        vendor: one of `vendors()`.
    """
    return importlib.import_module(f"{_PACKAGE}.{vendor}.target")


def socs(vendor: str) -> tuple[str, ...]:
    """Returns the SoCs that a vendor's plugin compiles for.

    Args:
        vendor: one of `vendors()`.
    """
    return tuple(soc.value for soc in target_module(vendor).SocModel if soc.value != _ALL)


def check_soc(vendor: str, soc: str) -> str:
    """Returns `vendor:SoC` in the package's own spelling.

    Args:
        vendor: one of `vendors()`.
        soc: in any case.

    Raises:
        ValueError: the plugin does not know the SoC; the message lists those that it knows.
    """
    known = {name.lower(): name for name in socs(vendor)}
    if soc.lower() not in known:
        given = f"unknown SoC {soc!r}" if soc else "no SoC given"
        raise ValueError(
            f"--device={vendor}:SOC: {given}; the runtime's package compiles for "
            f"{', '.join(known.values())}"
        )
    return f"{vendor}:{known[soc.lower()]}"
