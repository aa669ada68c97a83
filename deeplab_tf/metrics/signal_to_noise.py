"""Signal-to-noise ratio of a network's values with respect to a reference."""

import math


def snr_db(signal: float, noise: float) -> float:
    """Computes 10 log10(signal / noise).

    Args:
        signal: sum of the squared values of the reference, not negative.
        noise: sum of the squared differences; NaN gives NaN.

    Returns:
        Decibels; infinite if nothing differs, minus infinite if the reference is negligible
        compared with the differences.
    """
    if not noise:
        return math.inf
    ratio = signal / noise  # 0 also where noise is infinite, or so much larger
    return 10 * math.log10(ratio) if ratio else -math.inf
