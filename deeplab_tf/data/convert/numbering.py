"""Ids of the classes, and which photos train and which validate."""

import collections
import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Sequence

from deeplab_tf.data.convert.regions import (
    BACKGROUND,
    BACKGROUND_NAMES,
    IGNORED_NAME,
    Annotations,
    Findings,
)
from deeplab_tf.data.dataset import read_lines
from deeplab_tf.data.labels import IGNORE_LABEL, LabelSet, voc_colormap

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Numbering:
    """Ids of the classes.

    Attributes:
        label_set: the classes of the new data set.
        ids: {name in the annotations: id, or 255 if it is ignored}.
        unlabelled: id of pixels that nothing labels.
    """

    label_set: LabelSet
    ids: dict[str, int]
    unlabelled: int


def number_classes(
    annotations: Annotations,
    *,
    given: LabelSet | None,
    ignored: Sequence[str],
    unlabelled_ignored: bool,
    findings: Findings,
) -> Numbering:
    """Chooses the ids.

    Without a given list: background 0, then the format's classes in its order. With one: its order.

    Args:
        annotations: what the format says.
        given: classes in the wanted order, or None.
        ignored: names of classes whose pixels become 255.
        unlabelled_ignored: whether pixels that nothing labels are ignored too; no background class
            is added then.
        findings: gets classes that the given list lacks, and a note about those that occur nowhere.

    Raises:
        ValueError: no class is left, more than fit, or the given list lacks the background.
    """
    present = {one.name for one in annotations.classes}
    if unknown := [name for name in ignored if name not in present]:
        raise ValueError(
            f"--ignored_classes: no class {unknown[0]!r}; known: {', '.join(sorted(present))}"
        )
    ignored = [*ignored, *(name for name in present if name == IGNORED_NAME)]
    adds_background = annotations.unlabelled_means_background and not unlabelled_ignored
    background = {name for name in present if name.lower() in BACKGROUND_NAMES}
    if given is None:
        names, colors = _own_order(annotations, ignored, background if adds_background else None)
        label_set = LabelSet(names, colors)
    else:
        label_set = given
    ids = {name: number for number, name in enumerate(label_set.names)}
    ids |= dict.fromkeys(ignored, IGNORE_LABEL)
    if adds_background:
        if BACKGROUND not in ids:
            raise ValueError(
                f"--classes: no class {BACKGROUND!r} for pixels that nothing labels; add the line, "
                "or give --unlabelled=ignored"
            )
        ids |= dict.fromkeys(background, ids[BACKGROUND])
    unlabelled = ids[BACKGROUND] if adds_background else IGNORE_LABEL
    for name in sorted(present - ids.keys()):
        findings.fault(
            f"class {name!r} is not in --classes ({', '.join(label_set.names)}); add the line, or "
            f"give --ignored_classes={name}"
        )
    return Numbering(label_set, ids, unlabelled)


def _own_order(
    annotations: Annotations, ignored: Sequence[str], background: set[str] | None
) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Names and colours; `background` None: none is added, and the format's is a class like any."""
    classes = [one for one in annotations.classes if one.name not in ignored]
    kept = [one for one in classes if background is None or one.name not in background]
    names = [one.name for one in kept]
    colors = [one.color for one in kept]
    if background is not None:
        names.insert(0, BACKGROUND)
        colors.insert(0, (0, 0, 0))
    defaults = _free_colors(len(names), {color for color in colors if color})
    filled = [color or defaults.pop(0) for color in colors]
    return tuple(names), tuple(filled)


