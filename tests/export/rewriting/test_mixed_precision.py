"""Layers at a higher precision: the real files in the interpreter, and what is refused."""

import functools
import re

import numpy as np
import pytest
import tf_keras as keras
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.readers.synthetic import LABEL_SET
from deeplab_tf.quantization.ptq.post_training import PostTraining, quantize_post_training
from deeplab_tf.quantization.ptq.sensitivity import find_units
from export.conversion import freeze
from export.conversion.convert import Conversion, convert
from export.conversion.gate import check_file, check_mixed_precision, run_once
from export.conversion.pipeline import export_files
from export.conversion.variants import FileSpec, Head, IoDtype, Variant
from export.rewriting.mixed_precision import (
    Precision,
    apply_mixed_precision,
    find_layers,
    mixed_precision_positions,
    set_precision,
)
from tests.decibels import snr_db
from tests.export.conftest import TrainedSource, make_plan
from tests.small_network import SIZE, small_keras_model
from tests.zoo import scenes, trained_float_model
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.flatbuffer.pack import pack

INPUT_RANGE = (-1.0, 127 / 128)
FLOAT_LAYERS = ("Conv1", "expanded_conv_depthwise", "block_16_depthwise", "logits")
WIDE_LAYERS = ("block_2_add", "block_3_expand", "aspp_concat", "aspp_project_conv", "aspp_pooling")


@functools.lru_cache(maxsize=2)
def post_trained(per_channel=False):
    return quantize_post_training(
        trained_float_model(),
        PostTraining(per_channel),
        batches=[scenes(4)],
        input_range=INPUT_RANGE,
    )


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed") / "saved_model"
    freeze.write_saved_model(freeze.freeze_model(post_trained().model, Head.LOGITS_LOW), folder)
    spec = FileSpec(
        Variant.QAT_INT8, Head.LOGITS_LOW, input_dtype=IoDtype.FLOAT32, output_dtype=IoDtype.FLOAT32
    )
    return convert(Conversion(folder, spec, calibration_file=None, preprocessing=Preprocessing()))


