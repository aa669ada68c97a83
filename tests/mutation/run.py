"""Breaks the numeric code in many small ways and counts the breaks that no test notices.

    make mutants                     # a sample of every area; MUTANTS=N: so many of each

cosmic-ray (https://cosmic-ray.readthedocs.io) makes the mutants: another operator, comparison,
number or keyword in one place. Each runs the tests of its area in a copy of the checkout, so this
one is never changed. What survives is printed with its place: either a test is missing, or the
change makes no difference. Runs in an environment of its own, in which cosmic-ray is installed;
tests run with --python.
"""

import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult

ROOT = pathlib.Path(__file__).resolve().parents[2]
NO_DIFFERENCE = (
    "core/ReplaceBinaryOperator_BitOr_",  # `int | None` in annotations
    "core/ExceptionReplacer",  # raises where an exception is caught
    "core/ReplaceUnaryOperator_UAdd",
)
"""Operators that tell little."""


@dataclasses.dataclass(frozen=True)
class Area:
    """Modules and the tests that must notice when one of them is broken."""

    name: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]
    timeout_s: float


AREAS = (
    Area(
        "metrics",
        ("deeplab_tf/metrics",),
        ("tests/deeplab_tf/metrics", "tests/tflite_tools/evaluation/test_boundary.py"),
        120,
    ),
    Area(
        "ranges",
        ("deeplab_tf/quantization/calibration",),
        ("tests/deeplab_tf/quantization/calibration",),
        200,
    ),
    Area(
        "post-training",
        (
            "deeplab_tf/quantization/ptq/bias_correction.py",
            "deeplab_tf/quantization/ptq/bias_absorption.py",
            "deeplab_tf/quantization/ptq/equalization.py",
            "deeplab_tf/quantization/adaround",
        ),
        (
            "tests/deeplab_tf/quantization/ptq",
            "tests/deeplab_tf/quantization/adaround",
            "tests/deeplab_tf/quantization/calibration/test_empty_pixels.py",
            "tests/properties/test_random_graphs.py",
        ),
        400,
    ),
    Area(
        "quantization-aware",
        ("deeplab_tf/quantization/qat",),
        ("tests/deeplab_tf/quantization/qat", "tests/deeplab_tf/training/test_quantized_phase.py"),
        400,
    ),
    Area(
        "conversion",
        (
            "export/conversion/calibration.py",
            "export/conversion/gate.py",
            "export/conversion/variants.py",
            "export/conversion/head.py",
        ),
        ("tests/export/conversion", "tests/export/experiments/test_calibration_sets.py"),
        400,
    ),
    Area("import", ("tflite_tools/to_keras",), ("tests/tflite_tools/to_keras",), 400),
)


def copy_checkout(target: pathlib.Path) -> None:
    """Copies the files that git tracks."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)


def run_part(area: Area, python: str, *, count: int, part: int, parts: int) -> list[tuple]:
    """Runs every `parts`-th of the sampled mutants; returns (survived, place, operator) of each."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        copy = pathlib.Path(scratch) / "checkout"
        copy_checkout(copy)
        modules = ", ".join(f'"{module}"' for module in area.modules)
        command = f"{python} -m pytest -x -q -p no:cacheprovider {' '.join(area.tests)}"
        (copy / "mutants.toml").write_text(
            f"[cosmic-ray]\nmodule-path = [{modules}]\ntimeout = {area.timeout_s}\n"
            f'excluded-modules = []\ntest-command = "{command}"\n'
            '[cosmic-ray.distributor]\nname = "local"\n'
        )
        subprocess.run(["cosmic-ray", "init", "mutants.toml", "m.sqlite"], cwd=copy, check=True)
        skip_all_but(copy / "m.sqlite", count, part=part, parts=parts)
        subprocess.run(["cosmic-ray", "exec", "mutants.toml", "m.sqlite"], cwd=copy, check=True)
        with use_db(copy / "m.sqlite") as session:
            items = {item.job_id: item.mutations[0] for item in session.work_items}
            return [
                (
                    result.test_outcome == TestOutcome.SURVIVED,
                    f"{items[job].module_path}:{items[job].start_pos[0]}",
                    f"{items[job].operator_name} {items[job].occurrence}",
                )
                for job, result in session.results
                if result.worker_outcome != WorkerOutcome.SKIPPED
            ]


def skip_all_but(session: pathlib.Path, count: int, *, part: int, parts: int) -> None:
    """Marks as skipped what is not in this part of the sample, the same in every run."""
    with use_db(session) as work:
        pending = sorted(
            (
                item
                for item in work.work_items
                if not item.mutations[0].operator_name.startswith(NO_DIFFERENCE)
            ),
            key=lambda item: (
                str(item.mutations[0].module_path),
                item.mutations[0].start_pos,
                item.mutations[0].operator_name,
                item.mutations[0].occurrence,
            ),
        )
        chosen = random.Random(0).sample(pending, min(count, len(pending)))
        kept = {item.job_id for item in chosen[part::parts]}
        for item in list(work.work_items):
            if item.job_id not in kept:
                work.set_result(item.job_id, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))


def main() -> None:
    """Runs the chosen areas and prints the figures and the survivors of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=str(ROOT / ".venv" / "bin" / "python"))
    parser.add_argument("--count", type=int, default=60, help="mutants of each area")
    parser.add_argument("--areas", default=",".join(area.name for area in AREAS))
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    os.environ.setdefault("DEEPLAB_SHARED", str(ROOT.parent / "shared"))
    for area in (area for area in AREAS if area.name in chosen.areas.split(",")):
        with concurrent.futures.ThreadPoolExecutor(chosen.processes) as pool:
            parts = pool.map(
                lambda part, area=area: run_part(
                    area, chosen.python, count=chosen.count, part=part, parts=chosen.processes
                ),
                range(chosen.processes),
            )
            results = [result for part in parts for result in part]
        survivors = sorted(result[1:] for result in results if result[0])
        share = 100 * len(survivors) / max(1, len(results))
        lines = [f"{area.name}: {len(results)} mutants, {len(survivors)} survived ({share:.0f} %)"]
        lines += [f"  {place} {operator}" for place, operator in survivors]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