def _free_colors(count: int, taken: set[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    return [color for color in voc_colormap(count + len(taken) + 1) if color not in taken]


def groups_of(
    names: dict[str, str], *, pattern: str, listing: pathlib.Path | None
) -> dict[str, str]:
    """Finds out what photos were taken with.

    Args:
        names: {name in the new data set: path of the photo in the old one}.
        pattern: regular expression that is searched in the path; its first group, or all of it, is
            the group of the photo. "" for none.
        listing: file of lines `name group`, or None.

    Returns:
        {name: group}; empty if neither is given.

    Raises:
        ValueError: the expression is none or does not match, or the file lacks a photo.
    """
    if listing is not None:
        return _listed_groups(names, listing)
    if not pattern:
        return {}
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--group_by={pattern}: not a regular expression ({error})") from error
    found = {}
    for name, path in names.items():
        match = expression.search(path)
        if match is None:
            raise ValueError(f"--group_by={pattern}: does not match {path}")
        text = match.group(1) if expression.groups else match.group()
        found[name] = re.sub(r"\s", "_", text or "") or "none"
    return found


def _listed_groups(names: dict[str, str], listing: pathlib.Path) -> dict[str, str]:
    groups: dict[str, str] = {}
    for number, line in enumerate(read_lines(listing), 1):
        fields = line.split()
        if fields and len(fields) != 2:
            raise ValueError(f"{listing}:{number}: expected `name group`, got {line!r}")
        groups |= dict([fields]) if fields else {}
    found = {}
    for name, path in names.items():
        choices = (name, path, pathlib.PurePosixPath(path).name, pathlib.PurePosixPath(path).stem)
        group = next((groups[one] for one in choices if one in groups), None)
        if group is None:
            raise ValueError(f"{listing}: no group for {path}; add a line `{name} group`")
        found[name] = group
    return found


def divide(
    splits: dict[str, str], groups: dict[str, str], *, share: float, again: bool
) -> dict[str, list[str]]:
    """Returns {split: names}, in the order of the names.

    Splits that the format gives are kept, unless `again`; where it gives no val, its train is
    divided. Whole groups go into val, in the order of the SHA-256 of `0:<group>`, while they bring
    its size closer to the share; a photo without a group is one by itself.

    Args:
        splits: {name: split, or "" if the format gives none}.
        groups: {name: group}, or empty.
        share: of the photos that validate, above 0 and below 1.
        again: whether to divide although the format gives splits.

    Raises:
        ValueError: fewer than two groups, a share that is none, or splits for some photos only.
    """
    if not 0 < share < 1:
        raise ValueError(f"--validation_share={share}: expected a number between 0 and 1")
    given: dict[str, list[str]] = collections.defaultdict(list)
    for name in sorted(splits):
        given["" if again else splits[name]].append(name)
    if "" in given and len(given) > 1:
        raise ValueError(
            f"{len(given[''])} photos are in none of the splits train, val and test, for example "
            f"{given[''][0]}; give --divide_again to divide all photos anew"
        )
    if {"train", "val"} <= given.keys():
        return {split: given[split] for split in SPLITS if split in given}
    kept = {"test": given["test"]} if {"train", "test"} <= given.keys() else {}
    members = collections.defaultdict(list)
    for name in sorted(splits):
        if name not in kept.get("test", ()):
            members[groups.get(name, name)].append(name)
    if len(members) < 2:
        raise ValueError(
            f"photos of {len(members)} group cannot be divided into train and val; add photos of "
            "another group, or leave out --group_by and --groups"
        )
    chosen = _validation_groups({group: len(names) for group, names in members.items()}, share)
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for group, names in members.items():
        lists["val" if group in chosen else "train"] += names
    return {split: sorted(names) for split, names in lists.items()} | kept


def _validation_groups(sizes: dict[str, int], share: float) -> set[str]:
    def order(group: str) -> str:
        return hashlib.sha256(f"0:{group}".encode()).hexdigest()

    target = share * sum(sizes.values())
    chosen: set[str] = set()
    count = 0
    for group in sorted(sizes, key=order):
        closer = abs(count + sizes[group] - target) < abs(count - target)
        if closer and len(chosen) + 1 < len(sizes):
            chosen.add(group)
            count += sizes[group]
    return chosen or {min(sizes, key=lambda group: (sizes[group], order(group)))}
