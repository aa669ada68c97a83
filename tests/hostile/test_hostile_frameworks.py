"""Keras 3 files with odd values; processes of other frameworks: one line, no child left."""

import contextlib
import copy
import json
import os
import pathlib
import subprocess
import sys
import time
import zipfile

import h5py
import numpy as np
import pytest

from deeplab_tf import child_process
from deeplab_tf.data.preprocessing import Preprocessing
from export.conversion.keras3_file import keras2_configuration, load_keras3_weights
from export.conversion.keras_file import read_keras_file
from export.conversion.start_file import _digest, _is_done
from export.frameworks import conversion, environments
from export.frameworks.keras3_file import _as_stock, checked_keras3_file
from export.frameworks.request import ConversionRequest
from tests.hostile import files
from tests.hostile.test_processes import ends
from tests.paths import ROOT
from tests.tflite_tools.mutations import MUTATIONS, table_positions
from tests.tflite_tools.one_convolution import write_brightest_channel
from tflite_tools.contract import read_contract
from tflite_tools.flatbuffer.editor import Editor

STRANGE = (None, [], {}, "x", True, -1, 0.5, 1e308, 10**40, [[1]], {"a": 1}, [None], "\0", "\ud800")
TENSOR = {
    "class_name": "__keras_tensor__",
    "config": {"shape": [None, 8, 8, 3], "keras_history": ["image", 0, 0]},
}
POLICY = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}
CONFIG = {
    "module": "keras.src.models.functional",
    "class_name": "Functional",
    "config": {
        "name": "net",
        "layers": [
            {
                "class_name": "InputLayer",
                "module": "keras.layers",
                "config": {"batch_shape": [None, 8, 8, 3], "name": "image", "sparse": False},
                "name": "image",
                "inbound_nodes": [],
            },
            {
                "class_name": "Conv2D",
                "module": "keras.layers",
                "config": {"name": "conv", "filters": 3, "kernel_size": [1, 1], "dtype": POLICY},
                "name": "conv",
                "inbound_nodes": [{"args": [TENSOR], "kwargs": {}}],
            },
        ],
        "input_layers": [["image", 0, 0]],
        "output_layers": ["conv", 0, 0],
    },
}


def places(value, place=()):
    yield place
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield from places(inner, (*place, key))


def changed(place, value):
    if not place:
        return value
    document = copy.deepcopy(CONFIG)
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return document


def test_every_strange_value_is_translated_or_refused():
    assert keras2_configuration(CONFIG)["class_name"] == "Functional"
    refused = 0
    for place in list(places(CONFIG))[1:]:
        for value in STRANGE:
            config = changed(place, value)
            try:
                keras2_configuration(config)
            except ValueError as error:
                refused += 1
                assert "\n" not in str(error)
            _as_stock(config)
    assert refused > 100


