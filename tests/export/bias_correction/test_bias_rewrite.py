"""Bias correction of finished files: shifts undone, bytes, shared buffers, refusals.

What a layer's new bias is does not depend on the old one: the sum's mean contains it. So a file
with a planted shift must become, bit for bit, what the file without it becomes.
"""

import dataclasses
import io
import pathlib
import warnings
import zipfile

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert import schema_py_generated as schema

from deeplab_tf.data.lidar.sensor import Sensor
from deeplab_tf.data.preprocessing import Preprocessing, place
from deeplab_tf.data.readers.synthetic import SyntheticDataset
from deeplab_tf.data.registry import open_dataset
from export.bias_correction import correction as bias_rewrite
from export.bias_correction.correction import correct_biases, rewrite_biases
from export.bias_correction.plan import BiasCorrectionPlan
from export.conversion.calibration import choose_samples
from tests.children import run_command
from tests.paths import CAMVID
from tflite_tools.flatbuffer.file_bytes import FILE_IDENTIFIER
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.flatbuffer.pack import share_equal_vectors
from tflite_tools.manifest import manifest_path, read_manifest, sha256_of
from tflite_tools.runtime.file_interpreter import FileRunner
from tflite_tools.to_keras.rules import RULES

layers = keras.layers
SIZE = (32, 48)
IMAGES = 4
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


def _photos() -> np.ndarray:
    """float32 [IMAGES, *SIZE, 3], the very photos of the plans below."""
    dataset = open_dataset("synthetic", None, split="val")
    chosen = choose_samples(dataset, IMAGES, seed=0)
    photos = np.stack([place(dataset.image(index), SIZE)[0] for index in chosen])
    photos[0, 0, 0], photos[0, 0, 1] = 0, 255
    return Preprocessing().normalize(photos)


def _network(batch: int | None = 1) -> keras.Model:
    """A ReLU6 network with two branches whose kernels have one shape, as those of an ASPP."""
    keras.utils.set_random_seed(0)
    image = keras.Input((*SIZE, 3), batch)

    def settings(activation):
        bias = keras.initializers.RandomNormal(0, 0.3)
        return {"padding": "same", "activation": activation, "bias_initializer": bias}

    def conv(x, filters, activation="relu6", size=1, strides=1):
        return layers.Conv2D(filters, size, strides, **settings(activation))(x)

    def depthwise(x, rate):
        return layers.DepthwiseConv2D(3, dilation_rate=rate, **settings("relu6"))(x)

    x = conv(image, 24, size=3, strides=2)
    x = conv(depthwise(x, 1), 16, None)
    x = layers.Add()([x, conv(conv(x, 96), 16, None)])
    x = layers.Concatenate()([conv(depthwise(x, rate), 32) for rate in (2, 3)])
    return keras.Model(image, conv(conv(x, 32), 5, None))


def _convert(model: keras.Model, integer: bool) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if integer:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([photo[None]] for photo in _photos())
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        return converter.convert()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> pathlib.Path:
    """Folder with int8.tflite and float32.tflite of one network."""
    folder = tmp_path_factory.mktemp("files")
    model = _network()
    (folder / "int8.tflite").write_bytes(_convert(model, True))
    (folder / "float32.tflite").write_bytes(_convert(model, False))
    return folder


def _plan(files, output, **changes) -> BiasCorrectionPlan:
    values = {
        "model": files / "int8.tflite",
        "output": output,
        "calibration": open_dataset("synthetic", None, split="val"),
        "reference": files / "float32.tflite",
        "calibration_images": IMAGES,
    }
    return BiasCorrectionPlan(**(values | changes))


@pytest.fixture(scope="module")
def corrected(files, tmp_path_factory):
    """(plan, result) of the file against its float twin."""
    plan = _plan(files, tmp_path_factory.mktemp("corrected") / "int8.tflite")
    return plan, correct_biases(plan)


