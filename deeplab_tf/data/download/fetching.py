"""Downloads over HTTP that go on where they broke off and get their name only when checked.

A half download lies beside its goal as `NAME.part`, with `NAME.part.json` saying which version of
which file it is a half of. The rest is asked for with `Range` and `If-Range` (RFC 9110, sections
14.2 and 13.1.5): if the file has changed, or the server cannot tell or does not know ranges, it
starts over, and halves of two files never meet.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import sys
import time

import requests
from absl import logging
from tqdm import tqdm

from deeplab_tf import atomic_file

TIMEOUT_S = (15, 60)  # to connect, and without a byte
_CHUNK = 1 << 16
_CHECKSUM = re.compile(r"(md5|sha1|sha256):([0-9a-f]+)")
_HEX_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64}
_FINAL_ERRORS = (
    requests.exceptions.SSLError,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.TooManyRedirects,
)


class _BrokenOffError(Exception):
    """What another attempt may cure."""


@dataclasses.dataclass(frozen=True)
class Retries:
    """How often a download that breaks off goes on by itself.

    Attributes:
        attempts: in a row without a new byte.
        pause_s: before the second; doubles with each, up to a minute.
    """

    attempts: int = 5
    pause_s: float = 1.0

    def __post_init__(self):
        if self.attempts < 1 or self.pause_s < 0:
            raise ValueError(f"attempts must be 1 or more and pause_s not below 0, got {self}")


@dataclasses.dataclass(frozen=True)
class _Version:
    """Which file a half belongs to.

    Attributes:
        url: where it was asked for.
        validator: strong ETag, or else Last-Modified; empty if the server names neither.
        size: bytes of the whole file, None if unknown.
    """

    url: str
    validator: str
    size: int | None


def check_form(checksum: str) -> str:
    """Returns `algorithm:hex digits` in lower case.

    Raises:
        ValueError: not md5, sha1 or sha256 with its number of digits.
    """
    found = _CHECKSUM.fullmatch(checksum.lower())
    if not found or len(found[2]) != _HEX_DIGITS[found[1]]:
        raise ValueError(
            f"checksum {checksum!r} is not md5:, sha1: or sha256: with 32, 40 or 64 hex digits"
        )
    return checksum.lower()


def digest(path: pathlib.Path, algorithm: str) -> str:
    """Hex digits of a file's md5, sha1 or sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def matches(path: pathlib.Path, checksum: str) -> bool:
    """Whether a file has the checksum `algorithm:hex digits`."""
    algorithm, expected = check_form(checksum).split(":")
    return digest(path, algorithm) == expected


def fetch(
    url: str,
    goal: pathlib.Path,
    *,
    max_bytes: int,
    checksum: str | None = None,
    retries: Retries | None = None,
) -> None:
    """Downloads `url` to `goal`; what an earlier call left of it is not fetched again.

    Args:
        url: http or https.
        goal: must not exist; its folder must.
        max_bytes: a larger file is refused, before it is fetched if the server states its size.
        checksum: `algorithm:hex digits`; a file with another one is kept as `NAME.rejected`, for
            a look at it, and gives no `goal`.
        retries: how often to go on.

    Raises:
        ValueError: bad URL or form of checksum, wrong checksum, or a file that is too large.
        FileExistsError: `goal` exists.
        OSError: no connection, an answer other than the file, or no room on the disk. The half
            stays, and another call goes on.
    """
    _check_url(url)
    checksum = check_form(checksum) if checksum else None
    if goal.exists():
        raise FileExistsError(f"{goal} is already there; move it away to fetch it again")
    part = goal.with_name(goal.name + ".part")
    _persist(url, part, max_bytes=max_bytes, retries=retries or Retries())
    if checksum and not matches(part, checksum):
        algorithm = checksum.partition(":")[0]
        rejected = part.replace(goal.with_name(goal.name + ".rejected"))
        _forget(part)
        raise ValueError(
            f"{url}: {algorithm} is {digest(rejected, algorithm)}, expected "
            f"{checksum.partition(':')[2]}; nothing was unpacked and no file of yours was touched; "
            f"see {rejected}, or run again to fetch it anew"
        )
    part.replace(goal)
    _forget(part)


def _check_url(url: str) -> None:
    if not re.match(r"https?://[^/]", url):
        raise ValueError(f"{url!r} is no address of the form https://host/file")


