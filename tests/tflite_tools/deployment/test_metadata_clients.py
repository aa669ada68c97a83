"""Each rule of each client with a file that breaks it, and none for a file that fits."""

import dataclasses
import shutil

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tests.children import run_command
from tests.paths import CAMVID, ZOO
from tests.tflite_tools.surgery import low_logits, unpacked, write, write_manifest
from tflite_tools.contract import read_contract
from tflite_tools.deployment.client_rules import Client, check_file
from tflite_tools.deployment.metadata_description import describe
from tflite_tools.flatbuffer.graph import parse_model, read_graph
from tflite_tools.flatbuffer.pack import pack
from tflite_tools.metadata import packing

INT8 = CAMVID / "int8.tflite"
CLASS_MAP = ZOO / "voc_animals_deeplab_mobilenet_v2" / "int8.tflite"


@pytest.fixture
def broken(tmp_path):
    """Writes INT8 with something changed; nothing here runs it."""

    def write(change):
        model = parse_model(INT8.read_bytes(), "model")
        graph = model.subgraphs[0]
        change(graph, graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]])
        path = tmp_path / "broken.tflite"
        path.write_bytes(pack(model, 1 << 20))
        return path

    return write


def found(path, client):
    """What is fatal, and what is not."""
    findings = check_file(path, client)
    assert all(finding.cure for finding in findings)
    return (
        " / ".join(f.fault for f in findings if f.fatal),
        " / ".join(f.fault for f in findings if not f.fatal),
    )


def with_metadata(path, output, **changes):
    contract = read_contract(INT8)
    metadata = describe(contract, contract.label_set.names, graph=read_graph(INT8))
    output.write_bytes(packing.add(path.read_bytes(), dataclasses.replace(metadata, **changes)))
    return output


def to_type(name):
    def change(tensor):
        tensor.type = getattr(schema.TensorType, name)
        tensor.quantization = None if "FLOAT" in name else tensor.quantization

    return change


def test_our_default_is_taken_by_everyone(tmp_path):
    path = with_metadata(INT8, tmp_path / "ready.tflite")
    assert found(path, Client.MEDIAPIPE) == ("", "")
    assert found(path, Client.LITERTJS) == ("", "")
    assert found(path, Client.EDGETPU) == ("", "")
    fatal, notes = found(path, Client.ETHOSU)
    assert fatal == ""
    # The two that Vela 5.2.0 leaves on the processor of a U55.
    assert "(23x30 to 92x120, 92x120 to 368x480)" in notes


def test_class_map_is_misread_by_mediapipe():
    assert "its rows are read as classes" in found(CLASS_MAP, Client.MEDIAPIPE)[0]
    assert found(CLASS_MAP, Client.LITERTJS)[0] == ""
    assert "ARG_MAX is not mapped" in found(CLASS_MAP, Client.EDGETPU)[1]


def test_official_int64_class_map(shared_dir):
    path = shared_dir / "models" / "deeplabv3_mnv2_pascal_quant.tflite"
    assert "error at the first image" in found(path, Client.MEDIAPIPE)[0]
    assert "output is int64 [1, 513, 513]" in found(path, Client.LITERTJS)[0]


@pytest.mark.parametrize("name", ["INT32", "UINT8", "FLOAT32"])
def test_any_other_class_map_is_silent(broken, name):
    def change(_graph, _image, output):
        output.shape = np.array([1, 368, 480], np.int32)
        output.shapeSignature = None
        to_type(name)(output)

    assert "wrong without an error" in found(broken(change), Client.MEDIAPIPE)[0]


def test_int8_input(broken):
    def change(_graph, image, _output):
        image.type = schema.TensorType.INT8
        image.quantization.zeroPoint = np.array([0])

    path = broken(change)
    assert "input is int8 [1, 368, 480, 3]; only uint8" in found(path, Client.MEDIAPIPE)[0]
    assert "input is int8" in found(path, Client.LITERTJS)[0]
    assert found(path, Client.EDGETPU)[0] == ""


def test_int8_output_is_fine_for_mediapipe_alone(broken):
    path = broken(lambda _graph, _image, output: to_type("INT8")(output))
    assert found(path, Client.MEDIAPIPE)[0] == ""
    assert "output is int8" in found(path, Client.LITERTJS)[0]


def test_float_input_needs_normalization(broken, tmp_path):
    path = broken(lambda _graph, image, _output: to_type("FLOAT32")(image))
    assert "without normalization" in found(path, Client.MEDIAPIPE)[0]
    ready = with_metadata(path, tmp_path / "ready.tflite")
    assert found(ready, Client.MEDIAPIPE)[0] == ""
    silent = with_metadata(path, tmp_path / "silent.tflite", preprocessing=None)
    assert "without normalization" in found(silent, Client.MEDIAPIPE)[0]
    assert "the input is float32" in found(path, Client.ETHOSU)[1]


