"""Strikes long commands at random moments, and checks that the same command then ends well.

    unshare -Urm python -m tests.hostile.torture --kills=10 --full_disks=20 --seed=1

Of each command, started with `python -m`:

- SIGKILL at a random moment; a disk with a random number of free bytes (a small tmpfs that also
  holds TMPDIR, made larger afterwards; it needs the namespace that `unshare` makes); after every
  few blows the same command runs to its end.
- SIGSTOP at a random moment and SIGCONT a second later; two of the same command at once; a checkout
  that cannot be written to (bubblewrap).

Its files must then be those of a command that was left alone: equal bytes where a file holds no
times, else whole. Prints one line per command and kind of blow: tried, survived, lost.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from deeplab_tf.data.readers.synthetic import draw_scene
from tests import children
from tests.paths import CAMVID, ROOT
from tests.small_network import small_int8_file, write_small_run

BLOWS_PER_END = 4
"""So many blows fall before the command may end; their traces add up."""
LARGE = "2g"
SECONDS = 600
TRAINING = (
    *("--dataset=synthetic", "--batch_size=2", "--quantize_calibration_images=4"),
    *("--validation_interval=20", "--holdout_images=2", "--validation_split=holdout"),
    *("--train_steps=60", "--quantize_delay_step=30", "--checkpoint_interval=5"),
    *("--deterministic",),
)
EXPORT = (
    *("--variants=float32,dynamic_range,int8,qat_int8", "--heads=logits", "--size=32,48"),
    *("--calibration_images=4",),
)
EXACT = (".tflite", ".npz", ".png", ".jpg")
"""Files without times."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A command to strike.

    Attributes:
        name: for the table.
        module: of the command.
        flags: flags from the output folder.
        again: flags that the same command needs where complete files exist.
    """

    name: str
    module: str
    flags: Callable[[pathlib.Path], tuple[str, ...]]
    again: tuple[str, ...] = ()


@dataclasses.dataclass
class Tally:
    """What came of one kind of blow."""

    tried: int = 0
    lost: int = 0
    ended_before: int = 0
    reasons: list[str] = dataclasses.field(default_factory=list)

    def lose(self, reason: str) -> None:
        self.lost += 1
        self.reasons.append(" ".join(reason.split())[-600:])


def contents(folder: pathlib.Path) -> dict[str, str]:
    """Returns {name: digest}, or "whole" where a file holds times; damaged files are named so."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name.startswith(("checkpoints", "events", "logs")) or path.name in (".lock", "lock"):
            continue
        found[name] = _content(path)
    return found


def _content(path: pathlib.Path) -> str:
    if path.suffix == ".npz":
        with np.load(path) as arrays:  # a ZIP holds times
            return _digest(b"".join(arrays[name].tobytes() for name in sorted(arrays.files)))
    if path.suffix in EXACT:
        return _digest(path.read_bytes())
    text = path.read_text(errors="replace")
    if path.suffix == ".json":
        try:
            json.loads(text)
        except ValueError:
            return "damaged"
    if path.suffix == ".html" and not text.rstrip().endswith("</html>"):
        return "damaged"
    return "whole"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def start(case: Case, output: pathlib.Path, *flags: str, temporary: pathlib.Path | None = None):
    """Starts a command."""
    environment = {"CUDA_VISIBLE_DEVICES": ""}
    if temporary is not None:
        environment["TMPDIR"] = str(temporary)
    return children.Command(case.module, *case.flags(output), *flags, environment=environment)


def end_of(command) -> tuple[int | None, str]:
    """Waits for the end; returns (status, stderr)."""
    try:
        _, errors = command.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return None, f"no end within {SECONDS} s"
    return command.returncode, errors


def fault_of(status: int | None, errors: str) -> str:
    """Returns what is wrong with the way in which a struck command ended; "" if nothing is."""
    if "Traceback (most recent call last)" in errors:
        return errors
    if status is None or status < 0:
        return f"status {status}: {errors}"
    if status and "error: " not in errors and "FAILED" not in errors:
        return f"status {status} without a line: {errors}"
    return ""


class Struck:
    """One command, its files when it is left alone, and the folder that is struck.

    Args:
        case: the command.
        folder: empty.
    """

    def __init__(self, case: Case, folder: pathlib.Path) -> None:
        self.case, self.folder = case, folder
        started = time.monotonic()
        status, errors = end_of(start(case, folder / "alone"))
        assert status == 0, errors[-3000:]
        self.seconds = time.monotonic() - started
        self.expected = contents(folder / "alone")
        self.size = sum(p.stat().st_size for p in (folder / "alone").rglob("*") if p.is_file())

    def end(self, output: pathlib.Path, temporary: pathlib.Path | None = None) -> str:
        """Runs the same command to its end; returns what is wrong, "" if nothing is."""
        status, errors = end_of(start(self.case, output, temporary=temporary))
        if status and "overwrite" in errors and self.case.again:
            status, errors = end_of(start(self.case, output, *self.case.again, temporary=temporary))
        if status != 0:
            return f"the same command: status {status}: {errors}"
        return self.difference(output)

    def difference(self, output: pathlib.Path) -> str:
        """Returns how the files differ from those of the command that was left alone."""
        found = contents(output)
        missing = [name for name in self.expected if name not in found]
        more = [name for name in found if name not in self.expected]
        other = [name for name in found if found[name] != self.expected.get(name, found[name])]
        parts = {"missing": missing, "left behind": more, "other content": other}
        return "; ".join(
            f"{word}: {', '.join(names[:4])}" for word, names in parts.items() if names
        )