def _edited(content: bytes, edit) -> bytes:
    """The file after a change of its unpacked tables."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    edit(model)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def _with_bias(content: bytes, position: int, bias: np.ndarray) -> bytes:
    """A float file with another bias."""

    def edit(model):
        operator = model.subgraphs[0].operators[position]
        buffer = model.subgraphs[0].tensors[operator.inputs[2]].buffer
        model.buffers[buffer].data = np.frombuffer(bias.tobytes(), np.uint8)

    return _edited(content, edit)


def _biases(path) -> dict[int, np.ndarray]:
    graph = read_graph(path)
    return {
        operator.position: graph.tensors[operator.inputs[2]].data
        for operator in graph.operators
        if operator.kind in CONVOLUTIONS
    }


def _shifted(source: pathlib.Path, target: pathlib.Path, layer: int, steps) -> pathlib.Path:
    """A copy with other biases in one of its convolutions."""
    positions = list(_biases(source))
    bias = _biases(source)[positions[layer]] + steps
    content, in_place = rewrite_biases(source.read_bytes(), {(positions[layer], 2): bias})
    assert in_place
    target.write_bytes(content)
    return target


def test_single_layer_by_hand(tmp_path):
    """A 1x1 convolution reads the pixels themselves: its error is (W - W~) E[x] + b - b~."""
    image = keras.Input((*SIZE, 3))
    model = keras.Model(image, layers.Conv2D(40, 1)(image))
    random = np.random.default_rng(1)
    kernel, bias = random.normal(size=(3, 40)), random.normal(size=40)
    model.layers[1].set_weights([kernel[None, None], bias])
    for name, integer in (("int8", True), ("float32", False)):
        (tmp_path / f"{name}.tflite").write_bytes(_convert(model, integer))
    result = correct_biases(_plan(tmp_path, tmp_path / "new.tflite"))
    graph = read_graph(tmp_path / "int8.tflite")
    operator = next(operator for operator in graph.operators if operator.kind in CONVOLUTIONS)
    weights, stored = (graph.tensors[index] for index in operator.inputs[1:])
    step = graph.tensors[operator.inputs[0]].quantization.scale * weights.quantization.scale
    rounded = weights.dequantized().reshape(40, 3).astype(np.float64)
    mean = _photos().astype(np.float64).mean((0, 1, 2))
    error = (kernel.T - rounded) @ mean + bias - stored.data * step
    wanted = np.rint(error / step)
    assert np.abs(wanted).max() >= 3  # else the layer had nothing to correct
    # One step apart where the hand's float64 and the network's float32 fall on two sides of a half.
    assert np.abs(result.layers[0].steps - wanted).max() <= 1
    np.testing.assert_array_equal(
        _biases(tmp_path / "new.tflite")[operator.position], stored.data + result.layers[0].steps
    )


def test_logits_come_closer_and_simulation_is_the_file(corrected):
    _, result = corrected
    assert len(result.layers) == 11
    assert result.snr_after_db > result.snr_before_db
    assert result.equal_outputs == 1.0
    assert result.in_place
    assert result.warnings() == []
    assert result.table().count("\n") == 11


def test_ratio_is_that_of_the_runtime(corrected, files):
    """The runtime's own outputs, over the same photos, give the reported decibels."""
    plan, result = corrected
    reference = FileRunner(files / "float32.tflite")
    wanted = np.stack([reference(photo[None]) for photo in _photos()]).astype(np.float64)
    for path, reported in (
        (plan.model, result.snr_before_db),
        (plan.output, result.snr_after_db),
    ):
        run = FileRunner(path)
        found = np.stack([run(photo[None]) for photo in _photos()])
        ratio = np.square(wanted).sum() / np.square(found - wanted).sum()
        # Keras' float32 sums and the runtime's differ in the last bits.
        assert 10 * np.log10(ratio) == pytest.approx(reported, abs=0.01)


@pytest.mark.parametrize("layer", [0, 4, 10])
def test_planted_shift_is_taken_back(corrected, files, tmp_path, layer):
    plan, clean = corrected
    steps = np.random.default_rng(layer).integers(-100_000, 100_000, _channels(files, layer))
    planted = _shifted(plan.model, tmp_path / "planted.tflite", layer, steps)
    result = correct_biases(_plan(files, tmp_path / "new.tflite", model=planted))
    assert result.snr_before_db < clean.snr_before_db - 1
    assert (tmp_path / "new.tflite").read_bytes() == plan.output.read_bytes()
    np.testing.assert_array_equal(result.layers[layer].steps, clean.layers[layer].steps - steps)


def _channels(files, layer: int) -> int:
    return len(list(_biases(files / "int8.tflite").values())[layer])