def write(path, config=CONFIG, weights=None, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.9.0"}))
        archive.writestr("config.json", json.dumps(config))
        if weights is not None:
            archive.writestr("model.weights.h5", weights.read_bytes())
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def checked(path):
    folder = path.parent / "checked"
    folder.mkdir(exist_ok=True)
    return checked_keras3_file(path, folder=folder)


def refused(path, words):
    with pytest.raises(ValueError, match=words) as caught:
        checked(path)
    assert str(caught.value).startswith(str(path))


def test_the_file_that_the_others_are_made_from(tmp_path):
    weights = tmp_path / "w.h5"
    with h5py.File(weights, "w") as content:
        content["layers/conv2d/vars/0"] = np.ones((1, 1, 3, 3), np.float32)
    checked(write(tmp_path / "m.keras", weights=weights))


def test_weights_that_lie_in_another_file(tmp_path):
    """Keras 3 would read that file and put it into the converted network."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(400))
    weights = tmp_path / "w.h5"
    with h5py.File(weights, "w") as content:
        content.create_dataset("a", (100,), "f4", external=[(str(secret), 0, 400)])
    refused(write(tmp_path / "m.keras", weights=weights), "a is stored in another file")
    with h5py.File(weights, "w") as content:
        content["a"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/b")
    refused(write(tmp_path / "m.keras", weights=weights), "a is a link to another place")


def test_weights_that_unpack_to_far_more(tmp_path):
    weights = tmp_path / "w.h5"
    with h5py.File(weights, "w") as content:
        content.create_dataset("a", (10**9,), "f4", chunks=(10**6,), compression="gzip")
    refused(write(tmp_path / "m.keras", weights=weights), "its arrays need 4000000000 bytes")
    with h5py.File(weights, "w") as content:
        content["a"] = np.ones(100, np.float32)
    copy = checked(write(tmp_path / "m.keras", weights=weights, assets=bytes(150_000_000)))
    assert copy.stat().st_size < 10_000  # nothing else is unpacked


def test_damaged_archives(tmp_path):
    weights = tmp_path / "w.h5"
    with h5py.File(weights, "w") as content:
        content["a"] = np.random.default_rng(0).random(1000)
    path = write(tmp_path / "m.keras", weights=weights)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(200):
        content = bytearray(whole)
        for place in generator.integers(0, len(content), generator.choice((1, 5, 50))):
            content[place] = generator.choice((0, 1, 127, 255))
        path.write_bytes(content)
        try:
            checked(path)
        except ValueError as error:
            assert str(error).startswith(str(path))
        with contextlib.suppress(ValueError):
            read_keras_file(path)


@pytest.mark.parametrize("kind", ["group", "numbers", "names", "missing"])
def test_strange_groups_of_weights(tmp_path, kind):
    class Model:
        def get_layer(self, name):
            return self

        name, weights = "conv", [np.zeros((1, 1, 3, 3))]

    with h5py.File(tmp_path / "w.h5", "w") as content:
        content.create_group("layers/conv2d/vars")
        if kind == "group":
            content.create_group("layers/conv2d/vars/0")
        if kind == "numbers":
            content["layers/conv2d/vars/x"] = 1.0
        if kind == "names":
            content["layers/conv2d/vars"].attrs["name"] = np.arange(3)
        if kind == "missing":
            del content["layers"]
        config = keras2_configuration(CONFIG)
        config["config"]["layers"] = config["config"]["layers"][1:]
        # keras_file makes one line of any exception here.
        with pytest.raises((ValueError, TypeError)):
            load_keras3_weights(Model(), config, group=content)


COMMAND = """
import os, pathlib, sys, time
from export.frameworks.request import ConversionRequest
from export.frameworks import worker
worker._SCRIPTS = pathlib.Path(sys.argv[1])
folder = pathlib.Path(sys.argv[2])
request = ConversionRequest(folder / "net.keras", folder, folder)
with worker.Worker(request, folder / "net.keras", folder=folder) as one:
    one.convert()
"""
SCRIPT = """
import os, pathlib, sys, time
sys.path.insert(0, {workers!r})
import numpy as np
import protocol
request, folder = protocol.read_request()
(folder / "pid").write_text(str(os.getpid()))
{action}
"""


def start_worker(tmp_path, action, **environment):
    workers = ROOT / "export" / "frameworks" / "workers"
    script = tmp_path / "convert_keras.py"
    script.write_text(SCRIPT.format(workers=str(workers), action=action))
    (tmp_path / "net.keras").write_bytes(b"small")
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, tmp_path, tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_framework_ends_with_the_command(tmp_path):
    with start_worker(tmp_path, "time.sleep(300)") as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        process.kill()
    assert ends(int((tmp_path / "pid").read_text()))


def test_a_framework_has_a_memory_limit(tmp_path):
    action = "protocol.run(lambda: np.ones(10**9))"
    environment = {child_process.MEMORY_VARIABLE: "300"}
    with start_worker(tmp_path, action, **environment) as process:
        _, errors = process.communicate(timeout=60)
    assert "out of memory (Unable to allocate" in errors.splitlines()[-1]
    assert "DEEPLAB_CHILD_MEMORY_MB sets another limit" in errors.splitlines()[-1]


def test_one_environment_is_made_by_one_command(tmp_path):
    with environments._alone("onnx", tmp_path):
        with pytest.raises(RuntimeError, match="another command makes or extends the environment"):
            environments.python_of("onnx", tmp_path)
        with environments._alone("pytorch", tmp_path):
            pass


def test_a_start_that_is_not_whole_is_imported_again(tmp_path):
    record = {"sha256": "1"}
    for text in ("", "{", "[" * 10**5, '{"sha256": "2"}'):
        (tmp_path / "source.json").write_text(text)
        assert not _is_done(tmp_path / "source.json", record)
    (tmp_path / "source.json").write_text(json.dumps(record))
    assert _is_done(tmp_path / "source.json", record)
    assert not _is_done(tmp_path / "missing.json", record)
    path = pathlib.Path(__file__)
    assert _digest(path) == _digest(path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # scales of 0
def test_damaged_files_of_other_programs(tmp_path, monkeypatch):
    """from_framework puts a file in order that it did not convert itself."""
    monkeypatch.setattr(conversion, "_write", lambda request, path, *, result: result)
    victims = [
        write_brightest_channel(tmp_path / "float.tflite", (24, 32)),
        files.quantized(tmp_path / "quantized.tflite"),
        files.chain(tmp_path / "chain.tflite", 4),
    ]
    path = tmp_path / "m.tflite"
    normalization = Preprocessing((123.0, 116.0, 103.0), (58.0, 57.0, 57.0))
    request = ConversionRequest(path, tmp_path / "out", tmp_path, preprocessing=normalization)
    random = np.random.default_rng(0)
    answers = []
    started = time.monotonic()
    for victim in victims:
        content = victim.read_bytes()
        tables = table_positions(content)
        for number in range(100):
            path.write_bytes(MUTATIONS[number % len(MUTATIONS)](content, random, tables))
            try:
                conversion.convert(request)
                answers.append("")
            except ValueError as error:
                answers.append(str(error))
    assert time.monotonic() - started < 60
    assert 10 < answers.count("") < 290
    assert all(str(path) in answer for answer in answers if answer)


@pytest.mark.parametrize("shape", [(1, 2**20, 2**10, 3), (1, 8, 8, 2**30), (1, 8, 8, 1025)])
def test_an_input_as_large_as_the_memory(tmp_path, shape):
    """Before a picture, or a number for each channel, is made of that size."""
    path = write_brightest_channel(tmp_path / "m.tflite", (24, 32))
    editor = Editor(path.read_bytes())
    editor.tensor(int(editor.graph.inputs[0])).shape = np.array(shape, np.int32)
    path.write_bytes(editor.to_bytes())
    request = ConversionRequest(path, tmp_path / "out", tmp_path)
    for read in (read_contract, lambda _: conversion.convert(request)):
        with pytest.raises(ValueError, match=r"is larger than 2 GB|has no usable size"):
            read(path)
