"""Unpacks untrusted zip, tar and tar.gz files.

Every entry is checked before the first is written, everything is written into a new folder, and
only complete trees are moved out of it. Rejected are

- paths: absolute ones, `..`, drive letters, backslashes, control characters;
- anything but files and folders: symbolic and hard links, devices, pipes, sparse files;
- two entries for one file, even if they differ in case or Unicode composition;
- bombs: more bytes or entries than the limits or the disk allow, or a ratio of unpacked to
  packed bytes that real data does not reach (deflate reaches up to 1032; label files of LiDAR
  scans, the most compressible data known here, 65);
- encrypted entries, compressions other than deflate and gzip, and truncated archives.

Owners, times and permissions stored in the archive are ignored.
"""

import contextlib
import dataclasses
import filecmp
import gzip
import os
import pathlib
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

STAGING_PREFIX = ".unpacking-"
_MAX_READ = 64 << 20  # bytes; the list of files of a zip with 500 000 entries is one read
_MAX_NAME = 255  # bytes of one part of a path on common file systems
_TAR_BLOCK = 512
_MAX_TRAILER = 1 << 20  # zeros that fill the last record of a tape; tar writes up to 10 KiB
_TAR_HEADERS = 8 * _TAR_BLOCK  # an entry's own, its long name's and its extended ones
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]|\A/|\A[A-Za-z]:")
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RecursionError,  # tarfile, on a chain of extended headers
)


