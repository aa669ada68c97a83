"""Downloads a data set as far as its terms allow, and prints how to get the rest.

python -m deeplab_tf.data.download --dataset=camvid --data_dir=DIR
python -m deeplab_tf.data.download --dataset=cityscapes

The second command, without --data_dir, only prints terms, page and layout.

DIR is the folder to give to training as --data_dir. Archives are downloaded to DIR/download, which
may be deleted afterwards; run the command again to resume an interrupted download. Each archive is
checked against its published checksum; where none is published, its sha256 is recorded in
DIR/download/SHA256SUMS and required from then on. An archive that you downloaded yourself and put
into DIR/download is checked and unpacked in the same way, for example for data sets that need a
registration. Existing files are never replaced by different ones without --overwrite.

Status 0: the data set is complete, its reader opens train and val. Status 1: it is not, and one
line on stderr gives the reason; if a registration is needed, the page and the expected layout are
printed on stdout.
"""

import dataclasses
import pathlib
import shutil
import sys
from collections.abc import Sequence

from absl import flags, logging

from deeplab_tf import atomic_file, command, folder_lock
from deeplab_tf.data.dataset import read_lines
from deeplab_tf.data.download import archives, fetching
from deeplab_tf.data.download.sources import SOURCES, Archive, Source
from deeplab_tf.data.registry import open_dataset

FLAGS = flags.FLAGS
KEPT_FOLDER = "download"
SUMS_FILE = "SHA256SUMS"
_BUSY = "another download is running here; wait until it ends"
_SPLITS = ("train", "val")


def download(
    archives_of_set: Sequence[Archive],
    data_dir: pathlib.Path,
    *,
    overwrite: bool = False,
    retries: fetching.Retries | None = None,
) -> tuple[Archive, ...]:
    """Downloads, checks and unpacks what is not in the data folder yet.

    Args:
        archives_of_set: archives of the data set.
        data_dir: the data folder; created if missing.
        overwrite: whether to unpack everything and replace files that differ.
        retries: how often an interrupted download is retried.

    Returns:
        The archives that must be downloaded by hand and are not in the folder `download`.

    Raises:
        ValueError: an archive is too large, damaged, unsafe or has the wrong checksum. Archives
            that were unpacked before it stay, here and below.
        OSError: an archive cannot be downloaded or written.
        RuntimeError: another download into the same folder is running.
    """
    kept = data_dir / KEPT_FOLDER
    to_do = [one for one in archives_of_set if overwrite or not one.is_unpacked(data_dir)]
    missing = tuple(one for one in to_do if not one.url and not (kept / one.name).is_file())
    ready = [one for one in to_do if one not in missing]
    if ready:
        kept.mkdir(parents=True, exist_ok=True)
        with folder_lock.exclusive(kept, _BUSY):
            _remove_leftovers(data_dir)
            for archive in ready:
                _fetch_or_verify(archive, kept, retries=retries)
                _unpack(archive, kept, data_dir=data_dir, overwrite=overwrite)
    return missing


def override_archives(
    archives_of_set: Sequence[Archive], urls: Sequence[str], *, sha256: Sequence[str]
) -> tuple[Archive, ...]:
    """Replaces addresses or checksums of archives.

    A published checksum also applies to another address, unless a sha256 is given.

    Args:
        archives_of_set: archives of the data set.
        urls: one per archive, in their order, or none.
        sha256: hex digits, one per archive, in their order, or none.

    Returns:
        The changed archives.

    Raises:
        ValueError: the number of URLs or checksums is wrong, or a sha256 is invalid.
    """
    for flag, values in (("url", urls), ("sha256", sha256)):
        if values and len(values) != len(archives_of_set):
            names = ", ".join(archive.name for archive in archives_of_set) or "none"
            raise ValueError(
                f"expected --{flag} once per archive, in this order: {names}; got it "
                f"{len(values)} times"
            )
    changed = list(archives_of_set)
    for index, url in enumerate(urls):
        changed[index] = dataclasses.replace(changed[index], url=url)
    for index, digits in enumerate(sha256):
        changed[index] = dataclasses.replace(changed[index], checksum=f"sha256:{digits}")
    return tuple(changed)


def reader_error(name: str, data_dir: pathlib.Path) -> str | None:
    """Tries to open train and val of a data set.

    Args:
        name: of the data set.
        data_dir: its folder.

    Returns:
        The message of the reader's error, None if both splits can be opened.
    """
    try:
        for split in _SPLITS:
            open_dataset(name, data_dir, split=split)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def describe(name: str, source: Source) -> str:
    """Formats terms, page, layout and manual steps of a data set."""
    lines = [f"{name}: {source.terms}", f"page: {source.page}"]
    if source.manual_steps:
        lines.append(f"to do: {source.manual_steps}")
    manual = [archive.name for archive in source.archives if not archive.url]
    if manual:
        lines.append(
            f"then: put {' and '.join(manual)} into DIR/{KEPT_FOLDER}, where DIR is --data_dir, "
            "and run this command again; or unpack them yourself"
        )
    lines.append("layout expected in DIR:")
    lines += [f"    {line}" for line in source.layout.splitlines()]
    return "\n".join(lines) + "\n"


