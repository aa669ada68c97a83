"""Resumable HTTP downloads; a file gets its final name only after its checksum was verified.

An incomplete download is stored next to its target as `NAME.part`, and `NAME.part.json` records the
version of the remote file. The rest is requested with `Range` and `If-Range` (RFC 9110, sections
14.2 and 13.1.5): if the file has changed, or the server does not support ranges or validators, the
download starts over, so that parts of two versions are never mixed.
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

from deeplab_tf import atomic_file, bounded_file

TIMEOUT_S = (15, 60)  # to connect, and between two bytes
_CHUNK = 1 << 16
_CHECKSUM = re.compile(r"(md5|sha1|sha256):([0-9a-f]+)")
_HEX_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64}
_FINAL_ERRORS = (
    requests.exceptions.SSLError,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.TooManyRedirects,
)


class _RetryableError(Exception):
    """A failure that another attempt may resolve."""


@dataclasses.dataclass(frozen=True)
class Retries:
    """How often an interrupted download is retried.

    Attributes:
        attempts: consecutive attempts without a new byte before giving up.
        pause_s: seconds before the second attempt; doubles with each attempt, up to a minute.
    """

    attempts: int = 5
    pause_s: float = 1.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.pause_s < 0:
            raise ValueError(f"expected attempts >= 1 and pause_s >= 0, got {self}")


@dataclasses.dataclass(frozen=True)
class _Version:
    """Version of the remote file that a partial download belongs to.

    Attributes:
        url: address of the request.
        validator: strong ETag, or else Last-Modified; empty if the server sends neither.
        size: bytes of the complete file, None if unknown.
    """

    url: str
    validator: str
    size: int | None


def check_form(checksum: str) -> str:
    """Validates the form of a checksum.

    Args:
        checksum: `algorithm:hex digits`.

    Returns:
        The checksum in lower case.

    Raises:
        ValueError: not md5, sha1 or sha256 with the right number of digits.
    """
    found = _CHECKSUM.fullmatch(checksum.lower())
    if not found or len(found[2]) != _HEX_DIGITS[found[1]]:
        raise ValueError(
            f"expected a checksum md5:, sha1: or sha256: with 32, 40 or 64 hex digits, got "
            f"{checksum!r}"
        )
    return checksum.lower()


def digest(path: pathlib.Path, algorithm: str) -> str:
    """Computes the hex digest of a file.

    Args:
        path: of the file.
        algorithm: md5, sha1 or sha256.

    Returns:
        The hex digits.
    """
    found = hashlib.new(algorithm)
    with path.open("rb") as file:  # hashlib.file_digest is there from Python 3.11 on
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def matches(path: pathlib.Path, checksum: str) -> bool:
    """Returns whether a file has the checksum `algorithm:hex digits`."""
    algorithm, expected = check_form(checksum).split(":")
    return digest(path, algorithm) == expected


def fetch(
    url: str,
    target: pathlib.Path,
    *,
    max_bytes: int,
    checksum: str | None = None,
    retries: Retries | None = None,
) -> None:
    """Downloads `url` to `target`, resuming an earlier incomplete download.

    Args:
        url: http or https.
        target: path of the file; must not exist, but its folder must.
        max_bytes: a larger file is rejected, before the download if the server states its size.
        checksum: `algorithm:hex digits`; a file with another checksum is kept as `NAME.rejected`
            for inspection, and `target` is not created.
        retries: how often to retry.

    Raises:
        ValueError: invalid URL or form of checksum, wrong checksum, or a file that is too large.
        FileExistsError: `target` exists.
        OSError: no connection, a response other than the file, or a full disk. The part that was
            downloaded stays, and another call resumes.
    """
    _check_url(url)
    checksum = check_form(checksum) if checksum else None
    if target.exists():
        raise FileExistsError(f"{target} already exists; move it away to download it again")
    part = target.with_name(target.name + ".part")
    _download_with_retries(url, part, max_bytes=max_bytes, retries=retries or Retries())
    if checksum and not matches(part, checksum):
        algorithm = checksum.partition(":")[0]
        rejected = part.replace(target.with_name(target.name + ".rejected"))
        _remove_part(part)
        raise ValueError(
            f"{url}: expected {algorithm} {checksum.partition(':')[2]}, got "
            f"{digest(rejected, algorithm)}; nothing was unpacked and no existing file was "
            f"changed; inspect {rejected}, or run again to download it again"
        )
    part.replace(target)
    _remove_part(part)


def _check_url(url: str) -> None:
    if not re.match(r"https?://[^/]", url):
        raise ValueError(f"expected an address of the form https://host/file, got {url!r}")


def _download_with_retries(
    url: str, part: pathlib.Path, *, max_bytes: int, retries: Retries
) -> None:
    """Sends requests until the file is complete or `attempts` in a row give no new byte."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _request(url, part, max_bytes=max_bytes)
        except _RetryableError as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= retries.attempts:
                raise OSError(
                    f"{url}: {error}; {_size(part)} bytes are kept, run again to resume"
                ) from error
            logging.warning("%s: %s; retrying from byte %d", url, error, _size(part))
            time.sleep(min(retries.pause_s * 2 ** (failures - 1), 60))


