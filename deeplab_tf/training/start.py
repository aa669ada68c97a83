"""Where a network's first weights come from: another run, or a pretrained backbone."""

import pathlib

import tf_keras as keras
from absl import logging

from deeplab_tf.quantization.batch_norm import adopt_statistics
from deeplab_tf.training import initialization
from deeplab_tf.training.config import TrainingConfig
from deeplab_tf.training.run_folder import Phase, RunFolder
from deeplab_tf.training.weights_file import read_weights


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
        arrays = read_weights(run_weights(pathlib.Path(config.init_from)))
        return lambda model, batches: _report(initialization.load_named(model, arrays))
    if config.backbone_weights == "none":
        return None
    if config.backbone_weights == "imagenet":
        return lambda model, batches: _load_imagenet(model, config)
    path = pathlib.Path(config.backbone_weights)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights; give imagenet, none or a file")
    if path.suffix == ".tflite":
        convolutions = read_folded(path)
        return lambda model, batches: _load_folded(model, convolutions, batches)
    if path.suffix == ".h5":
        return lambda model, batches: _report(initialization.load_h5(model, path))
    return lambda model, batches: _report(initialization.load_named(model, read_weights(path)))


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


def _load_folded(model: keras.Model, convolutions, batches) -> None:
    _report(initialization.load_convolution_sequence(model, convolutions))
    adopt_statistics(model, batches)


def _load_imagenet(model: keras.Model, config: TrainingConfig) -> None:
    try:
        source = keras.applications.MobileNetV2(
            input_shape=(224, 224, 3), alpha=config.model.width_multiplier, include_top=False
        )
    except Exception as error:  # the download raises a bare Exception
        raise RuntimeError(
            f"cannot load Keras Applications' ImageNet weights ({error}); check the connection and "
            "the width, or give --backbone_weights=FILE"
        ) from error
    _report(initialization.load_named(model, initialization.named_arrays(source)))


def _report(report: initialization.MatchReport) -> None:
    for line in report.lines():
        logging.info("%s", line)
