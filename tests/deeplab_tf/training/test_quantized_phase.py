"""The quantized phase: whose scheme, the average of weights, ranges and parity on record."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import open_dataset
from deeplab_tf.graph.fold_batch_norm import fold_batch_norms
from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.models.registry import build_network
from deeplab_tf.quantization.qat.apply import quantize_aware, wrapped_layers
from deeplab_tf.quantization.qat.ranges import fill_ranges, learned_ranges, observe_ranges
from deeplab_tf.quantization.qat.weight_ranges import fit_weight_ranges
from deeplab_tf.runs.choices import OptimizerName, QatScheme
from deeplab_tf.runs.config import TrainingConfig, read_config
from deeplab_tf.runs.folder import Phase, RunFolder
from deeplab_tf.training.loop import TrainingRun
from deeplab_tf.training.schedules import Decay, build_optimizer
from deeplab_tf.training.start import trained_float_arrays
from deeplab_tf.training.stepper import Stepper
from deeplab_tf.weights.matching import load_named, named_arrays
from deeplab_tf.weights.npz import read_weights
from export.bias_correction.reference import nearest_network_of_run
from export.conversion import parity
from export.conversion.parity import measure_parity
from export.conversion.source import RunSource
from tests.paths import CAMVID
from tests.small_network import small_config, small_keras_model
from tests.zoo import pixels
from tflite_tools.to_keras.importer import ImportedNetwork

RUN = TrainingConfig.from_settings(
    model=small_config(),
    dataset="synthetic",
    crop_height=32,
    crop_width=48,
    batch_size=2,
    train_steps=4,
    quantize_delay_step=1,
    quantize_calibration_images=4,
    holdout_images=2,
    validation_split="holdout",
    validation_interval=2,
    summary_interval=1,
)


@pytest.fixture
def eager():
    """A few steps are quicker without their graph, whose tracing takes half a minute a run."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def ranges_of(model, layer):
    return {v.name.split("/")[-1]: v for v in wrapped_layers(model)[layer].weights}


def test_stock_scheme_has_one_range_for_a_depthwise_kernel():
    source = small_keras_model()
    stock = quantize_aware(source, (-1, 127 / 128), qat_scheme=QatScheme.TFMOT_DEFAULT)
    ours = quantize_aware(source, (-1, 127 / 128))
    assert ranges_of(stock, "block_1_depthwise")["depthwise_kernel_max:0"].shape == (1,)
    channels = source.get_layer("block_1_depthwise").output.shape[-1]
    assert ranges_of(ours, "block_1_depthwise")["depthwise_kernel_max:0"].shape == (channels,)
    assert learned_ranges(stock)["block_1_depthwise_relu"] == (-6.0, 6.0)
    before = stock.get_weights()
    fit_weight_ranges(stock)  # not its business
    for old, new in zip(before, stock.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_stock_scheme_with_calibrated_ranges_starts_at_those_of_the_float_network():
    source = small_keras_model()
    stock = quantize_aware(source, (-1, 127 / 128), qat_scheme=QatScheme.TFMOT_CALIBRATED)
    batches = [np.random.default_rng(n).uniform(-1, 1, (2, 32, 48, 3)) for n in range(2)]
    batches = [batch.astype(np.float32) for batch in batches]
    arrays = named_arrays(source)
    fill_ranges(stock, source, arrays=arrays, batches=batches)
    names = ["block_1_depthwise_relu", "logits"]
    for name, (low, high) in observe_ranges(source, names, batches=batches).items():
        end = "post_activation" if name == "logits" else "output"
        found = ranges_of(stock, name)
        assert float(found[f"{end}_min:0"]) == pytest.approx(low)
        assert float(found[f"{end}_max:0"]) == pytest.approx(high)
        assert high < 5.9
    np.testing.assert_array_equal(
        ranges_of(stock, "Conv1")["kernel:0"].numpy(), arrays["Conv1/kernel"]
    )


def test_average_of_weights_by_hand():
    # Loss w, rate 1, no momentum in the first step: w = 1, 0, then velocity 0.9 + 1: -1.9.
    # Average from 1: 0.5 * 1 + 0.5 * 0 = 0.5, then 0.5 * 0.5 + 0.5 * -1.9 = -0.7.
    weight = tf.Variable(1.0)
    schedule = Decay(1.0, 10**9)
    optimizer = build_optimizer(OptimizerName.SGD, schedule, weight_decay=0.0, average=0.5)
    optimizer.build([weight])
    for _ in range(2):
        optimizer.apply_gradients([(tf.constant(1.0), weight)])
    assert weight.numpy() == pytest.approx(-1.9, abs=1e-6)
    optimizer.finalize_variable_values([weight])
    assert weight.numpy() == pytest.approx(-0.7, abs=1e-6)


def test_averaged_lends_and_gives_back():
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, keras.layers.Conv2D(2, 1, name="logits")(image))
    stepper = Stepper(
        model,
        RUN.with_settings(weight_decay=0.0),
        class_weights=np.ones(2, np.float32),
        strategy=tf.distribute.get_strategy(),
        schedule=Decay(0.1, 100),
        first_step=0,
        average=0.5,
    )
    batch = (tf.random.stateless_normal((1, 4, 4, 3), (0, 1)), tf.zeros((1, 4, 4), tf.uint8))
    first = model.get_weights()[0]
    stepper.take(iter([batch]))
    second = model.get_weights()[0]
    with stepper.averaged() as lent:
        np.testing.assert_allclose(lent.get_weights()[0], (first + second) / 2, atol=1e-7)
    np.testing.assert_array_equal(model.get_weights()[0], second)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")  # of tf.data
