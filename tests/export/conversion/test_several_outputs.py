"""A network of several outputs: all are kept from import over training to the exported files.

The file gives boxes, masks and edges, in this order; the masks are trained.
"""

import dataclasses
import json
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.readers.synthetic import LABEL_SET
from deeplab_tf.graph.build import build_model, main_output
from deeplab_tf.graph.edit import cut_after, cut_output
from deeplab_tf.graph.fold_batch_norm import fold_batch_norms
from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.graph.network import NetworkGraph
from deeplab_tf.quantization.ptq.post_training import PostTraining, quantize_post_training
from deeplab_tf.runs.config import read_config
from export.conversion.source import KerasFileSource
from export.rewriting.named_outputs import name_outputs
from tests.children import run_command
from tflite_tools.contract import read_contract
from tflite_tools.deployment.add_metadata import AddOptions, add_metadata
from tflite_tools.flatbuffer.editor import Editor
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.metadata import packing
from tflite_tools.runtime.file_interpreter import FileRunner
from tflite_tools.to_keras import convert as to_keras
from tflite_tools.to_keras.importer import import_file

layers = keras.layers
SIZE = (32, 48)
NAMES = ("boxes", "masks", "edges")


def keras_model():
    keras.utils.set_random_seed(5)
    image = keras.Input((*SIZE, 3), batch_size=1, name="image")
    x = layers.Conv2D(16, 3, strides=4, padding="same", name="stem")(image)
    x = layers.ReLU(6.0, name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    boxes = layers.Conv2D(8, 3, padding="same", activation="relu", name="box_features")(x)
    boxes = layers.GlobalAveragePooling2D(name="box_pool")(boxes)
    boxes = layers.Reshape((1, 1, 8), name="box_image")(boxes)
    boxes = layers.Conv2D(6, 1, name="boxes")(boxes)
    masks = layers.Conv2D(LABEL_SET.num_classes, 1, name="masks")(x)
    edges = layers.Conv2D(1, 1, activation="sigmoid", name="edges")(x)
    return keras.Model(image, [boxes, masks, edges])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The network as a float `.tflite` with its outputs in order."""
    model = keras_model()
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        content = converter.convert()
    path = tmp_path_factory.mktemp("several") / "several.tflite"
    path.write_bytes(content)
    order = {tuple(read_graph(path).tensors[i].shape)[-1]: i for i in read_graph(path).outputs}
    editor = Editor(content)
    wanted = [order[6], order[LABEL_SET.num_classes], order[1]]
    editor.graph.outputs = np.array(wanted, np.int32)
    for index, name in zip(wanted, NAMES, strict=True):
        editor.tensor(index).name = name.encode()
    editor.model.signatureDefs = None
    path.write_bytes(editor.to_bytes())
    return path


def names_of(path):
    graph = read_graph(path)
    return tuple(graph.tensors[index].name for index in graph.outputs)


def test_edits_keep_the_outputs_and_their_names():
    network, arrays = graph_from_keras(keras_model())
    network = dataclasses.replace(
        network,
        output_name="masks",
        further_outputs=("boxes", "edges"),
        named_outputs=(("boxes", "b"), ("masks", "m"), ("edges", "e")),
    )
    again = NetworkGraph.from_json(json.loads(json.dumps(network.to_json())))
    assert again == network
    shorter, kept = cut_output(network, arrays, name="stem_relu")
    assert shorter.outputs == ("stem_relu", "boxes", "edges")
    assert shorter.named_outputs == (("boxes", "b"), ("stem_relu", "m"), ("edges", "e"))
    assert "masks/kernel" not in kept
    assert "box_features_linear/kernel" in kept
    alone, kept = cut_after(network, arrays, name="masks")
    assert (alone.outputs, alone.named_outputs) == (("masks",), ())
    assert "box_features_linear/kernel" not in kept
    same, _ = cut_output(network, arrays, name="edges")
    assert same.outputs == ("edges", "boxes")
    assert same.named_outputs == (("boxes", "b"), ("edges", "m"))
    folded = fold_batch_norms(network, arrays).description
    assert folded.named_outputs == network.named_outputs
    with pytest.raises(ValueError, match="are not the outputs"):
        dataclasses.replace(network, named_outputs=(("boxes", "b"),))


def test_the_part_that_is_trained_shares_its_layers():
    model = keras_model()
    part = main_output(keras.Model(model.inputs, [model.outputs[1], *model.outputs[::2]]))
    assert part.output_shape == (1, 8, 12, LABEL_SET.num_classes)
    assert part.get_layer("stem") is model.get_layer("stem")
    assert not {"boxes", "box_features", "edges"} & {layer.name for layer in part.layers}


def test_the_masks_are_chosen_of_themselves(file, tmp_path):
    settings = {"model": file, "preprocessing": Preprocessing.of(3)}
    config = to_keras.ImportConfig(output_dir=tmp_path / "one", **settings)
    result = to_keras.convert(config)
    description = result.run.config.model.description
    assert description.named_outputs == (("boxes", "boxes"), ("masks", "masks"), ("edges", "edges"))
    assert description.output_name == "masks"
    config = to_keras.ImportConfig(output_dir=tmp_path / "two", keep_outputs=False, **settings)
    assert to_keras.convert(config).run.config.model.description.outputs == ("masks",)


def test_a_comparison_covers_all_outputs(file, tmp_path):
    config = to_keras.ImportConfig(
        model=file,
        output_dir=tmp_path / "out",
        dataset="synthetic",
        compare=True,
        preprocessing=Preprocessing.of(3),
    )
    found = to_keras.convert(config).fidelity
    assert [round(one.largest_difference, 4) for one in found] == [0, 0, 0]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["fidelity_of_further_outputs"]) == {"boxes", "edges"}


def test_post_training_steps_keep_all_outputs():
    random = np.random.default_rng(0)
    images = [random.uniform(-1, 1, (2, *SIZE, 3)).astype(np.float32) for _ in range(2)]
    model = keras_model()
    source = keras.Model(model.inputs, [model.outputs[1], *model.outputs[::2]])
    done = quantize_post_training(
        source, PostTraining(equalize=True), batches=images, input_range=(-1.0, 1.0)
    )
    expected, found = source(images[0][:1]), done.model(images[0][:1], training=False)
    assert [value.shape for value in found] == [value.shape for value in expected]
    for one, two in zip(expected, found, strict=True):
        spread = float(np.ptp(one))
        assert float(np.abs(one - two).max()) < 0.1 * spread  # 8 bits, weights and activations


@pytest.mark.slow
def test_all_outputs_go_through_training_and_every_export(file, tmp_path):
    run, out = tmp_path / "run", tmp_path / "run" / "tflite"
    done = run_command(
        "deeplab_tf.train",
        "--dataset=synthetic",
        f"--run_dir={run}",
        f"--init_from={file}",
        "--output=masks",
        "--mean=128",
        "--std=128",
        "--train_steps=4",
        "--quantize_delay_step=2",
        "--learning_rate=0.01",
        "--batch_size=2",
        "--quantize_calibration_images=4",
        "--holdout_images=2",
        "--validation_split=holdout",
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    paths = run / "start" / "float.npz", run / "float.npz"
    before, after = (dict(np.load(path)) for path in paths)
    network = read_config(run).model.description
    _, trained = cut_after(network, before, name=network.output_name)
    own = before.keys() - trained.keys()
    assert len(own) >= 6
    for key in before:  # what only the other outputs need stays as in the file
        assert np.array_equal(before[key], after[key]) == (key in own), key
    done = run_command(
        "export.to_tflite", f"--run_dir={run}", "--calibration_images=4", timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    files = sorted(out.glob("*.tflite"))
    assert len(files) >= 10
    image = np.random.default_rng(1).uniform(-1, 1, (1, *SIZE, 3)).astype(np.float32)
    reference = FileRunner(out / "float32.tflite").outputs(image)
    for path in files:
        assert names_of(path) == NAMES, path.name
        assert read_contract(path).output_position == 1
        manifest = json.loads(path.with_suffix(".json").read_text())
        assert (manifest["output"]["name"], tuple(manifest["outputs"])) == ("masks", NAMES)
        found = FileRunner(path).outputs(image)
        for place in (0, 2):  # quantization aware files come from other weights of the trunk
            spread = float(np.ptp(reference[place])) or 1.0
            loose = 0.6 if path.name.startswith("qat") else 0.25
            assert float(np.abs(found[place] - reference[place]).max()) < loose * spread, path.name
    done = run_command(
        "tflite_tools.evaluate",
        f"--model={out / 'int8.tflite'}",
        "--dataset=synthetic",
        "--limit=2",
        "--grid_images=0",
        "--output=nothing",
        f"--output_dir={tmp_path / 'scores'}",
        timeout=200,
    )
    assert done.returncode == 1
    assert "expected the name or number of an output (0 'boxes', 1 'masks'" in done.stderr
    labelled = tmp_path / "labelled.tflite"
    add_metadata(AddOptions(out / "int8.tflite", labelled))
    metadata = packing.read(labelled)
    assert (metadata.outputs[0], metadata.position) == ("boxes", 1)
    assert metadata.labels == LABEL_SET.names
    assert read_config(run).model.description.output_name == "masks"


def test_all_outputs_of_a_keras_file(tmp_path):
    path = tmp_path / "several.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' advice to use its newer format
        keras_model().save(path)
    source = KerasFileSource(path, "masks", keep_outputs=True)
    assert source.named_outputs == ((1, "boxes"), (0, "masks"), (2, "edges"))
    assert [shape[-1] for shape in source.float_model(*SIZE).output_shape] == [
        LABEL_SET.num_classes,
        6,
        1,
    ]
    assert KerasFileSource(path, "masks").named_outputs == ()


def test_other_outputs_are_an_error(file):
    with pytest.raises(ValueError, match="expected 2 outputs, the file has 0"):
        name_outputs(file.read_bytes(), [(0, "a"), (1, "b")])


def test_an_import_without_a_choice_takes_the_first_output(file):
    network = import_file(file)
    assert network.description.output_name == "boxes"
    assert build_model(network.description).output_shape == (None, 1, 1, 6)
