"""What of a Keras 3 file is loaded: stock layers, and nothing that could run code."""

import io
import json
import zipfile

import h5py
import numpy as np
import pytest

from export.frameworks.keras3_file import checked_keras3_file


def layer(name, module="keras.layers", **config):
    return {"class_name": name, "module": module, "config": config, "registered_name": None}


def network(*layers, module="keras.src.models.functional"):
    return {
        "module": module,
        "class_name": "Functional",
        "config": {"name": "net", "layers": list(layers)},
        "registered_name": "Functional",
    }


POLICY = {"class_name": "DTypePolicy", "module": "keras", "config": {"name": "float32"}}
CONVOLUTION = layer("Conv2D", filters=4, kernel_size=[3, 3], activation="relu", dtype=POLICY)
OPERATION = layer("Add", module="keras.src.ops.numpy")


def weights(external=None):
    """An HDF5 file with one array, which may lie in another file."""
    stream = io.BytesIO()
    with h5py.File(stream, "w") as content:
        if external is None:
            content["layers/conv2d/vars/0"] = np.ones((3, 3), np.float32)
        else:
            place = [(str(external), 0, 36)]
            content.create_dataset("kernel", (3, 3), np.float32, external=place)
    return stream.getvalue()


@pytest.fixture
def write(tmp_path):
    def run(config, version="3.15.1", content=None):
        path = tmp_path / "net.keras"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps({"keras_version": version}))
            archive.writestr("config.json", config if type(config) is str else json.dumps(config))
            archive.writestr("model.weights.h5", content or weights())
            archive.writestr("assets/vocabulary.txt", "not needed by stock layers")
        return path

    return run


@pytest.fixture
def check(tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    return lambda path: checked_keras3_file(path, folder=folder)


@pytest.mark.parametrize("parts", [[CONVOLUTION], [CONVOLUTION, OPERATION]])
def test_stock_layers_pass(write, check, parts):
    copy = check(write(network(*parts)))
    with zipfile.ZipFile(copy) as archive:
        assert archive.namelist() == ["metadata.json", "config.json", "model.weights.h5"]
        assert json.loads(archive.read("config.json")) == network(*parts)
        assert archive.read("model.weights.h5") == weights()
    assert [path.name for path in copy.parent.iterdir()] == ["net.keras"]


@pytest.mark.parametrize(
    "part",
    [
        layer("Lambda", function="x"),
        layer("TFSMLayer", filepath="/etc"),
        layer("Conv2D", module="os"),
        layer("Conv2D", module="keras.src.models.functional.os"),
        layer("Mine", module="mine"),
        layer("Map", module="keras.src.ops.core"),
        layer("system", module="keras.src.ops.numpy"),
        {**CONVOLUTION, "registered_name": "mine>Conv2D"},
        layer("Activation", activation={"class_name": "function", "config": "system"}),
        layer("Activation", activation="os.system"),
    ],
)
def test_anything_else_is_refused(write, check, part):
    with pytest.raises(ValueError, match="give --python_file"):
        check(write(network(CONVOLUTION, part)))


def test_a_keras_2_file_has_another_way(write, check):
    with pytest.raises(ValueError, match="as --keras_file"):
        check(write(network(), version="2.15.0"))


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\x00"])
def test_broken_configurations_are_one_error(write, check, text):
    with pytest.raises(ValueError, match=r"net\.keras"):
        check(write(text))


def test_deep_nesting_is_one_error(write, check):
    config = {"layers": []}
    for _ in range(200):
        config = {"layers": [config]}
    with pytest.raises(ValueError, match="levels deep"):
        check(write(config))


def test_losses_of_nested_models_are_left_out(write, check):
    """Keras 3 imports the module of each when it loads a nested model, whatever `compile` says."""
    loss = {"class_name": "function", "module": "os", "config": "system"}
    nested = {**network(CONVOLUTION), "compile_config": {"loss": loss}}
    with zipfile.ZipFile(check(write(network(nested)))) as archive:
        assert "system" not in archive.read("config.json").decode()


def test_weights_in_another_file_are_refused(write, check, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(36))
    with pytest.raises(ValueError, match="stored in another file"):
        check(write(network(CONVOLUTION), content=weights(external=secret)))


def test_two_files_of_one_name_are_refused(tmp_path, check):
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for name in ("metadata.json", "config.json", "config.json"):
            archive.writestr(name, "{}")
    with pytest.raises(ValueError, match="two files with the same name"):
        check(path)
