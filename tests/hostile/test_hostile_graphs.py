"""SavedModels and frozen graphs that write or read files: refused before TensorFlow loads them."""

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from export.conversion import freeze
from export.conversion.foreign_operators import TRUST_FLAG, checked_saved_model
from tests.children import run_command


class Resource(tf.saved_model.experimental.TrackableResource):
    """Its initializer runs in tf.saved_model.load."""

    def __init__(self, action):
        super().__init__()
        self._action = action

    def _create_resource(self):
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="hostile")

    def _initialize(self):
        self._action()


class Network(tf.Module):
    def __init__(self, at_load=None, in_call=None):
        super().__init__()
        self.scale = tf.Variable(2.0)
        self._in_call = in_call
        if at_load:
            self.resource = Resource(at_load)

    @tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 3], tf.float32, name="image")])
    def __call__(self, image):
        if self._in_call:
            self._in_call()
        return {"logits": image * self.scale}


def write_saved_model(folder, **actions):
    network = Network(**actions)
    tf.saved_model.save(network, str(folder), signatures=network.__call__)
    return folder


def write_file(marker):
    return lambda: tf.io.write_file(str(marker), "written")


def refused(folder, operator):
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(ValueError, match=f"the operator {operator} .*{TRUST_FLAG}") as caught:
        freeze.freeze_saved_model(folder, 8, width=8)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)
    assert sorted(folder.parent.rglob("*")) == before


def test_an_initializer_that_writes_a_file(tmp_path):
    marker = tmp_path / "written"
    folder = write_saved_model(tmp_path / "m", at_load=write_file(marker))
    refused(folder, "WriteFile")
    freeze.freeze_saved_model(folder, 8, width=8, trusted=True)
    assert marker.exists()  # it was hostile


@pytest.mark.parametrize(
    ("operator", "action"),
    [
        ("ReadFile", lambda: tf.io.read_file("/etc/hostname")),
        ("MatchingFiles", lambda: tf.io.matching_files("/*")),
        ("PrintV2", lambda: tf.print("x")),
        ("EagerPyFunc", lambda: tf.py_function(lambda: 1.0, [], tf.float32)),
        ("PyFuncStateless", lambda: tf.numpy_function(lambda: 1.0, [], tf.float32, False)),
        (
            "RestoreV2",
            lambda: tf.raw_ops.RestoreV2(
                prefix="/x", tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32]
            ),
        ),
        (
            "ImmutableConst",
            lambda: tf.raw_ops.ImmutableConst(
                dtype=tf.float32, shape=[1], memory_region_name="/etc/hostname"
            ),
        ),
        (
            "DebugIdentity",
            lambda: tf.raw_ops.DebugIdentity(input=1.0, debug_urls=["file:///tmp/never"]),
        ),
        (
            "(TensorSlice|FixedLengthRecord)Dataset(V2)?",
            lambda: tf.data.FixedLengthRecordDataset("/x", 1),
        ),
    ],
)
@pytest.mark.parametrize("place", ["at_load", "in_call"])
def test_operators_that_reach_beyond_tensors(tmp_path, operator, action, place):
    refused(write_saved_model(tmp_path / "m", **{place: action}), operator)


def test_a_table_that_is_read_from_a_file(tmp_path):
    (tmp_path / "words.txt").write_text("a\nb\n")
    network = Network()
    words = tf.lookup.TextFileInitializer(str(tmp_path / "words.txt"), tf.string, 0, tf.int64, -1)
    network.table = tf.lookup.StaticHashTable(words, -1)
    network.lookup = tf.function(lambda: network.table.lookup(tf.constant(["a"])))
    network.lookup.get_concrete_function()
    tf.saved_model.save(network, str(tmp_path / "m"), signatures=network.__call__)
    refused(tmp_path / "m", "(HashTableV2|InitializeTableFromTextFileV2)")


def test_saving_operators_are_taken_out_and_the_rest_computes_the_same(tmp_path):
    marker = tmp_path / "elsewhere"

    def save():
        tf.raw_ops.SaveV2(
            prefix=str(marker), tensor_names=["a"], shape_and_slices=[""], tensors=[[1.0]]
        )

    folder = write_saved_model(tmp_path / "m", at_load=save)
    with checked_saved_model(folder) as checked:
        assert b"SaveV2\x1a" not in (checked / "saved_model.pb").read_bytes()
        tf.saved_model.load(str(checked))
    frozen = freeze.freeze_saved_model(folder, 8, width=8)
    (found,) = frozen(tf.ones([1, 8, 8, 3]))
    assert float(tf.reduce_max(abs(found - 2.0))) == 0.0  # the variable was restored
    assert not list(tmp_path.glob("elsewhere*"))


