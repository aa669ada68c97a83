"""Unpacks zip, tar and tar.gz files that strangers wrote.

Every entry is checked before the first is written, everything is written into a new folder, and
only whole trees are moved out of it. Refused are

- paths: absolute ones, `..`, drive letters, backslashes, control characters;
- anything but files and folders: symbolic and hard links, devices, pipes, sparse files;
- two entries for one file, also if only upper and lower case or Unicode composition differ;
- bombs: more bytes or entries than the limits or the disk allow, or a ratio of unpacked to
  packed bytes that data does not reach (deflate goes up to 1032; label files of laser scans,
  the emptiest known here, to 65);
- encrypted entries and compressions other than deflate and gzip, and archives that end too soon.

Owners, times and permissions of the archive are not taken over.
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

STAGING_PREFIX = ".unpacking-"
_MAX_READ = 64 << 20  # bytes; the list of files of a zip with 500 000 entries is one read
_MAX_NAME = 255  # bytes of one part of a path on common file systems
_TAR_BLOCK = 512
_MAX_TRAILER = 1 << 20  # zeros that fill a tape's last record; tar writes up to 10 KiB
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
    """What an archive may at most hold.

    Attributes:
        max_bytes: bytes of all files together, unpacked.
        max_entries: files and folders.
        max_ratio: unpacked bytes for each byte of the archive.
    """

    max_bytes: int
    max_entries: int = 500_000
    max_ratio: float = 200.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be above 0, got {getattr(self, field.name)}")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file or folder of an archive whose name and kind are sound.

    Attributes:
        name: as it stands in the archive.
        parts: of the path, without `.` and empty ones.
        size: unpacked bytes, 0 for a folder.
        is_dir: whether it is a folder.
        member: what the library knows it by.
    """

    name: str
    parts: tuple[str, ...]
    size: int
    is_dir: bool
    member: zipfile.ZipInfo | tarfile.TarInfo


@contextlib.contextmanager
def unpacked(
    archive: pathlib.Path, beside: pathlib.Path, *, limits: Limits, subtree: str = ""
) -> Iterator[pathlib.Path]:
    """Yields a new folder in `beside` with the files of the archive; removes it at the end.

    Args:
        archive: zip, tar or tar.gz, told apart by content.
        beside: an existing folder, on the disk to which the files will be moved.
        limits: checked over all entries, wanted or not.
        subtree: only what lies below this folder, without the folder itself; `*` stands for any
            name of one folder. Everything if empty.

    Raises:
        ValueError: not an archive, damaged, hostile by the rules above, or without `subtree`.
        OSError: it cannot be read, or the disk is too full; nothing is left behind.
    """
    with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=beside) as name:
        staging = pathlib.Path(name)
        with _reading(archive), _open(archive, limits) as reader:
            entries = _checked(reader.entries(), limits, packed_bytes=archive.stat().st_size)
            wanted = _wanted(entries, subtree)
            _check_room(sum(entry.size for entry, _ in wanted), archive, folder=beside)
            for entry, parts in wanted:
                _write(reader, entry, staging=staging, parts=parts)
        yield staging


def move_into(staging: pathlib.Path, target: pathlib.Path, *, overwrite: bool = False) -> None:
    """Moves the content of a folder into another of the same disk, in as few moves as can be.

    Folders that both have are joined. A file that is already there with the same content stays.
    If a move fails, those before it are taken back, except for files that were overwritten.

    Raises:
        FileExistsError: a file is there with other content and `overwrite` is false, or a file
            stands where a folder should; nothing was moved.
    """
    moves = list(_moves(staging, target))
    for source, goal in moves:
        mixed = source.is_dir() or goal.is_dir()
        if os.path.lexists(goal) and (mixed or not overwrite):
            remedy = "move it away" if mixed else "move it away, or give --overwrite"
            raise FileExistsError(f"{goal} is already there with other content; {remedy}")
    done: list[tuple[pathlib.Path, pathlib.Path]] = []
    try:
        for source, goal in moves:
            new = not os.path.lexists(goal)
            source.replace(goal)
            if new:
                done.append((source, goal))
    except BaseException:
        for source, goal in reversed(done):
            goal.replace(source)
        raise


def _moves(source: pathlib.Path, target: pathlib.Path):
    for child in sorted(source.iterdir()):
        goal = target / child.name
        if child.is_dir() and goal.is_dir():
            yield from _moves(child, goal)
        elif not (child.is_file() and goal.is_file() and filecmp.cmp(child, goal, shallow=False)):
            yield child, goal


def safe_parts(name: str) -> tuple[str, ...]:
    """Parts of a path in an archive; `.` and empty parts are left out.

    Raises:
        ValueError: the path could lead out of its folder, or no file can have it.
    """
    if _FORBIDDEN.search(name):
        raise ValueError(f"{name!r} is absolute or holds a backslash or a control character")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise ValueError(f"{name!r} leads out of its folder")
    if any(len(part.encode("utf-8", "surrogateescape")) > _MAX_NAME for part in parts):
        raise ValueError(f"{name[:40]!r}... is longer than {_MAX_NAME} bytes")
    return parts


def _checked(entries: Iterable[Entry], limits: Limits, *, packed_bytes: int) -> list[Entry]:
    """All entries, after the limits and the rule of one entry a file."""
    checked: list[Entry] = []
    places: dict[str, tuple[str, bool]] = {}
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
            raise ValueError(f"it holds more than {limits.max_entries} entries")
        _claim(entry, places)
        checked.append(entry)
    return checked


