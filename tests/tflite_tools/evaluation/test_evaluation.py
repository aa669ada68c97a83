"""Reading, running and scoring `.tflite` files: the zoo's, other people's, and damaged ones."""

import ctypes
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.preprocessing import Placement, Preprocessing, place, place_label
from deeplab_tf.data.registry import open_dataset
from deeplab_tf.metrics import confusion
from deeplab_tf.metrics.cross_entropy import cross_entropy_sum, dequantize
from tests.children import run_command
from tests.paths import CAMVID, ROOT
from tflite_tools.contract import read_contract
from tflite_tools.evaluation.evaluation import EvaluationOptions, evaluate
from tflite_tools.flatbuffer.graph import parse_model, read_graph
from tflite_tools.flatbuffer.pack import pack
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.latency import measure_latency
from tflite_tools.runtime.output_reader import OutputReader, argmax_channels
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner

INT8 = CAMVID / "int8.tflite"


@pytest.fixture(scope="module")
def tiny_dataset(tmp_path_factory):
    """Six drawn scenes as somebody's own folder, with CamVid's eleven classes."""
    folder = tmp_path_factory.mktemp("own")
    source = open_dataset("synthetic", None, split="val")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for index in range(6):
        image, label = source.read(index)
        Image.fromarray(image).save(folder / "images" / f"{index}.png")
        Image.fromarray(label).save(folder / "labels" / f"{index}.png")
    names = json.loads((CAMVID / "labels.json").read_text())["names"]
    (folder / "classes.txt").write_text("\n".join(names))
    (folder / "val.txt").write_text("\n".join(str(index) for index in range(6)))
    return folder


def options(**changes):
    return EvaluationOptions(**({"processes": 2, "latency_repeats": 0} | changes))


def command(*flags, timeout=300):
    done = run_command("tflite_tools.evaluate", *flags, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


def mutated(path, change):
    """A copy of a file with its tables changed by `change(model)`."""
    model = parse_model(INT8.read_bytes(), "int8")
    change(model)
    path.write_bytes(pack(model, 1 << 20))
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.float32])
def test_argmax_equals_numpy_and_takes_the_first_of_equals(dtype):
    rng = np.random.default_rng(0)
    for classes in (2, 11, 150, 256, 257, 700):
        logits = rng.integers(-20 if np.dtype(dtype).kind != "u" else 0, 20, (13, 17, classes))
        logits = logits.astype(dtype)
        logits[0, 0, -1] = 30  # the last class wins somewhere
        np.testing.assert_array_equal(argmax_channels(logits), logits.argmax(-1))
        assert argmax_channels(logits).dtype == (np.uint8 if classes <= 256 else np.uint16)


def test_output_reader_resizes_logits_as_tensorflow_does():
    import tensorflow as tf  # noqa: PLC0415

    logits = np.random.default_rng(1).normal(size=(1, 5, 7, 4)).astype(np.float32)
    reader = OutputReader(20, 33, output_shape=(1, 5, 7, 4), classes=False)
    expected = tf.argmax(tf.image.resize(logits, (20, 33)), -1)[0].numpy()
    # Two ways to sum the same four products: only exact ties may differ.
    assert np.mean(reader.on_canvas(logits) == expected) > 0.995


@pytest.mark.parametrize(
    ("alignment", "expected"),
    [
        # Columns of width 3 brought to width 5; the class changes where the second channel wins.
        # Source coordinates 0, 0.5, 1, 1.5, 2: the second channel is 0, 0.5, 1, 0.5, 0.
        (Alignment.ALIGN_CORNERS, [0.0, 0.5, 1.0, 0.5, 0.0]),
        # -0.2, 0.4, 1, 1.6, 2.2, clipped to the edges.
        (Alignment.HALF_PIXEL, [0.0, 0.4, 1.0, 0.4, 0.0]),
        # 0, 0.6, 1.2, 1.8, 2.4.
        (Alignment.LEGACY, [0.0, 0.6, 0.8, 0.2, 0.0]),
    ],
)
def test_output_reader_resizes_logits_as_the_training_did(alignment, expected):
    logits = np.zeros((1, 1, 3, 2), np.float32)
    logits[0, 0, 1, 1] = 1.0
    resized = OutputReader(
        1, 5, output_shape=(1, 1, 3, 2), classes=False, alignment=alignment
    ).logits_on_canvas(logits)
    np.testing.assert_allclose(resized[0, :, 1], expected, atol=1e-6)


