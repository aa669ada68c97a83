"""Cells in real processes whose commands are scripts of a line: order, failures, going on."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from study import schedule
from study.cell import CellState, StudyFolder
from study.plan import study_from_json
from study.schedule import failure_of, run_cells
from study.stage import Stage

PRODUCTS = {
    Stage.TRAIN: "mkdir -p $run_dir; touch $run_dir/float.npz",
    Stage.EXPORT: "mkdir -p $run_dir/tflite; touch $run_dir/tflite/float32.tflite",
    Stage.EVALUATE: "mkdir -p $output_dir; echo {} > $output_dir/metrics.json",
}
"""What each stage leaves behind."""


def folder_of(path, values, **changes) -> StudyFolder:
    """A study of one axis, "net", with these values."""
    train = {"dataset": "synthetic", **changes}
    grid = {"net": values}
    study = study_from_json(
        {"name": "s", "train": train, "grid": grid, "export": {"calibration_images": 8}}
    )
    return StudyFolder(path / "study", study)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Stages become shell lines; `work[stage]` is a line that runs before its product is made."""
    lines: dict[Stage, str] = {}

    def shell(stage, flags):
        names = ("run_dir", "output_dir", "teacher", "fails")
        variables = "; ".join(f"{name}={flags.get(name, '')}" for name in names)
        line = f"{variables}; echo {stage.value} $run_dir >> {tmp_path}/calls; "
        return ["bash", "-c", line + lines.get(stage, "true") + " && { " + PRODUCTS[stage] + "; }"]

    monkeypatch.setattr(schedule, "command_line", shell)
    return lines


def calls(tmp_path):
    """(stage, cell) of each command that was started."""
    lines = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    return [(stage, pathlib.Path(run).parent.name) for stage, run in lines]


def test_a_cell_goes_through_its_stages_and_is_then_left_alone(tmp_path, work):
    work[Stage.TRAIN] = "sleep 0.2"
    folder = folder_of(tmp_path, {"a": {}, "b": {}})
    records = run_cells(folder, 2)
    assert [record.state for record in records] == [CellState.DONE] * 2
    assert records[0].stages[Stage.TRAIN].seconds >= 0.2
    assert sorted(calls(tmp_path)) == sorted((s.value, f"net-{n}") for s in Stage for n in "ab")
    folder.prepare(overwrite=False)
    run_cells(folder, 1)
    assert len(calls(tmp_path)) == 6  # nothing was started again


def test_a_failing_cell_is_named_by_its_log_and_stops_no_other(tmp_path, work):
    work[Stage.TRAIN] = "{ echo step 1; echo 'error: loss is nan at step 1' >&2; test -z $fails; }"
    folder = folder_of(tmp_path, {"bad": {"fails": "x"}, "good": {}})
    bad, good = run_cells(folder, 1)
    assert (bad.state, good.state) == (CellState.FAILED, CellState.DONE)
    assert bad.failure == "train: loss is nan at step 1"
    assert ("export", "net-bad") not in calls(tmp_path)
    stored = json.loads((folder.cell("net-bad").path / "cell.json").read_text())
    assert (stored["state"], stored["stages"]["train"]["done"]) == ("failed", False)
    work.clear()
    assert run_cells(folder, 1)[0].state is CellState.DONE
    assert folder.cell("net-bad").read(folder.study.cells[0]).stages[Stage.TRAIN].starts == 2


def test_a_variant_that_fails_leaves_the_others_to_be_scored(tmp_path, work):
    work[Stage.EXPORT] = (
        "mkdir -p $run_dir/tflite; touch $run_dir/tflite/float32.tflite; "
        "echo 'E1121 15:58:01.427544 140104330963840 pipeline.py:300] int8.tflite FAILED: no k'; "
        "echo '1 of 2 files'; false"
    )
    (record,) = run_cells(folder_of(tmp_path, {"a": {}}), 1)
    assert record.state is CellState.FAILED
    assert record.failure == "export: int8.tflite FAILED: no k"
    assert record.stages[Stage.EVALUATE].done


def test_a_teacher_is_trained_first_and_its_failure_reaches_the_student(tmp_path, work):
    values = {"student": {"teacher": "cell:net-teacher"}, "teacher": {"fails": ""}}
    work[Stage.TRAIN] = "{ test -z $teacher || test -f $teacher/float.npz; }"
    folder = folder_of(tmp_path, values)
    assert [r.state for r in run_cells(folder, 2)] == [CellState.DONE] * 2
    trained = [cell for stage, cell in calls(tmp_path) if stage == "train"]
    assert trained == ["net-teacher", "net-student"]
    work[Stage.TRAIN] = "false"
    other = folder_of(tmp_path / "other", values)
    student, _ = run_cells(other, 2)
    assert student.failure == "net-teacher, from which it learns, is not trained"
    assert not student.stages


