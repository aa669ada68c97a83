"""Where a network's first weights come from: another run, or a pretrained backbone."""

import json
import pathlib

import numpy as np
import tf_keras as keras
from absl import logging

from deeplab_tf.graph.batch_norm import adopt_statistics
from deeplab_tf.models.backbones.registry import build_backbone
from deeplab_tf.models.config import ModelConfig
from deeplab_tf.models.registry import WITH_BACKBONE, build_network
from deeplab_tf.quantization.qat.apply import float_arrays_inside
from deeplab_tf.runs.config import TrainingConfig, read_config
from deeplab_tf.runs.folder import Phase, RunFolder
from deeplab_tf.training.distillation import Teacher
from deeplab_tf.weights import matching as initialization
from deeplab_tf.weights.keras_applications import APPLICATIONS
from deeplab_tf.weights.npz import read_weights

RANGES = "ranges.json"
"""Activation ranges of an imported integer file, beside its weights."""


def initializer(config: TrainingConfig, read_folded=None):
    """The function that loads a run's first weights, or None for random ones.

    Args:
        config: with `init_from` and `backbone_weights`.
        read_folded: reader of a `.tflite`: path -> convolutions in graph order. Given by the
            command, because this package reads no `.tflite` itself.

    Returns:
        function of (model, batches).
    """
    if config.init_from and config.backbone_weights != "none":
        raise ValueError("--init_from and --backbone_weights exclude each other; give one")
    if config.init_from:
        arrays = _start_arrays(pathlib.Path(config.init_from))
        return lambda model, batches: _report(initialization.load_named(model, arrays))
    if config.backbone_weights == "none":
        return None
    if config.backbone_weights == "imagenet":
        _check_imagenet(config)
        return lambda model, batches: _load_imagenet(model, config)
    path = pathlib.Path(config.backbone_weights)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights; give imagenet, none or a file")
    if path.suffix == ".tflite":
        convolutions = read_folded(path)
        return lambda model, batches: _load_folded(
            model, config, convolutions=convolutions, batches=batches
        )
    if path.suffix == ".h5":
        return lambda model, batches: _report(initialization.load_h5(model, path))
    return lambda model, batches: _report(initialization.load_named(model, read_weights(path)))


def initial_ranges(config: TrainingConfig) -> dict[str, tuple[float, float]]:
    """Activation ranges that start the quantizers: {layer: (min, max)}, empty where none are known.

    Only a run that is quantization-aware from its first step takes the ranges of the `.tflite`
    that `init_from` was imported from: after float steps they are not its own any more.

    Raises:
        ValueError: a damaged `ranges.json`.
    """
    path = pathlib.Path(config.init_from or ".") / RANGES
    if not config.init_from or config.quantize_delay_step != 0 or not path.is_file():
        return {}
    return read_ranges(path)


