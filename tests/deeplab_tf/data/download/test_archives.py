import contextlib
import gzip
import io
import pathlib
import random
import stat
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest

from deeplab_tf.data.download import archives
from deeplab_tf.data.download.archives import Limits, move_into, safe_parts, unpacked
from tests.paths import ROOT

_NOISE = random.Random(0)
LIMITS = Limits(max_bytes=10_000_000)


def tree(folder):
    """Content of each file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextlib.contextmanager
def writing_tar(path, mode="w"):
    with tarfile.open(path, mode) as opened:

        def add(name, content=b"", **fields):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            opened.addfile(info, io.BytesIO(content))

        yield add


def make_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def make_tar(path, files, mode="w"):
    with writing_tar(path, mode) as add:
        for name, content in files.items():
            add(name, content)
    return path


@pytest.fixture
def room(tmp_path):
    folder = tmp_path / "room"
    folder.mkdir()
    return folder


def refused(archive, room, match, limits=LIMITS):
    """Nothing may be written: neither in the folder nor next to it."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(ValueError, match=match) as caught, unpacked(archive, room, limits=limits):
        pass
    assert sorted(archive.parent.rglob("*")) == before
    assert str(archive) in str(caught.value)


FILES = {"a/one.txt": _NOISE.randbytes(70_000), "a/b/two.txt": b"two", "three.txt": b""}


@pytest.mark.parametrize("kind", ["zip", "stored zip", "tar", "tar.gz", "gnu tar", "pax tar"])
def test_sound_archives_come_out_as_they_went_in(tmp_path, room, kind):
    path = tmp_path / "sound"
    if "zip" in kind:
        make_zip(path, FILES, zipfile.ZIP_STORED if "stored" in kind else zipfile.ZIP_DEFLATED)
    else:
        make_tar(path, FILES, "w:gz" if "gz" in kind else "w")
    with unpacked(path, room, limits=LIMITS) as staging:
        assert staging.parent == room
        assert tree(staging) == FILES
    assert list(room.iterdir()) == []


@pytest.mark.parametrize("flags", [["-cf"], ["-czf"], ["--format=pax", "-cf"]])
def test_archives_of_the_tar_program(tmp_path, room, flags):
    """An independent writer, with folders, `./` names, long names and non-ASCII."""
    source = tmp_path / "source"
    names = ["x/" + "long" * 40 + ".txt", "x/ünïcode.txt", "empty/.keep"]
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())
    subprocess.run(["tar", *flags, tmp_path / "t.tar", "-C", source, "."], check=True)
    with unpacked(tmp_path / "t.tar", room, limits=LIMITS) as staging:
        assert tree(staging) == {name: name.encode() for name in names}


def test_subtree_is_taken_without_its_folder(tmp_path, room):
    files = {"Repo-1a2b/CamVid/val.txt": b"v", "Repo-1a2b/CamVid/val/a": b"a", "Repo-1a2b/x": b"x"}
    for path in (make_zip(tmp_path / "z", files), make_tar(tmp_path / "t", files)):
        with unpacked(path, room, limits=LIMITS, subtree="*/CamVid") as staging:
            assert tree(staging) == {"val.txt": b"v", "val/a": b"a"}
        with (
            pytest.raises(ValueError, match=r"contains no file below \*/Other; is it the right"),
            unpacked(path, room, limits=LIMITS, subtree="*/Other"),
        ):
            pass


def test_two_subtrees_that_would_fall_on_each_other_are_refused(tmp_path, room):
    files = {"one/CamVid/a": b"1", "two/CamVid/a": b"2"}
    for path in (make_zip(tmp_path / "z", files), make_tar(tmp_path / "t", files)):
        with (
            pytest.raises(ValueError, match=r"contains \*/CamVid more than once"),
            unpacked(path, room, limits=LIMITS, subtree="*/CamVid"),
        ):
            pass


def test_permissions_of_the_archive_are_not_taken_over(tmp_path, room):
    with writing_tar(tmp_path / "t") as add:
        add("closed", b"x", mode=0)
        add("setuid", b"x", mode=0o6777)
    with unpacked(tmp_path / "t", room, limits=LIMITS) as staging:
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in staging.iterdir()}
    assert modes["closed"] & stat.S_IRUSR
    assert not modes["setuid"] & (stat.S_ISUID | stat.S_ISGID)


BAD_NAMES = [
    ("/etc/passwd", "absolute"),
    ("../outside", "leads out"),
    ("a/../../outside", "leads out"),
    ("a/..", "leads out"),
    ("..\\outside", "backslash"),
    ("C:/outside", "absolute"),
    ("a\nb", "control character"),
    ("x" * 256, "longer than 255 bytes"),
]


