"""Keras files and SavedModels of other people's structure: what they become."""

import io
import json
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.runs.folder import Phase
from export.conversion.freeze import freeze_saved_model
from export.conversion.keras_file import read_keras_file
from export.conversion.source import KerasFileSource, SavedModelSource
from export.conversion.variants import Head

layers = keras.layers
SIZE = (16, 24)
pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")


def picture(channels=3):
    return np.random.default_rng(0).uniform(-1, 1, (1, *SIZE, channels)).astype(np.float32)


def saved(path, *outputs, image=None):
    keras.Model(image, outputs[0] if len(outputs) == 1 else list(outputs)).save(path)
    return path


def as_keras3(source, target, version="3.15.0", named=True):
    """Rewrites a Keras 2 file of a Functional network in the form of Keras 3."""
    with zipfile.ZipFile(source) as archive:
        config = json.loads(archive.read("config.json"))
    model = read_keras_file(source)
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}
    for layer in config["config"]["layers"]:
        settings = layer["config"]
        settings["dtype"] = "float32" if layer["class_name"] == "InputLayer" else policy
        if "batch_input_shape" in settings:
            settings["batch_shape"] = settings.pop("batch_input_shape")
        if layer["class_name"] == "LeakyReLU":
            settings["negative_slope"] = settings.pop("alpha")
        if layer["class_name"] == "BatchNormalization":
            settings |= {"synchronized": False, "renorm": False, "renorm_momentum": 0.99}
        for node in layer["inbound_nodes"]:
            tensors = [
                {"class_name": "__keras_tensor__", "config": {"keras_history": history[:3]}}
                for history in node
            ]
            layer["inbound_nodes"] = [
                {"args": [tensors] if len(tensors) > 1 else tensors, "kwargs": {"mask": None}}
            ]
    config["module"] = "keras.src.models.functional"
    for key in ("input_layers", "output_layers"):
        (config["config"][key],) = config["config"][key]
    weights = io.BytesIO()
    with h5py.File(weights, "w") as content:
        for number, layer in enumerate(model.layers):
            group = content.create_group(
                f"layers/part_{number}/vars" if named else f"layers/{layer.name}/vars"
            )
            if named:
                group.attrs["name"] = layer.name
            for index, value in enumerate(layer.get_weights()):
                group[str(index)] = value
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights.getvalue())
    return target


@pytest.fixture
def branched(tmp_path):
    """Layers whose settings differ between Keras 2 and 3, with trained-looking statistics."""
    image = keras.Input((*SIZE, 3))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="first")(image)
    x = layers.BatchNormalization(name="norm")(x)
    y = layers.LeakyReLU(0.1, name="leaky")(x)
    z = layers.Concatenate(name="join")([y, x])
    model = keras.Model(image, layers.Conv2D(2, 1, name="scores")(z))
    generator = np.random.default_rng(1)
    model.set_weights([generator.uniform(0.2, 1, w.shape) for w in model.get_weights()])
    model.save(tmp_path / "two.keras")
    return tmp_path / "two.keras"


def test_keras3_file_is_read_with_its_weights(branched, tmp_path):
    expected = read_keras_file(branched)(picture())
    found = read_keras_file(as_keras3(branched, tmp_path / "three.keras"))(picture())
    np.testing.assert_array_equal(found, expected)


def test_weights_of_early_keras3_files_are_found_by_class_and_number(tmp_path):
    image = keras.Input((*SIZE, 3))
    model = keras.Model(
        image, layers.Conv2D(2, 1, name="conv2d_1")(layers.Conv2D(5, 1, name="conv2d")(image))
    )
    model.save(tmp_path / "two.keras")
    three = as_keras3(tmp_path / "two.keras", tmp_path / "three.keras", named=False)
    np.testing.assert_array_equal(read_keras_file(three)(picture()), model(picture()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["config"]["layers"][1]["config"].update(pooling=2), "no setting pooling"),
        (lambda c: c["config"]["layers"][1].update(class_name="Lambda"), "holds Lambda"),
        (
            lambda c: c["config"]["layers"][1]["inbound_nodes"][0]["kwargs"].update(training=True),
            "a call with tensors only",
        ),
        (lambda c: c["config"]["layers"][1]["config"].update(filters=7), "expected weights of"),
    ],
)
def test_keras3_file_that_keras_2_cannot_build(branched, tmp_path, change, message):
    path = as_keras3(branched, tmp_path / "three.keras")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    members["config.json"] = json.dumps(config)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=message):
        read_keras_file(path)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_mixed_precision_is_built_in_float32(tmp_path, ending):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        image = keras.Input((*SIZE, 3))
        path = saved(tmp_path / f"m{ending}", layers.Conv2D(2, 3, name="c")(image), image=image)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model = read_keras_file(path)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert model(picture()).dtype == tf.float32


