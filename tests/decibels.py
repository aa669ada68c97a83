"""Signal-to-noise ratio of two arrays, for tests of quantized networks."""

import numpy as np
import numpy.typing as npt


def snr_db(expected: npt.ArrayLike, found: npt.ArrayLike) -> float:
    """Returns 10 log10(mean(expected^2) / mean((expected - found)^2))."""
    expected, found = np.asarray(expected), np.asarray(found)
    return 10 * np.log10(np.square(expected).mean() / np.square(expected - found).mean())
