"""The first weights of a network, from another run or a pretrained backbone; and the teacher's."""

import collections.abc
import math
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import logging

from deeplab_tf import bounded_file
from deeplab_tf.graph.batch_norm import adopt_statistics
from deeplab_tf.graph.build import main_output
from deeplab_tf.models.backbones.registry import build_backbone
from deeplab_tf.models.config import BackboneConfig, ModelConfig
from deeplab_tf.models.registry import build_network
from deeplab_tf.quantization.qat.apply import float_arrays_inside
from deeplab_tf.runs.config import TrainingConfig, read_config
from deeplab_tf.runs.folder import Phase, RunFolder
from deeplab_tf.training.distillation import Teacher
from deeplab_tf.weights import matching as initialization
from deeplab_tf.weights.keras_applications import APPLICATIONS
from deeplab_tf.weights.npz import read_weights

Batches = collections.abc.Iterator[tf.Tensor]
"""Normalized training crops, float32 [batch, crop_height, crop_width, channels]."""
Initializer = collections.abc.Callable[[keras.Model, Batches], None]
"""Loads first weights into a network; batches are for batch-norm statistics."""

RANGES = "ranges.json"
"""Activation ranges of an imported integer file, next to its weights."""


def initializer(
    config: TrainingConfig,
    read_folded: collections.abc.Callable[[pathlib.Path], Any] | None = None,
) -> Initializer | None:
    """Returns the function that loads the first weights of a run, or None for random ones.

    Args:
        config: configuration of the run.
        read_folded: reader of a `.tflite`: path -> convolutions in graph order. Given by the
            command, because this package does not read `.tflite` files itself.

    Returns:
        function of (model, batches).

    Raises:
        FileNotFoundError: no such weights.
        ValueError: settings that exclude each other, or weights that do not fit.
    """
    if config.start.init_from and config.start.backbone_weights != "none":
        raise ValueError("--init_from and --backbone_weights exclude each other; give one")
    if config.start.init_from:
        arrays = _start_arrays(pathlib.Path(config.start.init_from))
        return lambda model, batches: _report(initialization.load_named(model, arrays))
    if config.start.backbone_weights == "none":
        return None
    if config.start.backbone_weights == "imagenet":
        network = _check_imagenet(config.model)
        return lambda model, batches: _load_imagenet(model, network)
    path = pathlib.Path(config.start.backbone_weights)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights; give imagenet, none or a file")
    if path.suffix == ".tflite":
        if read_folded is None:
            raise ValueError(f"{path}: cannot read a .tflite here; give a .npz or .h5 file")
        convolutions = read_folded(path)
        return lambda model, batches: _load_folded(
            model, config, convolutions=convolutions, batches=batches
        )
    only = _backbone_layers(config.model)
    if path.suffix == ".h5":
        return lambda model, batches: _report(initialization.load_h5(model, path, only=only))
    return lambda model, batches: _report(
        initialization.load_named(model, read_weights(path), only=only)
    )


def initial_ranges(config: TrainingConfig) -> dict[str, tuple[float, float]]:
    """Returns the activation ranges that the quantizers start with, if any are known.

    Only a run that is quantization-aware from its first step takes the ranges of the `.tflite`
    that `init_from` was imported from: after float steps they no longer fit.

    Args:
        config: configuration of the run.

    Returns:
        {layer: (min, max)}.

    Raises:
        ValueError: a damaged `ranges.json`.
    """
    path = pathlib.Path(config.start.init_from or ".") / RANGES
    if not config.start.init_from or config.quantization.delay_step != 0 or not path.is_file():
        return {}
    return read_ranges(path)


def read_ranges(path: pathlib.Path) -> dict[str, tuple[float, float]]:
    """Reads a `ranges.json`.

    Args:
        path: the file.

    Returns:
        {layer: (min, max)}.

    Raises:
        ValueError: another kind of file.
    """
    with bounded_file.read_as(path, "the activation ranges of an import"):
        values = bounded_file.read_json(path)
        ranges = {name: (float(item["min"]), float(item["max"])) for name, item in values.items()}
        for name, (low, high) in ranges.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"{name}: expected min <= max, got {low} and {high}")
        return ranges


def trained_float_arrays(folder: RunFolder) -> dict[str, np.ndarray]:
    """Returns the weights of the trained float network of a run, "layer/weight": array.

    For a run that was quantization-aware from its first step it is the network inside the
    quantization-aware one: its `float.npz` has the weights that it started with.
    """
    quantized = folder.weights(Phase.QUANTIZED)
    if read_config(folder.path).quantization.delay_step != 0 or not quantized.is_file():
        return read_weights(folder.weights(Phase.FLOAT))
    return float_arrays_inside(read_weights(quantized))


def _start_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    if path.is_dir() and (path / "config.json").is_file():
        folder = RunFolder(path)
        if (
            read_config(path).quantization.delay_step == 0
            and folder.weights(Phase.QUANTIZED).is_file()
        ):
            return trained_float_arrays(folder)
    return read_weights(run_weights(path))


