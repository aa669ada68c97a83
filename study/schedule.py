"""Runs the cells of a study in parallel; a cell that fails does not stop the others."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import types
from collections.abc import Iterator

from absl import logging

from deeplab_tf import folder_lock
from study.cell import CellRecord, CellState, StageRecord, StudyFolder
from study.children import Children, Stopped
from study.plan import Cell
from study.stage import Stage, command_line

SIGNAL_DELAY_S = 0.5
"""The longest that a signal waits for its handler."""
_LONGEST_FAILURE = 300
_BUSY = "a study, or a command of a killed study, is running here; wait until it ends, or end it"
_LOG_PREFIX = re.compile(r"^(error: |[IWEF]\d{4} [\d:.]+ +\d+ [\w.]+:\d+\] )")
"""Of a command's error message, and of absl's log."""


@dataclasses.dataclass
class _Work:
    """What the threads of one study share.

    Attributes:
        folder: of the study.
        children: running processes.
        threads: processor threads of each process.
    """

    folder: StudyFolder
    children: Children
    threads: int


def run_cells(folder: StudyFolder, processes: int) -> list[CellRecord]:
    """Runs every cell that is not done; finished stages are skipped.

    Args:
        folder: the study, already checked by `StudyFolder.prepare`.
        processes: cells that run in parallel; they share the processor's cores.

    Returns:
        one record per cell, in the study's order.

    Raises:
        ValueError: less than one process.
        RuntimeError: another process is running in this folder.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after all processes have ended.
    """
    if processes < 1:
        raise ValueError(f"--processes must be at least 1, got {processes}")
    threads = max(1, (os.cpu_count() or 1) // processes)
    with _locked(folder.path) as lock, _terminated_like_interrupted():
        work = _Work(folder, Children(lock), threads=threads)
        pool = concurrent.futures.ThreadPoolExecutor(processes)
        try:
            return _run_all(work, pool)
        except BaseException:
            # First: a thread that becomes free must not start another cell.
            pool.shutdown(wait=False, cancel_futures=True)
            work.children.stop()
            raise
        finally:
            pool.shutdown()
            work.children.close()


def _run_all(work: _Work, pool: concurrent.futures.Executor) -> list[CellRecord]:
    """Starts cells in the study's order, each after those that it learns from."""
    cells = work.folder.study.cells
    waiting = list(cells)
    running: dict[concurrent.futures.Future[CellRecord], Cell] = {}
    records: dict[str, CellRecord] = {}
    while waiting or running:
        for cell in [cell for cell in waiting if set(cell.needs) <= set(records)]:
            waiting.remove(cell)
            running[pool.submit(_run_cell, work, cell, records)] = cell
        # A signal that arrives just before this thread sleeps, or in another thread, does not wake
        # it: Python handles it when the wait ends.
        ended, _ = concurrent.futures.wait(
            running, SIGNAL_DELAY_S, return_when=concurrent.futures.FIRST_COMPLETED
        )
        for future in ended:
            cell = running.pop(future)
            records[cell.name] = record = future.result()
            logging.info("%d of %d: %s %s", len(records), len(cells), cell.name, record.state.value)
            if record.failure:
                logging.error("%s: %s", cell.name, record.failure)
    return [records[cell.name] for cell in cells]


def _run_cell(work: _Work, cell: Cell, others: dict[str, CellRecord]) -> CellRecord:
    """Runs the missing stages of a cell; a file that fails does not stop the other files."""
    folder = work.folder.cell(cell.name)
    record = folder.read(cell)
    if untrained := [n for n in cell.needs if not _is_trained(work, others[n])]:
        record.state = CellState.FAILED
        record.failure = f"{untrained[0]}, from which it learns, is not trained"
        folder.write(record)
        return record
    failures = []
    again = False  # a stage that ran makes the results of later stages stale
    for stage in Stage:
        if folder.is_done(record, stage) and not again:
            continue
        again = True
        if failure := _run_stage(work, cell, stage=stage, record=record):
            failures.append(f"{stage.value}: {failure}")
            if not any((folder.run / "tflite").glob("[!.]*.tflite")):
                break
    record.state = CellState.FAILED if failures else CellState.DONE
    record.failure = failures[0] if failures else ""
    folder.write(record)
    return record


def _is_trained(work: _Work, record: CellRecord) -> bool:
    return work.folder.cell(record.name).is_done(record, Stage.TRAIN)


def _run_stage(work: _Work, cell: Cell, *, stage: Stage, record: CellRecord) -> str:
    """Runs one stage; returns the cause of a failure, or ""."""
    folder = work.folder.cell(cell.name)
    command = command_line(stage, work.folder.flags(cell, stage, processes=work.threads))
    settings = json.loads(json.dumps(work.folder.settings(cell, stage)))
    known = record.stages.get(stage) or StageRecord(settings, command)
    known.settings, known.command, known.threads = settings, command, work.threads
    known.done, known.starts, before = False, known.starts + 1, known.seconds
    record.stages[stage] = known
    record.state, record.failure = CellState.RUNNING, ""
    folder.write(record)
    logging.info("%s: %s", cell.name, stage.value)

    def beat(seconds: float) -> None:
        known.seconds = before + seconds
        folder.write(record)

    log = folder.log(stage)
    try:
        status = work.children.run(command, log, _environment(work.threads), beat)
    except Stopped:
        record.state = CellState.STOPPED
        folder.write(record)
        raise
    known.done = status == 0
    folder.write(record)
    return "" if known.done else failure_of(log) or f"exit status {status}"


def failure_of(log: pathlib.Path) -> str:
    """Finds the cause of a failure in a log.

    Args:
        log: output of a command.

    Returns:
        the last line that names an error, else the last line.
    """
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if line.startswith("error: ") or " FAILED: " in line]
    return _LOG_PREFIX.sub("", (named or lines or [""])[-1])[:_LONGEST_FAILURE]


def _environment(threads: int) -> dict[str, str]:
    """Returns variables that keep parallel processes from sharing cores and GPU memory."""
    count = str(threads)
    environment = {
        "OMP_NUM_THREADS": count,
        "TF_NUM_INTRAOP_THREADS": count,
        "TF_NUM_INTEROP_THREADS": count,
    }
    if "TF_FORCE_GPU_ALLOW_GROWTH" not in os.environ:
        environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    return environment


def _locked(path: pathlib.Path) -> contextlib.AbstractContextManager[int]:
    """Locks the study's folder; the block gets the file descriptor that children inherit."""
    return folder_lock.exclusive(path, _BUSY, name="lock")


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Makes SIGTERM end the study and its children, as Ctrl-C does."""

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
