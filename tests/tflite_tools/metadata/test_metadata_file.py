"""Metadata in the file itself: the model untouched, the bytes as the schema has them, damage."""

import io
import struct
import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tests.paths import CAMVID, ZOO
from tests.zoo import pixels
from tflite_tools.contract import read_contract
from tflite_tools.deployment import add_metadata as addition
from tflite_tools.deployment.add_metadata import AddOptions, add_metadata
from tflite_tools.deployment.metadata_description import describe
from tflite_tools.flatbuffer.graph import parse_model, read_graph
from tflite_tools.flatbuffer.pack import pack
from tflite_tools.metadata import codec, model_file, packing
from tflite_tools.metadata.schema import SEGMENTER_IDENTIFIER
from tflite_tools.metadata.segmenter import Activation
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner

INT8 = CAMVID / "int8.tflite"
CLASS_MAP = ZOO / "voc_animals_deeplab_mobilenet_v2" / "int8.tflite"


def described(path=INT8):
    contract = read_contract(path)
    return describe(
        contract, contract.label_set.names, graph=read_graph(path), license_text="Apache-2.0"
    )


@pytest.fixture(scope="module")
def metadata():
    return described()


@pytest.fixture(scope="module")
def content(metadata):
    return packing.add(INT8.read_bytes(), metadata)


@pytest.fixture
def written(content, tmp_path):
    path = tmp_path / "with.tflite"
    path.write_bytes(content)
    return path


def test_what_is_written_is_read(written, metadata):
    found = packing.read(written)
    assert found == metadata
    assert found.labels[3] == "road"
    assert found.preprocessing.mean == (128.0,) * 3
    assert found.input_range == ((0.0,), (255.0,))
    assert found.activation is Activation.SOFTMAX
    assert not found.classes_output


def test_class_map_has_value_labels(tmp_path):
    path = tmp_path / "map.tflite"
    path.write_bytes(packing.add(CLASS_MAP.read_bytes(), described(CLASS_MAP)))
    found = packing.read(path)
    assert found.classes_output
    assert found.activation is Activation.NONE
    assert found.labels[:2] == ("background", "aeroplane")


def test_model_is_the_same_to_the_last_bit(written):
    before, after = read_graph(INT8), read_graph(written)
    assert before.operators is not after.operators
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert (old.name, old.shape, old.type_name) == (new.name, new.shape, new.type_name)
        if old.data is not None:
            np.testing.assert_array_equal(old.data, new.data)
    assert [(o.kind, o.inputs, o.outputs) for o in before.operators] == [
        (o.kind, o.inputs, o.outputs) for o in after.operators
    ]
    # Unpacked and packed again it would lose its shared vectors: 0.3 MB more.
    assert written.stat().st_size - INT8.stat().st_size < 4096


def test_masks_are_the_same(written):
    contracts = [read_contract(INT8), read_contract(written)]
    image = np.tile(pixels(1)[0], (4, 4, 1))[: contracts[0].height, : contracts[0].width]
    with InterpreterPool(contracts, 1) as pool:
        tasks = [Task(index, ModelRunner.class_map, arguments=(image,)) for index in (0, 1)]
        before, after = pool.run(tasks)
    assert not before.failure
    assert not after.failure
    np.testing.assert_array_equal(before.value, after.value)
    assert len(np.unique(before.value)) > 1


def test_weights_stay_aligned(content):
    model = schema.Model.GetRootAsModel(content, 0)
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        if buffer.DataLength():
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            assert start % model_file.ALIGNMENT == 0, index


def test_files_of_any_length_stay_aligned(metadata):
    odd = INT8.read_bytes() + b"tail!"
    added = packing.add(odd, metadata)
    model = schema.Model.GetRootAsModel(added, 0)
    buffer = max(
        (model.Buffers(index) for index in range(model.BuffersLength())),
        key=lambda buffer: buffer.DataLength(),
    )
    assert buffer._tab.Vector(buffer._tab.Offset(4)) % model_file.ALIGNMENT == 0
    assert odd in added


def test_labels_are_a_plain_zip_behind_the_model(content, metadata):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        [item] = archive.infolist()
        assert item.compress_type == zipfile.ZIP_STORED  # MediaPipe maps it into memory
        assert content[item.header_offset :].startswith(b"PK\x03\x04")  # from the file's start
        assert archive.read("labels.txt").decode().splitlines() == list(metadata.labels)


def test_again_gives_the_same_bytes(content, metadata):
    assert packing.add(content, metadata) == content


def test_detached_is_the_model_as_it_was(content):
    assert model_file.detach(content) == INT8.read_bytes()
    assert model_file.detach(INT8.read_bytes()) == INT8.read_bytes()


def test_other_entries_of_the_model_stay(content):
    names = [entry.name for entry in parse_model(INT8.read_bytes(), "model").metadata]
    assert [entry.name for entry in parse_model(content, "model").metadata] == [
        *names,
        model_file.METADATA_NAME,
    ]


