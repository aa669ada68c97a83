"""The flags that a command really has, asked from the command itself, and values checked by them.

absl prints them as XML (`--helpxml`), so nothing here repeats a flag's name.
"""

import concurrent.futures
import dataclasses
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

from study.plan import CELL_PREFIX, Study
from study.stage import RESERVED, Stage

PATIENCE_S = 180


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: without dashes.
        kind: absl's word for its type: "int", "float", "bool", "string", "string enum", or
            "comma separated list of strings".
        choices: of an enum, else empty.
    """

    name: str
    kind: str
    choices: tuple[str, ...] = ()

    def check(self, value) -> None:
        """Raises ValueError for a value that the flag cannot take."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if self.choices:
            fits, wanted = str(value) in self.choices, "one of " + ", ".join(self.choices)
        elif self.kind == "bool":
            fits, wanted = isinstance(value, bool), "true or false"
        elif self.kind == "int":
            fits, wanted = number and not isinstance(value, float), "an integer"
        elif self.kind == "float":
            fits, wanted = number, "a number"
        elif self.kind == "string":
            fits, wanted = isinstance(value, str), "a text"
        else:
            parts = value if isinstance(value, list) else [value]
            fits = all(isinstance(part, str | int | float) for part in parts)
            wanted = "a list"
        if not fits:
            raise ValueError(f"{self.name} takes {wanted}; got {value!r}")


def flags_of(module: str) -> dict[str, Flag]:
    """Flags of the command `python -m module`, by name.

    Raises:
        RuntimeError: the command does not start.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, "--helpxml"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    start = done.stdout.find("<?xml")
    if start < 0:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise RuntimeError(f"python -m {module} --helpxml did not list its flags: {last}")
    flags = {}
    for node in ElementTree.fromstring(done.stdout[start:]).iter("flag"):
        if node.findtext("key") != "yes":  # absl's own
            continue
        name = node.findtext("name", "")
        choices = tuple(choice.text or "" for choice in node.iter("enum_value"))
        flags[name] = Flag(name, node.findtext("type", ""), choices=choices)
    return flags


def check_flags(study: Study) -> None:
    """Whether every flag of a study is one of its command's, with a value that it takes.

    Raises:
        ValueError: one is not; the first one is named.
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
    asked = [stage for stage, parts in given.items() if any(flags for _, flags in parts)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        known = dict(zip(asked, pool.map(flags_of, [s.module for s in asked]), strict=True))
    for stage in asked:
        for where, flags in given[stage]:
            _check_part(where, flags, stage=stage, known=known[stage])


def _check_part(where: str, flags: dict, *, stage: Stage, known: dict[str, Flag]) -> None:
    for name, value in flags.items():
        if name in RESERVED[stage]:
            raise ValueError(f"{where} sets {name}, which the study sets itself; take it out")
        if name not in known:
            usable = ", ".join(sorted(set(known) - set(RESERVED[stage])))
            raise ValueError(f"{where}: {stage.module} has no flag {name!r}; it has {usable}")
        if isinstance(value, str) and value.startswith(CELL_PREFIX):
            continue
        try:
            known[name].check(value)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
