"""`.tflite` files that are too large, too long, or hold values that divide by zero: one line."""

import io
import itertools
import pathlib
import time
import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from deeplab_tf.command import USER_ERRORS
from tests.hostile import files
from tests.hostile.commands import watch
from tests.paths import CAMVID
from tflite_tools.contract import read_contract
from tflite_tools.deployment.add_metadata import AddOptions, add_metadata
from tflite_tools.deployment.client_rules import Client, check_file
from tflite_tools.deployment.targets.registry import check_target
from tflite_tools.diagnosis.case import open_case
from tflite_tools.diagnosis.diagnosis import diagnose
from tflite_tools.diagnosis.observation import Effort
from tflite_tools.flatbuffer import graph as graph_module
from tflite_tools.flatbuffer.editor import Editor
from tflite_tools.flatbuffer.file_bytes import LARGEST_FILE_BYTES, read_model_bytes
from tflite_tools.flatbuffer.graph import parse_model, read_checked_graph, read_graph
from tflite_tools.flatbuffer.pack import pack
from tflite_tools.metadata import packing
from tflite_tools.runtime.memory import needed_bytes_of
from tflite_tools.to_keras.importer import import_file

INT8 = CAMVID / "int8.tflite"
READERS = {
    "graph": read_graph,
    "checked graph": read_checked_graph,
    "metadata": packing.read,
    "contract": read_contract,
    "client": lambda path: [check_file(path, client) for client in Client],
    "targets": lambda path: [
        check_target(read_graph(path), target) for target in ("edgetpu", "gpu", "nnapi")
    ],
    "diagnosis": lambda path: diagnose(open_case(path, None), Effort(processes=1)),
    "metadata addition": lambda path: add_metadata(
        AddOptions(path, path.with_suffix(".out.tflite"), overwrite=True)
    ),
    "import": import_file,
}


@pytest.mark.parametrize("reader", READERS)
def test_a_file_is_refused_by_its_size_before_it_is_read(tmp_path, reader):
    path = files.sparse(tmp_path / "m.tflite", 200 * 10**9)
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"expected at most 8,589,934,592 bytes, got 200,000,0"):
        READERS[reader](path)
    assert time.monotonic() - started < 5


def test_a_command_says_so_in_one_line_and_little_memory(tmp_path):
    path = files.sparse(tmp_path / "m.tflite", 200 * 10**9)
    done = watch(tmp_path, "tflite_tools.check_client", f"--model={path}")
    assert done.status == 1
    assert f"{path}: expected at most" in done.line
    assert done.peak_mb < 600  # Python, NumPy and the schema
    assert done.seconds < 60
    assert not done.left
    assert not done.files


def test_another_kind_of_file_is_refused_by_its_first_bytes(tmp_path):
    path = files.sparse(tmp_path / "m.tflite", LARGEST_FILE_BYTES, b"\x1c\0\0\0ELF0")
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"not a \.tflite file"):
        read_graph(path)
    assert time.monotonic() - started < 1


