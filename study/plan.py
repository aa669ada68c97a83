"""The study file: a grid of trainings, and its cells.

{"name": "tiny",
 "train": {"dataset": "synthetic", "train_steps": 300},
 "grid": {"width": {"narrow": {"width_multiplier": 0.35}, "wide": {"width_multiplier": 1.0}},
          "quantization": {"after": {}, "aware": {"quantize_delay_step": 240}}},
 "exclude": [{"width": "wide", "quantization": ["aware"]}],
 "variants": ["float32", "int8", "qat_int8"],
 "export": {"calibration_images": 32},
 "evaluate": {"split": "val"}}

Keys of "train", "export" and of a value of the grid are flags of deeplab_tf.train and
export.to_tflite without their dashes; those of a value override those of "train".
"""

import dataclasses
import functools
import itertools
import pathlib
import re
from typing import Any

from deeplab_tf import bounded_file

CELL_PREFIX = "cell:"
"""Prefix of a cell's name where a flag takes a run folder."""
QUANTIZATION_AWARE = "qat_int8"
"""The variant that only a run with a quantization-aware phase has."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+]*")
_SAME_LIST = ("dataset", "data_dir")
_TEACHER = ("teacher", "distill_from", "init_from")
"""Flags of deeplab_tf.train that can name another cell."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training of the grid.

    Attributes:
        name: "axis-value_axis-value", also the name of its folder.
        choice: {axis: value}.
        train: flags of the training.
        variants: files that are exported from it.
        needs: names of the cells that must be trained first.
    """

    name: str
    choice: dict[str, str]
    train: dict
    variants: tuple[str, ...]
    needs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Study:
    """A grid of trainings that are scored on one list.

    Attributes:
        name: for the page's title and the default folder.
        train: flags that all trainings share.
        grid: {axis: {value: flags}}.
        exclude: combinations to skip, each {axis: value or list of values}.
        variants: files of each cell, values of `export.conversion.variants.Variant`; the others
            are compared with the first.
        export: flags of export.to_tflite.
        evaluate: flags of study.report.score.
    """

    name: str
    train: dict
    grid: dict[str, dict[str, dict]]
    exclude: tuple[dict, ...] = ()
    variants: tuple[str, ...] = ("float32", "int8")
    export: dict = dataclasses.field(default_factory=dict)
    evaluate: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_name("name", self.name)
        if unlike := [name for name in self.variants if not isinstance(name, str)]:
            raise ValueError(f'"variants" must hold strings, got {unlike[0]!r}')
        if not self.variants or len(set(self.variants)) != len(self.variants):
            raise ValueError(
                f'"variants": expected at least one, all different, got {self.variants}'
            )
        if not self.train.get("dataset"):
            raise ValueError('"train" names no data set; give "dataset": "...", as for --dataset')
        heads = self.export.get("heads", "logits")
        if not isinstance(heads, str) or "," in heads:
            raise ValueError(f'"heads" of "export" must be one head, a string, got {heads!r}')
        _check_grid(self.grid)
        for combination in self.exclude:
            _check_exclusion(combination, self.grid)
        if not self.cells:
            raise ValueError('"exclude" leaves no cell of the grid; remove a line')
        if QUANTIZATION_AWARE in self.variants and not any(
            QUANTIZATION_AWARE in cell.variants for cell in self.cells
        ):
            raise ValueError(
                f'"variants" has {QUANTIZATION_AWARE}, but no cell sets quantize_delay_step to 0 '
                "or more; set it, or remove the variant"
            )
        self._check_needs()

    @functools.cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every combination that is not excluded; the last axis varies fastest."""
        axes = list(self.grid)
        return tuple(
            self._cell(dict(zip(axes, values, strict=True)))
            for values in itertools.product(*self.grid.values())
            if not self._is_excluded(dict(zip(axes, values, strict=True)))
        )

    def _cell(self, choice: dict[str, str]) -> Cell:
        train = dict(self.train)
        for axis, value in choice.items():
            train |= self.grid[axis][value]
        aware = train.get("quantize_delay_step", -1) != -1
        named = [str(train[flag]) for flag in _TEACHER if flag in train]
        return Cell(
            "_".join(f"{axis}-{value}" for axis, value in choice.items()),
            choice,
            train=train,
            variants=tuple(v for v in self.variants if aware or v != QUANTIZATION_AWARE),
            needs=tuple(n.removeprefix(CELL_PREFIX) for n in named if n.startswith(CELL_PREFIX)),
        )

    def _is_excluded(self, choice: dict[str, str]) -> bool:
        return any(
            all(choice[axis] in _listed(values) for axis, values in combination.items())
            for combination in self.exclude
        )

    def missing_teacher(self) -> str:
        """Finds a run outside this study that a cell learns from and that does not exist.

        Returns:
            "cell: folder" of the first one; "" where none is missing.
        """
        for cell in self.cells:
            for flag in _TEACHER:
                named = str(cell.train.get(flag, ""))
                outside = named and not named.startswith(CELL_PREFIX)
                if outside and not pathlib.Path(named).exists():
                    return f"{cell.name}: {named}"
        return ""

    def _check_needs(self) -> None:
        """Raises ValueError if a teacher is no cell, or if cells wait for each other."""
        known = {cell.name: cell for cell in self.cells}
        for cell in self.cells:
            for name in cell.needs:
                if name not in known:
                    raise ValueError(
                        f"{cell.name} learns from {CELL_PREFIX}{name}, which is no cell of the "
                        f"grid; expected one of {', '.join(known)}"
                    )
        trained: set[str] = set()
        while len(trained) < len(known):
            ready = {n for n, c in known.items() if n not in trained and trained >= set(c.needs)}
            if not ready:
                circle = ", ".join(sorted(set(known) - trained))
                raise ValueError(
                    f"these cells wait for each other's teacher: {circle}; remove one teacher"
                )
            trained |= ready


