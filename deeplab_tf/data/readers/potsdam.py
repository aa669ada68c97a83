"""ISPRS 2D semantic labelling, Potsdam and Vaihingen: aerial images of cities, 6 classes.

Rottensteiner et al. 2014, Results of the ISPRS benchmark on urban object detection and 3D building
reconstruction. Images are 6000x6000 at 5 cm per pixel (Potsdam: red, green, blue) and about
2000x2500 at 9 cm (Vaihingen: near infrared, red, green, stored as red, green, blue). There are
three layouts; the first one found is used:

1. The archives: `2_Ortho_RGB` with one of `5_Labels_*` (Potsdam), `top` with one of `gts_*` or
   `ISPRS_semantic_labeling_Vaihingen_ground_truth_*` (Vaihingen). Masks with eroded object borders
   (black, ignored) are preferred to complete ones: the benchmark is scored on them.
2. `img_dir/<split>` and `ann_dir/<split>` of MMSegmentation's conversion; the folder decides.
3. `images/` and `labels/` with crops named as in that conversion.

Splits are those of the benchmark: its training areas are `train`, its test areas `val`; in layouts
1 and 3 the area in the file name decides. Masks hold the official colours, or the ids of
MMSegmentation's conversion: 0 for borders (ignored) and 1..6 for the classes, which become 0..5.
"""

import dataclasses
import pathlib
import re
import warnings

import numpy as np
from absl import logging
from PIL import Image

from deeplab_tf.data import images
from deeplab_tf.data.dataset import FileDataset, pair_by_stem
from deeplab_tf.data.labels import IGNORE_LABEL, LabelSet