def test_second_correction_finds_nothing(corrected, files, tmp_path):
    plan, _ = corrected
    again = correct_biases(_plan(files, tmp_path / "again.tflite", model=plan.output))
    assert max(np.abs(layer.steps).max() for layer in again.layers) == 0
    assert again.snr_before_db == again.snr_after_db


def test_only_bytes_of_biases_change(corrected):
    """Found by the old biases' own bytes, each of which occurs once in the file."""
    plan, _ = corrected
    before, after = plan.model.read_bytes(), plan.output.read_bytes()
    assert len(before) == len(after)
    changed = np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)
    assert changed.any()
    for bias in _biases(plan.model).values():
        assert before.count(bias.tobytes()) == 1
        start = before.index(bias.tobytes())
        changed[start : start + bias.nbytes] = False
    assert not changed.any()


def test_without_reference_activations_alone_are_corrected(files, tmp_path):
    """The file's own floats have its wrong biases too; its first layer reads exact pixels."""
    steps = np.full(_channels(files, 10), 5000)
    planted = _shifted(files / "int8.tflite", tmp_path / "planted.tflite", 10, steps)
    plan = _plan(files, tmp_path / "new.tflite", model=planted, reference=None)
    result = correct_biases(plan)
    assert np.abs(result.layers[0].steps).max() <= 1
    assert np.abs(result.layers[10].steps).max() < 1000
    assert max(np.abs(layer.steps).max() for layer in result.layers) > 1


def test_int32_sum_cannot_overflow(files, tmp_path):
    """A reference that wants a bias of 1e6 gets the largest with which no input overflows."""
    reference = tmp_path / "high.tflite"
    content = (files / "float32.tflite").read_bytes()
    last = list(_biases(files / "float32.tflite"))[-1]
    reference.write_bytes(_with_bias(content, last, np.full(5, 1e6, np.float32)))
    result = correct_biases(_plan(files, tmp_path / "new.tflite", reference=reference))
    assert [layer.limited for layer in result.layers] == [0] * 10 + [5]
    assert any("5 corrections" in line for line in result.warnings())
    graph = read_graph(tmp_path / "new.tflite")
    operator = next(op for op in reversed(graph.operators) if op.kind in CONVOLUTIONS)
    data, weights, bias = (graph.tensors[index] for index in operator.inputs)
    zero_point = int(data.quantization.zero_point[0])
    largest_input = max(zero_point + 128, 127 - zero_point)
    for channel in range(5):
        products = sum(abs(int(value)) for value in weights.data[channel].ravel())
        assert int(bias.data[channel]) + products * largest_input == 2**31 - 1


def _equal_branches(path: pathlib.Path) -> tuple[bytes, list[int]]:
    """The file with one bias in both branches, and their positions."""
    graph = read_graph(path)
    branches = [
        operator.position
        for operator in graph.operators
        if operator.kind == "CONV_2D" and graph.tensors[operator.outputs[0]].shape[-1] == 32
    ][:2]
    bias = _biases(path)[branches[0]]
    content, _ = rewrite_biases(path.read_bytes(), {(position, 2): bias for position in branches})
    return content, branches


def _share_bytes(content: bytes, branches) -> bytes:
    shared = share_equal_vectors(content)
    assert len(shared) < len(content)
    return shared


def _share_buffer(content: bytes, branches) -> bytes:
    def edit(model):
        graph = model.subgraphs[0]
        first, second = (graph.tensors[graph.operators[p].inputs[2]] for p in branches)
        second.buffer = first.buffer

    return _edited(content, edit)


def _share_tensor(content: bytes, branches) -> bytes:
    def edit(model):
        first, second = (model.subgraphs[0].operators[position] for position in branches)
        second.inputs = second.inputs.copy()
        second.inputs[2] = first.inputs[2]

    return _edited(content, edit)


@pytest.mark.parametrize("share", [_share_bytes, _share_buffer, _share_tensor])
def test_shared_bias_gets_bytes_of_its_own(files, tmp_path, share):
    content, branches = _equal_branches(files / "int8.tflite")
    content = _with_labels(share(content, branches))
    new = _biases(files / "int8.tflite")[branches[0]] + np.arange(32)
    changed, in_place = rewrite_biases(content, {(branches[1], 2): new})
    assert not in_place
    old, path = tmp_path / "old.tflite", tmp_path / "new.tflite"
    old.write_bytes(content)
    path.write_bytes(changed)
    before, after = _biases(old), _biases(path)
    np.testing.assert_array_equal(after.pop(branches[1]), new)
    before.pop(branches[1])
    for position, bias in before.items():
        np.testing.assert_array_equal(after[position], bias)
    with zipfile.ZipFile(path) as packed:
        assert packed.read("labels.txt") == b"sky\n"
    assert not np.array_equal(FileRunner(old)(_photos()[:1]), FileRunner(path)(_photos()[:1]))


