"""The results of checks: findings, and checks that were skipped."""

import dataclasses
import enum


class Severity(enum.Enum):
    """How bad a finding is."""

    PROBLEM = "problem"
    """Masks are wrong, or the file fails or is slow on a device; the exit status is 1."""
    WARNING = "warning"
    """Should be looked at; the masks may still be right."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        name: short and stable, for scripts, such as "raw_pixels".
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
        reason: why it did not run, and what it needs.
    """

    check: str
    reason: str


def problem(name: str, evidence: str, cure: str) -> Finding:
    """Returns a finding of severity problem.

    Args:
        name: short and stable, for scripts.
        evidence: one sentence with the numbers that show it.
        cure: what to do.
    """
    return Finding(name, Severity.PROBLEM, evidence=evidence, cure=cure)


def warning(name: str, evidence: str, cure: str) -> Finding:
    """Returns a finding of severity warning.

    Args:
        name: short and stable, for scripts.
        evidence: one sentence with the numbers that show it.
        cure: what to do.
    """
    return Finding(name, Severity.WARNING, evidence=evidence, cure=cure)


def some(items: list[str], most: int = 3) -> str:
    """Formats the first few of a list, and the number of the others.

    Args:
        items: the list.
        most: how many are written out.
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