def test_operators_between_layers_are_taken_where_they_only_compute(tmp_path):
    image = keras.Input((*SIZE, 3))
    x = layers.Conv2D(2, 1, name="c")(image)
    path = saved(tmp_path / "m.h5", tf.nn.relu6(x + 3.0) * x * (1 / 6), image=image)
    source = KerasFileSource(path)
    model = source.float_model(*SIZE)
    graph_from_keras(model)  # raises where a layer is none of the graph's
    expected = source.frozen(Phase.FLOAT, Head.LOGITS_LOW, height=16, width=24)(
        tf.constant(picture())
    )
    np.testing.assert_allclose(model(picture()), np.asarray(expected[0]), atol=1e-5)


def test_operator_that_does_more_is_refused(tmp_path):
    image = keras.Input((*SIZE, 3))
    path = saved(tmp_path / "m.h5", layers.Conv2D(2, 1)(image) + 1.0, image=image)
    with h5py.File(path, "r+") as content:
        config = json.loads(content.attrs["model_config"])
        operation = config["config"]["layers"][-1]
        assert operation["class_name"] == "TFOpLambda"
        operation["config"]["function"] = "io.write_file"
        content.attrs["model_config"] = json.dumps(config)
    with pytest.raises(ValueError, match=r"holds the function 'io.write_file'"):
        read_keras_file(path)


def test_nested_model_and_attention_become_one_graph(tmp_path):
    inner = keras.Input((*SIZE, 4))
    block = keras.Model(inner, layers.Conv2D(4, 3, padding="same", activation="relu")(inner))
    image = keras.Input((*SIZE, 3))
    x = block(layers.Conv2D(4, 1)(image))
    flat = layers.Reshape((SIZE[0] * SIZE[1], 4))(x)
    flat = layers.LayerNormalization()(layers.MultiHeadAttention(2, 4)(flat, flat) + flat)
    scores = layers.Conv2D(2, 1)(layers.Reshape((*SIZE, 4))(flat))
    source = KerasFileSource(saved(tmp_path / "m.h5", scores, image=image))
    model = source.float_model(*SIZE)
    graph_from_keras(model)
    expected = source.frozen(Phase.FLOAT, Head.LOGITS_LOW, height=16, width=24)(
        tf.constant(picture())
    )
    np.testing.assert_allclose(model(picture()), np.asarray(expected[0]), atol=1e-4)


def test_of_several_outputs_one_is_exported(tmp_path, caplog):
    image = keras.Input((*SIZE, 3))
    x = layers.MaxPooling2D()(image)
    small = layers.Conv2D(2, 1, name="aux")(x)
    main = layers.Conv2D(2, 1, name="main")(image)
    path = saved(tmp_path / "m.h5", small, main, image=image)
    assert KerasFileSource(path).float_model(*SIZE).output_shape == (None, *SIZE, 2)
    chosen = KerasFileSource(path, "aux").float_model(*SIZE)
    assert chosen.output_shape == (None, 8, 12, 2)
    with pytest.raises(ValueError, match="no output 'other'; it has aux, main"):
        KerasFileSource(path, "other")


class TwoOutputs(tf.Module):
    def __init__(self, signatures):
        super().__init__()
        self.kernel = tf.Variable(tf.ones([1, 1, 3, 2]))
        self.signature_names = signatures

    @tf.function(input_signature=[tf.TensorSpec([None, *SIZE, 3], tf.float32)])
    def run(self, image):
        scores = tf.nn.conv2d(image, self.kernel, 1, "SAME")
        return {"scores": scores, "doubled": 2 * scores}


def test_saved_model_with_one_signature_of_any_name(tmp_path):
    module = TwoOutputs(["predict"])
    tf.saved_model.save(module, str(tmp_path), signatures={"predict": module.run})
    with pytest.raises(ValueError, match="2 outputs; give --output, one of doubled, scores"):
        freeze_saved_model(tmp_path, 16, width=24)
    source = SavedModelSource(tmp_path, output="doubled")
    expected = 2 * picture().sum(-1)
    found = source.frozen(Phase.FLOAT, Head.LOGITS, height=16, width=24)(tf.constant(picture()))
    np.testing.assert_allclose(found[0][..., 0], expected, rtol=1e-5)
    model = source.float_model(*SIZE)
    np.testing.assert_allclose(model(picture())[..., 1], expected, rtol=1e-4, atol=1e-5)


def test_saved_model_with_several_signatures_is_refused(tmp_path):
    module = TwoOutputs(["a"])
    tf.saved_model.save(module, str(tmp_path), signatures={"a": module.run, "b": module.run})
    with pytest.raises(ValueError, match="'serving_default' or a single one, got a, b"):
        freeze_saved_model(tmp_path, 16, width=24, output="scores")
