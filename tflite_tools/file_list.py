"""Reads a list of files; those that cannot be read are skipped and reported at the end."""

import dataclasses
import pathlib

from absl import logging

from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.contract import ModelContract, read_contract


@dataclasses.dataclass(frozen=True)
class UnreadFile:
    """A file that a command skipped.

    Attributes:
        name: for tables.
        file: file name without the folder.
        failure: reason, one line.
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
    output: str = "",
) -> tuple[list[ModelContract], list[UnreadFile]]:
    """Reads the files that can be read, and logs the others.

    Args:
        paths: the files.
        names: name of each, for tables.
        preprocessing: normalization to use; default: see `PreprocessingSource`.
        needed: the file that the others are compared with; it must be readable.
        any_output: also accept files whose output is not a segmentation, to time them.
        output: name or number of the output to read, of files with several.

    Returns:
        The contracts in order, and the files that were skipped.

    Raises:
        FileNotFoundError: no file of the list exists, or `needed` does not.
        ValueError: no file of the list can be read, or `needed` cannot.
    """
    contracts: list[ModelContract] = []
    unread: list[UnreadFile] = []
    first: Exception | None = None
    for path, name in zip(paths, names, strict=True):
        try:
            contracts.append(
                read_contract(path, preprocessing, name=name, any_output=any_output, output=output)
            )
        except (ValueError, OSError) as error:
            if path == needed or len(paths) == 1:
                raise
            first = first or error
            unread.append(UnreadFile(name, path.name, failure=" ".join(str(error).split())))
    if first is not None and not contracts:
        raise first
    for file in unread:
        logging.error("%s is skipped: %s", file.name, file.failure)
    return contracts, unread


def unread_text(unread: list[UnreadFile]) -> str:
    """Returns one line per file that could not be read; "" if all were read.

    Args:
        unread: the files.
    """
    return "\n".join(f"{file.name}: NOT READ: {file.failure}" for file in unread)


def unread_json(unread: list[UnreadFile]) -> list[dict]:
    """Returns the files that could not be read, for JSON.

    Args:
        unread: the files.
    """
    return [dataclasses.asdict(file) for file in unread]