def test_run_keeps_the_average_and_records_parity_and_ranges(tmp_path):
    seen = []

    def check(model, photos):
        seen.append((model.input_shape, photos.shape, photos.dtype))
        return {"argmax_agreement": 0.5}

    results = {}
    for name, average in (("plain", 0.0), ("averaged", 0.9)):
        config = RUN.with_settings(quantize_weight_average=average, parity_interval=2)
        folder = RunFolder(tmp_path / name)
        TrainingRun(config, folder, check_parity=check).train()
        results[name] = read_weights(folder.weights(Phase.QUANTIZED))
    # Four steps with a decay of 0.9 leave the average nearer to the weights at the switch.
    start = read_weights(RunFolder(tmp_path / "plain").weights(Phase.FLOAT))["Conv1/kernel"]
    plain, averaged = (results[n]["quant_Conv1/kernel"] for n in ("plain", "averaged"))
    assert 0 < np.abs(averaged - start).max() < 0.5 * np.abs(plain - start).max()
    largest = np.abs(averaged).max((0, 1, 2))
    np.testing.assert_allclose(results["averaged"]["quant_Conv1/kernel_max"], largest, rtol=1e-6)
    assert len(seen) == 4  # steps 2 and 4 of both runs
    assert seen[0][1:] == ((2, *seen[0][0][1:]), np.uint8)
    history = (tmp_path / "plain" / "history.jsonl").read_text()
    lines = [json.loads(line) for line in history.splitlines()]
    assert [line["step"] for line in lines if "parity" in line] == [2, 4]
    events = next((tmp_path / "plain" / "events" / "quantized").glob("events*"))
    tags = {
        value.tag
        for record in tf.data.TFRecordDataset(str(events))
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value
    }
    assert {"parity/argmax_agreement", "range_max/Conv1_relu", "largest_range_change"} <= tags
    # The biases of a file of either phase are compared with the float network that it is made of.
    for phase, model in RunSource(RunFolder(tmp_path / "plain")).float_models(32, 48).items():
        folded = fold_batch_norms(*graph_from_keras(model))
        network = ImportedNetwork(
            folded.description,
            folded.arrays,
            ranges={},
            contract=None,
            rows=(),
            nodes_of_tensors={},
        )
        reference = nearest_network_of_run(tmp_path / "plain", network)
        assert ("quantization-aware" in reference.name) == (phase is Phase.QUANTIZED)
        np.testing.assert_array_equal(
            reference.arrays["Conv1/kernel"], folded.arrays["Conv1/kernel"]
        )


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")  # of tf.data
def test_stock_run_exports_with_its_faults_told(tmp_path):
    config = RUN.with_settings(
        train_steps=2, quantize_scheme=QatScheme.TFMOT_DEFAULT, validation_interval=10
    )
    folder = RunFolder(tmp_path)
    TrainingRun(config, folder).train()
    source = RunSource(folder)
    assert source.tolerated
    assert source.fingerprint() == RunSource(folder).fingerprint()
    assert learned_ranges(source.model(Phase.QUANTIZED, 32, 48))["Conv1_relu"][0] > -6.0


