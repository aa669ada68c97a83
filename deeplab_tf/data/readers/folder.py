"""Own data: a folder with images, masks and a list of classes.

    classes.txt             one class per line, in the order of the ids 0, 1, 2, ...:
                            `name`, or `name red green blue`
    images/  labels/        images (.jpg .jpeg .png .bmp .webp .tif .tiff) and masks (.png .bmp
                            .tif .tiff) of the same name
    groups.txt              optional, `name group` for every image: frames of one video, tiles of
                            one photo; confidence intervals take images of a group together

Masks store the class id of each pixel, 255 where it is ignored. Their folder may also be named
`masks/`, and their names may end in `_mask`; without any of these folders, a mask `x_mask.png` lies
beside its image `x.jpg`, in the folder itself or in one folder per split. Splits are
defined by the first of these that exists:

1. `<split>.txt`: one name without ending per line. Only the listed images are used.
2. `images/<split>/` and `labels/<split>/`; for masks beside their images, `<split>/`.
3. Neither lists nor sub-folders: `train` and `val` are 80% and 20% of all images. The names are
   sorted by the SHA-256 of `0:<name>` and the first fifth is val. The division depends on the names
   alone, is the same on every machine, and changes little when images are added.
"""

import dataclasses
import hashlib
import pathlib

from absl import logging

from deeplab_tf.data.dataset import (
    FileDataset,
    Sample,
    identity_ids,
    pair_by_stem,
    read_lines,
    read_stems,
)
from deeplab_tf.data.labels import LabelSet, voc_colormap

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MASK_ENDINGS = (".png", ".bmp", ".tif", ".tiff")
MASK_FOLDERS = ("labels", "masks")
MASK_NAME_END = "_mask"
CLASSES_FILE = "classes.txt"
GROUPS_FILE = "groups.txt"
SPLIT_SEED = 0


def open_split(data_dir: pathlib.Path, split: str) -> FileDataset:
    """Opens a split of a folder in the layout above.

    Args:
        data_dir: the folder.
        split: name of the split.

    Returns:
        The split.

    Raises:
        FileNotFoundError: classes.txt, a folder or the list of the split does not exist.
        ValueError: an invalid line, an empty split, an image or mask without counterpart, or two
            images or masks of the same name.
    """
    label_set = read_classes(data_dir / CLASSES_FILE)
    lists = sorted(
        path.name for path in data_dir.glob("*.txt") if path.name not in (CLASSES_FILE, GROUPS_FILE)
    )
    if f"{split}.txt" in lists:
        samples = _listed(data_dir, split)
    elif (data_dir / "images" / split).is_dir() or _are_beside(data_dir, split):
        samples = _pairs(data_dir, split)
    else:
        samples = _divided(data_dir, split, lists=lists)
    if (data_dir / GROUPS_FILE).is_file():
        samples = _grouped(samples, data_dir / GROUPS_FILE)
    table = identity_ids(label_set.num_classes)
    return FileDataset(
        "folder", split, label_set=label_set, data_dir=data_dir, samples=samples, id_table=table
    )