@pytest.mark.parametrize("alignment", Alignment)
def test_output_reader_resizes_as_the_runtimes_operator_does(alignment):
    import tensorflow as tf  # noqa: PLC0415

    logits = np.random.default_rng(4).normal(size=(1, 5, 9, 3)).astype(np.float32)
    expected = tf.raw_ops.ResizeBilinear(
        images=logits,
        size=(33, 65),
        align_corners=alignment is Alignment.ALIGN_CORNERS,
        half_pixel_centers=alignment is Alignment.HALF_PIXEL,
    )
    found = OutputReader(
        33, 65, output_shape=logits.shape, classes=False, alignment=alignment
    ).logits_on_canvas(logits)
    # float32 sums of four products of size 1.
    np.testing.assert_allclose(found, expected[0], atol=1e-5)


def test_output_reader_resizes_class_maps_as_the_training_did():
    tall = np.array([[0, 1, 2]] * 2, np.uint8)
    found = {
        alignment: OutputReader(2, 5, output_shape=(1, 2, 3), classes=True, alignment=alignment)
        .on_canvas(tall)[0]
        .tolist()
        for alignment in Alignment
    }
    # Coordinates 0, 0.5, 1, 1.5, 2 (halves round up); centres 0.3, 0.9, 1.5, 2.1, 2.7; 0, 0.6, ...
    assert found[Alignment.ALIGN_CORNERS] == [0, 1, 1, 2, 2]
    assert found[Alignment.HALF_PIXEL] == [0, 0, 1, 2, 2]
    assert found[Alignment.LEGACY] == [0, 0, 1, 1, 2]


def test_output_reader_takes_class_maps_of_any_shape_and_type():
    classes = np.random.default_rng(2).integers(0, 21, (8, 12))
    for shape in ((8, 12), (1, 8, 12), (1, 8, 12, 1)):
        for dtype in (np.uint8, np.int32, np.int64, np.float32):
            output = classes.astype(dtype).reshape(shape)
            reader = OutputReader(8, 12, output_shape=shape, classes=True)
            np.testing.assert_array_equal(reader.on_canvas(output), classes)
    halved = OutputReader(16, 24, output_shape=(1, 8, 12), classes=True).on_canvas(classes[None])
    np.testing.assert_array_equal(halved[1::2, ::2], classes)
    assert Placement(8, 12, source_height=16, source_width=24).restore_label(classes).shape == (
        16,
        24,
    )


def test_contract_of_our_own_file():
    contract = read_contract(INT8)
    assert (contract.height, contract.width, contract.channels) == (368, 480, 3)
    assert contract.input_quantization == (0.0078125, 128)
    assert contract.num_classes == 11
    assert contract.label_set.names[3] == "road"
    assert contract.quantize_table() is None
    assert contract.warnings == ()


def test_contracts_of_other_peoples_files(shared_dir):
    models = shared_dir / "models"
    official = read_contract(models / "deeplabv3_mnv2_pascal_quant.tflite")
    assert (official.height, official.width, official.classes_output) == (513, 513, True)
    assert official.quantize_table() is None  # uint8 takes camera bytes
    floating = read_contract(models / "deeplabv3_257_mv_gpu.tflite")
    assert (floating.num_classes, floating.variant) == (21, "float32")
    table = floating.quantize_table()
    assert table.shape == (256, 3)
    assert (table[0, 0], table[128, 0], table[255, 0]) == (-1.0, 0.0, 127 / 128)
    with pytest.raises(ValueError, match="expected scores"):
        read_contract(models / "mobilenet_v2_1.0_224_quant.tflite")


def test_input_scale_that_does_not_fit_the_preprocessing_is_said():
    contract = read_contract(INT8, Preprocessing((0.0,) * 3, (1.0,) * 3))
    assert "input scale 0.0078125 and zero point 128" in contract.warnings[0]
    assert "normalized differently" in contract.warnings[0]


