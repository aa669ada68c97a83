"""Writes a diagnosis as text and as JSON."""

import dataclasses
import itertools
import json
import pathlib

from deeplab_tf import atomic_file
from tflite_tools.diagnosis.case import Case
from tflite_tools.diagnosis.diagnosis import Diagnosis
from tflite_tools.diagnosis.finding import Severity
from tflite_tools.versions import versions


def as_text(diagnosis: Diagnosis) -> str:
    """Formats one line per finding with its cure below, the skipped checks, and a summary.

    Args:
        diagnosis: the result.
    """
    lines = []
    for finding in diagnosis.findings:
        word = "PROBLEM" if finding.severity is Severity.PROBLEM else "warning"
        lines += [f"{word} {finding.name}: {finding.evidence}", f"    cure: {finding.cure}"]
    for reason, group in itertools.groupby(diagnosis.skipped, lambda item: item.reason):
        lines.append(f"skipped {', '.join(item.check for item in group)}: {reason}")
    lines.append(
        f"{len(diagnosis.problems)} problem(s), {len(diagnosis.warnings)} warning(s); "
        f"{diagnosis.ran} checks ran, {len(diagnosis.skipped)} skipped; masks of "
        f"{diagnosis.images} photos; {diagnosis.seconds:.1f} s"
    )
    return "\n".join(lines) + "\n"


def write_json(diagnosis: Diagnosis, case: Case, *, path: pathlib.Path) -> None:
    """Writes the findings for other programs.

    Args:
        diagnosis: the result.
        case: the file.
        path: JSON file to write.
    """
    document = {
        "model": case.contract.path.name,
        "reference": case.reference.path.name if case.reference else None,
        "dataset": case.dataset.name if case.dataset else None,
        "split": case.dataset.split if case.dataset else None,
        "images": diagnosis.images,
        "seconds": round(diagnosis.seconds, 2),
        "checks_ran": diagnosis.ran,
        "findings": [
            dataclasses.asdict(finding) | {"severity": finding.severity.value}
            for finding in diagnosis.findings
        ],
        "skipped": [dataclasses.asdict(item) for item in diagnosis.skipped],
        "versions": versions(),
    }
    atomic_file.write_text(path, json.dumps(document, indent=1) + "\n")
