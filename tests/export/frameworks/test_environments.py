"""Environments: where they are, when they are made, and what a failing pip leaves behind."""

import pathlib

import pytest

from export.frameworks import environments
from export.frameworks.pinned_versions import PINNED


@pytest.fixture
def commands(monkeypatch):
    """The commands that would have run."""
    ran = []

    def record(arguments, *, name):
        words = [str(argument) for argument in arguments]
        if "-c" in words:
            words.append(pathlib.Path(words[words.index("-c") + 1]).read_text())
        ran.append(words)

    monkeypatch.setattr(environments, "_run", record)
    return ran


def test_it_is_made_once(commands, tmp_path):
    python = environments.python_of("onnx", tmp_path)
    assert python == tmp_path / "onnx" / "bin" / "python"
    assert len(commands) == 2
    assert set(PINNED["onnx"]) <= set(commands[1])
    environments.python_of("onnx", tmp_path)
    assert len(commands) == 2


def test_other_versions_make_it_again(commands, tmp_path, monkeypatch):
    environments.python_of("onnx", tmp_path)
    monkeypatch.setitem(PINNED, "onnx", ("onnx==0.1",))
    assert not environments.is_installed("onnx", tmp_path)
    environments.python_of("onnx", tmp_path)
    assert len(commands) == 4
    assert "--clear" in commands[2]


def test_packages_are_added_and_the_pinned_versions_stay(commands, tmp_path):
    environments.python_of("pytorch", tmp_path, packages=["timm"])
    assert "timm" in commands[2]
    assert set(commands[2][-1].split()) == set(PINNED["pytorch"])
    environments.python_of("pytorch", tmp_path, packages=["timm"])
    assert len(commands) == 3
    environments.python_of("pytorch", tmp_path, packages=["timm", "einops"])
    assert "timm" not in commands[3]


def test_a_failing_pip_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no network")

    monkeypatch.setattr(environments, "_pip", fail)
    monkeypatch.setattr(environments, "_run", lambda *_, **__: None)
    with pytest.raises(RuntimeError, match="no network"):
        environments.python_of("onnx", tmp_path)
    assert not environments.is_installed("onnx", tmp_path)


def test_the_message_of_pip(tmp_path):
    with pytest.raises(RuntimeError, match=r"the environment onnx could not be made.*No module"):
        environments._run([environments.sys.executable, "-m", "no_such"], name="onnx")


def test_the_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv(environments.FOLDER_VARIABLE, str(tmp_path))
    assert environments.default_folder() == tmp_path
    monkeypatch.delenv(environments.FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert environments.default_folder() == tmp_path / "deeplab-tflite" / "frameworks"


def test_every_version_is_pinned():
    pins = [pin for pins in PINNED.values() for pin in pins]
    assert pins
    assert all(pin.count("==") == 1 for pin in pins)
