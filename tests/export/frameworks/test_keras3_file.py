"""What of a Keras 3 file is loaded: stock layers, and nothing that could run code."""

import json
import zipfile

import pytest

from export.frameworks.keras3_file import check_keras3_file


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


@pytest.fixture
def write(tmp_path):
    def run(config, version="3.15.1"):
        path = tmp_path / "net.keras"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps({"keras_version": version}))
            archive.writestr("config.json", config if type(config) is str else json.dumps(config))
        return path

    return run


@pytest.mark.parametrize("parts", [[CONVOLUTION], [CONVOLUTION, OPERATION]])
def test_stock_layers_pass(write, parts):
    check_keras3_file(write(network(*parts)))


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
def test_anything_else_is_refused(write, part):
    with pytest.raises(ValueError, match="give --python_file"):
        check_keras3_file(write(network(CONVOLUTION, part)))


def test_a_keras_2_file_has_another_way(write):
    with pytest.raises(ValueError, match="as --keras_file"):
        check_keras3_file(write(network(), version="2.15.0"))


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\x00"])
def test_broken_configurations_are_one_error(write, text):
    with pytest.raises(ValueError, match=r"net\.keras"):
        check_keras3_file(write(text))


def test_deep_nesting_is_one_error(write):
    config = {"layers": []}
    for _ in range(200):
        config = {"layers": [config]}
    with pytest.raises(ValueError, match="levels deep"):
        check_keras3_file(write(config))


def test_two_files_of_one_name_are_refused(tmp_path):
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for name in ("metadata.json", "config.json", "config.json"):
            archive.writestr(name, "{}")
    with pytest.raises(ValueError, match="a name is double"):
        check_keras3_file(path)
