"""Opens `.keras` archives of unknown origin: what a network is made of, bounded, and nothing else.

Both readers of such files use it: `keras_file`, which builds the network with Keras 2, and
`export.frameworks.keras3_file`, which makes a checked copy for Keras 3.
"""

import contextlib
import dataclasses
import errno
import pathlib
import shutil
import zipfile
from collections.abc import Iterator
from typing import Any

from deeplab_tf import bounded_file
from deeplab_tf.graph.stock_layers import foreign_part
from deeplab_tf.weights import hdf5 as hdf5_file

LARGEST_CONFIGURATION = 16_000_000
"""Bytes; the largest of Keras Applications takes 1 MB."""
METADATA = "metadata.json"
CONFIGURATION = "config.json"
WEIGHTS = "model.weights.h5"


@dataclasses.dataclass(frozen=True)
class KerasArchive:
    """An open archive.

    Attributes:
        path: of the file.
        version: of Keras that wrote it; "" if it is not stated.
        configuration: of the network, as it is stored.
        content: the archive.
    """

    path: pathlib.Path
    version: str
    configuration: dict
    content: zipfile.ZipFile

    @property
    def made_by_keras3(self) -> bool:
        """Whether the file follows the rules of Keras 3."""
        return made_by_keras3(self.version)

    def extract_weights(self, target: pathlib.Path) -> None:
        """Writes the HDF5 file of the weights; `open_hdf5` checks what is in it.

        Args:
            target: file to write.

        Raises:
            ValueError: it unpacks to far more than the size of the archive, or is damaged.
        """
        unpacked = self.content.getinfo(WEIGHTS).file_size
        size = self.path.stat().st_size
        if unpacked > hdf5_file.LARGEST_EXPANSION * size:
            raise ValueError(
                f"{self.path}: {WEIGHTS} unpacks to {unpacked} bytes, expected at most "
                f"{hdf5_file.LARGEST_EXPANSION} times the file's {size}; save the network again"
            )
        with (
            _member_errors(self.path, WEIGHTS),
            self.content.open(WEIGHTS) as stream,
            target.open("wb") as copy,
        ):
            shutil.copyfileobj(stream, copy)


def made_by_keras3(version: Any) -> bool:
    """Returns whether a stored version is one of Keras 3.

    Args:
        version: text or bytes, as the file holds it; None where it holds none.
    """
    text = version.decode(errors="replace") if isinstance(version, bytes) else str(version)
    return text.startswith("3")


@contextlib.contextmanager
def open_keras_archive(path: pathlib.Path) -> Iterator[KerasArchive]:
    """Opens a `.keras` file and parses its configuration.

    Args:
        path: of the file.

    Yields:
        The open archive; its configuration is not checked yet: `refuse_foreign_parts`.

    Raises:
        ValueError: no archive of a network, a part that is double, missing, damaged or too large,
            or a configuration that is no JSON object.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) < len(names):
                raise ValueError(
                    f"{path}: the archive holds two files with the same name; save it again"
                )
            if missing := {METADATA, CONFIGURATION, WEIGHTS} - set(names):
                raise ValueError(
                    f"{path}: not a Keras model file with its architecture; the archive holds no "
                    + ", ".join(sorted(missing))
                    + "; save the network again with model.save"
                )
            metadata = parse_configuration(path, _member(archive, path, name=METADATA))
            config = parse_configuration(path, _member(archive, path, name=CONFIGURATION))
            version = str(metadata.get("keras_version") or "")
            yield KerasArchive(path, version, configuration=config, content=archive)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ValueError(f"{path}: a damaged archive ({error}); save the network again") from error


def _member(archive: zipfile.ZipFile, path: pathlib.Path, *, name: str) -> bytes:
    with _member_errors(path, name), archive.open(name) as stream:
        return stream.read(LARGEST_CONFIGURATION + 1)


@contextlib.contextmanager
def _member_errors(path: pathlib.Path, name: str) -> Iterator[None]:
    """Turns the various errors of zipfile and zlib into a ValueError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # EINVAL alone comes from the archive: an impossible place in the file
        raise ValueError(
            f"{path}: {name} in the archive cannot be read ({error}); save the network again"
        ) from error


def parse_configuration(path: pathlib.Path, text: bytes | str) -> dict:
    """Parses a JSON object of bounded size.

    Args:
        path: of the file that holds it, for messages.
        text: JSON.

    Raises:
        ValueError: too large, no JSON object, or nested too deeply.
    """
    if not isinstance(text, bytes | str) or len(text) > LARGEST_CONFIGURATION:
        raise ValueError(
            f"{path}: not a Keras configuration: expected JSON of at most "
            f"{LARGEST_CONFIGURATION} bytes"
        )
    try:
        config = bounded_file.parse_json(text.decode() if isinstance(text, bytes) else text)
    except ValueError as error:
        raise ValueError(
            f"{path}: its configuration is not JSON ({error}); save the network again"
        ) from error
    if not isinstance(config, dict):
        raise ValueError(
            f"{path}: its configuration must be a JSON object, got {type(config).__name__}; save "
            "the network again"
        )
    return config


def refuse_foreign_parts(path: pathlib.Path, config: Any, *, remedy: str) -> None:
    """Refuses a configuration with a part that is not on the list of stock layers.

    Args:
        path: of the file that holds it, for messages.
        config: in the words of that list.
        remedy: what can be done instead.

    Raises:
        ValueError: such a part, or a configuration that is nested too deeply.
    """
    try:
        found = foreign_part(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if found:
        raise ValueError(
            f"{path}: holds {found}, which is no stock Keras layer; loading it would run foreign "
            f"code; {remedy}"
        )