def _listed(values: Any) -> list:
    return values if isinstance(values, list) else [values]


def _check_name(what: str, name: object) -> None:
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ValueError(f"{what} must be letters, digits, '_', '.' and '+', got {name!r}")


def _check_grid(grid: dict[str, dict[str, dict]]) -> None:
    """Raises ValueError for unusable names, and for a flag that two axes set."""
    if not grid:
        raise ValueError('"grid" has no axis; give at least one, with at least one value')
    owner: dict[str, str] = {}
    for axis, values in grid.items():
        _check_name("an axis", axis)
        if not isinstance(values, dict) or not values:
            raise ValueError(f"axis {axis} has no value; give {{value: flags}} or remove it")
        for value, flags in values.items():
            _check_name(f"a value of axis {axis}", value)
            if not isinstance(flags, dict):
                raise ValueError(f"{axis} {value} must be {{flag: value}}, got {flags!r}")
            for flag in flags:
                if flag in _SAME_LIST:
                    raise ValueError(
                        f"axis {axis} sets {flag}, but all cells are compared on one list; set it "
                        'in "train", and write a study for each list'
                    )
                if owner.setdefault(flag, axis) != axis:
                    raise ValueError(
                        f"axes {owner[flag]} and {axis} both set {flag}; remove it from one of them"
                    )


def _check_exclusion(combination: object, grid: dict[str, dict[str, dict]]) -> None:
    if not isinstance(combination, dict) or not combination:
        raise ValueError(f'a line of "exclude" must be {{axis: value}}, got {combination!r}')
    for axis, values in combination.items():
        if axis not in grid:
            raise ValueError(f'"exclude" names axis {axis!r}; expected one of {", ".join(grid)}')
        for value in _listed(values):
            if not isinstance(value, str) or value not in grid[axis]:
                raise ValueError(
                    f'"exclude" names {axis} {value!r}; expected one of {", ".join(grid[axis])}'
                )


_KINDS = {"exclude": list, "variants": list, "name": str}
"""Type of the value of a key; an object for the other keys."""


def study_from_json(values: Any) -> Study:
    """Builds a study from the values of a study file.

    Args:
        values: the parsed JSON.

    Returns:
        the study.

    Raises:
        ValueError: a key is unknown or missing, or has a value of another type.
    """
    fields = dataclasses.fields(Study)
    if not isinstance(values, dict):
        raise ValueError(f"a study must be one JSON object, got {type(values).__name__}")
    known = [field.name for field in fields]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"unknown key {', '.join(unknown)}; known: {', '.join(known)}")
    for field in fields[:3]:
        if field.name not in values:
            raise ValueError(f'no "{field.name}"; a study needs name, train and grid')
    for key, value in values.items():
        kind = _KINDS.get(key, dict)
        if not isinstance(value, kind):
            word = {list: "a list", dict: "an object", str: "a string"}[kind]
            raise ValueError(f'"{key}" must be {word}, got {value!r}')
    arguments: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    return Study(**arguments)


def read_study(path: str | pathlib.Path) -> Study:
    """Reads a study file.

    Args:
        path: the JSON file.

    Returns:
        the study.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, or not a study.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such study file; check --study")
    try:
        values = bounded_file.read_json(path, object_pairs_hook=_each_key_once)
        return study_from_json(values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error


def _each_key_once(pairs: list[tuple[str, object]]) -> dict:
    """Refuses duplicate keys: JSON keeps the last one, so a cell would be lost silently."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} occurs twice in one object; rename one")
    return values
