"""Pairs photos with mask pictures: in folders of their own, or a mask beside its photo."""

import dataclasses
import pathlib
import re

from deeplab_tf.data.convert.photos import files_below
from deeplab_tf.data.convert.source import Source
from deeplab_tf.data.readers.folder import IMAGE_ENDINGS

_PHOTO_FOLDERS = {"images", "image", "img", "imgs", "photos", "jpegimages"}
_MASK_FOLDERS = {
    *("labels", "label", "masks", "mask", "annotations", "annotation", "segmentationclass"),
    *("gt", "groundtruth", "ground_truth"),
}
_INSTANCES = "segmentationobject"
_MASK_NAME = re.compile(r"(?i)(.+?)[_-](mask|masks|label|labels|gt|seg|l)$")

Key = tuple[str, ...]
"""Folders and name that a photo and its mask share."""


@dataclasses.dataclass(frozen=True)
class Pairing:
    """Photos and masks of a folder.

    Attributes:
        photos: {key: photo}.
        masks: {key: mask}; with masks of several classes, keys that no photo has.
        root: folder that names of photos are relative to.
    """

    photos: dict[Key, pathlib.Path]
    masks: dict[Key, pathlib.Path]
    root: pathlib.Path


def find_pairs(source: Source) -> Pairing:
    """Tells photos and masks apart by their folders, or by names such as `x.jpg`, `x_mask.png`.

    Args:
        source: with the folder, or the two folders.

    Raises:
        FileNotFoundError: no photos, or no masks.
    """
    root = source.folder
    if source.images is not None or source.masks is not None:
        if source.images is None or source.masks is None:
            raise ValueError("give --images and --masks together, or neither")
        photos = _by_key(source.images, files_below(source.images, IMAGE_ENDINGS), source=source)
        masks = _by_key(source.masks, files_below(source.masks, IMAGE_ENDINGS), source=source)
        root = source.images
    else:
        pictures = files_below(root, IMAGE_ENDINGS)
        inside = [path for path in pictures if _in_mask_folder(path, root)]
        if not inside:
            stems = {path.with_suffix("") for path in pictures}
            inside = [path for path in pictures if _has_photo(path, stems)]
        chosen = set(inside)
        instances = {path for path in pictures if _INSTANCES in map(str.lower, path.parts)}
        rest = [path for path in pictures if path not in chosen | instances]
        photos = _by_key(root, rest, source=source)
        masks = _by_key(root, [path for path in inside if path not in instances], source=source)
    if not photos or not masks:
        what = "photo" if not photos else "mask"
        raise FileNotFoundError(
            f"{root}: no {what} in it; expected images/ and masks/, or masks beside photos named "
            "x_mask.png; or give --images and --masks"
        )
    short = {_without_ending(key) for key in photos}
    masks = {
        key if key in photos or _without_ending(key) not in short else _without_ending(key): path
        for key, path in masks.items()
    }
    return Pairing(photos, masks, root)


def _in_mask_folder(path: pathlib.Path, root: pathlib.Path) -> bool:
    return any(part.lower() in _MASK_FOLDERS for part in path.relative_to(root).parts[:-1])


def _has_photo(path: pathlib.Path, stems: set[pathlib.Path]) -> bool:
    match = _MASK_NAME.fullmatch(path.stem)
    return match is not None and path.with_name(match.group(1)) in stems


def _without_ending(key: Key) -> Key:
    match = _MASK_NAME.fullmatch(key[-1])
    return (*key[:-1], match.group(1)) if match else key


def _by_key(
    root: pathlib.Path, paths: list[pathlib.Path], *, source: Source
) -> dict[Key, pathlib.Path]:
    found: dict[Key, pathlib.Path] = {}
    for path in paths:
        parts = path.relative_to(root).parts
        kept = [part for part in parts[:-1] if part.lower() not in _PHOTO_FOLDERS | _MASK_FOLDERS]
        key = (*kept, path.stem)
        if key in found:
            source.findings.fault(f"{path} and {found[key].name} have the same name; remove one")
        found[key] = path
    return found
