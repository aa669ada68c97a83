"""Videos, photos and results of phones that are damaged, huge, or lead elsewhere: one line."""

import json
import random
import struct
import time

import av
import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.images import exif_orientation, read_image, read_mask, read_upright
from tests.hostile import files
from tests.hostile.commands import watch
from tests.phone_results import packed
from tests.tflite_tools.one_convolution import write_brightest_channel
from tflite_tools.contract import read_contract
from tflite_tools.deployment.phone_result import LARGEST_ARRAYS_BYTES, read_phone_result
from tflite_tools.description.feeding_code import kotlin_lines, python_lines
from tflite_tools.segmentation import video as video_module
from tflite_tools.segmentation.sources import open_source
from tflite_tools.segmentation.video import Video, writing


def write_video(path, count=6, size=(48, 64)):
    with writing(path, 10) as writer:
        for number in range(count):
            writer.add(np.full((*size, 3), 40 * number, np.uint8), number / 10)
    return path


def decoded(path):
    """Pictures of a video until its end or its damage; any other error fails."""
    found = 0
    try:
        video = Video(str(path))
    except ValueError as error:
        assert str(error).startswith(str(path))
        return found
    try:
        for frame in video.frames():
            assert frame.image.ndim == 3
            found += 1
    except ValueError as error:
        assert str(error).startswith(str(path))
    finally:
        video.close()
    return found


def test_damaged_videos(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    whole = path.read_bytes()
    assert decoded(path) == 6
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        decoded(path)
    generator = random.Random(0)
    started = time.monotonic()
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(generator.choice((1, 4, 40))):
            content[generator.randrange(len(content))] = generator.choice((0, 127, 255))
        path.write_bytes(content)
        decoded(path)
    assert time.monotonic() - started < 60


def list_of(kind, target):
    return {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{target}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile {target}\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
        "dash": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'>"
        f"<Period><BaseURL>{target}</BaseURL></Period></MPD>",
        "text": "hello\n" * 100,
    }[kind]


@pytest.mark.parametrize("kind", ["hls", "concat", "sdp", "dash", "text"])
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ffconcat"])
def test_lists_of_other_files_are_no_videos(tmp_path, kind, suffix):
    other = write_video(tmp_path / "other.mp4")
    path = tmp_path / f"list{suffix}"
    path.write_text(list_of(kind, other.name))
    with pytest.raises(ValueError, match=f"list{suffix}: (not a video|holds no video)"):
        open_source(str(path))


def test_a_name_with_a_colon_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "concat:a.mp4")
    video = Video("concat:a.mp4")
    assert len(list(video.frames())) == 6
    video.close()