def test_segmenter_options_byte_for_byte():
    """Walked by hand: root offset, identifier, vtable, one byte in slot 0."""
    data = codec.encode("ImageSegmenterOptions", {"activation": 2}, identifier=SEGMENTER_IDENTIFIER)
    root = struct.unpack_from("<I", data)[0]
    assert data[4:8] == b"V001"
    vtable = root - struct.unpack_from("<i", data, root)[0]
    vtable_bytes, _, slot_0 = struct.unpack_from("<HHH", data, vtable)
    assert vtable_bytes == 6  # one slot; trailing empty ones are cut
    assert data[root + slot_0] == 2


def test_union_takes_two_slots():
    """Content: type of the union in slot 0, its table in slot 1, range in slot 2."""
    values = {
        "content_properties": ("ImageProperties", {"color_space": 1}),
        "range": {"min": 1, "max": 2},
    }
    data = codec.encode("Content", values, identifier=b"TEST")
    root = struct.unpack_from("<I", data)[0]
    vtable = root - struct.unpack_from("<i", data, root)[0]
    slots = struct.unpack_from("<5H", data, vtable)[2:]
    assert data[root + slots[0]] == 2  # ImageProperties is the second member
    table = root + slots[2]
    table += struct.unpack_from("<I", data, table)[0]
    inner = table - struct.unpack_from("<i", data, table)[0]
    smallest, largest = struct.unpack_from("<HH", data, inner + 4)
    assert struct.unpack_from("<i", data, table + smallest)[0] == 1
    assert struct.unpack_from("<i", data, table + largest)[0] == 2


def test_unknown_field_is_refused():
    with pytest.raises(ValueError, match="ValueRange: unknown field middle"):
        codec.encode("ValueRange", {"middle": 1}, identifier=b"TEST")


def test_metadata_of_another_writer(shared_dir):
    found = packing.read(shared_dir / "models" / "mobilenet_v2_1.0_224_quant.tflite")
    assert found.name == "ImageClassifier"
    assert len(found.labels) == 1001
    assert found.preprocessing.mean == (127.5,)
    assert packing.read(shared_dir / "models" / "deeplabv3_257_mv_gpu.tflite") is None


def test_metadata_of_another_writer_is_replaced(shared_dir, tmp_path, metadata):
    theirs = shared_dir / "models" / "mobilenet_v2_1.0_224_quant.tflite"
    path = tmp_path / "ours.tflite"
    path.write_bytes(packing.add(theirs.read_bytes(), metadata))
    assert packing.read(path) == metadata
    names = [entry.name for entry in parse_model(path.read_bytes(), "model").metadata]
    assert names.count(model_file.METADATA_NAME) == 1
    assert list(model_file.extract(path.read_bytes(), "model")[1]) == ["labels.txt"]


def test_a_file_without_metadata_says_nothing():
    assert packing.read(INT8) is None


def test_damaged_metadata_costs_one_line(content):
    encoded, files = model_file.extract(content, "model")
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(encoded)
        for position in rng.integers(0, len(damaged), 4):
            damaged[position] = rng.integers(256)
        try:
            packing.parse(bytes(damaged), files)
        except ValueError:
            refused += 1
    assert 50 < refused < 400  # most hits are text or padding


def test_missing_label_file_is_named(content, tmp_path):
    path = tmp_path / "bare.tflite"
    path.write_bytes(content[: content.index(b"PK\x03\x04")])
    with pytest.raises(ValueError, match=r"'labels\.txt' is named but not packed"):
        packing.read(path)


def test_huge_associated_file_is_not_unpacked(tmp_path):
    stream = io.BytesIO(INT8.read_bytes())
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", bytes(model_file.MAX_FILE_BYTES + 1))
    path = tmp_path / "bomb.tflite"
    path.write_bytes(stream.getvalue())
    with pytest.raises(
        ValueError,
        match=r"at most 1048576 bytes of associated files, got 1048577 up to 'labels\.txt'",
    ):
        packing.read(path)


def test_a_copy_that_computes_something_else_is_not_written(monkeypatch, tmp_path):
    """One weight in the middle of the file's bytes is another: it parses, loads and runs."""

    def add_and_break(model, metadata):
        changed = schema.ModelT.InitFromPackedBuf(packing.add(model, metadata), 0)
        largest = max(
            (buffer for buffer in changed.buffers if buffer.data is not None),
            key=lambda buffer: len(buffer.data),
        )
        largest.data = 255 - np.asarray(largest.data, np.uint8)
        return pack(changed, len(model))

    output = tmp_path / "with.tflite"
    add_metadata(AddOptions(INT8, output))
    before = output.read_bytes()
    monkeypatch.setattr(addition, "add", add_and_break)
    with pytest.raises(RuntimeError, match="with metadata computes another output"):
        add_metadata(AddOptions(INT8, output, overwrite=True))
    assert output.read_bytes() == before


def test_a_file_that_does_not_run_here_gets_its_metadata_and_is_said(monkeypatch, tmp_path, caplog):
    def refuse(path):
        raise RuntimeError(f"{path}: custom operator of an accelerator")

    monkeypatch.setattr(addition, "FileRunner", refuse)
    add_metadata(AddOptions(INT8, tmp_path / "with.tflite"))
    assert "does not run here" in caplog.text
    assert (tmp_path / "with.tflite").is_file()
