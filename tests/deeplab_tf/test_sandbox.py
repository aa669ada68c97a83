"""--sandbox=bwrap: a command can write to its output folder, and reach nobody."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from PIL import Image

from deeplab_tf.data.readers.synthetic import draw_scene
from tests.paths import CAMVID, ROOT

PROBE = """
import json, pathlib, socket, tempfile, time
from absl import flags
from deeplab_tf import command, sandbox

def attempt(action):
    try:
        action()
        return "done"
    except OSError as error:
        return type(error).__name__

def main():
    output = pathlib.Path(flags.FLAGS.output_dir)
    targets = json.loads(flags.FLAGS.targets)
    found = {
        path: attempt(lambda: (pathlib.Path(path) / "written").write_text("x"))
        for path in targets["folders"]
    }
    found["tcp"] = attempt(lambda: socket.create_connection(tuple(targets["tcp"]), 5))
    found["unix"] = attempt(lambda: socket.socket(socket.AF_UNIX).connect(targets["unix"]))
    found["input"] = pathlib.Path(flags.FLAGS.model).read_text()
    found["own temporary"] = attempt(
        lambda: (pathlib.Path(tempfile.gettempdir()) / "x").write_text("x")
    )
    (output / "found.json").write_text(json.dumps(found))
    if flags.FLAGS.wait:
        print("waits", flush=True)
        time.sleep(60)
    return 3

sandbox.define_flag()
flags.DEFINE_string("output_dir", "", "")
flags.DEFINE_string("model", "", "")
flags.DEFINE_string("targets", "", "")
flags.DEFINE_bool("wait", False, "")
command.run(main, outputs=lambda: [pathlib.Path(flags.FLAGS.output_dir)])
"""


@pytest.fixture(scope="module")
def bwrap():
    program = shutil.which("bwrap")
    if program is None:
        pytest.skip("no bubblewrap: the program bwrap is missing")
    test = [program, "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    done = subprocess.run(test, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no user namespaces: {done.stderr.strip()}")
    return program


@pytest.fixture
def probe(tmp_path):
    places = {name: tmp_path / name for name in ("script", "input", "elsewhere")}
    for place in places.values():
        place.mkdir()
    script, model = places["script"] / "probe.py", places["input"] / "m.tflite"
    script.write_text(PROBE)
    model.write_text("the input")
    output, unix = tmp_path / "new" / "out", places["elsewhere"] / "socket"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(unix))
        listener.listen()
        targets = {
            "folders": [str(tmp_path), str(ROOT), str(ROOT / "zoo"), str(pathlib.Path.home())],
            "tcp": tcp.getsockname(),
            "unix": str(unix),
        }
        command = [sys.executable, script, f"--model={model}", f"--output_dir={output}"]
        yield [*command, f"--targets={json.dumps(targets)}"], output, targets


def start(command, *flags, **how):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )


def written(targets):
    return [path for path in targets["folders"] if pathlib.Path(path, "written").exists()]


def test_a_child_that_writes_and_connects(bwrap, probe):
    command, output, targets = probe
    done = start(command, "--sandbox=bwrap")
    _, errors = done.communicate(timeout=60)
    assert done.returncode == 3, errors  # the command's own status
    found = json.loads((output / "found.json").read_text())
    assert found.pop("input") == "the input"
    assert found.pop("own temporary") == "done"
    assert found.pop("tcp") == "ConnectionRefusedError"  # its own loopback, where nobody listens
    assert found.pop("unix") == "FileNotFoundError"
    # The folder of the output is a new one inside; what is written there vanishes.
    assert found.pop(targets["folders"][0]) == "done"
    assert set(found.values()) == {"OSError"}, found  # a read-only file system
    assert not written(targets)
    assert [path.name for path in output.iterdir()] == ["found.json"]


def test_it_is_the_sandbox_that_keeps_it_from_doing_so(probe):
    command, output, targets = probe
    output.mkdir(parents=True)
    command, folders = list(command), targets["folders"][:1]
    command[-1] = f"--targets={json.dumps({**targets, 'folders': folders})}"
    done = start(command)
    _, errors = done.communicate(timeout=60)
    assert done.returncode == 3, errors
    found = json.loads((output / "found.json").read_text())
    assert found["tcp"] == found["unix"] == "done"
    assert written({"folders": folders}) == folders


def test_an_interrupt_is_passed_on(bwrap, probe):
    command, _, _ = probe
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = start(command, "--sandbox=bwrap", "--wait")
        assert process.stdout.readline() == "waits\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == status
        assert errors.count("error: interrupted;") == 1


def test_nothing_goes_on_when_it_is_killed(bwrap, probe):
    command, output, _ = probe
    with start(command, "--sandbox=bwrap", "--wait") as process:
        assert process.stdout.readline() == "waits\n"
        process.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and running(str(output)):
        time.sleep(0.1)
    assert not running(str(output))


def running(text):
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if text in line]


def test_a_missing_program_is_one_line(tmp_path):
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "tflite_tools.describe", CAMVID / "int8.tflite", "--sandbox=bwrap"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "error: --sandbox=bwrap: the program bwrap is missing; install bubblewrap"
    )
    assert "Traceback" not in done.stderr


def test_a_system_without_namespaces_is_one_line(tmp_path):
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "tflite_tools.describe", CAMVID / "int8.tflite", "--sandbox=bwrap"],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "allows no sandbox (bwrap: No permissions to create namespace)" in done.stderr


def in_sandbox(tmp_path, module, *flags):
    done = subprocess.run(
        [sys.executable, "-m", module, *flags, "--sandbox=bwrap"],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done.stdout


def test_documented_commands_run_in_it(bwrap, tmp_path):
    """Children, temporary files and the manifest beside the file: all is there."""
    model = tmp_path / "foreign.tflite"
    for suffix in (".tflite", ".json"):
        shutil.copy(CAMVID / f"int8{suffix}", model.with_suffix(suffix))
    photo, output = tmp_path / "photo.png", tmp_path / "out"
    Image.fromarray(draw_scene(0)[0]).save(photo)
    assert "input " in in_sandbox(tmp_path, "tflite_tools.describe", str(model))
    flags = (f"--model={model}", f"--input={photo}", f"--output_dir={output}")
    assert "building" in in_sandbox(tmp_path, "tflite_tools.segment", *flags)  # of the manifest
    names = ["photo_mask.png", "photo_overlay.jpg", "segmentation.json"]
    assert sorted(path.name for path in output.iterdir()) == names