LABEL_SET = LabelSet(
    names=("impervious surface", "building", "low vegetation", "tree", "car", "clutter"),
    colors=(
        (255, 255, 255),
        (0, 0, 255),
        (0, 255, 255),
        (0, 255, 0),
        (255, 255, 0),
        (255, 0, 0),
    ),
)
_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_CROP = r"(?P<area>{area})(?P<window>_\d+_\d+_\d+_\d+)\.(png|jpe?g|tiff?)"
"""Names of MMSegmentation's crops, <area>_<left>_<top>_<right>_<bottom>."""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Folders, file names and splits of one of the two cities.

    Attributes:
        name: name in the registry.
        area_pattern: regular expression of an area's name.
        image_folder: folder of the images.
        mask_folders: folders of the masks, in order of preference.
        image_pattern: regular expression of an image's file name, with the group `area`.
        mask_pattern: regular expression of a mask's file name, with the group `area`.
        areas: areas of each split.
    """

    name: str
    area_pattern: str
    image_folder: str
    mask_folders: tuple[str, ...]
    image_pattern: str
    mask_pattern: str
    areas: dict[str, frozenset[str]]


POTSDAM = Benchmark(
    name="potsdam",
    area_pattern=r"\d+_\d+",
    image_folder="2_Ortho_RGB",
    mask_folders=(
        "5_Labels_all_noBoundary",
        "5_Labels_all",
        "5_Labels_for_participants_no_Boundary",
        "5_Labels_for_participants",
    ),
    image_pattern=r"top_potsdam_(?P<area>\d+_\d+)_RGB\.tif",
    mask_pattern=r"top_potsdam_(?P<area>\d+_\d+)_label(_noBoundary)?\.tif",
    areas={
        split: frozenset(
            f"{row}_{column}"
            for row, (first, last) in rows.items()
            for column in range(first, last + 1)
        )
        for split, rows in (
            (
                "train",
                {2: (10, 12), 3: (10, 12), 4: (10, 12), 5: (10, 12), 6: (7, 12), 7: (7, 12)},
            ),
            (
                "val",
                {2: (13, 14), 3: (13, 14), 4: (13, 15), 5: (13, 15), 6: (13, 15), 7: (13, 13)},
            ),
        )
    },
)
_WHOLE = "ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE"
VAIHINGEN = Benchmark(
    name="vaihingen",
    area_pattern=r"area\d+",
    image_folder="top",
    mask_folders=(
        _WHOLE.replace("COMPLETE", "eroded_COMPLETE"),
        _WHOLE,
        "gts_eroded_for_participants",
        "gts_for_participants",
    ),
    image_pattern=r"top_mosaic_09cm_(?P<area>area\d+)\.tif",
    mask_pattern=r"top_mosaic_09cm_(?P<area>area\d+)(_noBoundary)?\.tif",
    areas={
        split: frozenset(f"area{number}" for number in numbers)
        for split, numbers in (
            ("train", (1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37)),
            ("val", (2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38)),
        )
    },
)


@dataclasses.dataclass(frozen=True)
class ColorOrIdDataset(FileDataset):
    """Reads masks of colours and masks of ids; the pixel mode of a file decides."""

    def label(self, index: int) -> np.ndarray:
        """Reads a label map, uint8 [height, width]."""
        path = self.data_dir / self.samples[index].label
        if _stores_colors(path):
            return classes_of_colors(images.read_image(path), path)
        return super().label(index)


def open_potsdam(data_dir: pathlib.Path, split: str) -> FileDataset:
    """Opens a split of Potsdam.

    Args:
        data_dir: folder of one of the layouts above.
        split: train or val.

    Returns:
        The split.

    Raises:
        FileNotFoundError: none of the layouts.
        ValueError: unknown or empty split, or an image or mask without counterpart.
    """
    return _open_split(POTSDAM, data_dir, split=split)


def open_vaihingen(data_dir: pathlib.Path, split: str) -> FileDataset:
    """Opens a split of Vaihingen.

    Args:
        data_dir: folder of one of the layouts above.
        split: train or val.

    Returns:
        The split.

    Raises:
        FileNotFoundError: none of the layouts.
        ValueError: unknown or empty split, or an image or mask without counterpart.
    """
    return _open_split(VAIHINGEN, data_dir, split=split)


def _open_split(city: Benchmark, data_dir: pathlib.Path, *, split: str) -> FileDataset:

    if split not in city.areas:
        raise ValueError(
            f"{city.name}: unknown split {split!r}; its training areas are `train`, its test "
            "areas `val`"
        )
    crop = _CROP.format(area=city.area_pattern)
    if (data_dir / city.image_folder).is_dir():
        places = (
            (city.image_folder, city.image_pattern),
            (_mask_folder(city, data_dir), city.mask_pattern),
        )
    elif (data_dir / "img_dir" / split).is_dir():
        places = ((f"img_dir/{split}", crop), (f"ann_dir/{split}", crop))
    else:
        places = (("images", crop), ("labels", crop))
    areas = None if places[0][0].startswith("img_dir") else city.areas[split]
    image_paths, mask_paths = (
        _find(city, data_dir, folder=folder, pattern=pattern, areas=areas)
        for folder, pattern in places
    )
    area = re.compile(city.area_pattern)

    def area_of(name: str) -> str:
        found = area.match(name)
        return found.group() if found else ""

    samples = pair_by_stem(image_paths, mask_paths, where=str(data_dir), group_of=area_of)
    return ColorOrIdDataset(city.name, split, LABEL_SET, data_dir, samples, _id_table())


def _mask_folder(city: Benchmark, data_dir: pathlib.Path) -> str:
    found = [folder for folder in city.mask_folders if (data_dir / folder).is_dir()]
    if not found:
        raise FileNotFoundError(
            f"{data_dir}: no masks next to {city.image_folder}; unpack one of "
            f"{', '.join(city.mask_folders)}"
        )
    if len(found) > 1:
        logging.info("%s: using masks in %s, not %s", data_dir, found[0], ", ".join(found[1:]))
    return found[0]


def _find(
    city: Benchmark,
    data_dir: pathlib.Path,
    *,
    folder: str,
    pattern: str,
    areas: frozenset[str] | None,
) -> dict[str, str]:
    """Returns the path relative to data_dir of each area or crop, of `areas` or of all.

    Files whose names do not match are counted in the log.
    """
    if not (data_dir / folder).is_dir():
        raise FileNotFoundError(
            f"{data_dir / folder}: no such folder; {city.name} needs {city.image_folder} with "
            f"{city.mask_folders[0]}, or img_dir and ann_dir, or images and labels; check "
            "--data_dir"
        )
    found: dict[str, str] = {}
    skipped = []
    for path in sorted((data_dir / folder).rglob("*")):
        if path.suffix.lower() not in _ENDINGS:
            continue
        name = path.relative_to(data_dir).as_posix()
        match = re.fullmatch(pattern, path.name, re.IGNORECASE)
        if not match:
            skipped.append(name)
        elif areas is None or match["area"].lower() in areas:
            key = match["area"] + match.groupdict().get("window", "")
            if key in found:
                raise ValueError(f"{data_dir}: {found[key]} and {name} are both {key}; remove one")
            found[key] = name
    if skipped:
        rule = "skipped %d images whose names do not match %s, for example %s"
        logging.warning(rule, len(skipped), pattern, skipped[0])
    return found


def _stores_colors(path: pathlib.Path) -> bool:
    """Returns whether a file has colour channels, from its header; False if unreadable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=images.FORMATS) as image:
                return image.mode in ("RGB", "RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False  # read_mask reports the error


def classes_of_colors(mask: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Maps the colours of an official mask to classes; black is ignored.

    Args:
        mask: uint8 [height, width, 3], RGB.
        path: of the mask, for the message.

    Returns:
        uint8 [height, width], 0..5 or 255.

    Raises:
        ValueError: a colour that is none of the seven. JPEG compression and interpolation cause
            this, and `top_potsdam_4_12_label.tif` of 5_Labels_all is a photograph (torchgeo
            issue 1727).
    """
    channels = mask != 0
    corner = channels[..., 0] * np.uint8(4) + channels[..., 1] * np.uint8(2) + channels[..., 2]
    label = _COLOR_TABLE[corner]
    wrong = ((mask != 0) & (mask != 255)).any(-1) | (label == _NO_CLASS)
    if wrong.any():
        color = tuple(mask[wrong][0].tolist())
        raise ValueError(
            f"{path}: {int(wrong.sum())} pixels have colours of no class, for example {color}; "
            "expected white, blue, cyan, green, yellow, red, or black (ignored); use the official "
            "mask, for Potsdam's 4_12 that of 5_Labels_for_participants"
        )
    return label


_NO_CLASS = 254


def _color_table() -> np.ndarray:
    """Returns the class of each corner of the colour cube, red * 4 + green * 2 + blue."""
    table = np.full(8, _NO_CLASS, np.uint8)
    table[0] = IGNORE_LABEL
    for index, (red, green, blue) in enumerate(LABEL_SET.colors):
        table[(red > 0) * 4 + (green > 0) * 2 + (blue > 0)] = index
    return table


_COLOR_TABLE = _color_table()


def _id_table() -> np.ndarray:
    """Maps 0 to ignored and 1..6 to the classes; 255 must not occur, as in LoveDA."""
    table = np.full(LABEL_SET.num_classes + 1, IGNORE_LABEL, np.int16)
    table[1:] = np.arange(LABEL_SET.num_classes)
    return table
