"""The export stage on trained weights: what comes out, what the gate refuses, bad input."""

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert import schema_py_generated as schema

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.lidar.sensor import Sensor
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import open_dataset
from deeplab_tf.models.registry import build_network
from deeplab_tf.quantization.qat import apply, ranges
from deeplab_tf.runs.config import read_config
from deeplab_tf.runs.folder import RunFolder
from deeplab_tf.weights.matching import named_arrays
from export.conversion import freeze, gate, source
from export.conversion.calibration import calibrate, choose_samples
from export.conversion.convert import Conversion, ConverterProcess, convert
from export.conversion.head import apply_head
from export.conversion.pipeline import export_files
from export.conversion.variants import FileSpec, Head, IoDtype, Variant, plan_files
from tests.children import run_command
from tests.export.conftest import TrainedSource, make_plan
from tests.paths import CAMVID, ROOT, ZOO
from tests.zoo import LIVE_SIZE, pixels, trained_float_model
from tflite_tools.contract import read_contract
from tflite_tools.flatbuffer.graph import parse_model, read_graph
from tflite_tools.flatbuffer.pack import BUFFER_ALIGNMENT, share_equal_vectors
from tflite_tools.manifest import read_manifest
from tflite_tools.runtime.runner import ModelRunner


def class_maps(path, images):
    runner = ModelRunner(read_contract(path))
    return np.stack([runner.class_map(image) for image in images])


def keras_class_maps(model, images):
    logits = model(Preprocessing().normalize(images), training=False)
    return tf.argmax(tf.image.resize(logits, LIVE_SIZE), -1).numpy()


def test_float_file_computes_what_keras_computes(exported):
    images = pixels(4)
    expected = keras_class_maps(trained_float_model(), images)
    # Only ties within float rounding may fall otherwise.
    assert np.mean(class_maps(exported / "float32.tflite", images) == expected) > 0.9995
    # A deliberate break must show: blue for red is another picture.
    swapped = class_maps(exported / "float32.tflite", images[..., ::-1])
    assert np.mean(swapped == expected) < 0.99


@pytest.mark.slow
def test_quantization_aware_file_agrees_with_keras_on_99_percent(shared_dir, tmp_path):
    # Real photos of the kind that the weights were trained on; ranges from training photos.
    size = (192, 256)
    camvid = shared_dir / "data" / "camvid"

    def crops(split, step):
        dataset = open_dataset("camvid", camvid, split=split)
        indices = range(0, len(dataset), step)
        return np.stack(
            [dataset.image(i)[100 : 100 + size[0], 100 : 100 + size[1]] for i in indices]
        )

    source_model = build_network(read_config(CAMVID).model, size)
    quantized = apply.quantize_aware(source_model, Preprocessing().input_range)
    batch = Preprocessing().normalize(crops("train", 30))
    ranges.fill_ranges(
        quantized, source_model, arrays=named_arrays(trained_float_model()), batches=[batch]
    )
    freeze.write_saved_model(freeze.freeze_model(quantized, Head.LOGITS), tmp_path / "saved")
    spec = FileSpec(
        Variant.QAT_INT8, Head.LOGITS, input_dtype=IoDtype.UINT8, output_dtype=IoDtype.UINT8
    )
    (tmp_path / "qat.tflite").write_bytes(
        convert(
            Conversion(
                tmp_path / "saved", spec, calibration_file=None, preprocessing=Preprocessing()
            )
        )
    )
    images = crops("val", 12)
    logits = quantized(Preprocessing().normalize(images), training=False)
    expected = tf.argmax(tf.image.resize(logits, size), -1).numpy()
    assert np.mean(class_maps(tmp_path / "qat.tflite", images) == expected) >= 0.99
    # The bound tells: 16 gray levels more on the input side are seen.
    brighter = np.minimum(images, 239) + np.uint8(16)
    assert np.mean(class_maps(tmp_path / "qat.tflite", brighter) == expected) < 0.99