def _claim(entry: Entry, places: dict[str, tuple[str, bool]]) -> None:
    """Notes each path that an entry makes and whether it is a folder.

    The key is one that file systems which ignore case or composition tell apart no further.
    Only a folder may come twice, spelled alike.
    """
    if not (entry.parts or entry.is_dir):
        raise ValueError(f"{entry.name!r} is no name for a file")
    for depth in range(1, len(entry.parts) + 1):
        path = "/".join(entry.parts[:depth])
        is_dir = entry.is_dir or depth < len(entry.parts)
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
        known = places.get(key)
        if known and (known != (path, True) or not is_dir):
            raise ValueError(f"{entry.name!r} stands for the same place as {known[0]!r}")
        places[key] = (path, is_dir)


def _wanted(entries: list[Entry], subtree: str) -> list[tuple[Entry, tuple[str, ...]]]:
    """Entries below `subtree` with their paths from there."""
    pattern = tuple(part for part in subtree.split("/") if part)
    wanted = [
        (entry, entry.parts[len(pattern) :])
        for entry in entries
        if len(entry.parts) > len(pattern)
        and all(want in ("*", have) for want, have in zip(pattern, entry.parts, strict=False))
    ]
    if all(entry.is_dir for entry, _ in wanted):
        where = f" below {subtree}" if subtree else ""
        raise ValueError(f"it holds no file{where}; is it the right archive?")
    if len({entry.parts[: len(pattern)] for entry, _ in wanted}) > 1:
        raise ValueError(f"it holds {subtree} more than once; is it the right archive?")
    return wanted


def _check_room(num_bytes: int, archive: pathlib.Path, *, folder: pathlib.Path) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise OSError(
            f"{archive}: unpacks to {num_bytes / 1e9:.2f} GB, but {folder} has "
            f"{free / 1e9:.2f} GB free; make room"
        )


def _write(reader, entry: Entry, *, staging: pathlib.Path, parts: tuple[str, ...]) -> None:
    goal = staging.joinpath(*parts)
    if entry.is_dir:
        goal.mkdir(parents=True, exist_ok=True)
    else:
        goal.parent.mkdir(parents=True, exist_ok=True)
        reader.write(entry, staging, parts)


@contextlib.contextmanager
def _reading(archive: pathlib.Path) -> Iterator[None]:
    """Names the archive in every complaint about its content."""
    try:
        yield
    except _DAMAGED as error:
        raise ValueError(f"{archive}: damaged or cut short ({error}); fetch it again") from error
    except ValueError as error:
        raise ValueError(f"{archive}: refused, nothing was unpacked: {error}") from error


@contextlib.contextmanager
def _open(archive: pathlib.Path, limits: Limits) -> Iterator["_Zip | _Tar"]:
    with archive.open("rb") as file:
        start = file.read(_TAR_BLOCK)
        file.seek(0)
        if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            with zipfile.ZipFile(_Guarded(file)) as opened:
                yield _Zip(opened)
            return
        most = limits.max_bytes + (limits.max_entries + 4) * _TAR_HEADERS
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(gzip.GzipFile(fileobj=file)) if _is_gzip(start) else file
            guarded = _Guarded(stream, most)
            try:
                opened = stack.enter_context(tarfile.open(fileobj=guarded, mode="r:"))
            except tarfile.ReadError as error:
                raise ValueError("neither zip nor tar nor tar.gz") from error
            yield _Tar(opened, guarded)


def _is_gzip(start: bytes) -> bool:
    return start[:2] == b"\x1f\x8b"


class _Guarded:
    """A file that refuses what only a hostile archive makes the libraries ask for.

    One read of many megabytes (an endless name, list or extended header would go to memory), and
    a place behind the furthest that the limits allow (which a gzip stream would unpack up to).
    """

    def __init__(self, file, max_position: int | None = None):
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
            raise ValueError(f"a name or list in it is longer than {_MAX_READ >> 20} MiB")
        self._check_position(self.tell())
        return content

    def _check_position(self, position: int) -> None:
        if self._max_position is not None and position > self._max_position:
            raise ValueError("it unpacks to more than its limits allow")


class _Zip:
    def __init__(self, opened: zipfile.ZipFile):
        self._opened = opened

    def entries(self) -> Iterator[Entry]:
        for info in self._opened.infolist():
            # `filename` is cut at a NUL and has its backslashes turned on Windows.
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
        # zipfile gives at most the size that the entry states, and then checks its CRC.
        goal = staging.joinpath(*parts)
        with self._opened.open(entry.member) as source, goal.open("xb") as out:
            shutil.copyfileobj(source, out, 1 << 20)


class _Tar:
    def __init__(self, opened: tarfile.TarFile, stream: _Guarded):
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
        # The library takes a damaged header for the end: without this, files would be missing.
        # Reading to the very end also makes gzip check its CRC.
        self._stream.seek(self._opened.offset)
        rest = self._stream.read(_MAX_TRAILER)
        if len(rest) < _TAR_BLOCK or rest.strip(b"\0"):
            raise EOFError("no end mark where the entries end")
        if self._stream.read(1):
            raise ValueError(f"more than {_MAX_TRAILER} bytes follow its end mark")

    def write(self, entry: Entry, staging: pathlib.Path, parts: tuple[str, ...]) -> None:
        member = entry.member.replace(name="/".join(parts), deep=False)
        # The library's own filter is the second check of path and kind.
        self._opened.extract(member, staging, set_attrs=False, filter="data")