def kills(struck: Struck, count: int, *, generator: random.Random) -> Tally:
    """SIGKILL at random moments."""
    tally, output = Tally(), struck.folder / "killed"
    for number in range(count):
        tally.tried += 1
        command = start(struck.case, output)
        deadline = time.monotonic() + generator.uniform(0.05, 0.8 * struck.seconds)
        while time.monotonic() < deadline and command.poll() is None:
            time.sleep(0.01)
        if command.poll() is None:
            command.send_signal(signal.SIGKILL)
            end_of(command)
        else:
            tally.ended_before += 1
            status, errors = end_of(command)
            if fault := fault_of(status, errors):
                tally.lose(fault)
        if number % BLOWS_PER_END == BLOWS_PER_END - 1 or number == count - 1:
            if fault := struck.end(output):
                tally.lose(fault)
            shutil.rmtree(output, ignore_errors=True)
    return tally


@contextlib.contextmanager
def disk(folder: pathlib.Path, size: str) -> Iterator[pathlib.Path]:
    """Yields a disk of its own."""
    folder.mkdir(exist_ok=True)
    options = f"size={size},mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)


def full_disks(struck: Struck, count: int, *, generator: random.Random) -> Tally:
    """A disk that is full after a random number of bytes."""
    tally = Tally()
    while tally.tried < count:
        with disk(struck.folder / "disk", "4k") as place:
            output, temporary = place / "struck", place / "temporary"
            temporary.mkdir()
            for _ in range(min(BLOWS_PER_END, count - tally.tried)):
                tally.tried += 1
                used = shutil.disk_usage(place).used
                free = int(generator.uniform(0, 1.5 * struck.size)) + 4096
                resize(place, f"{(used + free) // 1024 + 1}k")
                status, errors = end_of(start(struck.case, output, temporary=temporary))
                tally.ended_before += status == 0
                if fault := fault_of(status, errors):
                    tally.lose(fault)
            resize(place, LARGE)
            if fault := struck.end(output, temporary):
                tally.lose(fault)
            elif left := [path.name for path in temporary.iterdir()]:
                tally.lose(f"left in TMPDIR: {', '.join(left[:5])}")
    return tally


def resize(place: pathlib.Path, size: str) -> None:
    """Gives a disk another size."""
    subprocess.run(["mount", "-o", f"remount,size={size}", place], check=True)


def stops(struck: Struck, count: int, *, generator: random.Random) -> Tally:
    """SIGSTOP, and SIGCONT a second later."""
    tally = Tally()
    for _ in range(count):
        tally.tried += 1
        output = struck.folder / "stopped"
        command = start(struck.case, output)
        time.sleep(generator.uniform(0.05, 0.8 * struck.seconds))
        if command.poll() is None:
            command.send_signal(signal.SIGSTOP)
            time.sleep(1)
            command.send_signal(signal.SIGCONT)
        else:
            tally.ended_before += 1
        status, errors = end_of(command)
        if fault := fault_of(status, errors) or (status and errors) or struck.difference(output):
            tally.lose(fault)
        shutil.rmtree(output, ignore_errors=True)
    return tally


def pairs(struck: Struck, count: int, *, generator: random.Random) -> Tally:
    """Two of the same command at once: both end with status 0 or one line; the files are whole."""
    tally = Tally()
    for _ in range(count):
        tally.tried += 1
        output = struck.folder / "pair"
        commands = [start(struck.case, output)]
        time.sleep(generator.uniform(0, 1))
        commands.append(start(struck.case, output))
        ends = [end_of(command) for command in commands]
        faults = [fault for end in ends if (fault := fault_of(*end))]
        if all(status != 0 for status, _ in ends):
            faults.append(f"none of the two ended well: {ends[0][1]}")
        if fault := "; ".join(faults) or struck.difference(output):
            tally.lose(fault)
        shutil.rmtree(output, ignore_errors=True)
    return tally


