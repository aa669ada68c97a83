"""Damaged files in every tool that reads one without running it: a message, never a traceback."""

import collections
import io
import json
import time
import warnings
import zipfile

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert import schema_py_generated as schema

from tests.tflite_tools.mutations import MUTATIONS, packed, table_positions
from tflite_tools.benchmarking.timing import _describe
from tflite_tools.contract import read_contract
from tflite_tools.deployment.add_metadata import AddOptions, add_metadata
from tflite_tools.deployment.client_rules import Client, check_file, findings_text
from tflite_tools.deployment.targets import report
from tflite_tools.deployment.targets.registry import check_target
from tflite_tools.diagnosis.case import open_case
from tflite_tools.diagnosis.diagnosis import diagnose
from tflite_tools.diagnosis.observation import Effort
from tflite_tools.diagnosis.report import as_text
from tflite_tools.flatbuffer.graph import read_checked_graph
from tflite_tools.metadata import model_file, packing
from tflite_tools.to_keras.importer import import_file

MUTANTS = 210
"""Of each victim; half a minute."""
CLASSES = 5
layers = keras.layers


@pytest.fixture(scope="module", params=["logits", "argmax"])
def victim(request, tmp_path_factory):
    """An int8 file of 10 KB with metadata, and its label list."""
    folder = tmp_path_factory.mktemp("victim")
    plain, labels, path = (folder / n for n in ("plain.tflite", "labels.txt", "model.tflite"))
    plain.write_bytes(convert(network(request.param)))
    labels.write_text("\n".join(f"class {index}" for index in range(CLASSES)))
    add_metadata(AddOptions(plain, path, labels=labels))
    return path.read_bytes(), labels


