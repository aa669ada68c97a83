"""Keras and weights files that would run code or read other files: one line, and nothing done."""

import io
import json
import os
import pathlib
import pickle
import sys
import zipfile

import h5py
import numpy as np
import pytest
import tf_keras as keras

from deeplab_tf.graph.network import LAYER, Node
from deeplab_tf.weights.matching import read_h5
from deeplab_tf.weights.npz import read_weights
from export.conversion.keras_archive import LARGEST_CONFIGURATION
from export.conversion.keras_file import read_keras_file
from study.report.curves import count_parameters
from tests.children import run_command

pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")


def network(last=None):
    image = keras.Input((8, 8, 3))
    return keras.Model(image, (last or keras.layers.Conv2D(4, 1, name="head"))(image))


def saved(path, last=None):
    network(last).save(path)
    return path


def marking_lambda(marker):
    """A layer whose code writes a file, when it is built from its configuration as well."""
    return keras.layers.Lambda(eval(f"lambda x: (open({str(marker)!r}, 'w').close(), x)[1]"))


def rewritten(path, change):
    """A Keras file with another configuration."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as content:
            config = json.loads(content.attrs["model_config"])
            content.attrs["model_config"] = np.bytes_(json.dumps(change(config) or config))
        return path
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    members["config.json"] = json.dumps(change(config) or config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def head_of(config):
    return config["config"]["layers"][-1]


def refused(path, words):
    with pytest.raises(ValueError, match=words) as caught:
        read_keras_file(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value).split("Keras cannot build")[0]


def test_hdf5_with_an_innocent_archive_behind_it(tmp_path):
    """The checker looked into the archive, Keras loaded the HDF5."""
    marker = tmp_path / "ran"
    path = saved(tmp_path / "m.h5", marking_lambda(marker))
    marker.unlink()
    innocent = saved(tmp_path / "innocent.keras").read_bytes()
    path.write_bytes(path.read_bytes() + innocent)
    assert zipfile.is_zipfile(path)
    done = run_command(
        "export.to_tflite",
        f"--keras_file={path}",
        "--size=8,8",
        "--variants=float32",
        f"--output_dir={tmp_path / 'out'}",
        timeout=300,
    )
    assert done.returncode == 1
    assert "got a file that is also a ZIP archive" in done.stderr
    assert "Traceback" not in done.stderr
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_the_content_decides_and_the_ending_must_agree(tmp_path):
    archive = saved(tmp_path / "m.keras")
    hdf5 = saved(tmp_path / "m.h5")
    archive.rename(tmp_path / "archive.h5")
    hdf5.rename(tmp_path / "hdf5.keras")
    refused(tmp_path / "archive.h5", r"expected HDF5 by the ending \.h5, got ZIP content")
    refused(tmp_path / "hdf5.keras", r"expected ZIP by the ending \.keras, got HDF5 content")
    frozen = tmp_path / "graph.pb"
    frozen.write_bytes(b"\n\x0bgraph")
    refused(frozen, "not a Keras model file; expected .keras .* got a file that begins with")


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_code_in_a_layer(tmp_path, suffix):
    marker = tmp_path / "ran"
    path = saved(tmp_path / f"m{suffix}", marking_lambda(marker))
    marker.unlink()
    refused(path, "holds Lambda, which is no stock Keras layer")
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("place", ["top", "layer", "initializer", "function"])
def test_a_module_is_not_imported(tmp_path, monkeypatch, suffix, place):
    marker = tmp_path / "ran"
    (tmp_path / "hostile_module.py").write_text(f"open({str(marker)!r}, 'w').close()")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = {"module": "hostile_module", "registered_name": None}

    def change(config):
        layer = head_of(config)
        if place == "top":
            config |= name
        elif place == "layer":
            layer |= name
        elif place == "initializer":
            layer["config"]["kernel_initializer"] |= name
        else:
            layer["config"]["activation"] = {"class_name": "function", "config": "f"} | name

    refused(rewritten(saved(tmp_path / f"m{suffix}"), change), "the (module 'hostile|function 'f')")
    assert not marker.exists()
    assert "hostile_module" not in sys.modules


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"class_name": "TFSMLayer", "config": {"filepath": "elsewhere"}}, "holds TFSMLayer"),
        ({"class_name": "StringLookup", "config": {"vocabulary": "/x"}}, "holds StringLookup"),
        ({"class_name": ["Conv2D"], "config": {}}, "holds .*Conv2D"),
        ({"class_name": "__lambda__", "config": {"value": "x"}}, "holds __lambda__"),
        (
            {"class_name": "Dense", "config": {"units": 1, "activation": "eval"}},
            "activation 'eval'",
        ),
        ({"class_name": "Dense", "config": {}, "registered_name": "a>B"}, "holds a>B"),
    ],
)
def test_only_listed_parts(tmp_path, suffix, layer, words):
    refused(rewritten(saved(tmp_path / f"m{suffix}"), lambda c: head_of(c).update(layer)), words)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("filters", [1, 2], "Keras cannot build the network"),
        ("filters", "many", "Keras cannot build the network"),
        ("filters", 5, "the weights do not fit the network"),
        ("kernel_size", {}, "Keras cannot build the network"),
    ],
)
def test_odd_values_cost_one_message(tmp_path, suffix, key, value, words):
    def change(config):
        head_of(config)["config"][key] = value
        head_of(config).pop("build_config", None)

    refused(rewritten(saved(tmp_path / f"m{suffix}"), change), words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 150 + b"1" + b"}" * 150, "nested more than 100 levels"),
        (b" " * (LARGEST_CONFIGURATION + 1), "expected JSON of at most"),
        (b"{", "its configuration is not JSON"),
        (b"[]", "must be a JSON object, got list"),
        (b"\xff\xfe{", "its configuration is not JSON"),
        (b"{}", "expected a network"),
        (b'{"class_name": "Dense", "config": {"units": 1}}', "expected a network .* got Dense"),
    ],
)
def test_absurd_configurations(tmp_path, text, words):
    path = saved(tmp_path / "m.keras")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = text
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    refused(path, words)


def test_a_damaged_or_partial_archive(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    refused(path, r"the archive holds no metadata\.json, model\.weights\.h5")
    path.write_bytes(path.read_bytes()[:40])
    refused(path, "a damaged archive")


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
def test_weights_that_lie_in_another_file(tmp_path, kind):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as content:
        content["kernel"] = np.ones((1, 1, 3, 4), np.float32)
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as content:
        group = content.create_group("head/head")
        group["bias:0"] = np.zeros(4, np.float32)
        if kind == "external link":
            group["kernel:0"] = h5py.ExternalLink(str(secret), "/kernel")
        elif kind == "soft link":
            group["kernel:0"] = h5py.SoftLink("/head/head/bias:0")
        elif kind == "external storage":
            place = [(os.fsencode(secret), 0, 48)]
            group.create_dataset("kernel:0", (1, 1, 3, 4), np.float32, external=place)
        else:
            layout = h5py.VirtualLayout((1, 1, 3, 4), np.float32)
            layout[:] = h5py.VirtualSource(str(secret), "kernel", (1, 1, 3, 4))
            group.create_virtual_dataset("kernel:0", layout)
    with pytest.raises(ValueError, match=r"kernel:0 is .*; weights must be stored in the file"):
        read_h5(path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array([b"text"]), "expected plain numbers"),
        ("text", "expected plain numbers"),
        (np.array([np.nan]), "contains NaN or infinity"),
        (h5py.Empty("f"), "expected plain numbers"),
    ],
)
def test_h5_arrays_of_other_kinds(tmp_path, value, words):
    with h5py.File(tmp_path / "w.h5", "w") as content:
        content["head/kernel:0"] = value
    with pytest.raises(ValueError, match=words):
        read_h5(tmp_path / "w.h5")


def test_h5_arrays_far_larger_than_the_file(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as content:
        content.create_dataset("head/kernel:0", (10**9,), np.float32, chunks=(10**6,))
    with pytest.raises(ValueError, match="its arrays need 4000000000 bytes, but the file"):
        read_h5(tmp_path / "w.h5")


class Marking:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return pathlib.Path.touch, (self.marker,)


@pytest.mark.parametrize("values", ["strings", "objects", "times", "pickle"])
def test_npz_of_other_things_than_numbers(tmp_path, values):
    marker, path = tmp_path / "ran", tmp_path / "w.npz"
    hostile = np.array([Marking(marker)], object)
    if values == "pickle":
        path.write_bytes(pickle.dumps(Marking(marker)))
    else:
        stored = {"strings": np.array(["a"]), "times": np.array(["2020"], "M8[Y]")}
        np.savez(path, **{"head/kernel": stored.get(values, hostile)})
    words = "not a weights file|expected plain numbers"
    with pytest.raises(ValueError, match=words) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_a_damaged_npz_in_the_report(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(1000))
    (tmp_path / "float.npz").write_bytes(buffer.getvalue()[:500])
    with pytest.raises(ValueError, match=r"float\.npz: not a weights file"):
        count_parameters(tmp_path)


@pytest.mark.parametrize(
    ("class_name", "config", "words"),
    [
        ("StringLookup", {"vocabulary": "/x"}, "is no stock layer"),
        ("Dense", {"units": 1, "activation": "eval"}, "activation 'eval'"),
        (
            "Dense",
            {"activation": {"class_name": "function", "config": "system", "module": "os"}},
            "names the function 'system'",
        ),
    ],
)
def test_the_network_of_a_run_folder(class_name, config, words):
    with pytest.raises(ValueError, match=words):
        Node("n", LAYER, inputs=("image",), attributes={"class_name": class_name, "config": config})
