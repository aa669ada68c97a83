"""Times of other programs: files that are refused, programs that fail, die or hang."""

import pytest

from clients import latency
from tests.children import run_command
from tests.paths import CAMVID
from tflite_tools.manifest import manifest_path

INT8 = CAMVID / "int8.tflite"


def command(*flags):
    return run_command("clients.latency", *flags, timeout=120)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A function that puts a program of a few lines in the place of `timed.py`."""

    def put(source):
        (tmp_path / "timed.py").write_text(source)
        monkeypatch.setattr(latency, "FOLDER", tmp_path)
        return [latency.Row(INT8, "litert")]

    return put


def test_a_file_is_timed():
    rows = [latency.Row(INT8, "litert")]
    latency.measure(rows, 1, repeats=2, warmup=0)
    assert len(rows[0].times_ms) == 2
    assert min(rows[0].times_ms) > 0.1
    assert "does not take" not in latency.table(rows)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([f"--model={__file__}"], "not a .tflite file"),
        ([f"--model={INT8}", "--num_threads="], "--num_threads: expected whole numbers"),
        ([f"--model={INT8}", "--num_threads=two"], "--num_threads: expected whole numbers"),
        ([f"--model={INT8}", "--num_threads=0"], "--num_threads: expected whole numbers"),
    ],
)
def test_mistakes_are_one_line(flags, words):
    done = command(*flags, "--client=litert")
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr


def test_a_file_that_is_not_its_manifests_is_not_run(tmp_path):
    content = bytearray(INT8.read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "int8.tflite"
    path.write_bytes(bytes(content))
    manifest_path(path).write_text(manifest_path(INT8).read_text())
    done = command(f"--model={path}", "--client=litert")
    assert done.returncode == 1
    assert "the file was changed or damaged" in done.stderr


def test_the_reason_of_a_program_that_does_not_load(program):
    rows = program("import sys; sys.exit('loading...\\nno kernel for TILE')")
    latency.measure(rows, 1, repeats=1, warmup=0)
    assert "the program does not accept this file: no kernel for TILE" in latency.table(rows)


def test_the_reason_of_a_program_that_dies(program):
    rows = program("print('ready', flush=True); input(); raise SystemExit('out of memory')")
    with pytest.raises(RuntimeError, match=r"litert died on .*int8\.tflite: out of memory"):
        latency.measure(rows, 1, repeats=1, warmup=0)


@pytest.mark.timeout(60)
def test_a_program_that_never_loads_is_stopped(program, monkeypatch):
    monkeypatch.setattr(latency, "DEADLINE_S", 2.0)
    rows = program("import time; time.sleep(100)")
    latency.measure(rows, 1, repeats=1, warmup=0)
    assert "the program does not accept this file: no answer within 2 s" in latency.table(rows)


@pytest.mark.timeout(60)
def test_a_program_that_hangs_is_stopped(program, monkeypatch):
    monkeypatch.setattr(latency, "DEADLINE_S", 2.0)
    rows = program("import time; print('ready', flush=True); time.sleep(100)")
    with pytest.raises(RuntimeError, match="no answer within 2 s"):
        latency.measure(rows, 1, repeats=1, warmup=0)
