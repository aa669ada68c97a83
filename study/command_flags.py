"""Checks the flags of a study against the commands themselves.

absl prints the flags of a command as XML (`--helpxml`), so no list of names is repeated here.
"""

import concurrent.futures
import dataclasses
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from typing import Any

from study.plan import CELL_PREFIX, Study
from study.stage import RESERVED, Stage

TIMEOUT_S = 180
"""For a command to print its flags, in seconds."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of a command.

    Attributes:
        name: without dashes.
        kind: absl's name for its type: "int", "float", "bool", "string", "string enum", or
            "comma separated list of strings".
        choices: of an enum, else empty.
    """

    name: str
    kind: str
    choices: tuple[str, ...] = ()

    def check(self, value: Any) -> None:
        """Checks a value.

        Args:
            value: from a study file.

        Raises:
            ValueError: the flag cannot take it.
        """
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if self.choices:
            fits, expected = str(value) in self.choices, "one of " + ", ".join(self.choices)
        elif self.kind == "bool":
            fits, expected = isinstance(value, bool), "true or false"
        elif self.kind == "int":
            fits, expected = number and not isinstance(value, float), "an integer"
        elif self.kind == "float":
            fits, expected = number, "a number"
        elif self.kind == "string":
            fits, expected = isinstance(value, str), "a string"
        else:
            parts = value if isinstance(value, list) else [value]
            fits = all(isinstance(part, str | int | float) for part in parts)
            expected = "a list"
        if not fits:
            raise ValueError(f"{self.name}: expected {expected}, got {value!r}")


def flags_of(module: str) -> dict[str, Flag]:
    """Asks a command for its flags.

    Args:
        module: name of the command's module, for `python -m`.

    Returns:
        {name: flag}, without absl's own.

    Raises:
        RuntimeError: the command does not start.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, "--helpxml"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    start = done.stdout.find("<?xml")
    if start < 0:
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        raise RuntimeError(
            f"python -m {module} --helpxml did not list its flags: {last}; run it to see why"
        )
    flags = {}
    for node in ElementTree.fromstring(done.stdout[start:]).iter("flag"):
        if node.findtext("key") != "yes":  # absl's own
            continue
        name = node.findtext("name", "")
        choices = tuple(choice.text or "" for choice in node.iter("enum_value"))
        flags[name] = Flag(name, node.findtext("type", ""), choices=choices)
    return flags


def check_flags(study: Study) -> None:
    """Checks that the commands have every flag of a study and accept its value.

    Args:
        study: the study.

    Raises:
        ValueError: the first flag that does not exist, or whose value is not accepted.
    """
    given = {
        Stage.TRAIN: [('"train"', study.train)]
        + [
            (f"{axis} {value}", flags)
            for axis, values in study.grid.items()
            for value, flags in values.items()
        ],
        Stage.EXPORT: [('"export"', study.export)],
        Stage.EVALUATE: [('"evaluate"', study.evaluate)],
    }
    used = [stage for stage, parts in given.items() if any(flags for _, flags in parts)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        known = dict(zip(used, pool.map(flags_of, [s.module for s in used]), strict=True))
    for stage in used:
        for where, flags in given[stage]:
            _check_part(where, flags, stage=stage, known=known[stage])


def _check_part(where: str, flags: dict[str, Any], *, stage: Stage, known: dict[str, Flag]) -> None:
    for name, value in flags.items():
        if name in RESERVED[stage]:
            raise ValueError(f"{where} sets {name}, which the study sets itself; remove it")
        if name not in known:
            usable = ", ".join(sorted(set(known) - set(RESERVED[stage])))
            raise ValueError(
                f"{where}: {stage.module} has no flag {name!r}; expected one of {usable}"
            )
        if isinstance(value, str) and value.startswith(CELL_PREFIX):
            continue
        try:
            known[name].check(value)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