def read_ranges(path: pathlib.Path) -> dict[str, tuple[float, float]]:
    """{layer: (min, max)} of a `ranges.json`.

    Raises:
        ValueError: not such a file.
    """
    try:
        values = json.loads(path.read_text())
        return {name: (float(item["min"]), float(item["max"])) for name, item in values.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not the activation ranges of an import ({error})") from error


def trained_float_arrays(folder: RunFolder) -> dict[str, np.ndarray]:
    """The trained float network of a run.

    That of a run that was quantization-aware from its first step is the one inside the
    quantization-aware network: its `float.npz` holds the weights that it began with.
    """
    quantized = folder.weights(Phase.QUANTIZED)
    if read_config(folder.path).quantize_delay_step != 0 or not quantized.is_file():
        return read_weights(folder.weights(Phase.FLOAT))
    return float_arrays_inside(read_weights(quantized))


def _start_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    if path.is_dir() and (path / "config.json").is_file():
        folder = RunFolder(path)
        if read_config(path).quantize_delay_step == 0 and folder.weights(Phase.QUANTIZED).is_file():
            return trained_float_arrays(folder)
    return read_weights(run_weights(path))


def run_weights(path: pathlib.Path) -> pathlib.Path:
    """The weights file that a run folder or a file name stands for."""
    if not path.is_dir():
        return path
    for phase in (Phase.FLOAT, Phase.QUANTIZED):
        if (weights := RunFolder(path).weights(phase)).is_file():
            return weights
    raise FileNotFoundError(
        f"{path}: no finished run; it holds neither float.npz nor quantized.npz"
    )


def teacher_maker(config: TrainingConfig, class_names: tuple[str, ...]):
    """The function that builds a run's teacher, or None without one.

    Args:
        config: of the student.
        class_names: of the student's data set.

    Returns:
        function of the configuration -> Teacher, to be called in the strategy's scope.

    Raises:
        FileNotFoundError: the teacher is no run with float weights.
        ValueError: the teacher knows other classes or takes other pixels than the student.
    """
    if not config.distillation.teacher:
        return None
    folder = RunFolder(pathlib.Path(config.distillation.teacher))
    taught = read_config(folder.path)
    names = folder.read_labels().names
    if names != class_names:
        raise ValueError(
            f"the teacher {folder.path} knows {len(names)} classes ({', '.join(names)}), the "
            f"student {len(class_names)} ({', '.join(class_names)}); they must be the same"
        )
    if taught.preprocessing != config.preprocessing:
        raise ValueError(
            f"the teacher {folder.path} takes {taught.preprocessing}, the student "
            f"{config.preprocessing}; they must be the same"
        )
    if taught.sensor and (other := taught.sensor.difference(config.sensor)):
        raise ValueError(
            f"the teacher {folder.path} was trained on range images of another sensor ({other}); "
            "they must be the same"
        )
    arrays = trained_float_arrays(folder)

    def make(student: TrainingConfig) -> Teacher:
        model = build_network(taught.model, (student.crop_height, student.crop_width))
        report = initialization.load_named(model, arrays)
        if report.missing or report.mismatched:
            raise ValueError(f"{folder.path}: its weights do not fit ({report.lines()[1]})")
        model.trainable = False
        return Teacher(model, student.distillation, alignment=taught.model.logits_alignment)

    return make


def _load_folded(model: keras.Model, config: TrainingConfig, *, convolutions, batches) -> None:
    report = initialization.load_convolutions(model, convolutions)
    if config.model.network in WITH_BACKBONE:
        left = [name for name in _backbone_layers(config.model) if name in report.missing]
        if left:
            raise ValueError(
                f"{config.backbone_weights} has no weights for {len(left)} convolutions of the "
                f"backbone {config.model.backbone} (first: {left[0]}); give a file of the same "
                "backbone and width"
            )
    _report(report)
    adopt_statistics(model, batches)


def _backbone_layers(config: ModelConfig) -> list[str]:
    """Names of the layers between the image and the features at the output stride."""
    image = keras.Input((2 * config.output_stride, 2 * config.output_stride, config.channels))
    features = build_backbone(config.backbone, image, form=config.backbone_form())
    last = features[config.output_stride]
    return [layer.name for layer in keras.Model(image, last).layers]


def _check_imagenet(config: TrainingConfig) -> None:
    """Raises ValueError where Keras Applications has no weights of this graph."""
    backbone = config.model.backbone
    if config.model.network not in WITH_BACKBONE or backbone not in APPLICATIONS:
        raise ValueError(
            f"no weights of Keras Applications fit {config.model.network} over {backbone}, only "
            f"over {', '.join(APPLICATIONS)}; take one of these, or convert torchvision's with "
            "deeplab_tf.weights.import_torch"
        )
    if config.model.channels != 3:
        raise ValueError(
            f"ImageNet weights take 3 channels, these images have {config.model.channels}; "
            "give --backbone_weights=none"
        )


def _load_imagenet(model: keras.Model, config: TrainingConfig) -> None:
    application = APPLICATIONS[config.model.backbone]
    try:
        source = application.model(config.model.width_multiplier)
    except Exception as error:  # the download raises a bare Exception
        raise RuntimeError(
            f"cannot load Keras Applications' ImageNet weights ({error}); check the connection and "
            "the width, or give --backbone_weights=FILE"
        ) from error
    arrays = application.convert(initialization.named_arrays(source), config.model.backbone)
    _report(initialization.load_named(model, arrays))


def _report(report: initialization.MatchReport) -> None:
    for line in report.lines():
        logging.info("%s", line)
