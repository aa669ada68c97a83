"""Environments are whole or absent; programs that fail end in one line."""

import pathlib
import threading

import numpy as np
import pytest

from tflite_tools.deployment.devices import arm64, debian
from tflite_tools.deployment.devices.environments import environment
from tflite_tools.deployment.devices.programs import UnavailableError, run_program
from tflite_tools.runtime.interpreter import Kernels


def make(folder: pathlib.Path) -> None:
    (folder / "part").write_text("here")


def test_an_environment_is_made_once(tmp_path):
    made, checked = [], []

    def counted(folder):
        made.append(folder)
        make(folder)

    for _ in range(2):
        folder = environment(tmp_path / "cpu", "1\n", make=counted, works=checked.append)
    assert (folder / "part").read_text() == "here"
    assert len(made) == len(checked) == 1


def test_another_recipe_makes_it_again(tmp_path):
    environment(tmp_path / "cpu", "1\n", make=make, works=lambda folder: None)

    def other(folder):
        (folder / "other").touch()

    folder = environment(tmp_path / "cpu", "2\n", make=other, works=lambda folder: None)
    assert (folder / "other").is_file()
    assert not (folder / "part").exists()


@pytest.mark.parametrize("step", ["make", "works"])
def test_what_fails_leaves_nothing(tmp_path, step):
    def fail(folder):
        make(folder)
        raise RuntimeError("no network")

    steps = {"make": make, "works": lambda folder: None, step: fail}
    with pytest.raises(RuntimeError, match="no network"):
        environment(tmp_path / "cpu", "1\n", **steps)
    assert [path.name for path in tmp_path.iterdir()] == [".cpu.lock"]
    environment(tmp_path / "cpu", "1\n", make=make, works=lambda folder: None)
    assert (tmp_path / "cpu" / "part").is_file()


def test_a_failed_update_keeps_what_worked(tmp_path):
    environment(tmp_path / "cpu", "1\n", make=make, works=lambda folder: None)

    def fail(folder):
        raise RuntimeError("no network")

    with pytest.raises(RuntimeError, match="no network"):
        environment(tmp_path / "cpu", "2\n", make=fail, works=lambda folder: None)
    assert (tmp_path / "cpu" / "part").is_file()


def test_two_commands_do_not_make_it_at_once(tmp_path):
    made = []

    def slow(folder):
        made.append(folder)
        make(folder)
        if len(made) == 1:
            second.start()
            second.join(0.3)
            assert second.is_alive()  # it waits for this one

    def again():
        environment(tmp_path / "cpu", "1\n", make=slow, works=lambda folder: None)

    second = threading.Thread(target=again)
    again()
    second.join(10)
    assert len(made) == 1


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo one >&2; echo two >&2; echo three >&2; exit 3", "status 3: two | three"),
        ("exit 4", "sh ended with status 4"),
        ("kill -SEGV $$", r"sh crashed \(SIGSEGV\)"),
        ("sleep 60", "sh took more than 1 s"),
    ],
)
def test_a_program_that_fails_is_one_line(script, said):
    with pytest.raises(RuntimeError, match=said.replace("|", r"\|")) as caught:
        run_program(["sh", "-c", script], timeout_s=0.6)
    assert "\n" not in str(caught.value)


def test_a_program_that_is_missing_is_named():
    with pytest.raises(RuntimeError, match="no-such-program is missing"):
        run_program(["no-such-program"], timeout_s=1)


def test_a_machine_without_debian_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match=r"apt-get and dpkg missing: .* Debian 12"):
        arm64.prepare(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def program(folder: pathlib.Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def false_debian(monkeypatch, tmp_path):
    """apt-get and dpkg that note how they were called and fetch empty archives."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    calls = tmp_path / "calls"
    program(
        folder,
        "apt-get",
        f"""echo "$@" >> {calls}
for word in "$@"; do case $word in --option=Dir::Cache=*) cache=${{word#*Cache=}};; esac; done
case "$*" in
  *indextargets*) echo "Debian bookworm-updates /mirror"; echo "Debian bookworm /mirror";;
  *install*|*download*) touch $cache/archives/libc6_2_arm64.deb $cache/archives/one_1_arm64.deb;;
esac""",
    )
    program(folder, "dpkg", f'echo "$@" >> {calls}; echo amd64')
    return calls


def test_packages_are_fetched_with_lists_of_their_own(false_debian, tmp_path):
    request = debian.Request(("python3",), architecture="arm64")
    debian.unpack(request, tmp_path / "root", work=tmp_path / "work")
    update, install, *extracted = false_debian.read_text().splitlines()
    assert update.endswith(" update")
    assert f"--option=Dir::State::lists={tmp_path / 'work' / 'lists'}" in update
    assert "--option=APT::Architectures=arm64" in update
    assert install.endswith("install --yes --download-only --no-install-recommends python3")
    assert [line.split()[1].rpartition("/")[2] for line in extracted] == [
        "libc6_2_arm64.deb",
        "one_1_arm64.deb",
    ]
    assert not (tmp_path / "work").exists()


def test_backports_are_a_source_of_this_request_alone(false_debian, tmp_path):
    request = debian.Request(("mesa",), backports=True, c_library=False)
    debian.unpack(request, tmp_path / "root", work=tmp_path / "work")
    text = false_debian.read_text()
    assert "--target-release=bookworm-backports" in text
    assert f"--option=Dir::Etc::sourcelist={tmp_path / 'work' / 'sources.list'}" in text
    assert "--extract" in text
    assert "libc6_2_arm64.deb" not in text.split("--extract", 1)[1]


def test_without_a_network_the_reason_is_one_line(false_debian, tmp_path):
    program(tmp_path / "bin", "apt-get", "echo 'E: Could not resolve the mirror' >&2; exit 100")
    request = debian.Request(("python3",), architecture="arm64")
    with pytest.raises(UnavailableError, match="E: Could not resolve the mirror; run it once with"):
        debian.unpack(request, tmp_path / "root", work=tmp_path / "work")


# An emulator that is none


@pytest.fixture
def emulated(tmp_path):
    """An environment whose emulator copies each input to an output; the task that runs in it."""
    binaries = tmp_path / "cpu" / "root" / "usr" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python3.11").touch()
    return arm64.EmulatedTask(
        tmp_path / "cpu",
        "max",
        model=tmp_path / "model.tflite",
        inputs=[np.zeros((1, 2), np.uint8), np.ones((1, 2), np.uint8)],
    )


def test_an_emulated_run_gives_its_outputs(emulated, tmp_path):
    script = """echo "$@ $QEMU_CPU $PYTHONPATH" > {0}
for picture in 0 1; do cp $6/input_$picture.npy $6/${{picture}}_0.npy; done"""
    program(emulated.folder, "qemu", script.format(tmp_path / "said"))
    run = emulated.run(Kernels.BUILTIN)
    assert (run.title, run.failure) == ("builtin kernels", "")
    assert [[values.tolist() for values in outputs] for outputs in run.outputs] == [
        [[[0, 0]]],
        [[[1, 1]]],
    ]
    said = (tmp_path / "said").read_text().split()
    assert said[:2] == ["-L", str(emulated.folder / "root")]
    assert said[-3:] == ["builtin", "max,sme=off", str(emulated.folder / "site")]


def test_a_crash_of_the_emulator_is_one_line(emulated):
    program(emulated.folder, "qemu", "echo 'uncaught target signal 11' >&2; kill -SEGV $$")
    run = emulated.run(Kernels.XNNPACK)
    assert run.outputs is None
    assert run.failure == "qemu crashed (SIGSEGV): uncaught target signal 11"
