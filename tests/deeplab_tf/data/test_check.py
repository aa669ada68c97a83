import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.check import Kind, check, report
from deeplab_tf.data.readers import camvid, folder
from deeplab_tf.data.readers.synthetic import LABEL_SET, draw_scene
from tests.children import run_command
from tests.deeplab_tf.data.convert import written


@pytest.fixture
def sound(tmp_path, write_image, photo):
    """Two pairs: 2x3 with ids 0 0 0 0 1 255, and 1x2 with 0 0. Class c never occurs."""
    write_image(tmp_path / "images/a.jpg", photo(2, 3))
    write_image(tmp_path / "labels/a.png", np.array([[0, 0, 0], [0, 1, 255]], np.uint8))
    write_image(tmp_path / "images/b.jpg", photo(1, 2))
    write_image(tmp_path / "labels/b.png", np.array([[0, 0]], np.uint8))
    (tmp_path / "classes.txt").write_text("sky\nsea\nland\n")
    (tmp_path / "all.txt").write_text("a\nb\n")
    return tmp_path


@pytest.fixture
def faulty(sound, write_image, photo):
    """The two sound pairs, and one more for each fault."""
    for stem in ("size", "id", "colour", "cut", "gone"):
        write_image(sound / f"images/{stem}.jpg", photo(40, 60))
        write_image(sound / f"labels/{stem}.png", np.zeros((40, 60), np.uint8))
    write_image(sound / "labels/size.png", np.zeros((60, 40), np.uint8))
    write_image(sound / "labels/id.png", np.full((40, 60), 9, np.uint8))
    write_image(sound / "labels/colour.png", photo(40, 60))
    cut = sound / "images/cut.jpg"
    cut.write_bytes(cut.read_bytes()[:-100])
    (sound / "all.txt").write_text("a\nb\nsize\nid\ncolour\ncut\ngone\n")
    return sound


def _run(*arguments):
    return run_command(
        "deeplab_tf.data.check",
        *arguments,
        environment={"PYTHONWARNINGS": "error"},
        timeout=120,
    )


def test_counts_by_hand(sound):
    findings = check(folder.open_split(sound, "all"))
    assert findings.faults == ()
    assert findings.num_samples == 2
    assert findings.pixels.tolist() == [6, 1, 0]
    assert findings.masks_with_class.tolist() == [2, 1, 0]
    assert findings.ignored == 1
    assert findings.sizes == {(2, 3): 1, (1, 2): 1}


def test_all_faults_are_found_in_one_pass(faulty):
    dataset = folder.open_split(faulty, "all")
    (faulty / "images/gone.jpg").unlink()
    findings = check(dataset)
    expected = [
        ("images/size.jpg", "the mask is 40x60, its image 60x40"),
        ("labels/id.png", "class id 9 is unknown"),
        ("labels/colour.png", "a mask must store one class id per pixel"),
        ("images/cut.jpg", "not a readable image"),
        ("images/gone.jpg", "no such image"),
    ]
    assert len(findings.faults) == len(expected)
    for fault, (file, reason) in zip(findings.faults, expected, strict=True):
        assert file in fault.text
        assert reason in fault.text
        assert "\n" not in fault.text
    kinds = [fault.kind for fault in findings.faults]
    assert kinds == [Kind.TURNED, Kind.IDS, Kind.COLORS, Kind.UNREADABLE, Kind.MISSING]
    assert findings.cures.keys() == set(kinds)
    assert findings.num_samples == 7
    # Masks that could be read: a, b, and 40 * 60 zeros each of size, cut and gone.
    assert findings.pixels.tolist() == [6 + 3 * 2400, 1, 0]
    assert sum(findings.sizes.values()) == 5  # not cut, not gone


def test_exif_orientation_is_a_fault(sound):
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees: no size tells
    with Image.open(sound / "images/b.jpg") as image:
        image.save(sound / "images/b.jpg", exif=exif)
    [fault] = check(folder.open_split(sound, "all")).faults
    assert "images/b.jpg: EXIF orientation 3" in fault.text


def test_two_faults_of_one_sample_are_two_lines(faulty):
    dataset = folder.open_split(faulty, "all")
    (faulty / "images/id.jpg").unlink()
    faults = [fault for fault in check(dataset).faults if "/id." in fault.text]
    assert len(faults) == 2


def test_report_by_hand(sound):
    lines = report(check(folder.open_split(sound, "all"))).splitlines()
    cells = [line.split() for line in lines]
    assert cells[:5] == [
        ["class", "pixels", "share", "images"],
        ["sky", "6", "85.714%", "2"],  # 6 of 7 labelled pixels
        ["sea", "1", "14.286%", "1"],
        ["land", "0", "0.000%", "0", "never", "seen"],
        ["(ignored)", "1"],
    ]
    assert lines[5:] == ["samples: 2", "size 2x1: 1 images", "size 3x2: 1 images", "faults: 0"]


def test_report_of_masks_that_are_all_ignored(sound, write_image):
    write_image(sound / "labels/b.png", np.full((1, 2), 255, np.uint8))
    (sound / "all.txt").write_text("b\n")
    text = report(check(folder.open_split(sound, "all")))
    assert text.count("never seen") == 3


