"""Safe opening of untrusted HDF5 files: only arrays of plain numbers inside the file itself.

HDF5 can refer to other files (external links, external storage, virtual datasets). Such a file
could load parts of other files of this machine into the network, so it is rejected.
"""

import contextlib
import pathlib
import zipfile
from collections.abc import Iterator

import h5py

SIGNATURE = b"\x89HDF\r\n\x1a\n"
LARGEST_EXPANSION = 100
"""Largest number of array bytes per byte of a file; weights compress by a factor of at most 10."""
ALWAYS_ALLOWED_BYTES = 100_000_000


@contextlib.contextmanager
def open_hdf5(path: str | pathlib.Path, name: str | pathlib.Path = "") -> Iterator[h5py.File]:
    """Opens an HDF5 file after checking all of its links and arrays.

    Args:
        path: of the file.
        name: of the file in messages; default: the path.

    Yields:
        The open file.

    Raises:
        ValueError: not an HDF5 file, also a ZIP archive, or a file that refers to other files,
            contains anything but numbers, or unpacks to far more than its size.
    """
    path, name = pathlib.Path(path), name or path
    with path.open("rb") as stream:
        if stream.read(len(SIGNATURE)) != SIGNATURE:
            raise ValueError(f"{name}: not an HDF5 file (it has no HDF5 signature)")
        if zipfile.is_zipfile(stream):
            raise ValueError(
                f"{name}: expected an HDF5 file, got a file that is also a ZIP archive; save the "
                "network again"
            )
    try:
        content = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{name}: not an HDF5 file ({error})") from error
    with content:
        _check_links(content, name, size=path.stat().st_size)
        yield content


def _check_links(content: h5py.File, name: str | pathlib.Path, *, size: int) -> None:
    links: list[bytes] = []
    unpacked = 0
    try:
        content.id.links.visit(links.append)
        for link in links:
            unpacked += _checked_bytes(content, link, name=name)
    except (KeyError, OSError, RuntimeError, TypeError) as error:
        raise ValueError(f"{name}: a damaged HDF5 file ({error}); save it again") from error
    if unpacked > ALWAYS_ALLOWED_BYTES + LARGEST_EXPANSION * size:
        raise ValueError(
            f"{name}: rejected, its arrays need {unpacked} bytes, but the file has only {size}"
        )


def _checked_bytes(content: h5py.File, link: bytes, *, name: str | pathlib.Path) -> int:
    """Checks the target of a link and returns its size in memory."""
    shown = link.decode("utf-8", "replace")
    if content.id.links.get_info(link).type != h5py.h5l.TYPE_HARD:
        raise ValueError(
            f"{name}: {shown} is a link to another place; weights must be stored in the file"
        )
    item = content[link]
    if not isinstance(item, h5py.Dataset):
        return 0
    if item.external or item.is_virtual:
        raise ValueError(
            f"{name}: {shown} is stored in another file; weights must be stored in the file"
        )
    if item.shape is None or item.dtype.kind not in "biuf":
        raise ValueError(f"{name}: {shown} has dtype {item.dtype}; expected plain numbers")
    return item.nbytes