@pytest.mark.parametrize(
    "variant", ["float16", "dynamic_range", "int8", "int8_float_fallback", "int16x8", "qat_int8"]
)
def test_variants_stay_near_float_and_show_a_break(exported, variant):
    # Drawn scenes are far from what the weights know, so many pixels are near-ties: the bound
    # only tells sound from broken. Red and blue exchanged must cost more than any number format.
    images = pixels(4)
    expected = class_maps(exported / "float32.tflite", images)
    agreement = np.mean(class_maps(exported / f"{variant}.tflite", images) == expected)
    swapped = np.mean(class_maps(exported / f"{variant}.tflite", images[..., ::-1]) == expected)
    assert agreement > 0.85
    assert swapped < agreement - 0.05
    assert agreement < 1  # a number format that changes nothing was not applied


def test_class_map_heads_say_what_the_logits_say(exported):
    images = pixels(3)
    logits = class_maps(exported / "int8.tflite", images)
    np.testing.assert_array_equal(class_maps(exported / "int8_argmax.tflite", images), logits)
    low = class_maps(exported / "int8_argmax_low.tflite", images)
    # Every block of 4 x 4 pixels has one class; borders between classes move by up to 3 pixels.
    np.testing.assert_array_equal(low[:, ::4, ::4], low[:, 3::4, 3::4])
    assert 0.9 < np.mean(low == logits) < 1
    np.testing.assert_array_equal(
        np.asarray(read_graph(exported / "int8_argmax.tflite").tensors[-1].shape)[:1], 1
    )


def test_low_resolution_logits_are_resized_by_the_reader(exported):
    contract = read_contract(exported / "int8_logits_low.tflite")
    assert contract.output_shape == (1, 24, 32, 11)
    images = pixels(3)
    full = class_maps(exported / "int8.tflite", images)
    low = class_maps(exported / "int8_logits_low.tflite", images)
    # The file resizes in integers, the reader in floats: only near-ties differ.
    assert np.mean(full == low) > 0.98


@pytest.mark.parametrize("name", ["int8", "qat_int8"])
def test_camera_bytes_are_the_quantized_input(exported, name):
    graph = read_graph(exported / f"{name}.tflite")
    image = graph.tensors[graph.inputs[0]]
    assert image.type_name == "UINT8"
    assert image.shape == (1, *LIVE_SIZE, 3)
    assert image.quantization.scale[0] == np.float32(1 / 128)
    assert image.quantization.zero_point[0] == 128
    assert read_contract(exported / f"{name}.tflite").quantize_table() is None


