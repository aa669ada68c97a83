"""Lists of class names in files: the one reader of everything that says what classes are called."""

import pathlib

from deeplab_tf import bounded_file
from deeplab_tf.data.dataset import read_lines


def parse_label_lines(lines: list[str]) -> tuple[str, ...]:
    """Returns the class names of lines, one per line, without blanks around them and at the end.

    Args:
        lines: of a text file; class 0 is first.
    """
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    return tuple(names)


def read_label_list(path: pathlib.Path) -> tuple[str, ...]:
    """Reads class names: one per line, or a JSON file with "names" or "labels".

    Args:
        path: of the list.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not UTF-8 text, no name, or an empty line between two names.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a text file, one class name per line")
    lines = read_lines(path)
    names = _from_json(path, lines) if path.suffix == ".json" else parse_label_lines(lines)
    if not names:
        raise ValueError(f"{path}: expected class names, got none; write one per line, id 0 first")
    if "" in names:
        raise ValueError(
            f"{path}: label {names.index('') + 1}: expected a name, got an empty line; the lines "
            "after it would name other classes"
        )
    return names


def _from_json(path: pathlib.Path, lines: list[str]) -> tuple[str, ...]:
    try:
        values = bounded_file.parse_json("\n".join(lines))
        names = values.get("names") or values.get("labels") or []
        if not isinstance(names, list):
            raise ValueError(f"expected a list, got {type(names).__name__}")
        return tuple(str(name) for name in names)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not a JSON list of names ({error})") from error