@pytest.mark.parametrize(("name", "match"), BAD_NAMES)
def test_paths_that_lead_out_are_refused(tmp_path, room, name, match):
    refused(make_zip(tmp_path / "z", {"fine": b"1", name: b"2"}), room, match)
    refused(make_tar(tmp_path / "t", {"fine": b"1", name: b"2"}), room, match)
    refused(make_tar(tmp_path / "g", {"fine": b"1", name: b"2"}, "w:gz"), room, match)


def test_names_that_zipfile_would_cut_at_a_nul_are_refused(tmp_path, room):
    path = make_zip(tmp_path / "z", {"good_txt": b"1"})
    path.write_bytes(path.read_bytes().replace(b"good_txt", b"good\0txt"))
    refused(path, room, "control character")


def test_safe_parts_by_hand():
    assert safe_parts("./a//b/./c.png") == ("a", "b", "c.png")
    assert safe_parts("a..b/...") == ("a..b", "...")
    assert safe_parts("./") == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc"},
        {"type": tarfile.SYMTYPE, "linkname": "fine"},
        {"type": tarfile.LNKTYPE, "linkname": "fine"},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
        {"type": tarfile.BLKTYPE},
        {"type": tarfile.FIFOTYPE},
    ],
)
def test_links_and_devices_in_tars_are_refused(tmp_path, room, fields):
    with writing_tar(tmp_path / "t") as add:
        add("fine", b"1")
        add("odd", **fields)
    refused(tmp_path / "t", room, "'odd' is a link, a device or a sparse file")


def test_sparse_file_is_refused(tmp_path, room):
    """A hole of 1 GB that costs nothing in the archive."""
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(10**9)
    subprocess.run(["tar", "-Scf", tmp_path / "t", "-C", tmp_path, "hole"], check=True)
    (tmp_path / "hole").unlink()
    assert (tmp_path / "t").stat().st_size < 20_000
    refused(tmp_path / "t", room, "sparse", Limits(10**10, max_ratio=1e9))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_zips_are_refused(tmp_path, room, kind):
    info = zipfile.ZipInfo("odd")
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "z", "w") as opened:
        opened.writestr("fine", b"1")
        opened.writestr(info, "/etc")
    refused(tmp_path / "z", room, "'odd' is a link or a device")