def read_classes(path: pathlib.Path) -> LabelSet:
    """Reads a list of classes; a class without a colour gets that of the VOC colour map.

    Three integers at the end of a line are always a colour, never part of the name.

    Args:
        path: of the list.

    Returns:
        The classes.

    Raises:
        FileNotFoundError: the list does not exist.
        ValueError: no classes, a blank line between them, an invalid colour, or a repeated name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; write one class name per line, id 0 first")
    lines = [line.strip() for line in read_lines(path)]
    while lines and not lines[-1]:
        lines.pop()
    names: list[str] = []
    colors: list[tuple[int, int, int] | None] = []
    for number, line in enumerate(lines, 1):
        name, color = _parse_class(line)
        if not name:
            raise ValueError(f"{path}:{number}: blank line; line {number} names class {number - 1}")
        if name in names:
            raise ValueError(f"{path}:{number}: class {name!r} occurs twice; rename one")
        if color and not all(0 <= value <= 255 for value in color):
            raise ValueError(f"{path}:{number}: expected a colour of 3 numbers 0..255, got {color}")
        names.append(name)
        colors.append(color)
    if not names:
        raise ValueError(f"{path}: contains no class; write one class name per line, id 0 first")
    defaults = voc_colormap(len(names))
    return LabelSet(tuple(names), tuple(c or d for c, d in zip(colors, defaults, strict=True)))


def _parse_class(line: str) -> tuple[str, tuple[int, int, int] | None]:
    fields = line.rsplit(maxsplit=3)
    if len(fields) == 4:
        try:
            red, green, blue = (int(field) for field in fields[1:])
        except ValueError:
            return line, None
        return fields[0], (red, green, blue)
    return line, None


def _grouped(samples: tuple[Sample, ...], path: pathlib.Path) -> tuple[Sample, ...]:
    """Adds the groups of `groups.txt`.

    Raises:
        ValueError: a line is not `name group`, a name occurs twice, or an image has no group.
    """
    groups: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if fields and (len(fields) != 2 or fields[0] in groups):
            raise ValueError(
                f"{path}:{number}: expected `name group`, one line per image, got {line!r}"
            )
        groups |= dict([fields]) if fields else {}
    stems = [pathlib.PurePath(sample.image).stem for sample in samples]
    if missing := [stem for stem in stems if stem not in groups]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{path}: no group for {missing[0]}{more}; add a line, or remove the file")
    return tuple(
        dataclasses.replace(sample, group=groups[stem])
        for sample, stem in zip(samples, stems, strict=True)
    )


def _listed(data_dir: pathlib.Path, split: str) -> tuple[Sample, ...]:
    image_paths, mask_paths = _files(data_dir)
    stems = read_stems(data_dir / f"{split}.txt")
    for kind, found in (("image", image_paths), ("mask", mask_paths)):
        missing = [stem for stem in stems if stem not in found]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(
                f"{data_dir / f'{split}.txt'}: no {kind} named {missing[0]}{more}; "
                "add the file or remove the line"
            )
    return tuple(Sample(image_paths[stem], mask_paths[stem]) for stem in stems)


def _pairs(data_dir: pathlib.Path, split: str = "") -> tuple[Sample, ...]:
    image_paths, mask_paths = _files(data_dir, split)
    return pair_by_stem(image_paths, mask_paths, where=str(data_dir))


def _are_beside(data_dir: pathlib.Path, split: str = "") -> bool:
    """Whether masks lie beside their images, in the folder itself or in that of a split."""
    folders = ("images", *MASK_FOLDERS)
    if any((data_dir / name).is_dir() for name in folders) or not (data_dir / split).is_dir():
        return False
    return any((data_dir / split).glob(f"*{MASK_NAME_END}.*"))


def _files(data_dir: pathlib.Path, split: str = "") -> tuple[dict[str, str], dict[str, str]]:
    """Returns {name: path} of the images and of the masks, of a split or of the whole folder."""
    if _are_beside(data_dir, split):
        images = _find(data_dir, split, endings=IMAGE_ENDINGS)
        masks = {name: path for name, path in images.items() if name.endswith(MASK_NAME_END)}
        images = {name: path for name, path in images.items() if name not in masks}
        if lossy := [path for path in masks.values() if not path.lower().endswith(MASK_ENDINGS)]:
            raise ValueError(
                f"{data_dir / lossy[0]}: expected a mask in {' '.join(MASK_ENDINGS)}; JPEG and "
                "WebP change class ids near every edge; save masks as PNG"
            )
    else:
        inside = f"/{split}" if split else ""
        images = _find(data_dir, f"images{inside}", endings=IMAGE_ENDINGS)
        masks = _find(data_dir, f"{_mask_folder(data_dir)}{inside}", endings=MASK_ENDINGS)
    short = {name: name.removesuffix(MASK_NAME_END) for name in masks}
    return images, {
        name if name in images or short[name] not in images else short[name]: path
        for name, path in masks.items()
    }


def _mask_folder(data_dir: pathlib.Path) -> str:
    """The one of the folders of masks that holds any; `labels` may hold text files of YOLO."""
    there = [name for name in MASK_FOLDERS if (data_dir / name).is_dir()]
    if len(there) < 2:
        return there[0] if there else MASK_FOLDERS[0]
    filled = [
        name
        for name in there
        if any(path.suffix.lower() in MASK_ENDINGS for path in (data_dir / name).rglob("*"))
    ]
    if len(filled) > 1:
        raise ValueError(
            f"{data_dir}: both {' and '.join(filled)} hold masks; move one of the folders away"
        )
    return filled[0] if filled else MASK_FOLDERS[0]


def _divided(data_dir: pathlib.Path, split: str, *, lists: list[str]) -> tuple[Sample, ...]:
    folders = sorted(p.name for p in data_dir.glob("images/*") if p.is_dir())
    if lists or folders:
        raise FileNotFoundError(
            f"{data_dir}: neither {split}.txt nor images/{split}; available: "
            f"{', '.join(lists + folders)}; check --split, or move away what is not a split"
        )
    if split not in ("train", "val"):
        raise ValueError(
            f"{data_dir}: a folder without lists is divided into train and val; for {split!r} "
            f"write {split}.txt"
        )
    pairs = _pairs(data_dir)
    if len(pairs) < 2:
        raise ValueError(
            f"{data_dir}: {len(pairs)} images cannot be divided into train and val; "
            f"add images, or write {split}.txt"
        )
    by_stem = {pathlib.PurePath(pair.image).stem: pair for pair in pairs}
    chosen = _validation_stems(list(by_stem))
    return tuple(pair for stem, pair in by_stem.items() if (stem in chosen) == (split == "val"))


def _validation_stems(stems: list[str]) -> set[str]:
    """Chooses a fifth of the names, at least one."""

    def order(stem: str) -> str:
        return hashlib.sha256(f"{SPLIT_SEED}:{stem}".encode()).hexdigest()

    return set(sorted(stems, key=order)[: max(1, round(len(stems) / 5))])


def _find(data_dir: pathlib.Path, folder: str, *, endings: tuple[str, ...]) -> dict[str, str]:
    """Returns the path relative to data_dir of each name; the log counts other endings."""
    if not (data_dir / folder).is_dir():
        raise FileNotFoundError(
            f"{data_dir / folder}: no such folder; put images in images/ and masks in labels/"
        )
    found: dict[str, str] = {}
    others = []
    for path in sorted((data_dir / folder).iterdir()):
        if path.is_dir() or path.name.startswith("."):
            continue
        if path.suffix.lower() not in endings:
            others.append(path.name)
            continue
        name = path.relative_to(data_dir).as_posix()
        if path.stem in found:
            raise ValueError(
                f"{data_dir}: {found[path.stem]} and {name} have the same name; rename or remove "
                "one"
            )
        found[path.stem] = name
    if others:
        logging.warning(
            "%s: skipped %d files that do not end in %s, for example %s",
            data_dir / folder,
            len(others),
            " ".join(endings),
            others[0],
        )
    return found