def run(content, image):
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def graph_of(content, tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(content)
    return read_graph(path)


def test_float_layers_give_back_what_they_lost(content, tmp_path):
    # One weight scale a kernel: a few depthwise layers lose nearly all of it.
    image = scenes(1)
    wanted = trained_float_model()(image).numpy()
    depthwise = tuple(
        node.name for node in post_trained().description.nodes if node.kind == "depthwise_conv2d"
    )
    mixed = apply_mixed_precision(content, post_trained(), keep_float=depthwise, int16=())
    assert snr_db(wanted, run(mixed, image)) > snr_db(wanted, run(content, image)) + 3
    graph = graph_of(mixed, tmp_path)
    for operator in graph.operators:
        expected = "FLOAT32" if operator.kind == "DEPTHWISE_CONV_2D" else "INT8"
        if operator.kind in ("DEPTHWISE_CONV_2D", "CONV_2D"):
            assert graph.tensors[operator.inputs[1]].type_name == expected


def test_all_layers_float_is_the_float_network(content):
    image = scenes(1)
    every = tuple(
        node.name
        for node in post_trained().description.nodes
        if node.kind in ("conv2d", "depthwise_conv2d", "add", "concatenate")
    )
    mixed = apply_mixed_precision(content, post_trained(), keep_float=every, int16=())
    wanted = trained_float_model()(image).numpy()
    # What is left of 8 bits: the pooled branch and what the resizes read.
    assert snr_db(wanted, run(mixed, image)) > 30


def test_16_bits_between_neighbours(content, tmp_path):
    image = scenes(1)
    mixed = apply_mixed_precision(content, post_trained(), keep_float=(), int16=WIDE_LAYERS)
    graph = graph_of(mixed, tmp_path)
    positions = find_layers(mixed, list(WIDE_LAYERS))
    for name, position in positions.items():
        operator = graph.operators[position]
        assert graph.tensors[operator.outputs[0]].type_name == "INT16", name
    add, expand = (graph.operators[positions[n]] for n in ("block_2_add", "block_3_expand"))
    assert expand.inputs[0] == add.outputs[0]  # no detour by 8 bits
    assert graph.tensors[expand.inputs[2]].type_name == "INT64"
    # 32767 steps on each side of 0 cover what the 8 bits of the same tensor cover.
    before = graph_of(content, tmp_path)
    for name, position in find_layers(content, list(WIDE_LAYERS)).items():
        wide = graph.tensors[graph.operators[positions[name]].outputs[0]].quantization
        narrow = before.tensors[before.operators[position].outputs[0]].quantization
        (scale,), (zero_point,) = narrow.scale, narrow.zero_point
        covered = scale * max(127 - zero_point, zero_point + 128)
        assert 32767 * wide.scale[0] == pytest.approx(covered, rel=1e-6), name
    # Never worse than 8 bits by more than the rounding of a few values.
    wanted = trained_float_model()(image).numpy()
    assert snr_db(run(content, image), run(mixed, image)) > 15
    assert snr_db(wanted, run(mixed, image)) > snr_db(wanted, run(content, image)) - 1


def test_mixed_file_runs_and_the_rest_is_untouched(content, tmp_path):
    mixed = apply_mixed_precision(
        content, post_trained(), keep_float=FLOAT_LAYERS, int16=WIDE_LAYERS
    )
    before, after = graph_of(content, tmp_path), graph_of(mixed, tmp_path)
    names = {after.tensors[o.outputs[0]].name: o for o in after.operators}
    changed = set(find_layers(content, [*FLOAT_LAYERS, *WIDE_LAYERS]).values())
    for operator in before.operators:
        if operator.position in changed:
            continue
        twin = names[before.tensors[operator.outputs[0]].name]
        assert twin.kind == operator.kind
        for old, new in zip(operator.inputs, twin.inputs, strict=True):
            if before.tensors[old].data is not None:
                np.testing.assert_array_equal(before.tensors[old].data, after.tensors[new].data)
    assert np.isfinite(run(mixed, scenes(1))).all()


def gate_of(content, mixed, wanted, tmp_path):
    """What the gate finds in a mixed file."""
    path = tmp_path / "mixed.tflite"
    path.write_bytes(mixed)
    return check_mixed_precision(path, graph_of(content, tmp_path), expected=wanted)


def test_gate_lets_the_named_operators_pass_and_no_other(content, tmp_path):
    names = {"keep_float": FLOAT_LAYERS, "int16": WIDE_LAYERS}
    mixed = apply_mixed_precision(content, post_trained(), **names)
    wanted = mixed_precision_positions(content, post_trained(), **names)
    assert len(wanted) == len(FLOAT_LAYERS) + len(WIDE_LAYERS)
    assert gate_of(content, mixed, wanted, tmp_path) == []
    assert run_once(tmp_path / "mixed.tflite") == []
    # The plain gate has no exceptions: the same file is one of floats to it.
    spec = FileSpec(
        Variant.INT8, Head.LOGITS_LOW, input_dtype=IoDtype.FLOAT32, output_dtype=IoDtype.FLOAT32
    )
    faults = check_file(
        tmp_path / "mixed.tflite", spec, preprocessing=Preprocessing(), per_channel=False
    )
    assert any("computes with float tensor" in fault for fault in faults)
    # Each exception is needed, the type of each, and the conversions around each.
    for position, kind in wanted.items():
        fewer = {other: k for other, k in wanted.items() if other != position}
        faults = gate_of(content, mixed, fewer, tmp_path)
        assert any("as in the integer file, got" in fault for fault in faults), position
        other = {"FLOAT32": "INT16", "INT16": "FLOAT32"}[kind]
        faults = gate_of(content, mixed, wanted | {position: other}, tmp_path)
        assert any(f"expected {other}, got" in fault for fault in faults), position
    assert any(
        "converts" in fault and "no operator of that precision reads or writes" in fault
        for fault in gate_of(content, mixed, {}, tmp_path)
    )


def test_gate_refuses_what_was_asked_for_and_not_done(content, tmp_path):
    positions = find_layers(content, ["logits", "block_3_expand"])
    wanted = dict.fromkeys(positions.values(), "FLOAT32")
    mixed = apply_mixed_precision(content, post_trained(), keep_float=("logits",), int16=())
    (fault,) = gate_of(content, mixed, wanted, tmp_path)
    assert fault.endswith("expected FLOAT32, got INT8")
    (fault,) = gate_of(content, content, {0: "FLOAT32"}, tmp_path)
    # The QUANTIZE of the image.
    assert fault.startswith("operator 0 cannot be of mixed precision: it is a conversion")


def test_a_file_that_gives_nan_or_does_not_load_is_found_by_running_it(content, tmp_path):
    position = find_layers(content, ["logits"])["logits"]
    kernel = np.moveaxis(post_trained().arrays["logits/kernel"], 3, 0)
    path = tmp_path / "a.tflite"
    for offset, fault in ((0.0, ""), (np.nan, "expected finite outputs")):
        weights = {position: (kernel, np.full(len(kernel), offset))}
        mixed = set_precision(content, {position: Precision.FLOAT32}, weights=weights)
        model = schema.ModelT.InitFromPackedBuf(mixed, 0)
        graph = model.subgraphs[0]
        (last,) = (  # the file ends with the float logits
            place
            for place, operator in enumerate(graph.operators)
            if len(operator.inputs) > 1
            and graph.tensors[operator.outputs[0]].type == schema.TensorType.FLOAT32
        )
        graph.operators, graph.outputs = (
            graph.operators[: last + 1],
            graph.operators[last].outputs,
        )
        model.signatureDefs = None
        path.write_bytes(pack(model, len(mixed)))
        found = run_once(path)
        assert (found == []) == (not fault)
        assert all(line.startswith(fault) for line in found)
    for code in model.operatorCodes:
        code.version = 99  # no kernel has
    path.write_bytes(pack(model, len(content)))
    (line,) = run_once(path)
    assert line.startswith("the runtime does not run it: ")


class SmallSource(TrainedSource):
    description = "four convolutions"

    def float_model(self, height, width):
        return small_keras_model((height, width))


@pytest.mark.parametrize("broken", ["one more layer", "not a file that runs", ""])
def test_export_gates_and_runs_what_it_ships(broken, monkeypatch, tmp_path):
    def rewrite_and_break(content, done, keep_float, int16):
        if broken == "one more layer":
            return apply_mixed_precision(
                content, done, keep_float=(*keep_float, "block_1_project"), int16=int16
            )
        mixed = apply_mixed_precision(content, done, keep_float=keep_float, int16=int16)
        if not broken:
            return mixed
        model = schema.ModelT.InitFromPackedBuf(mixed, 0)
        for code in model.operatorCodes:
            code.version = 99
        return pack(model, len(mixed))

    monkeypatch.setattr("export.conversion.pipeline.apply_mixed_precision", rewrite_and_break)
    spec = FileSpec(
        Variant.INT8, Head.LOGITS_LOW, input_dtype=IoDtype.UINT8, output_dtype=IoDtype.UINT8
    )
    steps = PostTraining(keep_float=("logits",), int16=("block_1_add",))
    plan = make_plan(
        tmp_path / "files",
        [spec],
        post_training=steps,
        height=SIZE[0],
        width=SIZE[1],
        label_set=LABEL_SET,
    )
    (file,) = export_files(SmallSource(), plan)
    if broken:
        reason = {"one more layer": "as in the integer file, got"}.get(broken, "does not run it")
        assert file.failure.startswith("refused by the gate: ")
        assert reason in file.failure
        assert not (tmp_path / "files").exists()
    else:
        assert file.failure == ""
        assert file.path.is_file()


def test_unknown_layers_are_named(content):
    with pytest.raises(
        ValueError, match=re.escape("computes layer 'block_2_depthwis'; near: block")
    ):
        find_layers(content, ["block_2_depthwis"])
    with pytest.raises(ValueError, match="no separate layer 'aspp_resize'"):
        quantize_post_training(
            trained_float_model(),
            PostTraining(keep_float=("aspp_resize",)),
            batches=[scenes(1)],
            input_range=INPUT_RANGE,
        )
    with pytest.raises(ValueError, match="keep_float and int16 both name logits; choose one"):
        PostTraining(keep_float=("logits",), int16=("logits",))


def test_operators_without_such_a_kernel_are_refused(content):
    with pytest.raises(ValueError, match=r"operator 0 \(QUANTIZE .* has no int16x8 form here"):
        set_precision(content, {0: Precision.INT16X8}, weights={})
    with pytest.raises(ValueError, match="operator 1: its float weights are not known"):
        set_precision(content, {1: Precision.FLOAT32}, weights={})


def test_every_unit_of_an_equalized_network_can_be_float(tmp_path):
    # A limit a channel is a MINIMUM with an int8 constant: its values become float, too.
    done = quantize_post_training(
        trained_float_model(),
        PostTraining(per_channel=False, equalize=True),
        batches=[scenes(4)],
        input_range=INPUT_RANGE,
    )
    folder = tmp_path / "saved_model"
    freeze.write_saved_model(freeze.freeze_model(done.model, Head.LOGITS_LOW), folder)
    spec = FileSpec(
        Variant.QAT_INT8, Head.LOGITS_LOW, input_dtype=IoDtype.FLOAT32, output_dtype=IoDtype.FLOAT32
    )
    content = convert(
        Conversion(folder, spec, calibration_file=None, preprocessing=Preprocessing())
    )
    every = tuple(unit.name for unit in find_units(done.description, done.arrays))
    mixed = apply_mixed_precision(content, done, keep_float=every, int16=())
    image = scenes(1)
    wanted = trained_float_model()(image).numpy()
    assert snr_db(wanted, run(mixed, image)) > snr_db(wanted, run(content, image)) + 15
    kinds = {operator.kind for operator in graph_of(mixed, tmp_path).operators}
    assert "MINIMUM" in kinds


@pytest.fixture(scope="module")
def with_activations_inside(tmp_path_factory):
    """Two convolutions with a ReLU inside, a transposed one: network, its float self, the file."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(24, 3, padding="same", activation="relu", name="stem")(image)
    x = layers.Conv2D(24, 3, padding="same", activation="relu", name="body")(x)
    x = layers.Conv2DTranspose(12, 3, strides=2, bias_initializer="normal", name="up")(x)
    model = keras.Model(image, layers.Conv2D(5, 1, name="logits")(x))
    photos = np.random.default_rng(0).uniform(-1, 127 / 128, (4, 16, 16, 3)).astype(np.float32)
    done = quantize_post_training(
        model,
        PostTraining(keep_float=("stem",), int16=("body",)),
        batches=[photos],
        input_range=INPUT_RANGE,
    )
    folder = tmp_path_factory.mktemp("inside") / "saved_model"
    freeze.write_saved_model(freeze.freeze_model(done.model, Head.LOGITS_LOW), folder)
    spec = FileSpec(
        Variant.QAT_INT8, Head.LOGITS_LOW, input_dtype=IoDtype.FLOAT32, output_dtype=IoDtype.FLOAT32
    )
    return (
        done,
        model,
        photos,
        convert(Conversion(folder, spec, calibration_file=None, preprocessing=Preprocessing())),
    )


@pytest.mark.parametrize("name", ["stem", "stem_linear"])
def test_layer_with_its_activation_inside_goes_by_both_names(
    name, with_activations_inside, tmp_path
):
    done, model, photos, content = with_activations_inside
    for precision, kept in (("FLOAT32", ((name,), ())), ("INT16", ((), (name,)))):
        mixed = apply_mixed_precision(content, done, keep_float=kept[0], int16=kept[1])
        graph = graph_of(mixed, tmp_path)
        (first, *_) = (op for op in graph.operators if op.kind == "CONV_2D")
        assert graph.tensors[first.outputs[0]].type_name == precision
        found = run(mixed, photos[:1])
        assert snr_db(model(photos[:1]).numpy(), found) > 25
        assert snr_db(run(content, photos[:1]), found) < 60  # not the same file
    with pytest.raises(ValueError, match=r"no separate layer 'steam'; similar names: stem"):
        apply_mixed_precision(content, done, keep_float=("steam",), int16=())


def test_float_transposed_convolution(with_activations_inside, tmp_path):
    done, model, photos, content = with_activations_inside
    every = ("stem", "body", "up", "logits")
    mixed = apply_mixed_precision(content, done, keep_float=every, int16=())
    kinds = {operator.kind for operator in graph_of(mixed, tmp_path).operators}
    assert "TRANSPOSE_CONV" in kinds
    # All in float32 between an exact photo and the output, which is rounded to 8 bits once.
    exact = np.rint(photos[:1] * 128) / 128
    low, high = done.ranges["logits"]
    wanted = np.clip(model(exact).numpy(), low, high)
    assert np.abs(run(mixed, exact) - wanted).max() < 0.52 * (high - low) / 255
    assert np.abs(run(content, exact) - wanted).max() > (high - low) / 255
    with pytest.raises(ValueError, match=r"TRANSPOSE_CONV .* has no int16x8 form here"):
        apply_mixed_precision(content, done, keep_float=(), int16=("up",))
