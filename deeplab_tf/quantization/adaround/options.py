"""How AdaRound learns."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class AdaRoundOptions:
    """How the rounding of a layer is learned.

    Attributes:
        iterations: Adam steps a layer.
        batch_pixels: output positions a step.
        sample_pixels: output positions kept of a layer, drawn from all photos alike.
        learning_rate: of Adam, for V.
        regularization: weight of the pull to 0 or 1. The error beside it is divided by what
            one step of a weight changes at an input of root mean square size, so that one
            value fits every layer; 0.1 to 1 did about equally well, 0.01 worse. (The paper's
            0.01 stands beside an error in units of the activations.)
        warm_start: share of the iterations without the pull.
        beta_start, beta_end: the exponent falls from one to the other along a cosine.
        seed: of the positions.

    Raises:
        ValueError: a value outside its bounds, named.
    """

    iterations: int = 1000
    batch_pixels: int = 512
    sample_pixels: int = 16384
    learning_rate: float = 0.03
    regularization: float = 0.3
    warm_start: float = 0.2
    beta_start: float = 20.0
    beta_end: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_pixels", "sample_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("learning_rate", "regularization"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        if not 0 <= self.warm_start < 1:
            raise ValueError(f"warm_start is a share, 0 to below 1; got {self.warm_start}")
        if not 1 < self.beta_end <= self.beta_start < np.inf:
            raise ValueError(
                "beta falls from beta_start to beta_end, both above 1; "
                f"got {self.beta_start} and {self.beta_end}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more; got {self.seed}")