def test_float_and_int8_inputs_are_fed_by_table():
    contract = read_contract(INT8, Preprocessing((128.0,) * 3, (64.0,) * 3))
    table = contract.quantize_table()
    # (192 - 128) / 64 = 1 -> 1 / (1/128) + 128 = 256, clipped to 255
    assert (table[128, 0], table[160, 0], table[192, 0], table[0, 0]) == (128, 192, 255, 0)


def test_scores_equal_an_independent_count(tiny_dataset):
    dataset = open_dataset("folder", tiny_dataset, split="val")
    contracts = [read_contract(INT8), read_contract(CAMVID / "qat_int8.tflite")]
    first, second = evaluate(contracts, dataset, options=options(), reference=0)
    runner = ModelRunner(contracts[0])
    other = ModelRunner(contracts[1])
    hits = np.zeros(11)
    union = np.zeros(11)
    same = total = 0
    for index in range(6):
        image, label = dataset.read(index)
        canvas, placement = place(image, (368, 480))
        prediction = placement.restore_label(runner.class_map(canvas))
        for name in range(11):
            hits[name] += np.sum((prediction == name) & (label == name))
            union[name] += np.sum((prediction == name) | (label == name))
        same += np.sum(prediction == placement.restore_label(other.class_map(canvas)))
        total += label.size
    expected = [h / u for h, u in zip(hits, union, strict=True) if u]
    assert confusion.mean_iou(first.matrix) == (pytest.approx(np.mean(expected)), len(expected))
    assert second.agreement == pytest.approx(same / total)
    assert first.agreement is None
    assert first.images == 6
    assert 0 < first.memory_mb < 500


@pytest.mark.parametrize("quantization", [None, (0.25, -3)])
def test_cross_entropy_is_tensorflow_s(quantization):
    import tensorflow as tf  # noqa: PLC0415

    rng = np.random.default_rng(3)
    logits = rng.integers(-128, 128, (9, 13, 5)).astype(np.int8)
    label = rng.choice(np.array([0, 1, 2, 3, 4, 255], np.uint8), (9, 13))
    scale, zero_point = quantization or (1.0, 0)
    real = scale * (logits.astype(np.float32) - zero_point)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        np.minimum(label, 4).astype(np.int32), real
    ).numpy()
    total, pixels = cross_entropy_sum(dequantize(logits, quantization), label)
    assert pixels == np.sum(label != 255)
    assert total == pytest.approx(losses[label != 255].sum(), rel=1e-5)
    assert cross_entropy_sum(real, np.full((9, 13), 255, np.uint8)) == (0.0, 0)
    with pytest.raises(ValueError, match="differ in size"):
        cross_entropy_sum(real, label[:3])


def test_mean_loss_of_a_list_is_that_of_its_photos_in_any_number_of_processes(tiny_dataset):
    dataset = open_dataset("folder", tiny_dataset, split="val")
    contract = read_contract(INT8)
    (alone,) = evaluate([contract], dataset, options=options(mean_loss=True, processes=1))
    (many,) = evaluate([contract], dataset, options=options(mean_loss=True, processes=3))
    runner, total, pixels = ModelRunner(contract), 0.0, 0
    for index in range(6):
        image, label = dataset.read(index)
        runner.class_map(place(image, (368, 480))[0])
        loss, count = runner.cross_entropy(place_label(label, (368, 480), fill=255))
        total, pixels = total + loss, pixels + count
    assert alone.mean_loss == pytest.approx(total / pixels, rel=1e-12)
    assert many.mean_loss == pytest.approx(alone.mean_loss, rel=1e-12)
    (plain,) = evaluate([contract], dataset, options=options())
    assert plain.mean_loss is None
    np.testing.assert_array_equal(plain.matrix, alone.matrix)


def test_probabilities_have_no_mean_loss(tiny_dataset, tmp_path):
    import tensorflow as tf  # noqa: PLC0415

    @tf.function(input_signature=[tf.TensorSpec((1, 24, 32, 3))])
    def network(image):
        logits = tf.nn.conv2d(image, tf.ones((1, 1, 3, 11)), 2, "SAME")
        return tf.image.resize(tf.nn.softmax(logits), (24, 32))

    path = tmp_path / "softmax.tflite"
    concrete = network.get_concrete_function()
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    contract = read_contract(path)
    assert contract.probabilities
    assert not read_contract(INT8).probabilities
    dataset = open_dataset("folder", tiny_dataset, split="val")
    (result,) = evaluate([contract], dataset, options=options(mean_loss=True, limit=2))
    assert result.mean_loss is None
    assert "gives probabilities, not logits: the mean loss is not computed" in result.warnings


