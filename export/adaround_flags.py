"""Flags for the learned rounding of weights, shared by the commands that quantize."""

from absl import flags

from deeplab_tf.quantization.adaround.options import AdaRoundOptions

_DEFAULTS = AdaRoundOptions()


def define_adaround_flags() -> None:
    """Defines the flags that `adaround_options` reads."""
    flags.DEFINE_integer(
        "adaround_iterations",
        _DEFAULTS.iterations,
        "Steps per layer; the paper takes 10000.",
        lower_bound=1,
    )
    flags.DEFINE_float("adaround_learning_rate", _DEFAULTS.learning_rate, "Of Adam, for AdaRound.")


def adaround_options() -> AdaRoundOptions:
    """Returns the options that the flags name.

    Raises:
        ValueError: a learning rate that is not positive.
    """
    return AdaRoundOptions(
        iterations=flags.FLAGS.adaround_iterations,
        learning_rate=flags.FLAGS.adaround_learning_rate,
    )


def adaround_flags_given() -> bool:
    """Returns whether one of the flags was given, which needs learned rounding to be asked for."""
    names = ("adaround_iterations", "adaround_learning_rate")
    return any(flags.FLAGS[name].present for name in names)