def first_version(folder, export):
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        image = tf.compat.v1.placeholder(tf.float32, [1, 8, 8, 3], name="image")
        scale = tf.compat.v1.get_variable("scale", initializer=2.0, use_resource=True)
        logits = tf.multiply(image, scale, name="logits")
        session.run(tf.compat.v1.global_variables_initializer())
        signature = tf.compat.v1.saved_model.predict_signature_def({"image": image}, {"y": logits})
        builder = tf.compat.v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, main_op=export()
        )
        builder.save()
    return folder


def test_saved_models_of_the_first_version(tmp_path):
    folder = first_version(tmp_path / "good", tf.no_op)
    (found,) = freeze.freeze_saved_model(folder, 8, width=8)(tf.ones([1, 8, 8, 3]))
    assert float(tf.reduce_max(abs(found - 2.0))) == 0.0
    marker = tmp_path / "written"
    refused(first_version(tmp_path / "bad", write_file(marker)), "WriteFile")
    assert not marker.exists()


def changed(folder, change):
    path = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    change(saved.meta_graphs[0])
    path.write_bytes(saved.SerializeToString())
    return folder


def test_a_function_with_the_name_of_an_operator(tmp_path):
    folder = write_saved_model(tmp_path / "m", at_load=write_file(tmp_path / "written"))

    def add_function(meta_graph):
        meta_graph.graph_def.library.function.add().signature.name = "WriteFile"

    refused(changed(folder, add_function), "WriteFile")


def test_the_saver_reads_no_file_of_the_authors_choice(tmp_path):
    folder = first_version(tmp_path / "m", tf.no_op)

    def choose(meta_graph):
        for node in meta_graph.graph_def.node:
            if node.name == "save/filename/input":
                node.attr["value"].tensor.string_val[0] = b"/elsewhere"

    with checked_saved_model(changed(folder, choose)) as checked:
        saved = saved_model_pb2.SavedModel.FromString((checked / "saved_model.pb").read_bytes())
        nodes = saved.meta_graphs[0].graph_def.node
        (reader,) = [node for node in nodes if node.op == "RestoreV2"]
        (name,) = [node for node in nodes if node.name == reader.input[0]]
    assert (name.op, list(name.input)) == ("Placeholder", [])
    freeze.freeze_saved_model(folder, 8, width=8)

    def read_the_choice(meta_graph):
        for node in meta_graph.graph_def.node:
            if node.op == "RestoreV2":
                node.input[0] = "save/filename/input"

    refused(changed(folder, read_the_choice), "RestoreV2")


def write_frozen(path, action):
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, [1, 8, 8, 3], name="image")
        with tf.control_dependencies([action()]):
            tf.identity(image, name="logits")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def test_frozen_graphs(tmp_path):
    marker = tmp_path / "written"
    path = write_frozen(tmp_path / "hostile.pb", write_file(marker))
    with pytest.raises(ValueError, match=r"the operator WriteFile .* in the graph"):
        freeze.freeze_graph(path, "image", output_array="logits", height=8, width=8)
    freeze.freeze_graph(
        write_frozen(tmp_path / "good.pb", tf.no_op),
        "image",
        output_array="logits",
        height=8,
        width=8,
    )
    assert not marker.exists()


def test_files_of_another_kind(tmp_path):
    folder = write_saved_model(tmp_path / "m")
    graph = folder / "saved_model.pb"
    with pytest.raises(ValueError, match="not a frozen graph"):
        freeze.freeze_graph(graph, "a", output_array="b", height=8, width=8)
    with pytest.raises(ValueError, match=r"expected a folder with saved_model\.pb"):
        freeze.freeze_saved_model(graph, 8, width=8)
    graph.write_bytes(b"\x0a\xff")
    with pytest.raises(ValueError, match=r"saved_model\.pb is damaged"):
        freeze.freeze_saved_model(folder, 8, width=8)


def test_the_command_ends_with_one_line(tmp_path):
    marker = tmp_path / "written"
    folder = write_saved_model(tmp_path / "m", at_load=write_file(marker))
    done = run_command(
        "export.to_tflite",
        f"--saved_model={folder}",
        "--size=8,8",
        "--variants=float32",
        f"--output_dir={tmp_path / 'out'}",
        environment={"TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=300,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1
    assert len(lines) == 1, done.stderr
    assert "the operator WriteFile" in lines[0]
    assert "Traceback" not in done.stderr
    assert not marker.exists()
    assert not (tmp_path / "out").exists()