def _request(url: str, part: pathlib.Path, *, max_bytes: int) -> None:
    """Sends one request, for the rest if there is a part of a known version."""
    version = _read_version(part, url)
    start = _size(part) if version else 0
    if version and start == version.size:
        return
    headers = {"Accept-Encoding": "identity"}
    if version and start:
        headers |= {"Range": f"bytes={start}-", "If-Range": version.validator}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            _check_response(response, url)
            if response.status_code == requests.codes.partial_content:
                version = _check_range(response, version, start=start, part=part)
            elif response.status_code == requests.codes.requested_range_not_satisfiable:
                _remove_part(part)
                raise _RetryableError("the file is shorter than before")
            else:
                version, start = _start_over(response, url, part=part), 0
            _check_size(version.size, start, max_bytes=max_bytes, part=part, url=url)
            _append(response, part, start=start, size=version.size, max_bytes=max_bytes, url=url)
    except _FINAL_ERRORS as error:
        raise OSError(f"{url}: {_reason(error)}") from error
    except requests.RequestException as error:
        raise _RetryableError(_reason(error)) from error


def _check_response(response: requests.Response, url: str) -> None:
    code = response.status_code
    if url.startswith("https:") and not response.url.startswith("https:"):
        raise OSError(f"{url}: rejected, it redirects to {response.url}, which is not encrypted")
    if code == requests.codes.too_many_requests or code >= 500:
        raise _RetryableError(f"the server answered {code} {response.reason}")
    if code not in (200, 206, 416):
        raise OSError(
            f"{url}: the server answered {code} {response.reason}; check whether the file has "
            "moved and give its new address with --url"
        )
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise OSError(f"{url}: the server re-encodes the file, so it cannot be verified")


def _check_range(
    response: requests.Response, version: _Version | None, *, start: int, part: pathlib.Path
) -> _Version:
    """Checks that a response holds the requested range of the version of the part."""
    stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if (
        version is None
        or not stated
        or int(stated[1]) != start
        or (version.size is not None and stated[2] not in ("*", str(version.size)))
        or _validator(response) not in ("", version.validator)
    ):
        _remove_part(part)
        raise _RetryableError("the server sent another range or version than requested")
    return version


def _start_over(response: requests.Response, url: str, *, part: pathlib.Path) -> _Version:
    """Removes the part before its version is replaced, so that a kill never mixes the two."""
    _remove_part(part)
    length = response.headers.get("Content-Length", "")
    version = _Version(url, _validator(response), size=int(length) if length.isdecimal() else None)
    atomic_file.write_text(_version_path(part), json.dumps(dataclasses.asdict(version)))
    return version


def _validator(response: requests.Response) -> str:
    """Returns the strong ETag, or else Last-Modified; empty if there is neither."""
    tag = response.headers.get("ETag", "")
    # A weak tag (W/"...") promises equal meaning, not equal bytes.
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _check_size(
    size: int | None, start: int, *, max_bytes: int, part: pathlib.Path, url: str
) -> None:
    if size is None:
        return
    if size > max_bytes:
        raise ValueError(
            f"{url}: expected at most {max_bytes} bytes, got {size}; nothing was downloaded"
        )
    free = shutil.disk_usage(part.parent).free
    if size - start > free:
        raise OSError(
            f"{url}: {(size - start) / 1e9:.2f} GB left to download, but {part.parent} has "
            f"{free / 1e9:.2f} GB free; free disk space"
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
        received = start
        for chunk in response.iter_content(_CHUNK):
            received += len(chunk)
            if received > max_bytes:
                _remove_part(part)
                raise ValueError(f"{url}: expected at most {max_bytes} bytes, got more")
            out.write(chunk)
            bar.update(len(chunk))
    if size is not None and received != size:
        raise _RetryableError(f"the connection ended after {received} of {size} bytes")


def _reason(error: Exception) -> str:
    """Returns the innermost message, without the names of library objects."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = str(getattr(error, "reason", None) or error)
    return re.sub(r"\A<?\w*Connection.*?[)>]: ", "", text) or type(error).__name__


def _read_version(part: pathlib.Path, url: str) -> _Version | None:
    """Reads the version of a part; None if there is no part that can be resumed."""
    try:
        version = _Version(**bounded_file.read_json(_version_path(part)))
    except (OSError, ValueError, TypeError):
        return None
    return version if version.url == url and version.validator and part.exists() else None


def _version_path(part: pathlib.Path) -> pathlib.Path:
    return part.with_name(part.name + ".json")


def _remove_part(part: pathlib.Path) -> None:
    part.unlink(missing_ok=True)
    _version_path(part).unlink(missing_ok=True)


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0