def test_other_settings_are_refused_and_overwrite_runs_what_depends_on_them(tmp_path, work):
    values = {"a": {}, "b": {"teacher": "cell:net-a"}}
    folder = folder_of(tmp_path, values)
    run_cells(folder, 1)
    (tmp_path / "calls").unlink()
    changed = folder_of(tmp_path, {**values, "a": {"seed": 1}})
    with pytest.raises(
        FileExistsError, match=r"net-a was run with other settings \(seed None -> 1"
    ):
        changed.prepare(overwrite=False)
    assert folder.cell("net-a").product(Stage.TRAIN).is_file()
    changed.prepare(overwrite=True)
    assert not folder.cell("net-a").run.exists()
    assert not folder.cell("net-b").run.exists()  # its teacher is another one now
    run_cells(changed, 1)
    (tmp_path / "calls").unlink()
    changed.study.export["calibration_images"] = 16
    changed.prepare(overwrite=True)
    run_cells(changed, 1)
    assert {stage for stage, _ in calls(tmp_path)} == {"export", "evaluate"}


def test_two_studies_do_not_work_in_one_folder(tmp_path, work):
    # The training lasts until the second study has started: its imports alone take seconds.
    ended = tmp_path / "second_ended"
    work[Stage.TRAIN] = f"for i in $(seq 600); do test -e {ended} && break; sleep 0.1; done"
    folder = folder_of(tmp_path, {"a": {}})
    failures = []

    def second():
        while not (tmp_path / "calls").exists():
            time.sleep(0.01)
        code = (
            "import sys, pathlib; from study.schedule import _locked\n"
            "with _locked(pathlib.Path(sys.argv[1])): pass"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, folder.path], capture_output=True, text=True, check=False
        )
        failures.append(done.stderr)
        ended.touch()

    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    run_cells(folder, 1)
    thread.join()
    assert "is running here; wait until it ends, or end it" in failures[0]


def test_termination_ends_the_children_and_the_same_command_goes_on(tmp_path, work):
    work[Stage.TRAIN] = "echo $$ > $run_dir.pid; sleep 60"
    folder = folder_of(tmp_path, {"a": {}, "b": {}, "c": {}})
    pids = [folder.cell(f"net-{name}").path / "run.pid" for name in "ab"]

    def terminate():
        while not all(path.is_file() and path.read_text().strip() for path in pids):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_cells(folder, 2)
    assert time.monotonic() - started < 40
    for path in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)
    cells = folder.study.cells
    states = [folder.cell(cell.name).read(cell).state for cell in cells]
    assert states == [CellState.STOPPED, CellState.STOPPED, CellState.WAITING]
    spent = folder.cell("net-a").read(cells[0]).stages[Stage.TRAIN].seconds
    work[Stage.TRAIN] = "sleep 0.3"
    records = run_cells(folder, 2)
    assert [record.state for record in records] == [CellState.DONE] * 3
    assert records[0].stages[Stage.TRAIN].starts == 2
    assert records[0].stages[Stage.TRAIN].seconds >= spent + 0.3


def test_a_signal_that_does_not_wake_the_main_thread_stops_the_study(tmp_path, work):
    work[Stage.TRAIN] = "touch $run_dir.started; sleep 30"
    folder = folder_of(tmp_path, {"a": {}})
    started = folder.cell("net-a").path / "run.started"

    def terminate():
        while not started.is_file():
            time.sleep(0.01)
        time.sleep(0.2)  # the main thread sleeps by then
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_cells(folder, 1)
    assert time.monotonic() - begin < 20
    [cell] = folder.study.cells
    assert folder.cell(cell.name).read(cell).state is CellState.STOPPED


def test_processes_share_the_cores(tmp_path, work, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    work[Stage.TRAIN] = "echo $TF_NUM_INTRAOP_THREADS $OMP_NUM_THREADS"
    folder = folder_of(tmp_path, {"a": {}})
    (record,) = run_cells(folder, 3)
    assert folder.cell("net-a").log(Stage.TRAIN).read_text() == "2 2\n"
    assert record.stages[Stage.TRAIN].threads == 2
    with pytest.raises(ValueError, match="--processes must be at least 1, got 0"):
        run_cells(folder, 0)


def test_failure_is_the_last_line_that_names_an_error(tmp_path):
    log = tmp_path / "log"
    log.write_text("error: first\nerror: second\n\nbye\n")
    assert failure_of(log) == "second"
    log.write_text("Traceback\nKeyError: 'x'\n")
    assert failure_of(log) == "KeyError: 'x'"
    log.write_text("")
    assert failure_of(log) == ""
