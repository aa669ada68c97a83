"""HDF5 files from outside: arrays of plain numbers, all inside the file itself.

HDF5 can point at other files (external links, external storage, virtual datasets); a file that
does would bring parts of other files of this machine into the network.
"""

import contextlib
import pathlib
import zipfile
from collections.abc import Iterator

import h5py

SIGNATURE = b"\x89HDF\r\n\x1a\n"
LARGEST_EXPANSION = 100
"""Bytes of arrays per byte of a file; weights compress by 10 at best."""
_SMALL = 100_000_000


@contextlib.contextmanager
def open_hdf5(path: str | pathlib.Path, name: str | pathlib.Path = "") -> Iterator[h5py.File]:
    """An HDF5 file whose every link and array has been looked at.

    Args:
        path: of the file.
        name: for messages; default: the path.

    Raises:
        ValueError: not an HDF5 file alone, or one that points elsewhere, holds other things than
            numbers, or unpacks to far more than its size.
    """
    path, name = pathlib.Path(path), name or path
    with path.open("rb") as stream:
        if stream.read(len(SIGNATURE)) != SIGNATURE:
            raise ValueError(f"{name}: not an HDF5 file (it does not begin with HDF5's signature)")
        if zipfile.is_zipfile(stream):
            raise ValueError(
                f"{name}: an HDF5 file and a ZIP archive at once; which of them is meant cannot "
                "be told. Save the network again"
            )
    try:
        content = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{name}: not an HDF5 file ({error})") from error
    with content:
        _check_links(content, name, size=path.stat().st_size)
        yield content


def _check_links(content: h5py.File, name, *, size: int) -> None:
    links: list[bytes] = []
    unpacked = 0
    try:
        content.id.links.visit(links.append)
        for link in links:
            unpacked += _checked_bytes(content, link, name=name)
    except (KeyError, OSError, RuntimeError, TypeError) as error:
        raise ValueError(f"{name}: a damaged HDF5 file ({error})") from error
    if unpacked > _SMALL + LARGEST_EXPANSION * size:
        raise ValueError(f"{name}: its arrays take {unpacked} bytes, the file only {size}")


def _checked_bytes(content: h5py.File, link: bytes, *, name) -> int:
    """Size in memory of what a link leads to."""
    shown = link.decode("utf-8", "replace")
    if content.id.links.get_info(link).type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{name}: {shown} is a link to another place; weights lie in the file")
    item = content[link]
    if not isinstance(item, h5py.Dataset):
        return 0
    if item.external or item.is_virtual:
        raise ValueError(f"{name}: {shown} is stored in another file; weights lie in the file")
    if item.shape is None or item.dtype.kind not in "biuf":
        raise ValueError(f"{name}: {shown} holds {item.dtype}; weights are plain numbers")
    return item.nbytes
