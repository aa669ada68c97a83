"""TensorFlow's notes about its build do not stand between the user and a message."""

import os
import signal
import subprocess
import sys

import pytest

from deeplab_tf import quiet_start
from tests.paths import ROOT

NOTE = (
    "I0000 00:00:1.1 7 port.cc:153] oneDNN custom operations are on. You may see slightly different"
)
FAULT = "E0000 00:00:1.1 7 cuda_dnn.cc:99] Loaded runtime CuDNN library: 8, compiled with 9"


def test_known_notes_are_held_back_and_everything_else_is_shown(capfd):
    with quiet_start._filtered():
        os.write(2, f"{NOTE}\n{FAULT}\n".encode())
        sys.stderr.write("from Python\n")
    assert sorted(capfd.readouterr().err.splitlines()) == [FAULT, "from Python"]


def test_what_was_held_back_is_shown_after_a_failure(capfd):
    with pytest.raises(ImportError), quiet_start._filtered():
        os.write(2, f"{FAULT}\n".encode())
        raise ImportError
    assert FAULT in capfd.readouterr().err


def test_a_missing_gpu_is_only_worth_a_line_where_there_is_a_driver(monkeypatch, tmp_path):
    line = "E0000 1 7 cuda_platform.cc:52] failed call to cuInit: INTERNAL: UNKNOWN ERROR (303)"
    monkeypatch.setattr(quiet_start, "_GPU_DRIVER", tmp_path / "none")
    assert not quiet_start._is_news(line)
    monkeypatch.setattr(quiet_start, "_GPU_DRIVER", tmp_path)
    assert quiet_start._is_news(line)


@pytest.mark.slow
def test_a_new_interpreter_says_nothing_unless_it_is_asked_to():
    code = "import deeplab_tf, tensorflow as tf; tf.zeros(1) + 1; print(tf.__spec__.loader)"
    environment = {name: value for name, value in os.environ.items() if name[:6] != "TF_CPP"}
    done, asked = (
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**environment, **more},
            capture_output=True,
            text=True,
            check=True,
        )
        for more in ({}, {"TF_CPP_MIN_LOG_LEVEL": "0"})
    )
    assert done.stderr == ""
    assert "SourceFileLoader" in done.stdout
    assert "oneDNN" in asked.stderr


@pytest.mark.parametrize("module", ["deeplab_tf.train", "tflite_tools.evaluate"])
def test_an_interrupt_while_a_command_imports_is_one_line(module, tmp_path):
    # The package `absl` of this folder is imported in place of the real one, and waits.
    (tmp_path / "absl").mkdir()
    (tmp_path / "absl" / "__init__.py").write_text("print('waits', flush=True)\ninput()\n")
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == "waits\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "error: interrupted before anything was done\n")
