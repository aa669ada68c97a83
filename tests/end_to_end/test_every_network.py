"""Each network walks the whole road: trained, switched, converted, checked, scored."""

import os

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from deeplab_tf.data.registry import open_dataset
from deeplab_tf.models.config import Aspp, ModelConfig, default_aspp
from deeplab_tf.training.config import TrainingConfig
from deeplab_tf.training.loop import TrainingRun
from deeplab_tf.training.run_folder import RunFolder
from export.conversion.pipeline import ExportPlan, export_files
from export.conversion.source import RunSource
from export.conversion.variants import Head, Variant, plan_files
from tflite_tools.contract import read_contract
from tflite_tools.deployment.targets.registry import check_target
from tflite_tools.evaluation.evaluation import EvaluationOptions, evaluate
from tflite_tools.flatbuffer.graph import read_graph

SIZE = (64, 96)
STEPS, SWITCH = 24, 18
MORE_STEPS = {"enet": 120}
"""Float steps more: a network this narrow begins slowly, and wavers between classes till then."""
VARIANTS = (Variant.FLOAT32, Variant.INT8, Variant.QAT_INT8)
# DeepLab over MobileNetV2 walks the road in every other room.
NETWORKS = {
    "deeplab_mobilenet_v3_large": {"backbone": "mobilenet_v3_large", "width_multiplier": 0.5},
    "deeplab_resnet18": {"backbone": "resnet18"},
    "unet_classic": {"network": "unet", "backbone": "unet_encoder", "width_multiplier": 0.25},
    "unet_vgg11_bn": {"network": "unet", "backbone": "vgg11_bn", "aspp": Aspp.SLIM},
    "enet": {"network": "enet"},
}
DEEP = {
    "deeplab_resnet50": {"backbone": "resnet50"},
    "deeplab_resnet50_v1": {"backbone": "resnet50_v1"},
    "deeplab_resnet101": {"backbone": "resnet101"},
    "unet_resnet50": {"network": "unet", "backbone": "resnet50", "aspp": Aspp.SLIM},
}
"""These take minutes each; ResNet-18 stands for them, tests/deeplab_tf/models for their blocks."""
EVERY_NETWORK = pytest.mark.skipif(
    not os.environ.get("EVERY_NETWORK"), reason="minutes each; set EVERY_NETWORK=1 for them"
)
OFF_EDGETPU = {"enet": {"LEAKY_RELU"}}
"""Operators beside the resizes, whose forms depend on --target, that the Edge TPU lacks."""


def config_of(name) -> TrainingConfig:
    values = dict((NETWORKS | DEEP)[name])
    values.setdefault("aspp", default_aspp(values.get("network", "deeplab")))
    model = ModelConfig(
        num_classes=open_dataset("synthetic", None, split="train").label_set.num_classes,
        aspp_channels=32,
        decoder_channels=32,
        batch_norm_momentum=0.8,
        **values,
    )
    return TrainingConfig(
        model=model,
        dataset="synthetic",
        crop_height=SIZE[0],
        crop_width=SIZE[1],
        batch_size=4,
        train_steps=STEPS + MORE_STEPS.get(name, 0),
        quantize_delay_step=SWITCH + MORE_STEPS.get(name, 0),
        quantize_calibration_images=8,
        learning_rate=0.02,
        holdout_images=2,
        validation_split="holdout",
        validation_interval=1000,
        checkpoint_interval=1000,
        summary_interval=3,
    )


@pytest.fixture(
    scope="module",
    params=[*sorted(NETWORKS), *(pytest.param(name, marks=EVERY_NETWORK) for name in DEEP)],
)
def walked(request, tmp_path_factory):
    """(name, run folder, exported files) of one network."""
    folder = RunFolder(tmp_path_factory.mktemp(request.param) / "run")
    TrainingRun(config_of(request.param), folder).train()
    dataset = open_dataset("synthetic", None, split="train")
    files, _ = plan_files(list(VARIANTS), [Head.LOGITS])
    config = config_of(request.param)
    plan = ExportPlan(
        output_dir=folder.path / "tflite",
        height=SIZE[0],
        width=SIZE[1],
        files=files,
        preprocessing=config.preprocessing,
        label_set=dataset.label_set,
        calibration_dataset=dataset,
        calibration_images=8,
    )
    return request.param, folder, export_files(RunSource(folder), plan)


@pytest.fixture(scope="module")
def contracts(walked):
    _, folder, _ = walked
    return [read_contract(folder.path / "tflite" / f"{v.value}.tflite") for v in VARIANTS]


def first_and_last_loss(folder) -> tuple[float, float]:
    """Of the float phase, from what TensorBoard shows."""
    events = EventAccumulator(str(folder.events / "float"), size_guidance={"tensors": 0})
    events.Reload()
    losses = [float(tf.make_ndarray(e.tensor_proto)) for e in events.Tensors("loss")]
    return losses[0], losses[-1]


@pytest.mark.slow
def test_it_learns_and_the_gate_lets_every_file_pass(walked):
    _, folder, results = walked
    assert [result.failure for result in results] == ["", "", ""]
    first, last = first_and_last_loss(folder)
    assert last < 0.9 * first


@pytest.mark.slow
def test_the_evaluator_scores_every_file(contracts):
    dataset = open_dataset("synthetic", None, split="val")
    options = EvaluationOptions(processes=1, latency_repeats=0, limit=4)
    results = evaluate(contracts, dataset, options=options, reference=0)
    assert [result.failure for result in results] == ["", "", ""]
    assert [result.matrix.sum() for result in results] == [results[0].matrix.sum()] * 3
    # Networks of a few steps waver between classes; 0.9 still finds a lost layer.
    assert results[1].agreement > 0.9


@pytest.mark.slow
def test_accelerators_take_every_operator_but_resizes(walked, contracts):
    name = walked[0]
    for contract in contracts[1:]:
        graph = read_graph(contract.path)
        left = check_target(graph, "edgetpu").rows()
        roots = {kind for kind, _, maps, why in left if not maps and "depends on" not in why}
        assert roots <= {"RESIZE_BILINEAR", *OFF_EDGETPU.get(name, ())}
        assert not check_target(graph, "gpu").left_off