def _with_labels(content: bytes) -> bytes:
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a") as packed:
        packed.writestr("labels.txt", "sky\n")
    return stream.getvalue()


def test_correction_of_shared_biases(corrected, files, tmp_path):
    """One bias in two branches is a planted shift of one of them, whoever stores it."""
    plan, clean = corrected
    content, branches = _equal_branches(plan.model)
    model = tmp_path / "shared.tflite"
    model.write_bytes(_share_bytes(content, branches))
    result = correct_biases(_plan(files, tmp_path / "new.tflite", model=model))
    assert not result.in_place
    assert any("packed again" in line for line in result.warnings())
    for position, bias in _biases(plan.output).items():
        np.testing.assert_array_equal(_biases(tmp_path / "new.tflite")[position], bias)
    assert result.snr_after_db == clean.snr_after_db


@pytest.mark.parametrize("whole", [True, False])
def test_corrected_file_has_run_before_it_is_written(files, tmp_path, monkeypatch, whole):
    """Also where the simulation does not reach the output, and has nothing to compare."""
    if not whole:
        monkeypatch.delitem(RULES, "CONCATENATION")
    output = tmp_path / "new.tflite"

    def runner(path):
        def run(real):
            raise RuntimeError(f"{path} crashed the runtime")

        return run

    monkeypatch.setattr(bias_rewrite, "_runner", runner)
    with pytest.raises(RuntimeError, match="crashed the runtime"):
        correct_biases(_plan(files, output))
    assert not output.exists()


def test_unknown_operator_ends_the_correction_and_is_said(files, tmp_path, monkeypatch):
    monkeypatch.delitem(RULES, "CONCATENATION")
    result = correct_biases(_plan(files, tmp_path / "new.tflite"))
    # In front of it: five layers, and one of the branches with two.
    assert len(result.layers) == 7
    assert len(result.skipped) == 4
    assert all("the last tensor that can be simulated" in line for line in result.warnings())
    assert result.equal_outputs is None
    before, after = _biases(files / "int8.tflite"), _biases(tmp_path / "new.tflite")
    for layer in result.skipped:
        np.testing.assert_array_equal(before[layer.position], after[layer.position])


def test_bias_that_stands_apart_is_named(tmp_path):
    """With a dynamic batch, dilated convolutions have a zero bias and an ADD behind; in the float
    file the sum with it is one, so their means must not be compared."""
    for name, integer in (("int8", True), ("float32", False)):
        (tmp_path / f"{name}.tflite").write_bytes(_convert(_network(batch=None), integer))
    result = correct_biases(_plan(tmp_path, tmp_path / "new.tflite"))
    assert len(result.layers) == 9
    assert [layer.kind for layer in result.skipped] == ["DEPTHWISE_CONV_2D"] * 2
    assert all("their means cannot be compared" in line for line in result.warnings())
    assert result.snr_after_db > result.snr_before_db


def test_layer_without_a_bias_is_named(tmp_path):
    """Of integer layers, the runtime allows it for dense ones alone; here the last of two."""
    keras.utils.set_random_seed(0)
    image = keras.Input((*SIZE, 3), 1)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(24, 3, 2, activation="relu")(image))
    x = layers.Dense(48, activation="relu", bias_initializer="random_normal")(x)
    model = keras.Model(image, layers.Dense(32, use_bias=False)(x))
    for name, integer in (("int8", True), ("float32", False)):
        (tmp_path / f"{name}.tflite").write_bytes(_convert(model, integer))
    result = correct_biases(_plan(tmp_path, tmp_path / "new.tflite"))
    assert [layer.kind for layer in result.layers] == ["CONV_2D", "FULLY_CONNECTED"]
    (layer,) = result.skipped
    assert (layer.kind, layer.reason) == ("FULLY_CONNECTED", "it has no bias")
    assert result.equal_outputs == 1.0