def test_a_file_is_read_and_verified_once(monkeypatch, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(INT8.read_bytes())
    visits = []
    verify = graph_module.verify
    monkeypatch.setattr(graph_module, "verify", lambda content: visits.append(1) or verify(content))
    check_file(path, Client.MEDIAPIPE)
    assert visits == [1]
    assert read_model_bytes(path) is read_model_bytes(path)
    path.write_bytes(INT8.read_bytes() + b"0")  # a changed file is read again
    assert len(read_model_bytes(path)) == INT8.stat().st_size + 1


def test_a_long_chain_is_refused_for_keras_and_read_by_the_rest(tmp_path):
    path = files.chain(tmp_path / "m.tflite", 3000)
    check_file(path, Client.MEDIAPIPE)
    started = time.monotonic()
    with pytest.raises(ValueError, match="expected at most 900 layers one after the other, got 30"):
        import_file(path)
    # 0.4 s; quadratic names alone took ten times as long
    assert time.monotonic() - started < 20


def test_names_that_are_all_equal_do_not_take_quadratic_time(tmp_path):
    editor = Editor()
    kind = schema.TensorType.FLOAT32
    tensors = [editor.add_tensor("same", (1, 4, 4, 3), kind=kind) for _ in range(801)]
    for before, after in itertools.pairwise(tensors):
        editor.graph.operators.append(editor.new_operator("RELU", [before], outputs=[after]))
    editor.graph.inputs, editor.graph.outputs = [tensors[0]], [tensors[-1]]
    path = tmp_path / "m.tflite"
    path.write_bytes(pack(editor.model, 1 << 16))
    names = [node.name for node in import_file(path).description.nodes]
    assert len({name.lower() for name in names}) == 800


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("where", ["input", "weights", "output"])
@pytest.mark.parametrize(
    ("scale", "zero_point"),
    [(0.5, -(2**62)), (0.5, 2**31), (0.5, 300), (0.0, 0), (-1.0, 0), (1e-45, 0), (3e38, 127)],
)
def test_strange_quantization(tmp_path, where, scale, zero_point):
    path = files.quantized(tmp_path / "m.tflite", scale=scale, zero_point=zero_point, where=where)
    for reader in READERS.values():
        try:
            reader(path)
        except USER_ERRORS as error:
            assert "\n" not in str(error)
    if abs(zero_point) > 127 or scale < 0:
        with pytest.raises(ValueError, match=r"quantization of tensor .* is invalid"):
            read_graph(path)


@pytest.mark.parametrize(("offset", "reason"), [(4, "among the tables"), (10**9, "the file has")])
def test_weights_at_a_position_that_holds_none(tmp_path, offset, reason):
    model = parse_model(INT8.read_bytes(), "int8")
    stored = next(buffer for buffer in model.buffers[1:] if buffer.data is not None)
    stored.data, stored.offset, stored.size = None, offset, 64
    path = tmp_path / "m.tflite"
    path.write_bytes(pack(model, 1 << 20))
    for name in READERS.keys() - {"metadata"}:  # which looks at no weights
        reader = READERS[name]
        with pytest.raises(ValueError, match=f"lies at bytes {offset} to {offset + 64}, {reason}"):
            reader(path)


def test_files_behind_the_graph_that_unpack_to_too_much(tmp_path):
    stream = io.BytesIO(INT8.read_bytes())
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(70_000_000))
    editor = Editor(stream.getvalue())
    editor.graph.tensors[0].name = b"renamed"
    with pytest.raises(ValueError, match="expected at most 64000000 bytes of files behind"):
        editor.to_bytes()


def test_the_memory_of_a_child_follows_the_file(tmp_path):
    small = needed_bytes_of(files.quantized(tmp_path / "m.tflite"))
    assert small < needed_bytes_of(INT8) < 10**9
    (tmp_path / "broken.tflite").write_bytes(b"x")
    assert needed_bytes_of(tmp_path / "broken.tflite") > 10**12


def test_names_do_not_command_the_terminal(tmp_path):
    editor = Editor(INT8.read_bytes())
    for tensor in editor.graph.tensors:
        tensor.name = b"\x1b[2J\x1b]0;hostile\x07" + (tensor.name or b"")
    path = tmp_path / "m.tflite"
    path.write_bytes(pack(editor.model, 1 << 20))
    done = watch(tmp_path, "tflite_tools.check_target", f"--model={path}", "--target=gpu")
    assert "\x1b" not in done.output + done.errors
    assert "\x07" not in done.output + done.errors


def test_a_path_that_the_locale_cannot_encode(tmp_path):
    folder = tmp_path / "Straße \N{PALM TREE}"
    folder.mkdir()
    path = pathlib.Path(files.quantized(folder / "größe.tflite"))
    done = watch(
        tmp_path,
        "tflite_tools.check_target",
        f"--model={path}",
        "--target=gpu",
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )
    assert "Traceback" not in done.errors
    assert done.status == 0, done.errors


def test_zero_points_of_the_zoo_are_in_range():
    for path in (CAMVID / "int8.tflite", CAMVID / "qat_int8.tflite"):
        quantized = [t for t in read_graph(path).tensors if t.quantization is not None]
        assert len(quantized) > 50
        assert all(np.isfinite(tensor.quantization.scale).all() for tensor in quantized)
