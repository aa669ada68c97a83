"""What commands leave behind: whole files, no temporary ones, no names that others obey."""

import contextlib
import errno
import io
import multiprocessing
import os
import pathlib
import subprocess
import sys
import types

import pytest
import tensorflow as tf

from deeplab_tf import atomic_file, command, scratch
from deeplab_tf.runs.folder import Phase, RunFolder
from deeplab_tf.terminal import printable
from export.experiments import sensitivity_report
from tests.paths import ROOT
from tflite_tools.html_report import model_card
from tflite_tools.text_table import CsvWriter

LEAVE = """
import os, pathlib, sys
from deeplab_tf import atomic_file, scratch
folder = pathlib.Path(sys.argv[1])
with atomic_file.atomic_path(folder / "a.npz") as path, scratch.scratch_folder("test") as own:
    with scratch.partial_folder(folder / "model") as part:
        path.write_text("half")
        (own / "data").write_text("half")
        (part / "data").write_text("half")
        os.kill(os.getpid(), 9)
"""


def left_by_a_killed_command(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    done = subprocess.run([sys.executable, "-c", LEAVE, tmp_path], env=environment, check=False)
    assert done.returncode == -9
    left = [*tmp_path.glob(".*"), *temporary.iterdir()]
    assert len(left) == 3
    return left


def test_the_next_start_removes_what_a_killed_one_left(tmp_path, monkeypatch):
    left = left_by_a_killed_command(tmp_path, monkeypatch)
    other = tmp_path / ".b.partial-abcdefgh.npz"
    other.write_text("of another file")
    with scratch.scratch_folder("test"):
        atomic_file.write_text(tmp_path / "a.npz", "whole")
        with scratch.partial_folder(tmp_path / "model") as part:
            (part / "data").write_text("whole")
    assert not any(path.exists() for path in left)
    assert other.exists()
    assert (tmp_path / "a.npz").read_text() == "whole"
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["data"]


def test_what_a_running_command_uses_is_not_removed(tmp_path):
    with atomic_file.atomic_path(tmp_path / "a.npz") as first:
        with atomic_file.atomic_path(tmp_path / "a.npz") as second:
            second.write_text("second")
        assert first.exists()
        first.write_text("first")
    assert (tmp_path / "a.npz").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_training_sweeps_its_folder(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / ".float.partial-abcdefgh.npz").write_text("half")
    temporary = folder.checkpoints(Phase.FLOAT) / "ckpt-20_temp"
    temporary.mkdir(parents=True)
    (temporary / "part-00000-of-00001.index").write_text("half")
    kept = folder.checkpoints(Phase.FLOAT) / "ckpt-10.index"
    kept.write_text("whole")
    folder.sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    assert list(temporary.parent.iterdir()) == [kept]


def _hold(path, ready, done):
    with RunFolder(pathlib.Path(path)).lock():
        ready.set()
        done.wait(60)


def test_two_trainings_do_not_share_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), ready, done))
    other.start()
    try:
        assert ready.wait(60)
        with (
            pytest.raises(RuntimeError, match="another training is running here; wait until"),
            RunFolder(tmp_path).lock(),
        ):
            pass
    finally:
        other.kill()  # a killed training frees its folder
        other.join()
    with RunFolder(tmp_path).lock():
        pass


def test_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "a.json"
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*a\.json'"),
        atomic_file.atomic_path(path),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def line_for(error):
    errors = io.StringIO()

    def fail():
        raise error

    with contextlib.redirect_stderr(errors):
        status = command._guarded(fail, "go on like this")
    (line,) = errors.getvalue().splitlines()
    return status, line


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MemoryError(), 1, "error: out of memory; give a smaller --size"),
        (MemoryError("Unable to allocate 9 GiB"), 1, "out of memory (Unable to allocate 9 GiB);"),
        (RecursionError("maximum depth"), 1, "nested too deeply (maximum depth)"),
        (
            tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\ntensor"),
            1,
            "out of memory (OOM when allocating tensor",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "'x'; free some space (TMPDIR"),
        (KeyboardInterrupt(), 130, "under its final name; go on like this"),
        (command.Terminated(), 143, "under its final name; go on like this"),
        (ValueError("\x1b[2Jname"), 1, r"error: \x1b[2Jname"),
    ],
)
def test_errors_of_the_machine_are_one_line(error, status, words):
    found, line = line_for(error)
    assert found == status
    assert words in line


def test_control_characters_are_shown():
    assert printable("a\x1b[31m\u202eb\tc\nd\r") == "a\\x1b[31m\\u202eb\tc\nd\\r"
    assert printable("größe 路 🌴") == "größe 路 🌴"


def test_no_cell_is_a_formula():
    stream = io.StringIO()
    row = ["=1+1", "+cmd", "@x", "\tx", "-0.31", "-", -0.5, None, "road", "-x"]
    CsvWriter(stream).writerow(row)
    assert stream.getvalue().strip() == "'=1+1,'+cmd,'@x,'\tx,-0.31,-,-0.5,,road,'-x"


def test_a_name_is_no_html_in_a_model_card():
    text = "<img src=x onerror=alert(1)>\n# \x1b[2J"
    assert model_card._plain_text(text) == "&lt;img src=x onerror=alert(1)&gt; # \\x1b[2J"
    assert "```" not in model_card._code("python ``` x")


def test_a_layer_whose_name_looks_like_mathematics(tmp_path):
    """matplotlib refused to draw it."""
    found = types.SimpleNamespace(all_integer=types.SimpleNamespace(snr_db=20.0))
    rows = [{"layer": "$x_{$", "snr_db_only_integer": 1.0, "snr_db_only_float": 2.0}]
    sensitivity_report._plot(found, rows, path=tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
