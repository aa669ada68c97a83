"""segment: masks, overlays, comparisons and videos of files whose masks are known by hand."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.images import read_mask
from deeplab_tf.data.readers.synthetic import draw_scene
from tests.children import Command, run_command
from tests.paths import CAMVID, ROOT, ZOO
from tests.tflite_tools.one_convolution import stripes, write_brightest_channel
from tflite_tools.contract import read_contract
from tflite_tools.description.description import describe
from tflite_tools.evaluation.mask_grid import predict_all
from tflite_tools.segmentation.segmentation import JOURNAL
from tflite_tools.segmentation.video import writing

SEGMENT = "tflite_tools.segment"
RAW = ("--mean=0", "--std=1")
SIZE = (24, 32)


@pytest.fixture
def model(tmp_path):
    return write_brightest_channel(tmp_path / "brightest.tflite", SIZE)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "stripes.png"
    Image.fromarray(stripes(SIZE)[0]).save(path)
    return path


def segment(*flags, status=0, cwd=ROOT):
    done = run_command(SEGMENT, *flags, cwd=cwd)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def refusal(*flags, cwd=ROOT):
    """The one line of a call that fails."""
    lines = segment(*flags, status=1, cwd=cwd).stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    return lines[-1]


def numbers(folder):
    return json.loads((folder / "segmentation.json").read_text())


def write_video(path, count=12, size=(48, 64), seconds=0.1):
    """A video whose picture number n is red, green or blue as n % 3 says."""
    with writing(path, 1 / seconds) as writer:
        for number in range(count):
            picture = np.zeros((*size, 3), np.uint8)
            picture[..., number % 3] = 220
            writer.add(picture, number * seconds)
    return path


def decode(path):
    """(seconds, picture) of a video, read with PyAV alone."""
    with av.open(str(path)) as container:
        return [(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


# Photos


def test_a_mask_holds_class_numbers_and_an_overlay_their_shares(model, photo, tmp_path):
    out = tmp_path / "out"
    flags = (f"--model={model}", f"--input={photo}", f"--output_dir={out}", *RAW)
    done = segment(*flags)
    _, mask = stripes(SIZE)
    np.testing.assert_array_equal(read_mask(out / "stripes_mask.png"), mask)
    with Image.open(out / "stripes_mask.png") as picture:
        assert picture.mode == "P"
    found = numbers(out)
    shares = found["pictures"][0]["shares"]["brightest"]
    assert shares == {f"class {c}": pytest.approx(np.mean(mask == c)) for c in range(3)}
    assert sorted(found["files"]) == ["stripes_mask.png", "stripes_overlay.jpg"]
    with Image.open(out / "stripes_overlay.jpg") as picture:
        assert picture.width > SIZE[1]  # with a legend beside the photo
    assert "as the flags say" in done.stdout  # of the contract
    assert "class 0 3" in done.stdout  # its share
    assert "To be faster" in done.stdout


def test_the_mask_is_the_one_that_is_scored(tmp_path):
    scene = draw_scene(3)[0]
    Image.fromarray(scene).save(tmp_path / "scene.png")
    file = CAMVID / "int8.tflite"
    segment(f"--model={file}", f"--input={tmp_path / 'scene.png'}", f"--output_dir={tmp_path}/out")
    contract = read_contract(file)
    scored = predict_all([contract], [scene])[0, 0]
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "scene_mask.png"), scored)
    names = numbers(tmp_path / "out")["models"][0]["classes"]
    assert [each["name"] for each in names] == list(contract.label_set.names)


def test_a_photo_is_turned_upright(model, tmp_path):
    image, mask = stripes(SIZE)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: a viewer turns it by 90 degrees clockwise
    Image.fromarray(np.rot90(image)).save(tmp_path / "phone.png", exif=exif)
    out = tmp_path / "out"
    segment(f"--model={model}", f"--input={tmp_path / 'phone.png'}", f"--output_dir={out}", *RAW)
    np.testing.assert_array_equal(read_mask(out / "phone_mask.png"), mask)


def test_a_gray_file_takes_photos(tmp_path):
    file = write_brightest_channel(tmp_path / "gray.tflite", SIZE, channels=1)
    photo = np.repeat(np.array([[0, 255]], np.uint8).repeat(16, 1).repeat(24, 0)[..., None], 3, 2)
    Image.fromarray(photo).save(tmp_path / "half.png")
    out = tmp_path / "out"
    flags = ("--mean=128", "--std=128", f"--output_dir={out}")
    segment(f"--model={file}", f"--input={tmp_path / 'half.png'}", *flags)
    np.testing.assert_array_equal(read_mask(out / "half_mask.png"), photo[..., 0] // 255)


def test_a_file_of_four_channels_takes_photos_that_store_them(photo, tmp_path):
    file = write_brightest_channel(tmp_path / "four.tflite", SIZE, channels=4)
    image, mask = stripes(SIZE)
    fourth = np.zeros(SIZE, np.uint8)
    fourth[:8] = 255
    Image.fromarray(np.dstack((image, fourth))).save(tmp_path / "four.png")
    out = tmp_path / "out"
    flags = (f"--model={file}", f"--output_dir={out}", *RAW)
    assert "4 channels" in refusal(f"--input={photo}", *flags)
    segment(f"--input={tmp_path / 'four.png'}", *flags)
    np.testing.assert_array_equal(read_mask(out / "four_mask.png"), np.where(fourth, 3, mask))


def test_two_files_are_compared(model, photo, tmp_path):
    # Green where red was: the bias of the second file makes the first stripe the second class.
    other = write_brightest_channel(tmp_path / "greener.tflite", SIZE, bias=(0, 250, 0, 0))
    out = tmp_path / "out"
    flags = (f"--model={model},{other}", f"--input={photo}", f"--output_dir={out}", *RAW)
    segment(*flags)
    _, mask = stripes(SIZE)
    found = numbers(out)["pictures"][0]["agreement"]
    assert found == {"greener": pytest.approx(np.mean(mask == 1))}
    assert (read_mask(out / "stripes_greener_mask.png") == 1).all()
    assert (out / "stripes_compared.jpg").is_file()


def test_files_of_other_classes_have_no_agreement(tmp_path):
    Image.fromarray(draw_scene(3)[0]).save(tmp_path / "scene.png")
    files = f"{CAMVID / 'int8.tflite'},{ZOO / 'voc_animals_deeplab_mobilenet_v2' / 'int8.tflite'}"
    out = tmp_path / "out"
    segment(f"--model={files}", f"--input={tmp_path / 'scene.png'}", f"--output_dir={out}")
    assert numbers(out)["pictures"][0]["agreement"] == {}
    assert len(numbers(out)["pictures"][0]["shares"]) == 2


def test_a_folder_keeps_going_after_a_broken_photo(model, photo, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        (folder / name).write_bytes(photo.read_bytes())
    (folder / "b.jpg").write_bytes(b"no photo")
    (folder / "notes.txt").write_text("x")
    out = tmp_path / "out"
    flags = (f"--model={model}", f"--input={folder}", f"--output_dir={out}", *RAW)
    done = segment(*flags, status=1)
    assert "b.jpg" in done.stdout
    assert "1 files are skipped" in done.stderr
    assert [each["name"] for each in numbers(out)["pictures"]] == ["a", "c"]


# Unknown contracts


def test_an_unknown_normalization_is_asked_for_with_pictures(model, photo, tmp_path):
    out = tmp_path / "out"
    done = segment(f"--model={model}", f"--input={photo}", f"--output_dir={out}", status=1)
    assert "--mean=0,0,0 --std=255,255,255" in done.stdout
    assert "how its float32 input is normalized" in done.stderr
    assert [path.name for path in out.iterdir()] == ["readings.png"]
    with Image.open(out / "readings.png") as picture:
        assert picture.width > 2 * 240


def test_a_file_that_divides_pixels_itself_is_read_so_first(photo, tmp_path):
    file = write_brightest_channel(tmp_path / "divides.tflite", SIZE, factor=1 / 255)
    out = tmp_path / "out"
    done = segment(f"--model={file}", f"--input={photo}", f"--output_dir={out}", status=1)
    assert "1: --mean=0,0,0 --std=1,1,1  (its first operators take [0, 255])" in done.stdout


# Videos


def test_a_video_keeps_its_times(model, tmp_path):
    video = write_video(tmp_path / "drive.mp4")
    out = tmp_path / "out"
    flags = (f"--model={model}", f"--input={video}", f"--output_dir={out}", "--frame_masks", *RAW)
    segment(*flags)
    written = decode(out / "drive_overlay.mp4")
    assert [seconds for seconds, _ in written] == pytest.approx([n / 10 for n in range(12)])
    assert written[0][1].shape[0] == 48
    for number, picture in enumerate(numbers(out)["pictures"]):
        assert picture["shares"]["brightest"] == {f"class {number % 3}": 1.0}
    mask = read_mask(out / "drive_brightest_mask_000004.png")
    assert mask.shape == (48, 64)
    assert (mask == 1).all()


def test_a_photo_that_is_a_video_is_read_as_one(model, tmp_path):
    video = write_video(tmp_path / "film.mp4", count=3)
    photo = video.rename(tmp_path / "photo.jpg")
    out = tmp_path / "out"
    flags = (f"--model={model}", f"--input={photo}", f"--output_dir={out}", *RAW)
    assert "holds a video, though" in segment(*flags).stderr
    assert len(decode(out / "photo_overlay.mp4")) == 3


def test_ctrl_c_leaves_a_video_that_plays(model, tmp_path):
    video = write_video(tmp_path / "long.mp4", count=2000)
    out = tmp_path / "out"
    command = Command(SEGMENT, f"--model={model}", f"--input={video}", f"--output_dir={out}", *RAW)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 0 for path in out.glob(".long_overlay.partial-*")):
        assert time.monotonic() < deadline and command.poll() is None, command.errors()
        time.sleep(0.05)
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(60)
    assert command.returncode == 130
    assert "Traceback" not in errors
    found = numbers(out)
    assert found["interrupted"]
    assert 0 < len(decode(out / "long_overlay.mp4")) == len(found["pictures"]) < 2000
    assert sorted(path.name for path in out.iterdir()) == [
        "long_overlay.mp4",
        "segmentation.json",
    ]


# What cannot be done


def test_a_disk_that_fills_leaves_what_was_complete(model, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    large = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    Image.fromarray(large).save(folder / "b.png")
    out = tmp_path / "out"
    flags = [f"--model={model}", f"--input={folder}", f"--output_dir={out}", *RAW]
    limited = ["bash", "-c", 'ulimit -f 64; exec "$@"', "x"]  # files end at 64 KiB
    done = subprocess.run(
        [*limited, sys.executable, "-m", SEGMENT, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "b_" in done.stderr
    assert "Traceback" not in done.stderr
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("b_"))
    assert names == ["a_mask.png", "a_overlay.jpg", "segmentation.json"]
    assert [each["name"] for each in numbers(out)["pictures"]] == ["a"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("camera:97", "/dev/video97 does not exist"),
        ("camera:first", "expected camera or camera:NUMBER"),
        ("nothing.jpg", "no such photo, folder or video"),
        (str(ROOT / "pyproject.toml"), "not a photo"),
        (str(ROOT / "docs" / "hooks"), "expected photos"),
        (str(CAMVID / "int8.tflite"), "not a photo"),
    ],
)
def test_an_input_that_is_none(given, message, model, tmp_path):
    flags = (f"--model={model}", f"--input={given}", f"--output_dir={tmp_path / 'out'}", *RAW)
    assert message in refusal(*flags)
    assert not (tmp_path / "out").exists()


def test_files_of_other_origin_are_kept(model, photo, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    truth = out / "stripes_mask.png"
    truth.write_bytes(b"drawn by hand")
    flags = (f"--model={model}", f"--input={photo}", f"--output_dir={out}", *RAW)
    assert "was not written by this command" in refusal(*flags)
    assert truth.read_bytes() == b"drawn by hand"
    segment(*flags, "--overwrite")
    segment(*flags)  # its own files it replaces


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--output_dir=FILE",), "is a file"),
        (("--output_dir=PHOTOS", "--input=PHOTOS"), "is the folder of the photos"),
        (("--labels=FILE",), "expected 3 labels"),
        (("--opacity=2",), "opacity"),
        (("--mean=1,2",), "--mean and --std"),
        (("--mean=1,2", "--std=1,1"), "expected a normalization of 3"),
        (("--model=MODEL,MODEL.txt",), "NOT READ"),
    ],
)
def test_flags_that_do_not_fit(flags, message, model, photo, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    names = {"FILE": tmp_path / "names.txt", "PHOTOS": tmp_path / "photos", "MODEL": model}
    given = [f"--model={model}", f"--input={photo}", f"--output_dir={tmp_path / 'out'}", *RAW]
    for flag in flags:
        for name, path in names.items():
            flag = flag.replace(name, str(path))
        given = [each for each in given if each.split("=")[0] != flag.split("=")[0]] + [flag]
    done = segment(*given, status=1)
    assert message in done.stdout + done.stderr


def test_real_files_are_segmented_or_refused_in_one_line(shared_dir, tmp_path):
    """A score, a class map, flat scores, and a detector, from other people."""
    models = shared_dir / "models"
    photo = shared_dir / "images" / "bird_segmentation.bmp"
    for name in ("deeplabv3_mnv2_pascal_quant", "third_party/mp_selfie_segmentation"):
        out = tmp_path / pathlib.Path(name).name
        flags = ("--mean=0", "--std=255", f"--output_dir={out}")
        segment(f"--model={models / name}.tflite", f"--input={photo}", *flags)
        assert len(numbers(out)["pictures"][0]["shares"]) == 1
    detector = models / "third_party" / "mp_palm_detection_lite.tflite"
    line = refusal(f"--model={detector}", f"--input={photo}", f"--output_dir={tmp_path / 'no'}")
    assert "expected scores" in line


def test_one_of_several_outputs_is_chosen(shared_dir, tmp_path):
    file = shared_dir / "models" / "user_networks" / "detection_and_masks.tflite"
    photo = shared_dir / "images" / "bird_segmentation.bmp"
    names = [output.name for output in describe(file, repeats=0).outputs if output.is_mask]
    flags = (f"--model={file}", f"--input={photo}", f"--output_dir={tmp_path / 'out'}", *RAW)
    segment(*flags, f"--output={names[0]}")
    assert "expected the name or number of an output" in refusal(*flags, "--output=nothing")
    boxes = next(o for o in describe(file, repeats=0).outputs if not o.is_mask)
    assert "expected scores" in refusal(*flags, f"--output={boxes.position}")


def test_a_killed_call_goes_on(model, photo, tmp_path):
    out = tmp_path / "out"
    flags = (f"--model={model}", f"--input={photo}", f"--output_dir={out}", *RAW)
    segment(*flags)
    expected = (out / "stripes_mask.png").read_bytes()
    # What a call leaves that is killed behind its first file:
    (out / "segmentation.json").unlink()
    (out / "stripes_overlay.jpg").unlink()
    (out / "stripes_mask.png").write_bytes(b"of this call")
    (out / JOURNAL).write_text('"stripes_mask.png"\n"stripes_ov')
    segment(*flags)
    assert (out / "stripes_mask.png").read_bytes() == expected
    names = ["segmentation.json", "stripes_mask.png", "stripes_overlay.jpg"]
    assert sorted(path.name for path in out.iterdir()) == names