@dataclasses.dataclass(frozen=True)
class Limits:
    """Largest content of an archive.

    Attributes:
        max_bytes: unpacked bytes of all files together.
        max_entries: number of files and folders.
        max_ratio: unpacked bytes per byte of the archive.
    """

    max_bytes: int
    max_entries: int = 500_000
    max_ratio: float = 200.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be above 0, got {getattr(self, field.name)}")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file or folder of an archive whose name and kind are safe.

    Attributes:
        name: as stored in the archive.
        parts: parts of the path, without `.` and empty ones.
        size: unpacked bytes, 0 for a folder.
        is_dir: whether it is a folder.
        member: the library's object of the entry.
    """

    name: str
    parts: tuple[str, ...]
    size: int
    is_dir: bool
    member: zipfile.ZipInfo | tarfile.TarInfo


@contextlib.contextmanager
def unpacked(
    archive: pathlib.Path, parent: pathlib.Path, *, limits: Limits, subtree: str = ""
) -> Iterator[pathlib.Path]:
    """Yields a temporary folder in `parent` with the files of an archive.

    Args:
        archive: zip, tar or tar.gz, distinguished by content.
        parent: an existing folder, on the disk to which the files will be moved.
        limits: checked over all entries, even those outside `subtree`.
        subtree: unpack only the content of this folder, without the folder itself; `*` matches any
            name of one folder. Empty for everything.

    Yields:
        The folder; it is removed at the end.

    Raises:
        ValueError: not an archive, damaged, rejected by the rules above, or without `subtree`.
        OSError: it cannot be read, or the disk is full; nothing is left behind.
    """
    with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=parent) as name:
        staging = pathlib.Path(name)
        with _naming_archive(archive), _open(archive, limits) as reader:
            entries = _checked(reader.entries(), limits, packed_bytes=archive.stat().st_size)
            selected = _select(entries, subtree)
            _check_free_space(sum(entry.size for entry, _ in selected), archive, folder=parent)
            for entry, parts in selected:
                _write(reader, entry, staging=staging, parts=parts)
        yield staging


def move_into(staging: pathlib.Path, target: pathlib.Path, *, overwrite: bool = False) -> None:
    """Moves the content of a folder into another on the same disk, with as few moves as possible.

    Existing folders are merged. An existing file with the same content stays. If a move fails,
    earlier moves are undone, except for files that were overwritten.

    Args:
        staging: folder whose content is moved.
        target: existing folder that receives it.
        overwrite: whether existing files with other content are replaced.

    Raises:
        FileExistsError: a file exists with other content and `overwrite` is false, or a file
            exists in place of a folder; nothing was moved.
    """
    moves = list(_moves(staging, target))
    for source, destination in moves:
        mixed = source.is_dir() or destination.is_dir()
        if os.path.lexists(destination) and (mixed or not overwrite):
            remedy = "move it away" if mixed else "move it away, or give --overwrite"
            raise FileExistsError(f"{destination} already exists with other content; {remedy}")
    done: list[tuple[pathlib.Path, pathlib.Path]] = []
    try:
        for source, destination in moves:
            new = not os.path.lexists(destination)
            source.replace(destination)
            if new:
                done.append((source, destination))
    except BaseException:
        for source, destination in reversed(done):
            destination.replace(source)
        raise


def _moves(
    source: pathlib.Path, target: pathlib.Path
) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """Yields (from, to) of the moves that merge `source` into `target`."""
    for child in sorted(source.iterdir()):
        destination = target / child.name
        if child.is_dir() and destination.is_dir():
            yield from _moves(child, destination)
            continue
        both_files = child.is_file() and destination.is_file()
        if not (both_files and filecmp.cmp(child, destination, shallow=False)):
            yield child, destination


def safe_parts(name: str) -> tuple[str, ...]:
    """Splits a path in an archive into its parts, without `.` and empty parts.

    Args:
        name: the path as stored in the archive.

    Returns:
        The parts.

    Raises:
        ValueError: the path could leave its folder, or is not a valid file name.
    """
    if _FORBIDDEN.search(name):
        raise ValueError(f"{name!r} is absolute or contains a backslash or a control character")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise ValueError(f"{name!r} leads out of its folder")
    if any(len(part.encode("utf-8", "surrogateescape")) > _MAX_NAME for part in parts):
        raise ValueError(f"{name[:40]!r}... is longer than {_MAX_NAME} bytes")
    return parts


def _checked(entries: Iterable[Entry], limits: Limits, *, packed_bytes: int) -> list[Entry]:
    """Returns all entries after checking the limits and that each file has one entry."""
    checked: list[Entry] = []
    paths: dict[str, tuple[str, bool]] = {}
    total = 0
    most = min(limits.max_bytes, limits.max_ratio * packed_bytes)
    for entry in entries:
        total += entry.size
        if total > most:
            raise ValueError(
                f"it unpacks to more than {most / 1e6:.6g} MB (at most "
                f"{limits.max_bytes / 1e6:.6g} MB and {limits.max_ratio:g} times its own size "
                "are allowed)"
            )
        if len(checked) == limits.max_entries:
            raise ValueError(f"it contains more than {limits.max_entries} entries")
        _register_paths(entry, paths)
        checked.append(entry)
    return checked


def _register_paths(entry: Entry, paths: dict[str, tuple[str, bool]]) -> None:
    """Records each path that an entry creates and whether it is a folder.

    The key ignores case and Unicode composition, as some file systems do. Only a folder may occur
    twice, with the same spelling.
    """
    if not (entry.parts or entry.is_dir):
        raise ValueError(f"{entry.name!r} is not a file name")
    for depth in range(1, len(entry.parts) + 1):
        path = "/".join(entry.parts[:depth])
        is_dir = entry.is_dir or depth < len(entry.parts)
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
        known = paths.get(key)
        if known and (known != (path, True) or not is_dir):
            raise ValueError(f"{entry.name!r} has the same path as {known[0]!r}")
        paths[key] = (path, is_dir)


def _select(entries: list[Entry], subtree: str) -> list[tuple[Entry, tuple[str, ...]]]:
    """Returns the entries below `subtree` with their paths relative to it."""
    pattern = tuple(part for part in subtree.split("/") if part)
    selected = [
        (entry, entry.parts[len(pattern) :])
        for entry in entries
        if len(entry.parts) > len(pattern)
        and all(
            expected in ("*", part) for expected, part in zip(pattern, entry.parts, strict=False)
        )
    ]
    if all(entry.is_dir for entry, _ in selected):
        where = f" below {subtree}" if subtree else ""
        raise ValueError(f"it contains no file{where}; is it the right archive?")
    if len({entry.parts[: len(pattern)] for entry, _ in selected}) > 1:
        raise ValueError(f"it contains {subtree} more than once; is it the right archive?")
    return selected


def _check_free_space(num_bytes: int, archive: pathlib.Path, *, folder: pathlib.Path) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise OSError(
            f"{archive}: unpacks to {num_bytes / 1e9:.2f} GB, but {folder} has "
            f"{free / 1e9:.2f} GB free; free disk space"
        )


def _write(
    reader: "_Zip | _Tar", entry: Entry, *, staging: pathlib.Path, parts: tuple[str, ...]
) -> None:
    target = staging.joinpath(*parts)
    if entry.is_dir:
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        reader.write(entry, staging, parts)


@contextlib.contextmanager
def _naming_archive(archive: pathlib.Path) -> Iterator[None]:
    """Adds the path of the archive to all errors about its content."""
    try:
        yield
    except _DAMAGED as error:
        raise ValueError(f"{archive}: damaged or truncated ({error}); download it again") from error
    except ValueError as error:
        raise ValueError(f"{archive}: rejected, nothing was unpacked: {error}") from error


@contextlib.contextmanager
def _open(archive: pathlib.Path, limits: Limits) -> Iterator["_Zip | _Tar"]:
    with archive.open("rb") as file:
        start = file.read(_TAR_BLOCK)
        file.seek(0)
        if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            with zipfile.ZipFile(_LimitedFile(file)) as zip_file:  # type: ignore[call-overload]
                yield _Zip(zip_file)
            return
        most = limits.max_bytes + (limits.max_entries + 4) * _TAR_HEADERS
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(gzip.GzipFile(fileobj=file)) if _is_gzip(start) else file
            limited = _LimitedFile(stream, most)
            try:
                tar_file = stack.enter_context(tarfile.open(fileobj=limited, mode="r:"))  # type: ignore[call-overload]
            except tarfile.ReadError as error:
                raise ValueError("neither zip nor tar nor tar.gz") from error
            yield _Tar(tar_file, limited)


def _is_gzip(start: bytes) -> bool:
    return start[:2] == b"\x1f\x8b"


class _LimitedFile:
    """A file that rejects operations which only a hostile archive causes.

    These are one read of many megabytes (an endless name, list or extended header would be held
    in memory), and a position beyond the limits (a gzip stream would be unpacked up to it).

    Args:
        file: binary file, opened for reading.
        max_position: largest allowed position, None for no limit.
    """

    def __init__(self, file: BinaryIO | gzip.GzipFile, max_position: int | None = None) -> None:
        self._file = file
        self._max_position = max_position
        self.tell = file.tell

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check_position(offset)
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(min(size, _MAX_READ + 1) if size >= 0 else _MAX_READ + 1)
        if len(content) > _MAX_READ:
            raise ValueError(f"it contains a name or list longer than {_MAX_READ >> 20} MiB")
        self._check_position(self.tell())
        return content

    def _check_position(self, position: int) -> None:
        if self._max_position is not None and position > self._max_position:
            raise ValueError("it unpacks to more than its limits allow")


class _Zip:
    """Entries of a zip file."""

    def __init__(self, opened: zipfile.ZipFile) -> None:
        self._opened = opened

    def entries(self) -> Iterator[Entry]:
        for info in self._opened.infolist():
            # `filename` is truncated at a NUL, and backslashes are replaced on Windows.
            name = info.orig_filename
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"{name!r} is a link or a device")
            if info.flag_bits & 1:
                raise ValueError(f"{name!r} is encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name!r} has compression {info.compress_type}, not deflate")
            size = 0 if info.is_dir() else info.file_size
            yield Entry(name, safe_parts(name), size=size, is_dir=info.is_dir(), member=info)

    def write(self, entry: Entry, staging: pathlib.Path, parts: tuple[str, ...]) -> None:
        # zipfile returns at most the size that the entry states, and then checks its CRC.
        assert isinstance(entry.member, zipfile.ZipInfo)
        target = staging.joinpath(*parts)
        with self._opened.open(entry.member) as source, target.open("xb") as out:
            shutil.copyfileobj(source, out, 1 << 20)


class _Tar:
    """Entries of a tar file."""

    def __init__(self, opened: tarfile.TarFile, stream: _LimitedFile) -> None:
        self._opened = opened
        self._stream = stream

    def entries(self) -> Iterator[Entry]:
        for info in self._opened:
            if not (info.isdir() or info.isfile()) or info.issparse():
                raise ValueError(f"{info.name!r} is a link, a device or a sparse file")
            size = 0 if info.isdir() else info.size
            yield Entry(
                info.name, safe_parts(info.name), size=size, is_dir=info.isdir(), member=info
            )
        self._check_end()

    def _check_end(self) -> None:
        # The library treats a damaged header as the end: without this check, files would be
        # missing. Reading to the very end also makes gzip check its CRC.
        self._stream.seek(self._opened.offset)
        rest = self._stream.read(_MAX_TRAILER)
        if len(rest) < _TAR_BLOCK or rest.strip(b"\0"):
            raise EOFError("no end mark after the last entry")
        if self._stream.read(1):
            raise ValueError(f"more than {_MAX_TRAILER} bytes follow the end mark")

    def write(self, entry: Entry, staging: pathlib.Path, parts: tuple[str, ...]) -> None:
        assert isinstance(entry.member, tarfile.TarInfo)
        member = entry.member.replace(name="/".join(parts), deep=False)
        # The library's own filter checks path and kind a second time.
        self._opened.extract(member, staging, set_attrs=False, filter="data")