@pytest.fixture(scope="module")
def calibrated(shared_dir):
    """The zoo's network with fake-quantizers, ranges from real photos, and three other photos."""
    size = (352, 480)

    def photos(split, indices):
        dataset = open_dataset("camvid", shared_dir / "data" / "camvid", split=split)
        return np.stack([dataset.image(index)[4 : 4 + size[0]] for index in indices])

    source = build_network(read_config(CAMVID).model, size)
    load_named(source, read_weights(CAMVID / "float.npz"))
    model = quantize_aware(source, Preprocessing().input_range)
    batches = [Preprocessing().normalize(photos("train", range(0, 360, 45)))]
    fill_ranges(model, source, arrays=named_arrays(source), batches=batches)
    return model, photos("val", (0, 34, 68))


@pytest.mark.slow
def test_parity_with_the_interpreter_on_real_photos(calibrated):
    """What docs/measurements promises: 99.5 % of the pixels and 30 dB."""
    found = measure_parity(*calibrated, preprocessing=Preprocessing())
    assert found.images == 3
    # Six photos, measured: 99.61 %, worst 99.36 %, 31.5 dB.
    assert found.agreement > 0.995
    assert 0.99 < found.worst <= found.agreement
    assert found.snr_db > 30


@pytest.mark.slow
def test_parity_sees_a_broken_file(monkeypatch):
    monkeypatch.setattr(parity, "_numbered_output", _shifted)
    model = quantize_aware(small_keras_model(), Preprocessing().input_range)
    source = small_keras_model()
    arrays = named_arrays(source)
    photos = pixels(2, size=(32, 48))
    batches = [Preprocessing().normalize(photos)]
    fill_ranges(model, source, arrays=arrays, batches=batches)
    broken = measure_parity(model, photos, preprocessing=Preprocessing())
    monkeypatch.undo()
    whole = measure_parity(model, photos, preprocessing=Preprocessing())
    assert broken.agreement < 0.3
    assert whole.agreement > 0.95


def _shifted(runner, number, photo):
    """The file's classes, moved by one."""
    return number, np.roll(parity.real_output(runner, photo), 1, -1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"quantize_weight_average": 1.0},
            r"quantize_weight_average must be 0 \(none\) to below 1",
        ),
        ({"parity_interval": -1}, "parity_interval must not be negative; got -1"),
    ],
)
def test_bad_values(changes, message):
    with pytest.raises(ValueError, match=message):
        RUN.with_settings(**changes)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")  # of tf.data
def test_a_failing_comparison_does_not_end_the_training(tmp_path):
    def check(model, photos):
        raise RuntimeError("the converter refused")

    folder = RunFolder(tmp_path)
    config = RUN.with_settings(parity_interval=2)
    TrainingRun(config, folder, check_parity=check).train()
    assert folder.weights(Phase.QUANTIZED).is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")  # of tf.data
def test_a_teacher_that_was_quantization_aware_from_the_start_gives_what_it_learned(tmp_path):
    config = RUN.with_settings(
        quantize_delay_step=0, quantize_freeze_batch_norm=False, train_steps=2
    )
    folder = RunFolder(tmp_path)
    TrainingRun(config, folder).train()
    learned = trained_float_arrays(folder)["Conv1/kernel"]
    inside = read_weights(folder.weights(Phase.QUANTIZED))["quant_Conv1/kernel"]
    np.testing.assert_array_equal(learned, inside)
    assert np.abs(learned - read_weights(folder.weights(Phase.FLOAT))["Conv1/kernel"]).max() > 0