def read_only_checkout(struck: Struck) -> Tally:
    """The checkout cannot be written to, only the output and TMPDIR can."""
    tally = Tally(tried=1)
    output, temporary = struck.folder / "read-only", struck.folder / "temporary"
    for folder in (output, temporary):
        folder.mkdir()
    done = subprocess.run(
        [
            *("bwrap", "--dev-bind", "/", "/", "--ro-bind", ROOT, ROOT, "--chdir", ROOT),
            *("--setenv", "TMPDIR", temporary, "--setenv", "CUDA_VISIBLE_DEVICES", ""),
            *(sys.executable, "-m", struck.case.module),
            *struck.case.flags(output / "out"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    if done.returncode:
        tally.lose(f"status {done.returncode}: {done.stderr}")
    elif fault := struck.difference(output / "out"):
        tally.lose(fault)
    return tally


def cases(folder: pathlib.Path) -> dict[str, Case]:
    """Returns the commands; what they read is written into a folder."""
    run_dir = write_small_run(folder / "start")
    model = folder / "small.tflite"
    model.write_bytes(small_int8_file())
    photos = folder / "photos"
    photos.mkdir()
    for number in range(12):
        Image.fromarray(draw_scene(number)[0]).save(photos / f"{number:02}.png")
    bytes_are = "--mean=128"
    data = ("--dataset=synthetic", "--limit=4", "--latency_repeats=2")
    scale = (bytes_are, "--std=128")
    found = [
        Case(
            "train",
            "deeplab_tf.train",
            lambda output: (*TRAINING, f"--init_from={run_dir}", f"--run_dir={output}"),
        ),
        Case(
            "export",
            "export.to_tflite",
            lambda output: (
                *("--variants=float32,dynamic_range,int8", "--heads=logits", "--size=32,48"),
                *("--calibration_images=4", f"--run_dir={run_dir}", f"--output_dir={output}"),
            ),
        ),
        Case(
            "requantize",
            "export.requantize",
            lambda output: (
                *data,
                *scale,
                *(f"--model={model}", f"--output_dir={output}", "--calibration_images=4"),
            ),
            again=("--overwrite",),
        ),
        Case(
            "compare_quantization",
            "export.compare_quantization",
            lambda output: (
                *("--methods=per_tensor,corrected", "--calibration_images=4", "--limit=4"),
                *("--latency_repeats=2", f"--run_dir={run_dir}", f"--output_dir={output}"),
            ),
            again=("--overwrite",),
        ),
        Case(
            "report",
            "tflite_tools.report",
            lambda output: (*data, *scale, f"--model={model}", f"--output_dir={output}"),
            again=("--overwrite",),
        ),
        Case(
            "segment",
            "tflite_tools.segment",
            lambda output: (
                *scale,
                *(f"--model={model}", f"--input={photos}", f"--output_dir={output}"),
            ),
        ),
    ]
    if shutil.which("npm"):
        found.append(
            Case(
                "phone_page",
                "tflite_tools.phone_page",
                lambda output: (f"--model={CAMVID / 'int8.tflite'}", f"--output_dir={output}"),
                again=("--overwrite",),
            )
        )
    return {case.name: case for case in found}


def report(case: Case, kind: str, tally: Tally) -> None:
    """Prints one line, and the reasons of what was lost."""
    survived = tally.tried - tally.lost
    early = f" ({tally.ended_before} ended before)" if tally.ended_before else ""
    sys.stdout.write(
        f"{case.name} | {kind} | tried {tally.tried}{early} | survived {survived} | lost "
        f"{tally.lost}\n"
    )
    for reason in tally.reasons:
        sys.stdout.write(f"    {reason}\n")
    sys.stdout.flush()


def main() -> None:
    """Strikes the chosen commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10, help="of each command")
    parser.add_argument("--full_disks", type=int, default=20, help="of each command")
    parser.add_argument("--others", type=int, default=2, help="stops and pairs, of each command")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commands", default="", help="comma-separated; default: all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = pathlib.Path(name)
        known = cases(folder)
        for chosen in options.commands.split(",") if options.commands else known:
            generator = random.Random(f"{options.seed} {chosen}")
            place = folder / chosen
            place.mkdir()
            started = time.monotonic()
            try:
                struck = Struck(known[chosen], place)
            except AssertionError as error:
                sys.stdout.write(f"{chosen}: does not run when it is left alone: {error}\n")
                continue
            case = struck.case
            report(case, "SIGKILL", kills(struck, options.kills, generator=generator))
            report(case, "disk full", full_disks(struck, options.full_disks, generator=generator))
            report(case, "SIGSTOP, SIGCONT", stops(struck, options.others, generator=generator))
            report(case, "two at once", pairs(struck, options.others, generator=generator))
            if shutil.which("bwrap"):
                report(case, "read-only checkout", read_only_checkout(struck))
            sys.stdout.write(f"{chosen}: {time.monotonic() - started:.0f} s\n")
            sys.stdout.flush()
            shutil.rmtree(place)


if __name__ == "__main__":
    children.start_quickly()
    main()