def _remove_leftovers(data_dir: pathlib.Path) -> None:
    """Removes temporary folders of killed runs."""
    for folder in data_dir.glob(f"{archives.STAGING_PREFIX}*"):
        logging.info("%s: removed, left by a killed run", folder)
        shutil.rmtree(folder)


def _fetch_or_verify(
    archive: Archive, kept: pathlib.Path, *, retries: fetching.Retries | None
) -> None:
    """Downloads an archive to the folder `download`, or verifies one that is there."""
    path = kept / archive.name
    if not path.exists():
        assert archive.url is not None  # `download` leaves out archives without one
        fetching.fetch(
            archive.url,
            path,
            max_bytes=archive.max_bytes,
            checksum=archive.checksum,
            retries=retries,
        )
    elif archive.checksum and not fetching.matches(path, archive.checksum):
        raise ValueError(
            f"{path} exists but does not have the checksum {archive.checksum}; nothing was "
            "unpacked or removed; move it away to download it again"
        )
    _record(archive, path)


def _record(archive: Archive, path: pathlib.Path) -> None:
    """Records the sha256; without a published checksum, it must equal the one recorded before."""
    sums_file = path.with_name(SUMS_FILE)
    lines = read_lines(sums_file) if sums_file.is_file() else []
    sums = {name: digits for digits, _, name in (line.partition("  ") for line in lines)}
    found = fetching.digest(path, "sha256")
    if archive.checksum is None:
        if sums.get(archive.name, found) != found:
            raise ValueError(
                f"{path}: expected sha256 {sums[archive.name]}, as {sums_file} records, got "
                f"{found}; nothing was unpacked; if the new file is right, remove that line"
            )
        logging.info("%s: no checksum is published; sha256 %s", archive.name, found)
    sums[archive.name] = found
    atomic_file.write_text(
        sums_file, "".join(f"{digits}  {name}\n" for name, digits in sorted(sums.items()))
    )


def _unpack(
    archive: Archive, kept: pathlib.Path, *, data_dir: pathlib.Path, overwrite: bool
) -> None:
    limits = archives.Limits(archive.max_unpacked_bytes)
    path = kept / archive.name
    with archives.unpacked(path, data_dir, limits=limits, subtree=archive.subtree) as staging:
        for provided in archive.provides:
            if not (staging / pathlib.Path(provided).relative_to(archive.destination)).exists():
                raise ValueError(f"{path}: contains no {provided}; is it the right archive?")
        if archive.prepare:
            archive.prepare(staging)
        target = data_dir / archive.destination
        target.mkdir(exist_ok=True)
        archives.move_into(staging, target, overwrite=overwrite)
    logging.info("%s: unpacked to %s", archive.name, target)


def _define_flags() -> None:
    flags.DEFINE_enum("dataset", None, sorted(SOURCES), "Data set.", required=True)
    flags.DEFINE_string(
        "data_dir", "", "Folder for the files; if not given, nothing is downloaded."
    )
    flags.DEFINE_bool("overwrite", False, "Unpack again and replace files that differ.")
    flags.DEFINE_multi_string("url", [], "Another address, one --url per archive.")
    flags.DEFINE_multi_string("sha256", [], "Another checksum, one --sha256 per archive.")


def main() -> int:
    """Downloads or describes the data set that the flags name; returns the exit status."""
    source = SOURCES[FLAGS.dataset]
    if not FLAGS.data_dir:
        sys.stdout.write(describe(FLAGS.dataset, source))
        return 0
    data_dir = pathlib.Path(FLAGS.data_dir)
    requested = override_archives(source.archives, FLAGS.url, sha256=FLAGS.sha256)
    missing: tuple[Archive, ...] = ()
    reason = reader_error(FLAGS.dataset, data_dir)
    if reason or FLAGS.overwrite:
        logging.info("%s: %s; %s", FLAGS.dataset, source.terms, source.page)
        missing = download(requested, data_dir, overwrite=FLAGS.overwrite)
        reason = reader_error(FLAGS.dataset, data_dir)
    if missing or (reason and not requested):
        sys.stdout.write(describe(FLAGS.dataset, source))
        names = ", ".join(archive.name for archive in missing) or "this data set"
        raise FileNotFoundError(
            f"{FLAGS.dataset}: {names} must be downloaded by hand, as described above; not "
            f"complete in {data_dir}"
        )
    if reason:
        raise ValueError(reason)
    sys.stdout.write(f"{FLAGS.dataset}: complete in {data_dir}; {source.terms}\n")
    return 0


def console() -> None:
    """Runs the command line."""
    _define_flags()
    command.run(main, resume="the same command resumes the download")


if __name__ == "__main__":
    console()