class _Scans(SyntheticDataset):
    """The chosen photos as scans of a sensor, and as many without a return."""

    sensor = Sensor(*SIZE, 3.0, -25.0)

    def __init__(self, empty: int):
        super().__init__("val")
        self._whole = open_dataset("synthetic", None, split="val")
        self._chosen = choose_samples(self._whole, IMAGES, seed=0)
        self._empty = empty

    def __len__(self) -> int:
        return IMAGES + self._empty

    def sample_name(self, index: int) -> str:
        return f"scan {index}"

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, label = self._whole.read(self._chosen[min(index, IMAGES - 1)])
        if index >= IMAGES:
            return np.full_like(image, 128), np.full_like(label, 255)
        return image, label

    def image(self, index: int) -> np.ndarray:
        return self.read(index)[0]

    def label(self, index: int) -> np.ndarray:
        return self.read(index)[1]


def test_empty_scans_move_no_bias(files, tmp_path):
    found = []
    for name, scans in (("full", _Scans(0)), ("mixed", _Scans(3))):
        plan = _plan(files, tmp_path / f"{name}.tflite", calibration=scans)
        correct_biases(dataclasses.replace(plan, calibration_images=len(scans)))
        found.append(_biases(plan.output))
    counting = _Scans(3)
    counting.sensor = None
    plan = _plan(files, tmp_path / "counting.tflite", calibration=counting)
    correct_biases(dataclasses.replace(plan, calibration_images=len(counting)))
    differs = False
    for position, bias in found[0].items():
        # Sums in another order: a step where a half is rounded.
        assert np.abs(found[1][position] - bias).max() <= 1
        differs |= np.abs(_biases(plan.output)[position] - bias).max() > 3
    assert differs


def test_scans_of_another_sensor_are_refused(files, tmp_path):
    model = tmp_path / "int8.tflite"
    model.write_bytes((files / "int8.tflite").read_bytes())
    manifest = dataclasses.replace(
        read_manifest(CAMVID / "int8.tflite"),
        sensor=Sensor(64, 512, fov_up=3.0, fov_down=-25.0),
        sha256=sha256_of(model.read_bytes()),
        size_bytes=model.stat().st_size,
    )
    manifest.write(manifest_path(model))
    plan = _plan(files, tmp_path / "out.tflite", model=model, calibration=_Scans(0))
    with pytest.raises(ValueError, match=r"another sensor \(height 64 -> 32, width 512 -> 48\)"):
        correct_biases(plan)
    assert not plan.output.exists()


class _FourChannels(SyntheticDataset):
    channels = 4


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"calibration_images": 0}, ValueError, "must be at least 2, got 0"),
        ({"calibration_images": 1}, ValueError, "must be at least 2, got 1"),
        ({"calibration_images": 61}, ValueError, "needs 1 to 60 images"),
        ({"output": "new.bin"}, ValueError, "must end in .tflite"),
        ({"output": "int8.tflite"}, ValueError, "would replace"),
        ({"output": "float32.tflite"}, ValueError, "would replace"),
        ({"output": "there.tflite"}, FileExistsError, "give --overwrite"),
        ({"model": "float32.tflite"}, ValueError, "no int32 bias to correct .*FLOAT32"),
        ({"model": "none.tflite"}, FileNotFoundError, "no such file"),
        ({"reference": "none.tflite"}, FileNotFoundError, "no such file"),
        ({"reference": "int8.tflite"}, ValueError, "got integer ones; give a float file"),
        ({"reference": "."}, FileNotFoundError, "not a run folder"),
        ({"reference": "size.tflite"}, ValueError, r"\[32, 48, 3\] as .*got \[32, 32, 3\]"),
        ({"reference": "swapped.tflite"}, ValueError, "no counterpart .*whose weights differ by"),
        ({"reference": "short.tflite"}, ValueError, "no counterpart .*nearest: nothing is left"),
        ({"reference": "nan.tflite"}, ValueError, "holds NaN or infinity"),
        ({"reference": "huge.tflite"}, ValueError, "gives NaN or infinity"),
        (
            {"calibration": _FourChannels("val")},
            ValueError,
            r"takes images of 3 channel\(s\), synthetic has 4; give images of the network's own",
        ),
    ],
)
def test_what_is_refused(files, odd_files, changes, error, message):
    """Each with its rule; nothing is written."""
    paths = {
        key: odd_files / value if isinstance(value, str) else value
        for key, value in changes.items()
    }
    with pytest.raises(error, match=message):
        correct_biases(_plan(odd_files, **({"output": odd_files / "new.tflite"} | paths)))
    assert not (odd_files / "new.tflite").exists()


