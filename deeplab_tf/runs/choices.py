"""The choices that a training run's configuration offers, as enums. Their values are the flags'."""

import enum


class OptimizerName(enum.Enum):
    """Which optimizer takes the steps."""

    SGD = "sgd"
    """Momentum 0.9 without Nesterov: DeepLab's recipe."""
    ADAMW = "adamw"
    """Adam with decoupled weight decay (Loshchilov & Hutter 2017, arXiv:1711.05101)."""


class Schedule(enum.Enum):
    """How the learning rate falls, with p = step / total_steps."""

    POLY = "poly"
    """(1 - p)^power (DeepLab's)."""
    COSINE = "cosine"
    """(1 + cos(pi p)) / 2 (Loshchilov & Hutter 2016, arXiv:1608.03983, without restarts)."""
    STEP = "step"
    """1, then 0.1 from p = 1/2, then 0.01 from p = 3/4."""
    FIXED = "fixed"
    """1."""


class ClassWeighting(enum.Enum):
    """How rare classes are weighted in the loss."""

    NONE = "none"
    """Every pixel counts the same."""
    MEDIAN_FREQUENCY = "median_frequency"
    """median(f) / f_c, f_c over the images that contain class c (Eigen & Fergus 2015)."""
    ENET = "enet"
    """1 / ln(1.02 + p_c) (Paszke et al. 2016, ENet, arXiv:1606.02147, section 5.2)."""


class DistillLoss(enum.Enum):
    """What the student copies from its teacher."""

    LOGITS = "logits"
    """At each pixel, the teacher's distribution over the classes."""
    CHANNEL_WISE = "channel_wise"
    """For each class, the teacher's distribution over the pixels."""


class QatScheme(enum.Enum):
    """Which scheme of quantization-aware training decides which tensors are quantized, and how."""

    PLANNED = "planned"
    """This project's plan: per channel everywhere, ranges from calibration."""
    TFMOT_DEFAULT = "tfmot_default"
    """tfmot's defaults, for comparison: per tensor for depthwise, ranges start at +-6."""
    TFMOT_CALIBRATED = "tfmot_calibrated"
    """tfmot's defaults, but ranges start from calibration: tells the scheme from its start."""

    @property
    def is_stock(self) -> bool:
        """Whether tfmot decides which tensors are quantized."""
        return self is not QatScheme.PLANNED


class Distribution(enum.Enum):
    """Which tf.distribute strategy takes the steps."""

    NONE = "none"
    """One device."""
    MIRRORED = "mirrored"
    """All devices of this machine, weights mirrored."""
    MULTI_WORKER = "multi_worker"
    """Several machines, listed in the environment variable TF_CONFIG."""