def test_mean_loss_and_tiles_exclude_each_other():
    with pytest.raises(ValueError, match="use --mean_loss or --tile_overlap, not both"):
        options(mean_loss=True, tile_overlap=16)


def test_number_of_processes_changes_no_number(tiny_dataset):
    dataset = open_dataset("folder", tiny_dataset, split="val")
    results = [
        evaluate([read_contract(INT8)], dataset, options=options(processes=count))[0]
        for count in (1, 3)
    ]
    np.testing.assert_array_equal(results[0].matrix, results[1].matrix)


def test_constant_mask_is_called_out(tiny_dataset, tmp_path):
    # All logit weights zero: the mask is one class everywhere, as in the published failures.
    def flatten(model):
        graph = model.subgraphs[0]
        last = [op for op in graph.operators if len(op.inputs) == 3][-1]
        weights = model.buffers[graph.tensors[last.inputs[1]].buffer]
        weights.data = np.zeros_like(weights.data)

    path = mutated(tmp_path / "flat.tflite", flatten)
    dataset = open_dataset("folder", tiny_dataset, split="val")
    (result,) = evaluate([read_contract(path)], dataset, options=options())
    assert result.constant_images == 6
    assert result.warnings[0].startswith("CONSTANT MASK: each of the 6 images is entirely")
    assert "normalized twice" in result.warnings[0]


def test_wrong_number_of_classes_is_refused_before_it_runs():
    dataset = open_dataset("synthetic", None, split="val")
    (result,) = evaluate([read_contract(INT8)], dataset, options=options(limit=2))
    assert "expected 7 classes (synthetic), got 11" in result.failure
    assert result.matrix is None


def die(runner):
    del runner
    ctypes.string_at(0)  # reads where nothing is, as a native kernel with a bad index does


def answer(runner, value):
    return value, runner.contract.name


def test_a_file_that_crashes_the_runtime_costs_a_message():
    contracts = [read_contract(INT8, name="good"), read_contract(INT8, name="bad")]
    tasks = [
        Task(1, die, arguments=()),
        *(Task(0, answer, arguments=(number,)) for number in range(6)),
    ]
    tasks += [Task(1, answer, arguments=(9,))]
    with InterpreterPool(contracts, 1) as pool:
        outcomes = list(pool.run(tasks))
    failures = [outcome.failure for outcome in outcomes if outcome.task.model == 1]
    assert len(failures) == 2
    assert [failure[:36] for failure in failures] == ["the file crashed the runtime (SIGSEG"] * 2
    values = [outcome.value for outcome in outcomes if outcome.task.model == 0]
    assert sorted(values) == [(number, "good") for number in range(6)]


def test_operator_that_reads_nowhere_is_refused_before_the_runtime_sees_it(tmp_path):
    def break_input(model):
        add = next(op for op in model.subgraphs[0].operators if len(op.inputs) == 2)
        add.inputs = np.array([add.inputs[0], -1], np.int32)

    path = mutated(tmp_path / "broken.tflite", break_input)
    with pytest.raises(ValueError, match=r"damaged .tflite .operator .* reads tensor -1"):
        read_graph(path)


def test_latency_is_interleaved_and_stated():
    contract = read_contract(INT8)
    image = open_dataset("synthetic", None, split="val").image(0)
    first, second = measure_latency([contract, contract], image, num_threads=1, warmup=1, repeats=5)
    assert first.repeats == 5
    assert 0 < first.minimum <= first.median <= first.p90
    # The same file twice in turn: what differs is noise, not a factor.
    assert 0.4 < first.median / second.median < 2.5


