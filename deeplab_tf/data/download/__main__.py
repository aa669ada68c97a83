"""Gets a data set: fetches what its terms let anyone fetch, and says how to get the rest.

python -m deeplab_tf.data.download --dataset=camvid --data_dir=DIR
python -m deeplab_tf.data.download --dataset=cityscapes

The second line, without --data_dir, only tells: terms, page, layout.

DIR is then what training takes as --data_dir. Archives are fetched to DIR/download, which may be
deleted afterwards; run the command again to go on with one that broke off. Each is checked against
its published checksum; where none is published, its sha256 is recorded in DIR/download/SHA256SUMS
and asked for from then on. An archive that you downloaded yourself, put into DIR/download, is
checked and unpacked in the same way: that is how data sets behind a registration are completed.
Files that are already there are never replaced by others without --overwrite.

Status 0: the data set is whole, its reader opens train and val. Status 1: it is not, and one line
on stderr says why; where a person must register, the page and the layout expected stand on stdout.
"""

import contextlib
import dataclasses
import fcntl
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence

from absl import flags, logging

from deeplab_tf import atomic_file, command
from deeplab_tf.data.dataset import read_lines
from deeplab_tf.data.download import archives, fetching
from deeplab_tf.data.download.sources import SOURCES, Archive, Source
from deeplab_tf.data.registry import open_dataset

FLAGS = flags.FLAGS
KEPT_FOLDER = "download"
SUMS_FILE = "SHA256SUMS"
_LOCK_FILE = ".lock"
_SPLITS = ("train", "val")


def download(
    archives_of_set: Sequence[Archive],
    data_dir: pathlib.Path,
    *,
    overwrite: bool = False,
    retries: fetching.Retries | None = None,
) -> tuple[Archive, ...]:
    """Fetches, checks and unpacks what is not in the data folder yet.

    Args:
        archives_of_set: what the data set consists of.
        data_dir: made if missing.
        overwrite: unpack everything, and replace files that differ.
        retries: how often a download goes on by itself.

    Returns:
        The archives that only a person can bring and that are not in the folder `download`.

    Raises:
        ValueError, OSError: the first archive that cannot be fetched, checked or unpacked;
            those before it stay.
    """
    kept = data_dir / KEPT_FOLDER
    to_do = [one for one in archives_of_set if overwrite or not one.is_unpacked(data_dir)]
    missing = tuple(one for one in to_do if not one.url and not (kept / one.name).is_file())
    ready = [one for one in to_do if one not in missing]
    if ready:
        kept.mkdir(parents=True, exist_ok=True)
        with _alone(kept):
            _sweep(data_dir)
            for archive in ready:
                _obtain(archive, kept, retries=retries)
                _unpack(archive, kept, data_dir=data_dir, overwrite=overwrite)
    return missing


def redirected(
    archives_of_set: Sequence[Archive], urls: Sequence[str], *, sha256: Sequence[str]
) -> tuple[Archive, ...]:
    """The archives from other addresses or with other checksums, in their order.

    A published checksum still holds at another address, unless a sha256 is given.

    Raises:
        ValueError: not one URL or sha256 an archive, or a sha256 that is none.
    """
    for flag, values in (("url", urls), ("sha256", sha256)):
        if values and len(values) != len(archives_of_set):
            names = ", ".join(archive.name for archive in archives_of_set) or "none"
            raise ValueError(
                f"--{flag} is given {len(values)} times; once for each archive is needed, in "
                f"this order: {names}"
            )
    changed = list(archives_of_set)
    for index, url in enumerate(urls):
        changed[index] = dataclasses.replace(changed[index], url=url)
    for index, digits in enumerate(sha256):
        changed[index] = dataclasses.replace(changed[index], checksum=f"sha256:{digits}")
    return tuple(changed)


def fault(name: str, data_dir: pathlib.Path) -> str | None:
    """What keeps the reader from opening the data set, None if nothing does."""
    try:
        for split in _SPLITS:
            open_dataset(name, data_dir, split=split)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def describe(name: str, source: Source) -> str:
    """Terms, page, layout, and what a person must do."""
    lines = [f"{name}: {source.terms}", f"page: {source.page}"]
    if source.by_hand:
        lines.append(f"to do: {source.by_hand}")
    by_hand = [archive.name for archive in source.archives if not archive.url]
    if by_hand:
        lines.append(
            f"then: put {' and '.join(by_hand)} into DIR/{KEPT_FOLDER}, DIR being --data_dir, and "
            "run this command again; or unpack them yourself"
        )
    lines.append("layout expected in DIR:")
    lines += [f"    {line}" for line in source.layout.splitlines()]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
    """Keeps two runs from writing one half file; the lock ends with the process."""
    with (folder / _LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"{folder}: another download runs here; wait for it") from error
        yield


