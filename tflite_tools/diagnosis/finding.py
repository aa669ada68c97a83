"""The vocabulary of a diagnosis: what was found, and what was not looked at."""

import dataclasses
import enum


class Severity(enum.Enum):
    """How bad a finding is."""

    PROBLEM = "problem"
    """Masks are wrong, or the file fails or crawls on a device; the command ends with 1."""
    WARNING = "warning"
    """Worth a look; the masks may still be right."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        name: short, stable, for scripts: "raw_pixels".
        severity: problem or warning.
        evidence: one sentence with the numbers that show it.
        cure: what to do.
    """

    name: str
    severity: Severity
    evidence: str
    cure: str


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A check that did not run.

    Attributes:
        check: its name in the registry.
        reason: why, and what it needs.
    """

    check: str
    reason: str


def problem(name: str, evidence: str, cure: str) -> Finding:
    return Finding(name, Severity.PROBLEM, evidence=evidence, cure=cure)


def warning(name: str, evidence: str, cure: str) -> Finding:
    return Finding(name, Severity.WARNING, evidence=evidence, cure=cure)


def some(items: list[str], most: int = 3) -> str:
    """The first few of a list, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