def test_command_writes_table_numbers_and_picture(tiny_dataset, tmp_path):
    status, output, errors = command(
        f"--model={INT8},{CAMVID / 'qat_int8.tflite'}",
        "--dataset=folder",
        f"--data_dir={tiny_dataset}",
        "--latency_repeats=2",
        "--grid_images=2",
        f"--output_dir={tmp_path}",
    )
    assert status == 0, errors
    assert "split val, 6 images" in output
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [model["model"] for model in metrics["models"]] == ["int8", "qat_int8"]
    matrix = np.array(metrics["models"][0]["confusion_matrix"])
    assert matrix.shape == (11, 12)
    assert matrix.sum() == 6 * 192 * 256
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 3
    with Image.open(tmp_path / "masks.png") as picture:
        pixels = np.asarray(picture)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "flipped", "foreign"])
def test_damaged_files_end_with_one_line(tmp_path, tiny_dataset, damage):
    content = INT8.read_bytes()
    broken = {
        "text": b"this is no model" * 100,
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "flipped": content[:4] + b"TFL3" + bytes(255 - value for value in content[8:4096]),
        "foreign": b"\x08\x03" + b"onnx" * 500,
    }[damage]
    path = tmp_path / "x.tflite"
    path.write_bytes(broken)
    flags = (f"--model={path}", "--dataset=folder", f"--data_dir={tiny_dataset}")
    status, _, errors = command(*flags, f"--output_dir={tmp_path}/out")
    assert status == 1
    assert len([line for line in errors.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ((), 1, "give --model=FILE"),
        (("--model=missing.tflite", "--dataset=synthetic"), 1, "missing.tflite: no such file"),
        ((f"--model={INT8}",), 1, "give --dataset and --data_dir"),
        ((f"--model={INT8}", "--dataset=synthetic", "--limit=-1"), 1, "must not be negative"),
        ((f"--model={INT8}", "--dataset=synthetic", "--split=x"), 1, "unknown split 'x'"),
        ((f"--model={INT8}", "--dataset=nothing"), 2, "--dataset=nothing"),
        ((f"--model={INT8}", "--dataset=synthetic", "--mean=1,2"), 1, "--mean and --std: "),
        (("--run_dir=missing",), 1, "missing: no such folder; check --run_dir"),
        ((f"--run_dir={CAMVID}",), 1, "no .tflite; run export.to_tflite first"),
    ],
)
def test_bad_flags_end_with_one_line(flags, status, message):
    code, _, errors = command(*flags)
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == status
    assert len(lines) == 1, errors
    assert message in lines[0]
    assert "Traceback" not in errors


def test_official_models_score_on_real_photos(shared_dir, tmp_path):
    models = shared_dir / "models"
    files = ("deeplabv3_mnv2_pascal_quant.tflite", "deeplabv3_257_mv_gpu.tflite")
    status, output, errors = command(
        "--model=" + ",".join(str(models / name) for name in files),
        "--dataset=voc",
        f"--data_dir={shared_dir / 'data' / 'voc_animals'}",
        "--limit=12",
        "--latency_repeats=0",
        "--grid_images=0",
        f"--output_dir={tmp_path}",
    )
    assert status == 0, errors
    scores = [
        model["pixel_accuracy"]
        for model in json.loads((tmp_path / "metrics.json").read_text())["models"]
    ]
    # Both are trained on VOC: nine pixels of ten; fed wrongly they lose far more than that.
    assert min(scores) > 0.85, output


def test_interrupt_leaves_no_half_written_metrics(tiny_dataset, tmp_path):
    import signal  # noqa: PLC0415
    import time  # noqa: PLC0415

    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tflite_tools.evaluate", f"--model={INT8}"),
            *("--dataset=folder", f"--data_dir={tiny_dataset}", "--latency_repeats=5000"),
            f"--output_dir={tmp_path}/o",
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "error: interrupted" in errors
    assert not (tmp_path / "o").exists()


def test_label_names_in_another_order_are_said(tiny_dataset, monkeypatch):
    dataset = open_dataset("folder", tiny_dataset, split="val")
    contract = read_contract(INT8)
    names = contract.label_set.names
    shuffled = LabelSet((names[1], names[0], *names[2:]), contract.label_set.colors)
    object.__setattr__(contract, "label_set", shuffled)
    (result,) = evaluate([contract], dataset, options=options(limit=1))
    assert "label list differs" in result.warnings[0]
