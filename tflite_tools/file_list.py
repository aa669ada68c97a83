"""A list of files, some of which cannot be read: the others go on, and the end names those."""

import dataclasses
import pathlib

from absl import logging

from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.contract import ModelContract, read_contract


@dataclasses.dataclass(frozen=True)
class UnreadFile:
    """A file that a command left out.

    Attributes:
        name: for tables.
        file: its name on the disk.
        failure: why it was not read, one line.
    """

    name: str
    file: str
    failure: str


def read_contracts(
    paths: list[pathlib.Path],
    names: list[str],
    *,
    preprocessing: Preprocessing | None = None,
    needed: pathlib.Path | None = None,
    any_output: bool = False,
) -> tuple[list[ModelContract], list[UnreadFile]]:
    """Reads what can be read of a list, and logs what cannot at once.

    Args:
        paths: the files.
        names: of each, for tables.
        preprocessing: normalization to use; default see `PreprocessingSource`.
        needed: the file that the others are compared with: without it the list means nothing.
        any_output: take files whose output is no segmentation, too, to time them.

    Raises:
        FileNotFoundError, ValueError: no file of the list can be read, or `needed` cannot.
    """
    contracts: list[ModelContract] = []
    unread: list[UnreadFile] = []
    first: Exception | None = None
    for path, name in zip(paths, names, strict=True):
        try:
            contracts.append(read_contract(path, preprocessing, name=name, any_output=any_output))
        except (ValueError, OSError) as error:
            if path == needed or len(paths) == 1:
                raise
            first = first or error
            unread.append(UnreadFile(name, path.name, failure=" ".join(str(error).split())))
    if first is not None and not contracts:
        raise first
    for file in unread:
        logging.error("%s is left out: %s", file.name, file.failure)
    return contracts, unread


def unread_text(unread: list[UnreadFile]) -> str:
    """One line a file, "" where all were read."""
    return "\n".join(f"{file.name}: NOT READ: {file.failure}" for file in unread)


def unread_json(unread: list[UnreadFile]) -> list[dict]:
    """For programs."""
    return [dataclasses.asdict(file) for file in unread]