def run_weights(path: pathlib.Path) -> pathlib.Path:
    """Returns the weights file of a run folder.

    Args:
        path: a run folder, or a weights file, which is returned as it is.

    Returns:
        the weights of the float phase, else of the quantized phase.

    Raises:
        FileNotFoundError: no finished run.
    """
    if not path.is_dir():
        return path
    for phase in (Phase.FLOAT, Phase.QUANTIZED):
        if (weights := RunFolder(path).weights(phase)).is_file():
            return weights
    raise FileNotFoundError(f"{path}: no finished run; it has neither float.npz nor quantized.npz")


def teacher_maker(
    config: TrainingConfig, class_names: tuple[str, ...]
) -> collections.abc.Callable[[TrainingConfig], Teacher] | None:
    """Returns the function that builds the teacher of a run, or None without one.

    Args:
        config: configuration of the student.
        class_names: classes of the student's data set.

    Returns:
        function of the student's configuration, to be called in the strategy's scope.

    Raises:
        FileNotFoundError: the teacher is not a run with float weights.
        ValueError: the teacher has other classes or another preprocessing than the student.
    """
    if not config.distillation.teacher:
        return None
    folder = RunFolder(pathlib.Path(config.distillation.teacher))
    source = read_config(folder.path)
    names = folder.read_labels().names
    if names != class_names:
        raise ValueError(
            f"the teacher {folder.path} knows {len(names)} classes ({', '.join(names)}), the "
            f"student {len(class_names)} ({', '.join(class_names)}); they must be the same"
        )
    if source.data.preprocessing != config.data.preprocessing:
        raise ValueError(
            f"the teacher {folder.path} takes {source.data.preprocessing}, the student "
            f"{config.data.preprocessing}; they must be the same"
        )
    if source.data.sensor and (other := source.data.sensor.difference(config.data.sensor)):
        raise ValueError(
            f"the teacher {folder.path} was trained on range images of another sensor ({other}); "
            "they must be the same"
        )
    arrays = trained_float_arrays(folder)

    def make(student: TrainingConfig) -> Teacher:
        model = build_network(source.model, student.data.crop_size)
        report = initialization.load_named(model, arrays)
        if report.missing or report.mismatched:
            raise ValueError(f"{folder.path}: its weights do not fit ({report.lines()[1]})")
        model.trainable = False
        return Teacher(
            main_output(model), student.distillation, alignment=source.model.logits_alignment
        )

    return make


def _load_folded(
    model: keras.Model, config: TrainingConfig, *, convolutions: Any, batches: Batches
) -> None:
    only = _backbone_layers(config.model)
    report = initialization.load_convolutions(model, convolutions, only=only)
    if isinstance(config.model, BackboneConfig) and report.missing:
        raise ValueError(
            f"{config.start.backbone_weights} has no weights for {len(report.missing)} "
            f"convolutions of the backbone {config.model.backbone} (first: {report.missing[0]}); "
            "give a file of the same backbone and width"
        )
    _report(report)
    adopt_statistics(model, batches)


def _backbone_layers(config: ModelConfig) -> list[str] | None:
    """Returns the names of the layers from the image to the features at the output stride.

    Only these take weights of a backbone: a head may have layers that happen to have the shapes of
    the classifier in the same file.

    Returns:
        The names; None for a network without a backbone.
    """
    if not isinstance(config, BackboneConfig):
        return None
    image = keras.Input((2 * config.output_stride, 2 * config.output_stride, config.channels))
    features = build_backbone(config.backbone, image, form=config.backbone_form())
    last = features[config.output_stride]
    return [layer.name for layer in keras.Model(image, last).layers]


def _check_imagenet(model: ModelConfig) -> BackboneConfig:
    """Returns the model, whose backbone Keras Applications has weights of.

    Raises:
        ValueError: it has none.
    """
    if not isinstance(model, BackboneConfig) or model.backbone not in APPLICATIONS:
        over = f" over {model.backbone}" if isinstance(model, BackboneConfig) else ""
        raise ValueError(
            f"no weights of Keras Applications fit {model.network}{over}, only networks over "
            f"{', '.join(APPLICATIONS)}; choose one of these, or convert torchvision's with "
            "deeplab_tf.weights.import_torch"
        )
    if model.channels != 3:
        raise ValueError(
            f"ImageNet weights take 3 channels, these images have {model.channels}; "
            "give --backbone_weights=none"
        )
    return model


def _load_imagenet(model: keras.Model, config: BackboneConfig) -> None:
    application = APPLICATIONS[config.backbone]
    try:
        source = application.model(config.width_multiplier)
    except Exception as error:  # the download raises a bare Exception
        raise RuntimeError(
            f"cannot load Keras Applications' ImageNet weights ({error}); check the connection and "
            "the width, or give --backbone_weights=FILE"
        ) from error
    arrays = application.convert(initialization.named_arrays(source), config.backbone)
    _report(initialization.load_named(model, arrays, only=_backbone_layers(config)))


def _report(report: initialization.MatchReport) -> None:
    for line in report.lines():
        logging.info("%s", line)
