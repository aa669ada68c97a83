"""Fuzzes the parsers of files of strangers and counts what else than one line they raise.

    make fuzz                        # three minutes for each; MINUTES=N: so many

atheris (https://github.com/google/atheris) finds inputs that reach new code. A parser must raise
ValueError or OSError or return; it may take at most 10 s and 2 GB. Faults are written into
`.fuzz/found`, with their traceback; each becomes a test in tests/hostile. Runs with the packages of
the interpreter that starts it; atheris itself lies in `.fuzz/packages`.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = (
    *("graph", "manifest", "run-config", "keras-config", "annotations", "lists"),
    *("phone-result", "pictures"),
)
SEEDS = "import sys, pathlib\nfrom tests.fuzz.targets import TARGETS\n" + (
    "TARGETS[sys.argv[1]].seeds(pathlib.Path(sys.argv[2]))\n"
)
_MEMORY = "/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None
LIMITS = ("-timeout=10", "-rss_limit_mb=2500", "-max_len=65536", "-print_final_stats=1")


def fuzz(name: str, folder: pathlib.Path, *, seconds: float) -> tuple[int, int, list[str]]:
    """Fuzzes one target.

    Args:
        name: of the target.
        folder: of everything that is written.
        seconds: how long.

    Returns:
        executions, inputs that reach code of their own, and the names of the faults.
    """
    corpus, found = folder / "corpus" / name, folder / "found" / name
    for place in (corpus, found):
        place.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(folder / "packages"), str(ROOT))),
        "CUDA_VISIBLE_DEVICES": "",
        "TF_USE_LEGACY_KERAS": "1",
    }
    python = [sys.executable, "-W", "ignore"]
    subprocess.run(
        [*python, "-c", SEEDS, name, corpus],
        check=True,
        env=environment,
        cwd=ROOT,
        capture_output=True,
    )
    deadline, executions = time.monotonic() + seconds, 0
    while (left := int(deadline - time.monotonic())) > 2:
        with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_MEMORY) as scratch:
            command = [
                *(*python, "-m", "tests.fuzz.worker", name, found, scratch),
                *(f"-max_total_time={left}", *LIMITS, f"-artifact_prefix={found}/", corpus),
            ]
            done = subprocess.run(
                command,
                env={**environment, "TMPDIR": scratch},
                cwd=ROOT,
                capture_output=True,
                check=False,
                timeout=left + 120,
            )
        log = done.stderr.decode(errors="replace")
        counts = re.findall(r"stat::number_of_executed_units:\s*(\d+)|^#(\d+)\s", log, re.MULTILINE)
        executions += max((int(a or b) for a, b in counts), default=0)
        if done.returncode and not counts:
            sys.stdout.write(log[-3000:])
            break
    faults = sorted(path.name for path in found.iterdir() if path.suffix != ".txt")
    return executions, len(list(corpus.iterdir())), faults


def main() -> int:
    """Fuzzes the chosen targets; returns 1 if there are faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0, help="for each target")
    parser.add_argument("--targets", default=",".join(NAMES), help="comma-separated")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / ".fuzz")
    options = parser.parse_args()
    failed = False
    for name in options.targets.split(","):
        count, inputs, faults = fuzz(name, options.folder, seconds=60 * options.minutes)
        sys.stdout.write(
            f"{name}: {options.minutes:g} minutes, {count} executions, {inputs} inputs, "
            f"{len(faults)} faults {' '.join(faults)}\n"
        )
        sys.stdout.flush()
        failed |= bool(faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