@pytest.fixture(scope="module")
def odd_files(files, tmp_path_factory) -> pathlib.Path:
    """Both files, and references that do not fit them."""
    folder = tmp_path_factory.mktemp("odd")
    for name in ("int8.tflite", "float32.tflite"):
        (folder / name).write_bytes((files / name).read_bytes())
    (folder / "there.tflite").write_bytes(b"somebody's")
    content = (files / "float32.tflite").read_bytes()
    for name, edit in (
        ("swapped", lambda weights: weights[::-1]),
        ("nan", lambda weights: weights * np.nan),
    ):
        (folder / f"{name}.tflite").write_bytes(_edited(content, _edit_last_kernel(edit)))
    third = list(_biases(files / "float32.tflite").items())[2]
    content = _with_bias(content, third[0], np.full_like(third[1], 3e38))
    (folder / "huge.tflite").write_bytes(content)
    image = keras.Input((32, 32, 3))
    small = keras.Model(image, layers.Conv2D(4, 3)(image))
    (folder / "size.tflite").write_bytes(_convert(small, False))
    image = keras.Input((*SIZE, 3))
    (folder / "short.tflite").write_bytes(
        _convert(keras.Model(image, layers.AveragePooling2D()(image)), False)
    )
    return folder


def _edit_last_kernel(change):
    def edit(model):
        tensors = model.subgraphs[0].tensors
        operator = model.subgraphs[0].operators[-1]
        tensor = tensors[operator.inputs[1]]
        stored = np.asarray(model.buffers[tensor.buffer].data, np.uint8).tobytes()
        weights = np.frombuffer(stored, "<f4").reshape(tensor.shape)
        model.buffers[tensor.buffer].data = np.frombuffer(
            change(weights).astype("<f4").tobytes(), np.uint8
        )

    return edit


def test_command_prints_a_table(files, tmp_path):
    """One line of status at the end, a row a layer before it."""
    done = run_command(
        "export.correct_bias",
        "--dataset=synthetic",
        "--calibration_split=val",
        "--calibration_images=2",
        f"--model={files / 'int8.tflite'}",
        f"--reference={files / 'float32.tflite'}",
        f"--output={tmp_path / 'new.tflite'}",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("CONV_2D") == 11
    assert "11 layers corrected" in done.stderr.splitlines()[-1]
    assert (tmp_path / "new.tflite").is_file()


@pytest.mark.slow
def test_planted_shift_in_the_zoo(tmp_path):
    """A real network, its run folder as the reference, whose branches stand in another order."""
    model = tmp_path / "int8.tflite"
    names = [
        operator.position
        for operator in read_graph(CAMVID / "int8.tflite").operators
        if operator.kind in CONVOLUTIONS
    ]
    planted, shift = 59, 2000  # the convolution behind the ASPP
    _shifted(CAMVID / "int8.tflite", model, planted, shift)
    content = model.read_bytes()
    dataclasses.replace(
        read_manifest(CAMVID / "int8.tflite"),
        sha256=sha256_of(content),
        size_bytes=len(content),
    ).write(manifest_path(model))
    output = tmp_path / "new.tflite"
    result = correct_biases(
        BiasCorrectionPlan(
            model,
            output,
            calibration=open_dataset("synthetic", None, split="val"),
            reference=CAMVID,
            calibration_images=2,
        )
    )
    assert [layer.position for layer in result.layers] == names
    for layer in result.layers:
        if "aspp_rate" in layer.name:
            rate = layer.name.split("aspp_")[1].split("_")[0]
            assert rate in layer.reference
    assert result.equal_outputs == 1.0
    assert result.snr_after_db > result.snr_before_db + 6
    manifest = read_manifest(output)  # which checks the new file's sum
    assert manifest.source.endswith(
        "; biases corrected to the means of run camvid_deeplab_mobilenet_v2 on 2 images of "
        "synthetic val, seed 0"
    )
    assert manifest.calibration == read_manifest(model).calibration