@pytest.mark.parametrize(
    "names",
    [
        ("same.txt", "same.txt"),
        ("same.txt", "./same.txt"),
        ("Same.txt", "sAME.txt"),
        ("Folder/a", "folder/b"),
        ("straße", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("a", "a/b"),
        ("a/b", "a"),
    ],
)
def test_two_entries_for_one_place_are_refused(tmp_path, room, names):
    with writing_tar(tmp_path / "t") as add:
        for name in names:
            add(name, b"x")
    refused(tmp_path / "t", room, "has the same path as")
    with zipfile.ZipFile(tmp_path / "z", "w") as opened:
        opened.writestr(names[0], b"1")
        if names[0] == names[1]:
            with pytest.warns(UserWarning, match="Duplicate name"):
                opened.writestr(names[1], b"2")
        else:
            opened.writestr(names[1], b"2")
    refused(tmp_path / "z", room, "has the same path as")


def test_a_file_without_a_name_is_refused(tmp_path, room):
    with writing_tar(tmp_path / "t") as add:
        add("./.", b"x")
    refused(tmp_path / "t", room, "is not a file name")


def test_folders_may_come_twice(tmp_path, room):
    with writing_tar(tmp_path / "t") as add:
        add("a/", type=tarfile.DIRTYPE)
        add("a/x", b"1")
        add("./a", type=tarfile.DIRTYPE)
    with unpacked(tmp_path / "t", room, limits=LIMITS) as staging:
        assert tree(staging) == {"a/x": b"1"}


def test_bombs_by_ratio_are_refused(tmp_path, room):
    zeros = {"zeros": bytes(5_000_000)}  # deflate packs them about 1000 times smaller
    refused(make_zip(tmp_path / "z", zeros), room, "200 times its own size")
    refused(make_tar(tmp_path / "t", zeros, "w:gz"), room, "200 times its own size")


def test_the_ratio_that_label_files_reach_is_allowed(tmp_path, room):
    noise = _NOISE.randbytes(1000)
    files = {f"{number}.label": noise + bytes(80_000) for number in range(20)}
    path = make_zip(tmp_path / "z", files)
    assert 60 < 20 * 81_000 / path.stat().st_size < 100
    with unpacked(path, room, limits=LIMITS) as staging:
        assert tree(staging) == files


def test_limits_on_bytes_and_entries(tmp_path, room):
    files = {str(number): _NOISE.randbytes(100) for number in range(10)}
    for path in (make_zip(tmp_path / "z", files), make_tar(tmp_path / "t", files)):
        with unpacked(path, room, limits=Limits(1000, max_entries=10)) as staging:
            assert tree(staging) == files
        refused(path, room, r"more than 0\.000999 MB", Limits(999))
        refused(path, room, "more than 9 entries", Limits(1000, max_entries=9))


def test_a_gzip_bomb_is_not_unpacked_to_find_its_end(tmp_path, room):
    """64 GB of zeros, stated by one header; reading them would take minutes."""
    info = tarfile.TarInfo("huge")
    info.size = 64 << 30
    with gzip.open(tmp_path / "t", "wb", 1) as out:
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        out.write(_NOISE.randbytes(1000))
    start = time.monotonic()
    refused(tmp_path / "t", room, "more than 1000 MB", Limits(10**9, max_ratio=1e12))
    assert time.monotonic() - start < 5


def test_a_name_of_many_megabytes_is_not_read_to_memory(tmp_path, room):
    info = tarfile.TarInfo("././@LongLink")
    info.type = tarfile.GNUTYPE_LONGNAME
    info.size = 100 << 20
    with gzip.open(tmp_path / "t", "wb", 1) as out:
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(100):
            out.write(b"x" * (1 << 20))
    refused(tmp_path / "t", room, "it contains a name or list longer than 64 MiB", Limits(10**9))


def test_a_chain_of_long_names_ends(tmp_path, room):
    """Each header calls for the next: bounded by the position, or by the depth of calls."""
    info = tarfile.TarInfo("././@LongLink")
    info.type = tarfile.GNUTYPE_LONGNAME
    info.size = 512
    link = info.tobuf(tarfile.GNU_FORMAT) + b"x" * 512
    with gzip.open(tmp_path / "t", "wb") as out:
        out.write(link * 5000)
    refused(tmp_path / "t", room, "more than its limits allow", Limits(1000, max_entries=10))
    refused(tmp_path / "t", room, "damaged or truncated", Limits(10**9))


def test_what_follows_the_end_mark_is_bounded(tmp_path, room):
    path = make_tar(tmp_path / "t", FILES)
    with gzip.open(tmp_path / "g", "wb") as out:
        out.write(path.read_bytes() + bytes(2 << 20))
    refused(tmp_path / "g", room, "1048576 bytes follow the end mark")


def test_zip_that_understates_a_size_gives_no_more_than_it_states(tmp_path, room):
    path = make_zip(tmp_path / "z", {"big": _NOISE.randbytes(50_000)})
    true, stated = (50_000).to_bytes(4, "little"), (10).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(true, stated))
    refused(path, room, "damaged or truncated", Limits(1000))


def test_full_disk_is_seen_before_writing(tmp_path, room, monkeypatch):
    path = make_zip(tmp_path / "z", FILES)
    usage = archives.shutil.disk_usage(room)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage._replace(free=70_000))
    with (
        pytest.raises(OSError, match=r"unpacks to .* GB free; free disk space"),
        unpacked(path, room, limits=LIMITS),
    ):
        pass
    assert list(room.iterdir()) == []


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_cut_archives_are_refused(tmp_path, room, kind):
    path = tmp_path / "cut"
    if kind == "zip":
        make_zip(path, FILES)
    else:
        make_tar(path, FILES, "w:gz" if kind == "tar.gz" else "w")
    whole = path.read_bytes()
    # zip ends with its list of files, gzip with its CRC, tar with 10240 bytes of zeros at most
    for length in (100, 40_000, len(whole) - (10_240 if kind == "tar" else 9)):
        path.write_bytes(whole[:length])
        refused(path, room, "damaged or truncated|neither zip nor tar")


def test_tar_cut_between_two_entries_is_refused(tmp_path, room):
    """tarfile alone takes it for whole."""
    make_tar(tmp_path / "t", FILES)
    whole = (tmp_path / "t").read_bytes()
    first = 512 + 70_144  # header, then 70000 bytes in whole blocks
    (tmp_path / "t").write_bytes(whole[:first])
    refused(tmp_path / "t", room, "no end mark")


