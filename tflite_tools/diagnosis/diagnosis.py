"""Runs all checks on one file."""

import dataclasses
import time

from tflite_tools.diagnosis.case import Case
from tflite_tools.diagnosis.finding import Finding, Severity, Skipped, problem
from tflite_tools.diagnosis.observation import Effort, observe
from tflite_tools.diagnosis.registry import CHECKS, obstacle


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The result of all checks.

    Attributes:
        findings: problems first, each group in the order of the checks.
        skipped: checks that did not run.
        ran: number of checks that ran.
        images: photos whose masks were scored.
        seconds: duration.
    """

    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    ran: int
    images: int
    seconds: float

    @property
    def problems(self) -> list[Finding]:
        """Findings that make masks wrong or a device fail."""
        return [finding for finding in self.findings if finding.severity is Severity.PROBLEM]

    @property
    def warnings(self) -> list[Finding]:
        """Findings that need a look."""
        return [finding for finding in self.findings if finding.severity is Severity.WARNING]


_WRONG_FEEDING = (
    "raw_pixels",
    "normalized_twice",
    "width_height_swapped",
    "upside_down",
    "constant_mask",
    "does_not_run",
)
_UNKNOWN_FEEDING = "unknown_normalization"
_CONSEQUENCES: tuple[str, ...] = ("channel_order", "label_order", "never_predicted")
"""Findings that masks of wrongly fed photos show by chance; their cures would mislead."""


_OF_VALUES = (
    *("constant_mask", "class_outside", "dead_channels"),
    *("saturated_ranges", "saturated_channels", "unused_ranges"),
)
"""Further findings on photos that were fed by a wrong assumption."""


def _without_consequences(findings: list[Finding]) -> tuple[list[Finding], list[Skipped]]:
    names = {finding.name for finding in findings}
    if _UNKNOWN_FEEDING in names:
        cause, consequences = _UNKNOWN_FEEDING, _CONSEQUENCES + _OF_VALUES
    elif causes := [finding.name for finding in findings if finding.name in _WRONG_FEEDING]:
        cause, consequences = causes[0], _CONSEQUENCES
    else:
        return findings, []
    dropped = [finding.name for finding in findings if finding.name in consequences]
    reason = f"not meaningful while {cause} is present; fix that first"
    kept = [finding for finding in findings if finding.name not in consequences]
    return kept, [Skipped(name, reason) for name in dict.fromkeys(dropped)]


def diagnose(case: Case, effort: Effort) -> Diagnosis:
    """Runs every check that can run.

    Args:
        case: the file.
        effort: how much is run.

    Raises:
        FileNotFoundError: a sample does not exist.
        ValueError: a sample cannot be read.
    """
    started = time.perf_counter()
    seen = observe(case, effort)
    findings, skipped = [], []
    if seen.failure:
        cure = "Export the file again; compare its sha256 with the manifest's."
        findings.append(problem("does_not_run", seen.failure, cure))
    for check in CHECKS:
        if reason := obstacle(check, case, seen=seen):
            skipped.append(Skipped(check.name, reason))
        else:
            findings += check.function(case, seen)
    findings, dropped = _without_consequences(findings)
    skipped += dropped
    findings.sort(key=lambda finding: finding.severity is not Severity.PROBLEM)
    ran = len(CHECKS) - len(skipped) + len(dropped)
    seconds = time.perf_counter() - started
    return Diagnosis(tuple(findings), tuple(skipped), ran=ran, images=seen.images, seconds=seconds)