def network(head: str) -> keras.Model:
    """Every kind of operator whose weights and sizes the tools read."""
    keras.backend.clear_session()  # names, and so bytes and mutants, do not depend on other tests
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 24, 3), 1)
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu6")(image)
    x = layers.DepthwiseConv2D(3, padding="same", dilation_rate=2)(x)
    x = layers.MaxPooling2D()(x)
    y = layers.Conv2D(8, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    y = layers.UpSampling2D((4, 6), interpolation="bilinear")(y)
    x = layers.Concatenate()([layers.PReLU(shared_axes=[1, 2])(x), y])
    x = layers.Dense(12)(x)
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same")(x)
    x = layers.Conv2D(CLASSES, 1)(layers.ZeroPadding2D()(x))
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    if head == "argmax":
        x = layers.Lambda(lambda logits: tf.argmax(logits, -1, tf.int32))(x)
    return keras.Model(image, x)


def convert(model) -> bytes:
    random = np.random.default_rng(0)
    images = [random.uniform(-1, 1, (1, 16, 24, 3)).astype(np.float32) for _ in range(2)]
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        return converter.convert()


def readers(labels, output):
    """Name of each tool -> what it does with a file."""

    def target(name):
        def check(path):
            result = check_target(read_checked_graph(path), name)
            return json.dumps(report.to_json(result)) + report.to_text(result)

        return check

    def client(path):
        return [findings_text(path, each, findings=check_file(path, each)) for each in Client]

    def add(path):
        add_metadata(AddOptions(path, output, labels=labels, overwrite=True))
        return packing.read(output), read_contract(output)

    return {
        **{f"target {name}": target(name) for name in ("edgetpu", "gpu", "nnapi-30")},
        "client": client,
        "metadata": packing.read,
        "add_metadata": add,
        "diagnose": lambda path: as_text(diagnose(open_case(path), Effort())),
        "benchmark": lambda path: _describe(read_contract(path)),
        "to_keras": import_file,
    }


def test_the_good_file_passes_every_tool(victim, tmp_path):
    content, labels = victim
    path = tmp_path / "good.tflite"
    path.write_bytes(content)
    for read in readers(labels, tmp_path / "output.tflite").values():
        assert read(path)


@pytest.mark.filterwarnings("ignore:.* encountered in scalar divide:RuntimeWarning")  # scale 0
@pytest.mark.timeout(300)
def test_mutants_end_in_a_message_or_an_answer(victim, tmp_path):
    content, labels = victim
    random, tables = np.random.default_rng(7), table_positions(content)
    path = tmp_path / "mutant.tflite"
    outcomes: collections.Counter = collections.Counter()
    for number in range(MUTANTS):
        mutate = MUTATIONS[number % len(MUTATIONS)]
        path.write_bytes(mutate(content, random, tables))
        for tool, read in readers(labels, tmp_path / "output.tflite").items():
            try:
                read(path)
                outcomes[tool, "answer"] += 1
            except ValueError as error:
                assert "\n" not in str(error), f"{tool} on mutant {number}"
                outcomes[tool, "refused"] += 1
            except Exception as error:
                pytest.fail(f"{tool} on mutant {number} by {mutate.__name__}: {error!r}")
    # Neither all refused nor all let through: the client check answers one in ten of these.
    for tool in readers(labels, None):
        assert min(outcomes[tool, "answer"], outcomes[tool, "refused"]) > MUTANTS // 50, outcomes


def test_scales_too_far_apart_are_refused(victim, tmp_path):
    content, _ = victim
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    graph.tensors[graph.operators[1].outputs[0]].quantization.scale = [1e-44]
    path = tmp_path / "far.tflite"
    path.write_bytes(packed(model))
    with pytest.raises(ValueError, match="quantization scales is not finite; the file is damaged"):
        import_file(path)


def deflated(content, damage):
    """The model with its label file packed by deflate, and damage done to the archive."""
    detached = model_file.detach(content)
    stream = io.BytesIO(content[: content.index(b"PK\x03\x04")])
    stream.seek(0, io.SEEK_END)
    begin = stream.tell()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", "\n".join(f"class {index}" for index in range(CLASSES)))
    assert len(detached) < begin
    packed = bytearray(stream.getvalue())
    damage(packed, begin)
    return bytes(packed)


def spoil_data(packed, begin):
    for position in range(begin + 40, begin + 52):  # behind the header of 30 and the name of 10
        packed[position] ^= 0xFF


def cut_data(packed, _):
    """Stored, and more bytes than the file has."""
    entry = packed.index(b"PK\x01\x02")
    packed[entry + 10] = 0
    packed[entry + 20 : entry + 28] = 2 * (1 << 19).to_bytes(4, "little")


def spoil_extra(packed, _):
    """A ZIP64 field of no bytes in the directory."""
    entry = packed.index(b"PK\x01\x02")
    packed[entry + 24 : entry + 28] = b"\xff" * 4
    packed[entry + 30 : entry + 32] = (4).to_bytes(2, "little")
    packed[entry + 46 + 10 : entry + 46 + 10] = b"\x01\x00\x00\x00"


def spoil_method(packed, _):
    packed[packed.index(b"PK\x01\x02") + 10] = 14  # LZMA


@pytest.mark.parametrize("damage", [spoil_data, cut_data, spoil_extra, spoil_method])
def test_a_damaged_archive(victim, tmp_path, damage):
    content, labels = victim
    path, mended = tmp_path / "damaged.tflite", tmp_path / "mended.tflite"
    path.write_bytes(deflated(content, damage))
    for read in (packing.read, lambda path: check_file(path, Client.MEDIAPIPE)):
        with pytest.raises(ValueError, match=r"associated files are damaged|named but not packed"):
            read(path)
    mended.write_bytes(
        packing.add(path.read_bytes(), packing.parse(*model_file.extract(content, "")))
    )
    assert packing.read(mended).labels == tuple(labels.read_text().split("\n"))


def test_many_names_of_one_large_file(victim, tmp_path):
    """A directory of 46 bytes an entry may lead to the same data again and again."""
    content, _ = victim
    stream = io.BytesIO(content[: content.index(b"PK\x03\x04")])
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", bytes(1 << 20))
        archive.filelist += [archive.filelist[0]] * 4000
    path = tmp_path / "bomb.tflite"
    path.write_bytes(stream.getvalue())
    started = time.process_time()
    with pytest.raises(ValueError, match=r"expected at most 1048576 bytes of associated files"):
        packing.read(path)
    assert time.process_time() - started < 5.0