def test_real_list_against_pillow_histograms(shared_dir):
    """All 101 masks, counted by Pillow's own histogram instead of through the reader."""
    root = shared_dir / "data/camvid"
    findings = check(camvid.open_split(root, "val"))
    total = np.zeros(256, np.int64)
    holders = np.zeros(256, np.int64)
    for line in (root / "val.txt").read_text().splitlines():
        with Image.open(root / line.split()[1]) as mask:
            histogram = np.array(mask.histogram())
        total += histogram
        holders += histogram > 0
    assert findings.faults == ()
    assert findings.pixels.tolist() == total[:11].tolist()
    assert findings.masks_with_class.tolist() == holders[:11].tolist()
    assert findings.ignored == total[11]
    assert findings.sizes == {(360, 480): 101}


def test_command_ends_with_0_for_sound_data(sound):
    done = _run("--dataset=folder", f"--data_dir={sound}", "--split=all")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "faults: 0"


def test_command_ends_with_1_and_the_number_of_faults(faulty):
    done = _run("--dataset=folder", f"--data_dir={faulty}", "--split=all")
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("fault: 1 ") for line in lines) == 4
    assert sum(line.startswith("    cure: ") for line in lines) == 4
    assert lines[-1] == "faults: 4"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--dataset=folder", "--data_dir=/nowhere"], 1, "error: /nowhere: no such folder"),
        (["--dataset=folder"], 1, "needs --data_dir"),
        (["--dataset=coco"], 2, "--help lists the flags"),
        ([], 2, "--dataset"),
    ],
)
def test_command_complains_in_one_line(arguments, status, message):
    done = _run(*arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def _pairs(root, masks, names="sky\nsea\nland\n"):
    """Photos and masks of one size, all in `all.txt`."""
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for number, mask in enumerate(masks):
        photo = np.full((*mask.shape, 3), number, np.uint8)
        Image.fromarray(photo).save(root / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "labels" / f"{number}.png")
    (root / "classes.txt").write_text(names)
    (root / "all.txt").write_text("".join(f"{number}\n" for number in range(len(masks))))
    return folder.open_split(root, "all")


def test_masks_of_0_and_255_are_a_fault_with_its_cure(tmp_path):
    masks = [np.array([[0, 0, 255], [0, 255, 255]], np.uint8)] * 3
    dataset = _pairs(tmp_path, masks, names="nothing\nroad\n")
    findings = check(dataset)
    assert [fault.kind for fault in findings.faults] == [Kind.ONE_CLASS]
    text = report(findings)
    assert "every labelled pixel is class 0 'nothing', all others are 255, which means" in text
    assert "cure: 255 means ignored; is it your class? remap it to 1: `python -m deeplab_tf" in text
    assert f"--from=binary --input={tmp_path} --output=NEW_FOLDER --classes=" in text
    # The named command does what the cure says.
    line = next(line for line in text.splitlines() if "cure:" in line)
    words = line.partition("`python -m ")[2].partition("`")[0].split()
    words = [word.replace("NEW_FOLDER", str(tmp_path / "new")) for word in words]
    done = run_command(*words)
    assert done.returncode == 0, done.stderr
    findings = check(folder.open_split(tmp_path / "new", "train"))
    assert findings.faults == ()
    assert findings.label_set.names == ("nothing", "road")
    assert findings.pixels.tolist() == [2 * 3, 2 * 3]


def test_another_single_class_is_a_fault_too(tmp_path):
    findings = check(_pairs(tmp_path, [np.full((2, 2), 1, np.uint8)]))
    assert [fault.kind for fault in findings.faults] == [Kind.ONE_CLASS]
    assert "label a second class" in report(findings)


@pytest.mark.parametrize(
    ("values", "cure"),
    [
        ([1, 2, 3], "ids are 1 to 3: subtract one in every mask"),
        ([1, 2, 3, 255], "ids are 1 to 3: subtract one in every mask"),
        ([0, 1, 2, 7], "the list names ids 0 to 2, the masks also hold 7: add the missing lines"),
        (range(0, 255, 2), "values are no class ids: they come from smooth resizing, soft edges"),
    ],
)
def test_cures_of_unknown_ids(tmp_path, values, cure):
    masks = [np.array([[value]] * 3, np.uint8) for value in values]
    text = report(check(_pairs(tmp_path, masks)))
    assert text.count("cure: ") == 1
    assert cure in text


def test_cures_of_sizes_and_colours(tmp_path):
    dataset = _pairs(tmp_path, [np.eye(4, dtype=np.uint8)] * 3)
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "labels/0.png")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "labels/1.png")
    text = report(check(dataset))
    assert "cure: resize masks to the size of their image with nearest neighbour" in text
    assert f"--from=color_masks --input={tmp_path}" in text


def test_faults_of_a_kind_are_grouped_and_capped(tmp_path):
    dataset = _pairs(tmp_path, [np.full((2, 2), 9, np.uint8)] * 20)
    lines = report(check(dataset)).splitlines()
    assert "fault: 20 masks hold ids that no class has" in lines
    assert sum("class id 9 is unknown" in line for line in lines) == 3
    assert "    and 17 more; --examples=20 shows all" in lines
    assert lines[-1] == "faults: 20"
    done = _run("--dataset=folder", f"--data_dir={tmp_path}", "--split=all", "--examples=20")
    assert done.stdout.count("class id 9 is unknown") == 20


@pytest.mark.parametrize("kind", ["coco", "yolo", "labelme", "cvat", "supervisely"])
def test_labels_of_another_format_are_recognized(tmp_path, kind):
    image, label = draw_scene(0)
    scenes = [written.Scene("a", image, label), written.Scene("b", image, label)]
    getattr(written, f"write_{kind}")(scenes, LABEL_SET.names, tmp_path)
    done = _run("--dataset=folder", f"--data_dir={tmp_path}")
    assert done.returncode == 1
    assert f"convert it with `python -m deeplab_tf.data.convert --from={kind}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