@pytest.mark.parametrize("name", ["int8", "qat_int8"])
def test_integer_files_hold_one_dilated_convolution_a_rate_and_no_float(exported, name):
    graph = read_graph(exported / f"{name}.tflite")
    kinds = [operator.kind for operator in graph.operators]
    assert kinds.count("DEPTHWISE_CONV_2D") == 17 + 3 + 2  # backbone, rates, decoder
    assert kinds.count("CONV_2D") == 44
    assert not {"SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "MUL"} & set(kinds)
    assert not [tensor.name for tensor in graph.tensors if tensor.is_float]
    rates = {
        operator.options.dilationHFactor
        for operator in graph.operators
        if operator.kind == "DEPTHWISE_CONV_2D"
    }
    assert rates == {1, 2, 6, 12, 18}


def test_manifest_describes_the_file(exported):
    manifest = read_manifest(exported / "int8.tflite")
    assert (manifest.variant, manifest.head) == ("int8", "logits")
    assert (manifest.height, manifest.width) == LIVE_SIZE
    assert manifest.input_quantization == (0.0078125, 128)
    assert manifest.calibration["images"] == 4
    assert manifest.resize == "half_pixel"
    assert manifest.size_bytes == (exported / "int8.tflite").stat().st_size
    assert manifest.versions["tensorflow"] == tf.__version__


def test_changed_file_no_longer_fits_its_manifest(exported, tmp_path):
    content = bytearray((exported / "int8.tflite").read_bytes())
    content[-100] ^= 1
    (tmp_path / "int8.tflite").write_bytes(content)
    (tmp_path / "int8.json").write_bytes((exported / "int8.json").read_bytes())
    with pytest.raises(ValueError, match="was changed or damaged"):
        read_manifest(tmp_path / "int8.tflite")


def test_saved_models_stand_beside_the_files(exported):
    for name in ("saved_model", "saved_model_qat"):
        loaded = tf.saved_model.load(str(exported / name))
        signature = loaded.signatures["serving_default"]
        image = tf.constant(Preprocessing().normalize(pixels(1)))
        (logits,) = signature(image).values()
        assert logits.shape == (1, *LIVE_SIZE, 11)
        graph = tf.compat.v1.GraphDef.FromString(
            (exported / name / freeze.FROZEN_GRAPH).read_bytes()
        )
        assert not [node.name for node in graph.node if "Variable" in node.op]


def test_sharing_vectors_changes_no_bit_of_the_content(exported, tmp_path):
    content = (exported / "int8.tflite").read_bytes()
    model = parse_model(content, "int8")
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    unshared = bytes(builder.Output())
    shared = share_equal_vectors(unshared)
    assert len(unshared) - len(shared) > 200_000  # 8 bytes a channel of weights and biases
    for before, after in zip(
        parse_model(unshared, "a").buffers, parse_model(shared, "b").buffers, strict=True
    ):
        if before.data is None:
            assert after.data is None
        else:
            np.testing.assert_array_equal(before.data, after.data)
    (tmp_path / "shared.tflite").write_bytes(shared)
    (tmp_path / "unshared.tflite").write_bytes(unshared)
    images = pixels(2)
    np.testing.assert_array_equal(
        class_maps(tmp_path / "shared.tflite", images),
        class_maps(tmp_path / "unshared.tflite", images),
    )
    flat = schema.Model.GetRootAs(shared, 0)
    for index in range(flat.BuffersLength()):
        if flat.Buffers(index).DataLength():
            start = flat.Buffers(index)._tab.Vector(flat.Buffers(index)._tab.Offset(4))
            assert start % BUFFER_ALIGNMENT == 0


def convert_to(path, function, spec, variant, calibration=None):
    """A file made without this project's care, for the gate to refuse."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [tf.function(function).get_concrete_function(spec)]
    )
    if variant is Variant.INT8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in calibration)
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    path.write_bytes(converter.convert())
    return gate.check_file(
        path,
        FileSpec(variant, Head.LOGITS, input_dtype=IoDtype.UINT8, output_dtype=IoDtype.UINT8),
        preprocessing=Preprocessing(),
    )


def test_gate_passes_what_the_stage_makes(exported):
    for spec in plan_files([Variant.INT8, Variant.QAT_INT8], [Head.LOGITS])[0]:
        assert gate.check_file(exported / spec.file_name, spec, preprocessing=Preprocessing()) == []


def test_gate_names_a_dynamic_batch(tmp_path):
    spec = tf.TensorSpec([None, *LIVE_SIZE, 3], tf.float32)
    faults = convert_to(
        tmp_path / "x.tflite",
        lambda image: trained_float_model()(image, training=False),
        spec,
        Variant.FLOAT32,
    )
    assert any("SPACE_TO_BATCH_ND" in fault and "static batch 1" in fault for fault in faults)


@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs:UserWarning")
def test_gate_names_float_islands_and_a_wrong_input_scale(tmp_path):
    kernel = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 3, 40)), tf.float32)

    def function(image):
        return tf.math.cumsum(tf.nn.conv2d(image, kernel, 1, "SAME"), axis=1)

    images = np.random.default_rng(1).uniform(0, 255, (4, 16, 16, 3)).astype(np.float32)
    spec = tf.TensorSpec([1, 16, 16, 3], tf.float32)
    faults = convert_to(tmp_path / "x.tflite", function, spec, Variant.INT8, images)
    assert any("CUMSUM" in fault and "float tensor" in fault for fault in faults)
    assert any("input scale" in fault and "calibrate with images" in fault for fault in faults)


def test_gate_names_per_tensor_depthwise_weights(shared_dir):
    path = shared_dir / "models" / "mobilenet_v2_1.0_224_quant.tflite"
    spec = FileSpec(
        Variant.INT8, Head.LOGITS, input_dtype=IoDtype.UINT8, output_dtype=IoDtype.UINT8
    )
    faults = gate.check_file(path, spec, preprocessing=Preprocessing())
    assert sum("one weight scale for" in fault for fault in faults) == 17


@pytest.mark.slow
def test_a_failing_variant_costs_only_itself(tmp_path):
    files = plan_files([Variant.FLOAT32, Variant.QAT_INT8], [Head.LOGITS])[0]

    class HalfBroken(TrainedSource):
        def frozen(self, phase, head, height, width):
            if phase.value == "quantized":
                raise RuntimeError("no such weights")
            return super().frozen(phase, head, height=height, width=width)

    results = export_files(HalfBroken(), make_plan(tmp_path, files))
    assert [bool(result.failure) for result in results] == [False, True]
    assert "no such weights" in results[1].failure
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["float32.json", "float32.tflite"]


def test_a_dead_converter_is_a_message_and_another_takes_its_place(exported):
    spec = FileSpec(
        Variant.FLOAT32, Head.LOGITS, input_dtype=IoDtype.FLOAT32, output_dtype=IoDtype.FLOAT32
    )
    conversion = Conversion(
        exported / "saved_model", spec, calibration_file=None, preprocessing=Preprocessing()
    )
    with ConverterProcess() as converter:
        with pytest.raises(OSError, match="missing"):
            converter.convert(dataclasses.replace(conversion, saved_model=exported / "missing"))
        for process in converter._pool._processes.values():
            process.kill()
        with pytest.raises(RuntimeError, match=r"process died on float32\.tflite"):
            converter.convert(conversion)
        assert converter.convert(conversion)[4:8] == b"TFL3"


def test_a_saved_model_of_the_user_is_never_replaced(exported, tmp_path):
    theirs = tmp_path / "saved_model"
    shutil.copytree(exported / "saved_model", theirs)
    before = sorted(path.name for path in theirs.rglob("*"))
    files = plan_files([Variant.FLOAT32], [Head.LOGITS])[0]
    assert not export_files(TrainedSource(), make_plan(tmp_path, files))[0].failure
    assert sorted(path.name for path in theirs.rglob("*")) == before
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join("abcdefghijk"))
    status, errors = command(
        f"--saved_model={theirs}",
        f"--output_dir={tmp_path}",
        "--overwrite",
        "--size=96,128",
        "--variants=float32",
        f"--labels={labels}",
    )
    assert status == 1
    assert "--output_dir would replace" in errors
    assert sorted(path.name for path in theirs.rglob("*")) == before


def test_labels_of_another_length_are_refused(exported, tmp_path):
    files = plan_files([Variant.FLOAT32], [Head.LOGITS])[0]
    plan = make_plan(tmp_path, files, label_set=LabelSet.from_names(["one", "two"]))
    (result,) = export_files(TrainedSource(), plan)
    assert "expected 2 classes as in the label list, got an output of 11" in result.failure
    assert not list(tmp_path.glob("*.tflite"))


@pytest.mark.slow
def test_a_run_keeps_its_own_labels_whatever_it_is_calibrated_on(tmp_path):
    status, errors = command(
        f"--run_dir={CAMVID}",
        "--variants=float32",
        "--heads=logits",
        "--size=96,128",
        f"--output_dir={tmp_path}",
    )
    assert status == 0, errors
    assert read_manifest(tmp_path / "float32.tflite").label_set.names[3] == "road"


def test_existing_files_are_not_overwritten(exported):
    files = plan_files([Variant.FLOAT32], [Head.LOGITS])[0]
    with pytest.raises(FileExistsError, match=r"already holds float32\.tflite; give --overwrite"):
        make_plan(exported, files)


def test_int16_has_no_argmax_and_says_so():
    files, left_out = plan_files([Variant.INT16X8, Variant.FLOAT32], [Head.ARGMAX])
    assert [spec.file_name for spec in files] == ["float32_argmax.tflite"]
    assert "ARG_MAX has no int16 kernel" in left_out[0]


def test_calibration_covers_the_classes_and_holds_both_ends():
    dataset = open_dataset("synthetic", None, split="train")
    images, record = calibrate(dataset, LIVE_SIZE, count=5, seed=3)
    assert images.shape == (5, *LIVE_SIZE, 3)
    assert (images.min(), images.max()) == (0, 255)
    assert record.classes_covered == 7
    assert len(set(record.samples)) == 5
    assert choose_samples(dataset, 5, seed=3) == choose_samples(dataset, 5, seed=3)
    assert choose_samples(dataset, 5, seed=3) != choose_samples(dataset, 5, seed=4)
    with pytest.raises(ValueError, match="calibration needs 1 to 400 images"):
        choose_samples(dataset, 0, seed=0)


def test_head_sizes():
    logits = tf.constant(np.random.default_rng(0).normal(size=(1, 4, 6, 3)), tf.float32)
    assert apply_head(logits, Head.LOGITS, height=16, width=24).shape == (1, 16, 24, 3)
    assert apply_head(logits, Head.LOGITS_LOW, height=16, width=24).shape == (1, 4, 6, 3)
    half = apply_head(logits, Head.ARGMAX_HALF, height=16, width=24)
    at_half = np.argmax(tf.image.resize(logits, (8, 12)), -1)
    np.testing.assert_array_equal(half, at_half.repeat(2, 1).repeat(2, 2))
    # With align-corners the outermost pixels are the outermost logits.
    corners = apply_head(
        logits, Head.ARGMAX_HALF, height=17, width=25, alignment=Alignment.ALIGN_CORNERS
    )
    np.testing.assert_array_equal(corners[0, ::16, ::24], np.argmax(logits[0, ::3, ::5], -1))
    low = apply_head(logits, Head.ARGMAX_LOW, height=16, width=24)
    assert (low.shape, low.dtype) == ((1, 16, 24), tf.uint8)
    np.testing.assert_array_equal(low[0, 2::4, 2::4], np.argmax(logits[0], -1))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_keras_file_of_stock_layers_is_accepted(tmp_path, suffix):
    image = keras.Input((32, 48, 3))
    model = keras.Model(image, keras.layers.Conv2D(4, 3, strides=4, padding="same")(image))
    model.save(tmp_path / f"m{suffix}")
    frozen = source.KerasFileSource(tmp_path / f"m{suffix}").frozen(
        None, Head.LOGITS, height=32, width=48
    )
    x = np.random.default_rng(0).uniform(-1, 1, (1, 32, 48, 3)).astype(np.float32)
    (found,) = frozen(tf.constant(x))
    np.testing.assert_allclose(found, tf.image.resize(model(x), (32, 48)), atol=1e-5)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_keras_file_with_code_inside_is_refused_unread(tmp_path, suffix):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, keras.layers.Lambda(lambda x: x + 1)(image))
    model.save(tmp_path / f"m{suffix}")
    with pytest.raises(ValueError, match="holds Lambda, which is no stock Keras layer"):
        source.KerasFileSource(tmp_path / f"m{suffix}")


def test_keras_file_with_nan_weights_is_refused(tmp_path):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, keras.layers.Conv2D(4, 1, name="head")(image))
    kernel, bias = model.get_weights()
    kernel[0, 0, 1, 2] = np.nan
    model.set_weights([kernel, bias])
    model.save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="head/kernel:0 holds NaN or infinity"):
        source.KerasFileSource(tmp_path / "m.keras")


def test_saved_model_and_frozen_graph_come_out_as_files(exported, tmp_path):
    flags = ("--variants=float32", f"--output_dir={tmp_path}/a", "--size=96,128")
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"class{index}" for index in range(11)))
    flags += (f"--labels={labels}", "--mean=128,128,128")
    assert command(f"--saved_model={exported}/saved_model", *flags)[0] == 0
    graph = exported / "saved_model" / freeze.FROZEN_GRAPH
    loaded = tf.compat.v1.GraphDef.FromString(graph.read_bytes())
    status, errors = command(
        f"--frozen_graph={graph}",
        "--input_arrays=image",
        f"--output_arrays={loaded.node[-1].name}",
        *flags[:1],
        f"--output_dir={tmp_path}/b",
        *flags[2:],
    )
    assert status == 0, errors
    images = pixels(2)
    expected = class_maps(exported / "float32.tflite", images)
    for folder in "ab":
        found = class_maps(tmp_path / folder / "float32.tflite", images)
        assert np.mean(found == expected) > 0.9995


def command(*flags):
    done = run_command("export.to_tflite", *flags, timeout=300)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ((), 1, "expected one of --run_dir"),
        (("--run_dir=missing",), 1, "not a run folder"),
        (("--run_dir=x", "--variants=int4"), 1, "--variants: unknown 'int4'"),
        (("--run_dir=x", "--input_dtype=int64"), 2, "--input_dtype=int64"),
        (("--keras_file=missing.h5",), 1, "missing.h5: no such Keras file"),
        (("--frozen_graph=x.pb",), 1, "needs --input_arrays and --output_arrays"),
        ((f"--run_dir={CAMVID}", "--data_dir=missing"), 1, "missing: no such folder"),
        ((f"--run_dir={CAMVID}", "--calibration_split=holdout"), 1, "results are reported on"),
        ((f"--run_dir={CAMVID}", "--calibration_split=val"), 1, "results are reported on"),
        (
            (
                f"--run_dir={CAMVID}",
                "--variants=int16x8",
                "--heads=argmax",
                "--size=96,128",
                "--dataset=synthetic",
            ),
            1,
            "ARG_MAX has no int16 kernel",
        ),
        (
            (
                f"--run_dir={CAMVID}",
                "--dataset=synthetic",
                "--variants=qat_int8",
            ),
            1,
            "qat_int8 needs a run with quantization-aware training",
        ),
    ],
)
def test_bad_input_ends_with_one_line(flags, status, message):
    code, errors = command(*flags)
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == status
    assert len(lines) == 1, errors
    assert message in lines[0]
    assert "Traceback" not in errors


def test_disk_full_leaves_nothing_behind(tmp_path, monkeypatch):
    from deeplab_tf import atomic_file  # noqa: PLC0415

    def full(*_):
        raise OSError(28, "No space left on device")

    target = tmp_path / "model.tflite"
    target.write_bytes(b"old")
    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_file.write_bytes(target, b"new")
    monkeypatch.undo()
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["model.tflite"]


@pytest.mark.parametrize("folder", sorted(path.parent for path in ZOO.glob("*/float.npz")))
def test_zoo_folders_are_runs_and_their_files_fit_their_manifests(folder):
    run = source.RunSource(RunFolder(folder))
    model = run.float_model(*read_config(folder).model.padded_size(96, 128))
    labels = RunFolder(folder).read_labels()
    assert model.output_shape[-1] == labels.num_classes
    for name in ("int8", "qat_int8"):
        manifest = read_manifest(folder / f"{name}.tflite")
        assert manifest.label_set == labels
        assert manifest.variant == name


@pytest.mark.slow
def test_interrupt_of_an_export_leaves_whole_files_only(tmp_path):
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "export.to_tflite", f"--run_dir={CAMVID}"),
            *("--dataset=synthetic", "--size=96,128", "--heads=logits"),
            *("--variants=float32,int8,int16x8", f"--output_dir={tmp_path}"),
        ],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "float32.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: parent and children
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "error: interrupted" in errors
    assert "Traceback" not in errors
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["float32.json", "float32.tflite", "saved_model"]


@pytest.mark.slow
def test_range_images_are_calibrated_without_their_empty_pixels(tmp_path, monkeypatch):
    """Also a plain int8: the converter's own calibration would count them."""
    sensor = Sensor(*LIVE_SIZE, 3.0, -25.0)

    class FromRangeImages(TrainedSource):
        def float_model(self, height, width):
            return trained_float_model()

    FromRangeImages.sensor = sensor
    scans = open_dataset("synthetic", None, split="train")
    whole = type(scans).image

    def without_returns(self, index):
        image = whole(self, index).copy()
        image[len(image) // 4 :] = 128
        return image

    plan = make_plan(tmp_path, plan_files([Variant.INT8], [Head.LOGITS])[0])
    with monkeypatch.context() as patched:
        patched.setattr(type(scans), "sensor", sensor)
        patched.setattr(type(scans), "image", without_returns)
        (result,) = export_files(FromRangeImages(), plan)
    assert result.failure == ""
    steps = read_manifest(result.path).quantization
    assert steps["ignore_empty"] is True
    said = " of the pixels are empty, excluded from statistics"
    (share,) = (line.removesuffix(said) for line in steps["report"] if line.endswith(said))
    assert share in ("74%", "75%")  # a row at the seam is blended by the resize
    (result,) = export_files(TrainedSource(), dataclasses.replace(plan, overwrite=True))
    assert read_manifest(result.path).quantization is None
