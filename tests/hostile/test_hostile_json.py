"""JSON files with values of other types, numbers that are none, depth and size: one line each."""

import copy
import json
import shutil
import time

import numpy as np
import pytest

from deeplab_tf import bounded_file
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.lidar.sensor import Sensor, read_sensor
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.network import NetworkGraph, Node
from deeplab_tf.runs.config import read_config
from deeplab_tf.runs.folder import labels_from_json
from deeplab_tf.training.start import read_ranges
from deeplab_tf.weights.npz import read_weights
from study.cell import CellFolder
from study.plan import read_study
from tests.hostile import files
from tests.hostile.commands import watch
from tests.paths import CAMVID
from tests.small_network import write_small_run
from tflite_tools.evaluation.request import EvaluationRequest
from tflite_tools.manifest import read_manifest

STRANGE = (
    *("null", "[]", "{}", '"x"', "true", "-1", "0.5", "1e400", "-1e400", "NaN", "Infinity"),
    *(f"1{'0' * 40}", f"1{'0' * 400}", "[[1]]", '{"a": 1}', "[null]", '"\\u0000"', "2147483648"),
)
"""JSON, and what Python's parser takes for JSON."""
FITTING = {
    # What is accepted is a value of the right kind.
    "null": ("sensor", "model.description"),
    "{}": ("augmentation",),
    '"x"': ("dataset", "data_dir", "split", "backbone_weights", "init_from"),
    "true": (
        *("augmentation.flip", "deterministic", "freeze_batch_norm", "model.decoder"),
        *("quantize_freeze_batch_norm", "model.keep_rows"),
    ),
    "-1": ("quantize_delay_step",),
    "0.5": (
        *("augmentation.color_jitter", "augmentation.min_scale", "decay_power", "label_smoothing"),
        *("learning_rate", "model.batch_norm_momentum", "quantize_learning_rate", "weight_decay"),
        *("model.width_multiplier", "quantize_weight_average"),
    ),
}


def places(values, place=()):
    for key, value in values.items():
        yield (*place, key)
        if isinstance(value, dict):
            yield from places(value, (*place, key))


def changed(values, place, text):
    values = copy.deepcopy(values)
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = "@"
    return json.dumps(values).replace('"@"', text)


def test_strange_values_in_the_configuration_of_a_run(tmp_path):
    values = json.loads((CAMVID / "config.json").read_text())
    accepted, tried = [], 0
    for place in places(values):
        for text in STRANGE:
            (tmp_path / "config.json").write_text(changed(values, place, text))
            tried += 1
            try:
                read_config(tmp_path)
            except ValueError as error:
                assert "\n" not in str(error)
                assert "not the configuration of a training run" in str(error)
            else:
                accepted.append((".".join(place), text))
    assert tried > 800
    assert [pair for pair in accepted if pair[0] not in FITTING.get(pair[1], ())] == []


def test_strange_values_in_a_manifest(tmp_path):
    model = tmp_path / "int8.tflite"
    model.write_bytes((CAMVID / "int8.tflite").read_bytes())
    values = json.loads((CAMVID / "int8.json").read_text())
    accepted = set()
    for place in places(values):
        for text in STRANGE:
            (tmp_path / "int8.json").write_text(changed(values, place, text))
            try:
                read_manifest(model)
            except ValueError as error:
                assert "\n" not in str(error)
            else:
                accepted.add((place[0], text))
    checked = {pair for pair in accepted if pair[0] in ("sha256", "labels", "colors", "sensor")}
    assert checked <= {("sensor", "null"), ("sensor", "[]"), ("sensor", "{}")}


def test_strange_attributes_of_an_imported_network(tmp_path):
    run = write_small_run(tmp_path / "run")
    description = json.loads((run / "config.json").read_text())["model"]["description"]
    nodes = description["nodes"]
    built = 0
    for number, node in enumerate(nodes[:3]):
        for place in places(node):
            for text in ("null", "[]", '{"a": 1}', "-1", '"x"', "[[1]]", f"1{'0' * 40}"):
                parts = [json.dumps(one) for one in nodes]
                parts[number] = changed(node, place, text)
                whole = json.dumps({**description, "nodes": "@"})
                values = json.loads(whole.replace('"@"', f"[{', '.join(parts)}]"))
                try:
                    build_model(NetworkGraph.from_json(values))
                    built += 1
                except ValueError as error:
                    assert str(error)
    assert built < 40


READERS = {
    "config.json": read_config,
    "labels.json": lambda folder: labels_from_json(folder / "labels.json"),
    "ranges.json": lambda folder: read_ranges(folder / "ranges.json"),
    "sensor.json": lambda folder: read_sensor(folder / "sensor.json"),
    "study.json": lambda folder: read_study(folder / "study.json"),
    "cell.json": lambda folder: CellFolder(folder).read(None),
    "request": lambda folder: EvaluationRequest(run_dir=folder).run_config(),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[]", "null", "1", '{"a": NaN}', '"x"', "{", "\ud800", ""]
)
def test_every_reader_of_json_gives_one_line(tmp_path, name, content):
    file_name = "config.json" if name == "request" else name
    (tmp_path / file_name).write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(ValueError, match=file_name) as caught:
        READERS[name](tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", READERS)
def test_every_reader_of_json_refuses_a_gigabyte(tmp_path, name):
    file_name = "config.json" if name == "request" else name
    files.sparse(tmp_path / file_name, 10**9, b"{")
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"expected at most 64,000,000 bytes, got 1,000,000,000"):
        READERS[name](tmp_path)
    assert time.monotonic() - started < 2


def test_a_command_says_so_in_one_line(tmp_path):
    (tmp_path / "run" / "tflite").mkdir(parents=True)
    shutil.copy(CAMVID / "int8.tflite", tmp_path / "run" / "tflite")
    files.sparse(tmp_path / "run" / "config.json", 10**9, b"{")
    done = watch(tmp_path, "tflite_tools.evaluate", f"--run_dir={tmp_path / 'run'}")
    assert done.status == 1
    assert "expected at most 64,000,000 bytes" in done.line
    assert done.peak_mb < 900
    assert done.files == []


def test_the_number_of_values_that_a_file_unpacks_to(tmp_path):
    path = tmp_path / "float.npz"
    np.savez_compressed(path, **{"conv/kernel": np.zeros(60_000_000, np.float32)})
    with pytest.raises(ValueError, match=r"its arrays need 240000\d* bytes, but the file has only"):
        read_weights(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Preprocessing((128.0,), (float("nan"),)), "std: expected a list, each a finite"),
        (lambda: LabelSet(("a",), ((0, 0, 300),)), "expected colours of 0..255"),
        (lambda: LabelSet((1,), ((0, 0, 0),)), "names: expected a list, each text"),
        (lambda: Sensor(fov_up=float("inf")), "fov_up: expected a finite number, got inf"),
        (lambda: Node("a", "relu", inputs=("b",), attributes=[]), "attributes: expected an object"),
    ],
)
def test_values_are_checked_wherever_they_come_from(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_text_is_read_as_utf8_whatever_the_locale(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + '{"name": "größe"}'.encode())
    assert bounded_file.read_json(path) == {"name": "größe"}
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        bounded_file.read_text(path)