def test_camera_bytes_that_are_not_the_input(tmp_path):
    """Mean 100 in the manifest: the file wants other bytes than MediaPipe feeds."""
    path = tmp_path / "shifted.tflite"
    shutil.copy(INT8, path)
    text = (CAMVID / "int8.json").read_text()
    path.with_suffix(".json").write_text(text.replace("128.0", "100.0"))
    assert "other bytes than the camera's" in found(path, Client.MEDIAPIPE)[0]


def test_rounding_tie_is_no_fault(tmp_path):
    path = tmp_path / "tie.tflite"
    shutil.copy(INT8, path)
    text = (CAMVID / "int8.json").read_text()
    path.with_suffix(".json").write_text(text.replace("128.0", "127.5"))
    assert "other bytes" not in found(path, Client.MEDIAPIPE)[0]


def test_labels_are_counted(tmp_path):
    names = read_contract(INT8).label_set.names
    path = with_metadata(INT8, tmp_path / "ten.tflite", labels=names[1:])
    assert "10 labels for 11 channels" in found(path, Client.MEDIAPIPE)[0]
    assert "no labels in the file" in found(INT8, Client.MEDIAPIPE)[1]


def test_dynamic_batch(broken):
    def change(_graph, image, output):
        image.shapeSignature = np.array([-1, 368, 480, 3], np.int32)
        output.shapeSignature = np.array([-1, 368, 480, 11], np.int32)

    path = broken(change)
    for client in Client:
        assert "the input is uint8 [-1, 368, 480, 3], 2 tensors" in found(path, client)[0]


def test_two_outputs(broken):
    def change(graph, _image, _output):
        graph.outputs = np.array([*graph.outputs, graph.operators[0].outputs[0]], np.int32)

    assert (
        "expected one input and one output, got 1 and 2"
        in found(broken(change), Client.MEDIAPIPE)[0]
    )


def test_small_logits(broken):
    def change(_graph, _image, output):
        output.shape = np.array([1, 92, 120, 11], np.int32)
        output.shapeSignature = None

    fatal, notes = found(broken(change), Client.MEDIAPIPE)
    assert fatal == ""
    assert "logits of 92x120 are enlarged with align_corners" in notes


def test_float_network_on_integer_accelerators(shared_dir):
    path = shared_dir / "models" / "deeplabv3_257_mv_gpu.tflite"
    for client in (Client.EDGETPU, Client.ETHOSU):
        assert "70 of 70 computed tensors are float" in found(path, client)[0]


def test_sixteen_bits(broken):
    def change(graph, _image, _output):
        graph.tensors[graph.operators[3].outputs[0]].type = schema.TensorType.INT16

    path = broken(change)
    assert "1 tensors are int16" in found(path, Client.EDGETPU)[0]
    assert "int16" not in found(path, Client.ETHOSU)[0]


@pytest.mark.parametrize("resize", ["half_pixel", "align_corners", None])
def test_small_logits_name_their_resize(tmp_path, resize):
    """MediaPipe resizes with align_corners; the other programs leave it to the application."""
    path = write(tmp_path / "low.tflite", low_logits(unpacked()))
    if resize:
        write_manifest(path, lambda values: values["output"].update(resize=resize))
    mediapipe = found(path, Client.MEDIAPIPE)[1]
    assert ("are enlarged with align_corners" in mediapipe) == (resize != "align_corners")
    for client in (Client.LITERTJS, Client.EDGETPU, Client.ETHOSU):
        notes = found(path, client)[1]
        assert "logits of 92x120 must be resized to 368x480" in notes
        assert (f"with {resize}" if resize else "the convention is not on record") in notes


def test_command_says_it_and_ends_with_a_status():
    def command(*flags):
        return run_command("tflite_tools.check_client", *flags, timeout=120)

    done = command(f"--model={INT8},{CLASS_MAP}", "--client=mediapipe,litertjs")
    assert done.returncode == 1
    assert f"{CLASS_MAP}: mediapipe: REFUSED: the output is uint8 [1, 513, 513]" in done.stdout
    assert f"{INT8}: litertjs: accepted as it is" in done.stdout
    assert command(f"--model={INT8}").returncode == 0
    wrong = command(f"--model={INT8}", "--client=mediapip")
    assert wrong.returncode == 1
    assert "known: mediapipe, litertjs, edgetpu, ethosu" in wrong.stderr
