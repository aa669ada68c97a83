"""The guide to the Python interface: its examples run as they are, one after the other."""

import contextlib
import io
import re

import pytest
from PIL import Image

import deeplab_tflite as dt
from deeplab_tf.data.readers.synthetic import draw_scene
from tests.docs import example_folder
from tests.paths import ROOT

GUIDE = ROOT / "docs" / "guides" / "python.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
LONG = (
    ("train_steps=4000", "train_steps=2"),
    ("quantize_delay_step=3200", "quantize_delay_step=1"),
)
"""Replaced, so that the examples take a minute."""


def section(title: str) -> list[str]:
    text = GUIDE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the examples name: photos, files, a picture."""
    example_folder.fill(tmp_path, ("int8", "theirs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(title: str, values: dict) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in section(title):
            for long, short in LONG:
                block = block.replace(long, short)
            exec(compile(block, f"{GUIDE.name}: {title}", "exec"), values)


def test_all_examples_are_in_a_section():
    titles = ("Files that exist", "A Keras network to int8", "From training to files")
    inside = [block for title in titles for block in section(title)]
    assert ["import deeplab_tflite as dt\n", *inside] == BLOCKS
    assert all(long in "".join(BLOCKS) for long, _ in LONG)


def test_the_table_names_every_function():
    rows = re.findall(
        r"^\| `(\w+)\([\w, ]+\)` \| `python -m [\w.]+` \| `(\w+)` \|$",
        GUIDE.read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 8
    for function, result in rows:
        assert getattr(dt, function).__annotations__["return"] is getattr(dt, result)


def test_files_that_exist(folder):
    values = {"dt": dt}
    run("Files that exist", values)
    assert (folder / "overlay.png").is_file()
    assert values["change"].difference == 0  # of equal files
    assert values["scores"].miou("int8") == values["scores"].miou("theirs")


@pytest.mark.slow
def test_a_keras_network_to_int8(folder):
    text = GUIDE.read_text()
    text.index(
        '`dt.quantize("net.keras", "photos/images", output_dir="out")`'
    )  # see test of Keras 3
    names = (folder / "photos" / "classes.txt").read_text().splitlines()
    values = {"dt": dt}
    # The photos of this test have the classes of the zoo; the network of the guide has five.
    (folder / "photos" / "classes.txt").write_text("\n".join(names[:5]))
    for path in (folder / "photos" / "labels").iterdir():
        Image.fromarray(draw_scene(int(path.stem))[1] % 5).save(path)
    run("A Keras network to int8", values)
    assert values["made"].int8.is_file()
    assert values["methods"].best in ("per_channel", "corrected")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_training_to_files(folder):
    values = {"dt": dt, "photos": dt.open_dataset("folder", "photos")}
    run("From training to files", values)
    assert [path.stem for path in values["files"]] == ["float32", "int8", "qat_int8"]
    assert (folder / "theirs_keras" / "report.md").is_file()
