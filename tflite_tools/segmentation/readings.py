"""Shows a photo under the likely normalizations of a file that states none, to pick one."""

import dataclasses
import pathlib

import numpy as np
from PIL import Image

from deeplab_tf import atomic_file
from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.likely_normalizations import implied_normalization, likely_normalizations
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.segmentation import overlay
from tflite_tools.segmentation.classes import Model
from tflite_tools.segmentation.prediction import fed, predict
from tflite_tools.segmentation.sources import Picture

FILE = "readings.png"
_LEGEND_ROWS = 6


@dataclasses.dataclass(frozen=True)
class Reading:
    """One normalization that the file may have been trained with.

    Attributes:
        preprocessing: the normalization.
        reason: what speaks for it, or "".
    """

    preprocessing: Preprocessing
    reason: str = ""

    @property
    def flags(self) -> str:
        """The flags that choose it."""
        mean, std = (
            ",".join(f"{value:g}" for value in part)
            for part in (self.preprocessing.mean, self.preprocessing.std)
        )
        return f"--mean={mean} --std={std}"


def likely_readings(model: Model) -> list[Reading]:
    """Returns the likely normalizations of a file, the likeliest first.

    Args:
        model: whose normalization is not on record.
    """
    contract = model.contract
    implied = implied_normalization(read_graph(contract.path), contract.channels)
    others = likely_normalizations(contract.channels)
    if implied is None:
        return [Reading(each) for each in others]
    low, high = implied.input_range
    first = Reading(implied, f"its first operators take [{low + 0.0:.3g}, {high:.3g}]")
    return [first, *(Reading(each) for each in others if not _alike(each, implied))]


def _alike(one: Preprocessing, other: Preprocessing) -> bool:
    slack = 0.05 * max(np.ptp(one.input_range), np.ptp(other.input_range))
    return bool(np.allclose(one.input_range, other.input_range, rtol=0, atol=slack))


def write_readings(
    model: Model, picture: Picture, *, path: pathlib.Path, opacity: float
) -> list[Reading]:
    """Draws a photo under each likely normalization, side by side.

    Args:
        model: whose normalization is not on record.
        picture: the photo.
        path: picture to write.
        opacity: of the overlays, 0..1.

    Returns:
        The readings that ran, in the order of the picture.

    Raises:
        RuntimeError: the file runs under none of them.
    """
    readings = likely_readings(model)
    contracts = [
        dataclasses.replace(model.contract, preprocessing=reading.preprocessing)
        for reading in readings
    ]
    image = fed(picture, model.contract)
    with InterpreterPool(contracts, 1) as pool:
        tasks = [Task(number, predict, arguments=(image, -1)) for number in range(len(contracts))]
        outcomes = list(pool.run(tasks))
    if all(outcome.failure for outcome in outcomes):
        raise RuntimeError(f"{model.contract.path}: {outcomes[0].failure}")
    small = overlay.shrink(picture.image, overlay.TILE_WIDTH)
    tiles = [("photo", small)]
    ran = []
    for reading, outcome in zip(readings, outcomes, strict=True):
        if outcome.failure:
            continue
        ran.append(reading)
        mask = outcome.value.mask
        drawn = overlay.overlay(picture.image, mask, classes=model.classes, opacity=opacity)
        shares = model.classes.shares(mask)
        few = dict(list(shares.items())[:_LEGEND_ROWS])
        panel = overlay.legend(
            model.classes, few, shape=small.shape, height=small.shape[0], title="shares"
        )
        tile = overlay.beside(overlay.shrink(drawn, overlay.TILE_WIDTH), panel)
        tiles.append((f"{len(ran)}: {reading.flags}", tile))
    wide = max(tile.shape[1] for _, tile in tiles)
    padded = [
        (name, overlay.beside(tile, np.full((1, wide - tile.shape[1], 3), 255, np.uint8)))
        for name, tile in tiles
    ]
    sheet = overlay.sheet(
        [padded[start : start + 2] for start in range(0, len(padded), 2)], width=wide
    )
    with atomic_file.atomic_path(path) as temporary:
        Image.fromarray(sheet).save(temporary)
    return ran