def _persist(url: str, part: pathlib.Path, *, max_bytes: int, retries: Retries) -> None:
    """Goes on until the half is whole or `attempts` in a row bring nothing."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _go_on(url, part, max_bytes=max_bytes)
        except _BrokenOffError as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= retries.attempts:
                raise OSError(
                    f"{url}: {error}; {_size(part)} bytes are kept, run again to go on"
                ) from error
            logging.warning("%s: %s; trying again at byte %d", url, error, _size(part))
            time.sleep(min(retries.pause_s * 2 ** (failures - 1), 60))


def _go_on(url: str, part: pathlib.Path, *, max_bytes: int) -> None:
    """One request, for the rest if there is a half whose version is known."""
    half = _read_version(part, url)
    start = _size(part) if half else 0
    if half and start == half.size:
        return
    headers = {"Accept-Encoding": "identity"}
    if half and start:
        headers |= {"Range": f"bytes={start}-", "If-Range": half.validator}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            _check_answer(response, url)
            if response.status_code == requests.codes.partial_content:
                _check_range(response, half, start=start, part=part)
            elif response.status_code == requests.codes.requested_range_not_satisfiable:
                _forget(part)
                raise _BrokenOffError("the file is shorter than before")
            else:
                half, start = _begin(response, url, part=part), 0
            _check_size(half.size, start, max_bytes=max_bytes, part=part, url=url)
            _append(response, part, start=start, size=half.size, max_bytes=max_bytes, url=url)
    except _FINAL_ERRORS as error:
        raise OSError(f"{url}: {_reason(error)}") from error
    except requests.RequestException as error:
        raise _BrokenOffError(_reason(error)) from error


def _check_answer(response: requests.Response, url: str) -> None:
    code = response.status_code
    if url.startswith("https:") and not response.url.startswith("https:"):
        raise OSError(f"{url}: leads to {response.url}, which is not encrypted; refused")
    if code == requests.codes.too_many_requests or code >= 500:
        raise _BrokenOffError(f"the server answered {code} {response.reason}")
    if code not in (200, 206, 416):
        raise OSError(
            f"{url}: the server answered {code} {response.reason}; look whether the file has "
            "moved, --url takes another address"
        )
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise OSError(f"{url}: the server sends a recoded file, which cannot be checked")


def _check_range(
    response: requests.Response, half: _Version | None, *, start: int, part: pathlib.Path
) -> None:
    """The part that was asked for, of the version that the half is of."""
    stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if (
        half is None
        or not stated
        or int(stated[1]) != start
        or (half.size is not None and stated[2] not in ("*", str(half.size)))
        or _validator(response) not in ("", half.validator)
    ):
        _forget(part)
        raise _BrokenOffError("the server sent another part or version than was asked for")


def _begin(response: requests.Response, url: str, *, part: pathlib.Path) -> _Version:
    """Drops the half before its version is replaced, so that a kill never mixes the two."""
    _forget(part)
    length = response.headers.get("Content-Length", "")
    version = _Version(url, _validator(response), size=int(length) if length.isdecimal() else None)
    atomic_file.write_text(_version_path(part), json.dumps(dataclasses.asdict(version)))
    return version


def _validator(response: requests.Response) -> str:
    """Strong ETag, or else Last-Modified; empty if there is neither."""
    tag = response.headers.get("ETag", "")
    # A weak tag (W/"...") promises equal meaning, not equal bytes.
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _check_size(
    size: int | None, start: int, *, max_bytes: int, part: pathlib.Path, url: str
) -> None:
    if size is None:
        return
    if size > max_bytes:
        raise ValueError(f"{url}: {size} bytes, at most {max_bytes} are expected; not fetched")
    free = shutil.disk_usage(part.parent).free
    if size - start > free:
        raise OSError(
            f"{url}: {(size - start) / 1e9:.2f} GB to come, {part.parent} has "
            f"{free / 1e9:.2f} GB free; make room"
        )


def _append(
    response: requests.Response,
    part: pathlib.Path,
    *,
    start: int,
    size: int | None,
    max_bytes: int,
    url: str,
) -> None:
    bar = tqdm(
        total=size,
        initial=start,
        unit="B",
        unit_scale=True,
        desc=part.name.removesuffix(".part"),
        file=sys.stderr,
        disable=None,
    )
    with bar, part.open("ab") as out:
        have = start
        for chunk in response.iter_content(_CHUNK):
            have += len(chunk)
            if have > max_bytes:
                _forget(part)
                raise ValueError(f"{url}: more than the {max_bytes} bytes that are expected")
            out.write(chunk)
            bar.update(len(chunk))
    if size is not None and have != size:
        raise _BrokenOffError(f"the connection ended after {have} of {size} bytes")


def _reason(error: Exception) -> str:
    """The innermost message, without the names of the libraries' objects."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = str(getattr(error, "reason", None) or error)
    return re.sub(r"\A<?\w*Connection.*?[)>]: ", "", text) or type(error).__name__


def _read_version(part: pathlib.Path, url: str) -> _Version | None:
    """None if there is no half that can be gone on with."""
    try:
        version = _Version(**json.loads(_version_path(part).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return version if version.url == url and version.validator and part.exists() else None


def _version_path(part: pathlib.Path) -> pathlib.Path:
    return part.with_name(part.name + ".json")


def _forget(part: pathlib.Path) -> None:
    part.unlink(missing_ok=True)
    _version_path(part).unlink(missing_ok=True)


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0