def _sweep(data_dir: pathlib.Path) -> None:
    """Removes what a killed run was unpacking."""
    for left in data_dir.glob(f"{archives.STAGING_PREFIX}*"):
        logging.info("%s: removed, left by a run that was killed", left)
        shutil.rmtree(left)


def _obtain(archive: Archive, kept: pathlib.Path, *, retries: fetching.Retries | None) -> None:
    """Leaves the archive, checked, in the folder `download`."""
    path = kept / archive.name
    if not path.exists():
        fetching.fetch(
            archive.url,
            path,
            max_bytes=archive.max_bytes,
            checksum=archive.checksum,
            retries=retries,
        )
    elif archive.checksum and not fetching.matches(path, archive.checksum):
        raise ValueError(
            f"{path} was already there and has not the checksum {archive.checksum}; nothing was "
            "unpacked or removed; move it away to fetch it anew"
        )
    _record(archive, path)


def _record(archive: Archive, path: pathlib.Path) -> None:
    """Notes the sha256; without a published checksum, the one noted before must come again."""
    sums_file = path.with_name(SUMS_FILE)
    lines = read_lines(sums_file) if sums_file.is_file() else []
    sums = {name: digits for digits, _, name in (line.partition("  ") for line in lines)}
    found = fetching.digest(path, "sha256")
    if archive.checksum is None:
        if sums.get(archive.name, found) != found:
            raise ValueError(
                f"{path}: sha256 is {found}, but {sums_file} notes {sums[archive.name]} from "
                "before; nothing was unpacked; if it is right, remove that line"
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
        for given in archive.gives:
            if not (staging / pathlib.Path(given).relative_to(archive.into)).exists():
                raise ValueError(f"{path}: holds no {given}; is it the right archive?")
        if archive.prepare:
            archive.prepare(staging)
        goal = data_dir / archive.into
        goal.mkdir(exist_ok=True)
        archives.move_into(staging, goal, overwrite=overwrite)
    logging.info("%s: unpacked to %s", archive.name, goal)


def _define_flags() -> None:
    flags.DEFINE_enum("dataset", None, sorted(SOURCES), "Data set.", required=True)
    flags.DEFINE_string("data_dir", "", "Folder to hold it; without it nothing is fetched.")
    flags.DEFINE_bool("overwrite", False, "Unpack again and replace files that differ.")
    flags.DEFINE_multi_string("url", [], "Another address, one --url for each archive.")
    flags.DEFINE_multi_string("sha256", [], "Demanded instead, one --sha256 for each archive.")


def main() -> int:
    source = SOURCES[FLAGS.dataset]
    if not FLAGS.data_dir:
        sys.stdout.write(describe(FLAGS.dataset, source))
        return 0
    data_dir = pathlib.Path(FLAGS.data_dir)
    wanted = redirected(source.archives, FLAGS.url, sha256=FLAGS.sha256)
    missing: tuple[Archive, ...] = ()
    reason = fault(FLAGS.dataset, data_dir)
    if reason or FLAGS.overwrite:
        logging.info("%s: %s; %s", FLAGS.dataset, source.terms, source.page)
        missing = download(wanted, data_dir, overwrite=FLAGS.overwrite)
        reason = fault(FLAGS.dataset, data_dir)
    if missing or (reason and not wanted):
        sys.stdout.write(describe(FLAGS.dataset, source))
        names = ", ".join(archive.name for archive in missing) or "this data set"
        raise FileNotFoundError(
            f"{FLAGS.dataset}: {names} can only be fetched by a person, after what the page above "
            f"asks for; not complete in {data_dir}"
        )
    if reason:
        raise ValueError(reason)
    sys.stdout.write(f"{FLAGS.dataset}: whole in {data_dir}; {source.terms}\n")
    return 0


def console() -> None:
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()
