"""Options of AdaRound."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class AdaRoundOptions:
    """Options for learning the rounding of a layer.

    Attributes:
        iterations: Adam steps per layer.
        batch_pixels: output positions per step.
        sample_pixels: output positions per layer, drawn uniformly from all images.
        learning_rate: of Adam, for V.
        regularization: weight of the regularization, which pulls h(V) to 0 or 1. The error term
            is divided by the effect of one step of a weight at an input of root mean square
            size, so that one value suits every layer. (The paper's 0.01 belongs to an error in
            units of the activations.)
        warm_start: fraction of the iterations without regularization.
        beta_start: exponent of the regularization at its start; decreases along a cosine.
        beta_end: exponent of the regularization at the end.
        seed: of the drawn positions.

    Raises:
        ValueError: a value outside its bounds; the message names it.
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
            raise ValueError(f"warm_start must be in [0, 1); got {self.warm_start}")
        if not 1 < self.beta_end <= self.beta_start < np.inf:
            raise ValueError(
                "expected 1 < beta_end <= beta_start; "
                f"got beta_start {self.beta_start} and beta_end {self.beta_end}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more; got {self.seed}")