def with_size(path, width, height):
    """An uncompressed video whose header says another size."""
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("rawvideo", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr24"
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    for sign in (1, -1):  # the second one is a picture that begins with its first row
        stored, wanted = struct.pack("<ii", 64, 48 * sign), struct.pack("<ii", width, height * sign)
        assert stored in content
        content = content.replace(stored, wanted)
    path.write_bytes(content)
    return path


def test_pictures_of_a_video_have_a_limit(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="pictures larger than 89478485 pixels"):
        Video(str(with_size(tmp_path / "a.avi", 12_000, 9_000)))
    path = write_video(tmp_path / "b.mp4")
    monkeypatch.setattr(video_module, "MAX_PIXELS", 47 * 64)
    with pytest.raises(ValueError, match="pictures larger than 3008 pixels"):
        Video(str(path))


def test_a_killed_segmentation_leaves_no_part_of_a_video_for_long(tmp_path):
    left = tmp_path / ".a_overlay.partial-abcdefgh.mp4"
    left.write_bytes(b"half")
    write_video(tmp_path / "a_overlay.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a_overlay.mp4"]


def test_a_video_without_a_picture_does_not_appear(tmp_path):
    with writing(tmp_path / "a.mp4", 10):
        pass
    assert not list(tmp_path.iterdir())


FORMATS = ("png", "jpg", "webp", "tif", "gif", "bmp", "tga", "jp2", "ppm")


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged metadata
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_damaged_photos(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    picture.save(path, exif=exif)
    whole = path.read_bytes()
    generator = random.Random(0)
    for number in range(150):
        content = bytearray(whole)
        if number % 3 == 0:
            del content[generator.randrange(len(content)) :]
        for _ in range(generator.choice((1, 3, 20)) if content else 0):
            # mostly in the header, where the numbers are
            place = generator.randrange(len(content)) if number % 2 else generator.randrange(200)
            content[min(place, len(content) - 1)] = generator.choice((0, 1, 127, 255))
        path.write_bytes(content)
        assert 1 <= exif_orientation(path) <= 8
        for read in (read_image, read_upright, read_mask):
            try:
                read(path)
            except ValueError as error:
                assert str(error).startswith(str(path))


def phone_result(**changes):
    entry = {
        "file": "a.tflite",
        "sha256": "0" * 64,
        "height": 4,
        "width": 8,
        "mean": [127.5] * 3,
        "std": [127.5] * 3,
        "pixels": packed(np.zeros((4, 8, 3), np.uint8)),
        "runs": [
            {
                "accelerator": "gpu",
                "on_gpu": "full",
                "build": "jspi",
                "threads": None,
                "mask": packed(np.zeros((4, 8), np.uint8)),
                "latency_ms": {"median": 1.0, "p90": 2.0, "runs": [1.0]},
            }
        ],
    }
    document = {
        "kind": "phone_result",
        "format": 1,
        "photo": "a.jpg",
        "device": {"name": "a phone", "browser": "b"},
        "models": [entry],
    }
    for key, value in changes.items():
        for part in (document, entry, entry["runs"][0]):
            if key in part:
                part[key] = value
    return json.dumps(document)


def test_the_result_that_the_others_are_made_from(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(phone_result())
    assert read_phone_result(path).models[0].runs[0].mask.shape == (4, 8)


STRANGE = (
    *("null", "[]", "{}", '"x"', "true", "-1", "0", "0.5", "1e400", "NaN", f"1{'0' * 5000}"),
    *(f"1{'0' * 40}", "[[1]]", '{"a": 1}', "[null]", '"\\u0000"', '"\\ud800"', "16385"),
)
SHOWN = ("accelerator", "build", "runs", "threads", "latency_ms", "models", "format")
KEYS = (
    *("kind", "format", "device", "models", "height", "width", "mean", "std", "pixels", "runs"),
    *("threads", "mask", "latency_ms", "accelerator", "build"),
)


@pytest.mark.parametrize("key", KEYS)
def test_strange_values_in_a_phone_result(tmp_path, key):
    path = tmp_path / "result.json"
    for text in STRANGE:
        path.write_text(phone_result(**{key: "@"}).replace('"@"', text))
        try:
            read_phone_result(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: not a result that a phone page saved")
        else:  # only what is shown as it is
            assert key in SHOWN, text


def test_no_time_is_infinite_or_negative(tmp_path):
    path = tmp_path / "result.json"
    for value in ("1e400", "-1"):
        path.write_text(phone_result(latency_ms={"median": "@", "p90": 1, "runs": []}))
        path.write_text(path.read_text().replace('"@"', value))
        with pytest.raises(ValueError, match="no usable times"):
            read_phone_result(path)


def test_a_mask_is_never_unpacked_to_more_than_its_size(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(phone_result(mask=packed(np.zeros(50_000_000, np.uint8))))
    with pytest.raises(ValueError, match=r"expected 32 bytes for \[4, 8\], got 33"):
        read_phone_result(path)


def test_many_masks_have_a_limit_together(tmp_path):
    """50 models of the largest size: 60 GB from a file of 80 MB."""
    side = 16384
    path = tmp_path / "work" / "result.json"
    path.parent.mkdir()
    path.write_text(phone_result(height=side, width=side))
    with pytest.raises(ValueError, match=f"of at most {LARGEST_ARRAYS_BYTES:,} bytes, got 1,07"):
        read_phone_result(path)
    model = write_brightest_channel(tmp_path / "work" / "m.tflite", (24, 32))
    done = watch(tmp_path, "tflite_tools.golden", f"--check={path}", f"--model={model}")
    assert done.status == 1
    assert "expected pixels and masks of at most" in done.line
    assert done.peak_mb < 700
    assert not done.files
    assert not done.left


def test_a_result_of_gigabytes_is_refused_unread(tmp_path):
    path = files.sparse(tmp_path / "result.json", 10**12, b"{")
    with pytest.raises(ValueError, match="expected at most 64,000,000 bytes"):
        read_phone_result(path)


def test_the_name_of_a_file_is_text_in_code(tmp_path):
    """The lines that feed a file are copied: a name must not become code in them."""
    name = 'a"); import os; os.abort() #${Runtime.getRuntime().halt(1)}.tflite'
    path = write_brightest_channel(tmp_path / name, (24, 32))
    contract = read_contract(path)
    python = python_lines(contract, is_mask=True)
    [line] = [line for line in python.splitlines() if "Interpreter(" in line]
    assert eval(line.partition("Interpreter")[2]) == name
    kotlin = kotlin_lines(contract, is_mask=True, output_bytes=4)
    assert "\\${Runtime" in kotlin
    assert 'openFd("a\\"); import' in kotlin
