"""Signal-to-noise ratio: how far one network's values lie from another's."""

import math


def snr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise).

    Args:
        signal: sum of the reference's values squared, not negative.
        noise: sum of the differences squared; NaN gives NaN.

    Returns:
        decibels; infinite where nothing differs, minus infinite where the reference is as good as
        0 beside the differences.
    """
    if not noise:
        return math.inf
    ratio = signal / noise  # 0 also where noise is infinite, or so much larger
    return 10 * math.log10(ratio) if ratio else -math.inf