def test_tar_with_a_damaged_header_is_refused(tmp_path, room):
    """tarfile alone stops there in silence."""
    make_tar(tmp_path / "t", FILES)
    content = bytearray((tmp_path / "t").read_bytes())
    content[512 + 70_144 + 150] ^= 0xFF
    (tmp_path / "t").write_bytes(content)
    refused(tmp_path / "t", room, "no end mark")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_flipped_bit_is_found(tmp_path, room, kind):
    path = tmp_path / "bad"
    if kind == "zip":
        make_zip(path, FILES)
    else:
        make_tar(path, FILES, "w:gz")
    content = bytearray(path.read_bytes())
    content[30_000] ^= 1
    path.write_bytes(content)
    refused(path, room, "damaged or truncated")


def test_zips_with_encryption_or_other_compression_are_rejected(tmp_path, room):
    refused(make_zip(tmp_path / "l", {"a": b"x"}, zipfile.ZIP_LZMA), room, "compression 14")
    path = make_zip(tmp_path / "e", {"a": b"x"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    refused(path, room, "'a' is encrypted")


@pytest.mark.parametrize("content", [b"", b"<html>log in</html>", b"x" * 2000, bytes(2000)])
def test_other_files_are_rejected(tmp_path, room, content):
    (tmp_path / "page").write_bytes(content)
    refused(tmp_path / "page", room, "neither zip nor tar|no file|damaged")


def test_limits_must_be_above_zero():
    with pytest.raises(ValueError, match="max_entries must be above 0, got 0"):
        Limits(10, max_entries=0)


def test_a_killed_extraction_leaves_nothing_under_the_final_name(tmp_path):
    """The process is killed while it unpacks; what it left is a folder with the marked prefix."""
    make_tar(tmp_path / "t", {f"d/{number}": _NOISE.randbytes(1000) for number in range(6000)})
    code = (
        "import pathlib, sys; from deeplab_tf.data.download.archives import *\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "with unpacked(here / 't', here / 'data', limits=Limits(10**9)) as staging:\n"
        "    move_into(staging, here / 'data')\n"
    )
    data = tmp_path / "data"
    data.mkdir()
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT)
    deadline = time.monotonic() + 300
    while not any(data.glob(f"{archives.STAGING_PREFIX}*/d/1*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -9
    left = [path.name for path in data.iterdir()]
    assert len(left) == 1
    assert left[0].startswith(archives.STAGING_PREFIX)
    assert 0 < len(list(data.glob("*/d/*"))) < 6000


def plant(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_move_merges_folders_and_keeps_equal_files(tmp_path):
    staging = plant(tmp_path / "s", {"d/00/new": b"n", "d/01/a": b"a", "same": b"s"})
    target = plant(tmp_path / "t", {"d/00/old": b"o", "same": b"s"})
    before = (target / "same").stat().st_ino
    move_into(staging, target)
    assert tree(target) == {"d/00/old": b"o", "d/00/new": b"n", "d/01/a": b"a", "same": b"s"}
    assert (target / "same").stat().st_ino == before


def test_move_replaces_nothing_without_overwrite(tmp_path):
    staging = plant(tmp_path / "s", {"a": b"new", "list.txt": b"new"})
    target = plant(tmp_path / "t", {"list.txt": b"mine"})
    with pytest.raises(FileExistsError, match=r"list\.txt already exists with other content"):
        move_into(staging, target)
    assert tree(target) == {"list.txt": b"mine"}
    move_into(staging, target, overwrite=True)
    assert tree(target) == {"a": b"new", "list.txt": b"new"}


def test_move_never_replaces_a_folder_by_a_file(tmp_path):
    staging = plant(tmp_path / "s", {"a": b"file", "b/c": b"c"})
    target = plant(tmp_path / "t", {"a/mine": b"mine"})
    with pytest.raises(FileExistsError, match=r"move it away$"):
        move_into(staging, target, overwrite=True)
    assert tree(target) == {"a/mine": b"mine"}


def test_a_move_that_fails_is_taken_back(tmp_path, monkeypatch):
    staging = plant(tmp_path / "s", {"a/1": b"1", "b/2": b"2"})
    target = plant(tmp_path / "t", {"mine": b"m"})
    real = pathlib.Path.replace

    def fails_at_b(path, goal):
        if path.name == "b":
            raise PermissionError("no")
        return real(path, goal)

    monkeypatch.setattr(pathlib.Path, "replace", fails_at_b)
    with pytest.raises(PermissionError):
        move_into(staging, target)
    assert tree(target) == {"mine": b"m"}
    assert tree(staging) == {"a/1": b"1", "b/2": b"2"}
