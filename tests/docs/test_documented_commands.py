"""Documented commands exist, take the documented flags, and run on drawn scenes."""

import ast
import importlib.util
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf

from deeplab_tf.data.readers.synthetic import LABEL_SET as SCENE_CLASSES
from deeplab_tf.data.readers.synthetic import draw_scene
from tests.children import run_command
from tests.deeplab_tf.data.convert import written
from tests.docs import example_folder
from tests.export.rewriting.tf_functions import converted
from tests.phone_results import phone_result

ROOT = pathlib.Path(__file__).resolve().parents[2]
ZOO = ROOT / "zoo" / "camvid_deeplab_mobilenet_v2"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "zoo").glob("*/README.md")),
]
ALIASES = {
    "deeplab_tf.data.measure_sensor": "deeplab_tf.data.lidar.measure_sensor",
    "deeplab_tf.models.import_torch": "deeplab_tf.weights.import_torch",
}
_FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PATH = re.compile(
    r"`((?:deeplab_tf|tflite_tools|export|study|tests|docs|clients|studies|zoo)/[\w/.-]*)`"
)
_INLINE = re.compile(r"(?<!`)`(python\s+-m\s[^`]+)`")


def load_hook():
    path = ROOT / "docs" / "hooks" / "command_reference.py"
    spec = importlib.util.spec_from_file_location("command_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOK = load_hook()


def documented(page: pathlib.Path) -> list[list[str]]:
    """Every `python -m` line of a page as [module, argument, ...]; "..." is left out."""
    text = page.read_text()
    blocks = [block.replace("\\\n", " ") for block in _FENCE.findall(text)]
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [" ".join(found.split()) for found in _INLINE.findall(_FENCE.sub("", text))]
    found = []
    for line in lines:
        if line.startswith("python -m "):
            words = [word for word in shlex.split(line, comments=True)[2:] if word != "..."]
            found.append(words)
    return found


def line_of(page: str, module: str, *, including: str = "") -> list[str]:
    """The first documented line of a module, in docs/guides."""
    lines = documented(ROOT / "docs" / "guides" / page)
    return next(words for words in lines if words[0] == module and including in " ".join(words))


@pytest.fixture(scope="module")
def commands():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "hooks" / "command_reference.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def faults(words: list[str], commands: dict) -> list[str]:
    module, *arguments = words
    module = ALIASES.get(module, module)
    if module not in commands:
        return [f"{module}: no such command"]
    known = {flag["name"]: flag for flag in commands[module]["flags"]}
    found = []
    if commands[module]["positional"] and arguments and not arguments[0].startswith("-"):
        arguments = arguments[1:]
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        flag = known.get(name) or known.get(name.removeprefix("no"))
        if not argument.startswith("--") or flag is None:
            found.append(f"{module}: unknown argument {argument}")
        elif name != flag["name"] and flag["type"] != "bool":
            found.append(f"{module}: {argument} is not a switch")
        elif flag["values"] and value not in (*flag["values"], "...") and not value.isupper():
            found.append(f"{module}: {argument} is not one of {flag['values']}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_documented_commands_take_the_documented_flags(page, commands):
    assert [fault for words in documented(page) for fault in faults(words, commands)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_documented_paths_exist(page):
    named = set(_PATH.findall(_FENCE.sub("", page.read_text())))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_guide_is_parsed():
    guides = sorted((ROOT / "docs" / "guides").glob("*.md"))
    assert len(guides) >= 9
    assert all(documented(page) for page in guides)


def test_a_wrong_command_is_found(commands):
    assert faults(["deeplab_tf.nothing"], commands)
    assert faults(["deeplab_tf.train", "--no_such_flag=1"], commands)
    assert faults(["deeplab_tf.train", "--dataset=nothing"], commands)
    assert faults(["deeplab_tf.train", "photos"], commands)
    assert not faults(["deeplab_tf.train", "--dataset=camvid", "--nodecoder"], commands)


def test_every_command_is_in_the_reference(commands):
    page = HOOK.as_page(commands)
    scripts = HOOK.console_scripts()
    assert set(scripts) <= set(commands)
    for module, entry in commands.items():
        assert f"## python -m {module} " in page
        assert entry["text"]
        if not module.startswith("clients."):  # not installed: they run from a clone
            assert entry["script"], f"{module}: no console script in pyproject.toml"
    assert all(f"`{script}`" in page for script in scripts.values())


def test_every_flag_of_the_reference_is_explained(commands):
    unexplained = [
        f"{module} --{flag['name']}"
        for module, entry in commands.items()
        for flag in entry["flags"]
        if not flag["help"] and not flag["values"]
    ]
    assert unexplained == []


@pytest.mark.parametrize(("old", "new"), ALIASES.items())
def test_a_deprecated_name_is_the_same_command(old, new):
    path = ROOT / f"{old.replace('.', '/')}.py"
    imports = [
        node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)
    ]
    assert [(node.module, node.names[0].name) for node in imports] == [(new, "console")]
    assert "console()" in path.read_text()


# Documented lines, run as they are


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which the guides' commands find what they name."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "runs" / "mine" / "tflite").mkdir(parents=True)
    example_folder.fill(folder, ("runs/mine/tflite/int8", "int8", "theirs"))
    return folder


def run(words: list[str], folder: pathlib.Path) -> str:
    done = run_command(*words, cwd=folder, timeout=500)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-1000:]}{done.stderr[-1000:]}"
    return done.stdout


def test_check_of_a_folder_runs(workplace):
    assert "faults: 0" in run(line_of("train.md", "deeplab_tf.data.check"), workplace)


def test_labels_become_a_folder_that_passes_the_check(workplace):
    scenes = [written.Scene(f"drive{n}_a", *draw_scene(n)) for n in range(5)]
    written.write_coco(scenes, SCENE_CLASSES.names, workplace / "labelled")
    written.write_cvat(scenes, SCENE_CLASSES.names, workplace / "task")
    words = line_of("labels.md", "deeplab_tf.data.convert")
    words = ["--output=converted" if word == "--output=photos" else word for word in words]
    assert "train: 4 photos" in run(words, workplace)
    words = line_of("labels.md", "deeplab_tf.data.check")
    words = ["--data_dir=converted" if word == "--data_dir=photos" else word for word in words]
    assert run(words, workplace).count("faults: 0") == 2
    assert "groups: 5" in run(
        line_of("labels.md", "deeplab_tf.data.convert", including="group_by"), workplace
    )


def test_the_way_into_an_app_runs(workplace):
    run(line_of("phone.md", "tflite_tools.add_metadata"), workplace)
    run(line_of("phone.md", "tflite_tools.check_client"), workplace)
    run(line_of("phone.md", "tflite_tools.golden", including="--photo"), workplace)
    shutil.copy(workplace / "golden" / "output.bin", workplace / "device.bin")
    check = line_of("phone.md", "tflite_tools.golden", including="--check")
    assert "passed" in run(check, workplace)


def test_a_page_for_a_phone_runs(workplace):
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("no npm and Node.js on this machine: the page's web runtime comes from there")
    run([*line_of("phone.md", "tflite_tools.add_metadata"), "--overwrite"], workplace)
    run(line_of("phone.md", "tflite_tools.phone_page", including="--photo"), workplace)
    assert (workplace / "page.html").is_file()
    shutil.copy(ZOO / "qat_int8.tflite", workplace)
    shutil.copy(ZOO / "qat_int8.json", workplace)
    run(line_of("phone.md", "tflite_tools.phone_page", including="--models"), workplace)
    assert (workplace / "site" / "index.html").is_file()


def test_result_of_a_phone_is_checked(workplace):
    run([*line_of("phone.md", "tflite_tools.add_metadata"), "--overwrite"], workplace)
    values = phone_result(workplace / "app.tflite", workplace / "street.jpg")
    values["models"][0]["runs"].pop()
    (workplace / "result.json").write_text(json.dumps(values))
    check = line_of("phone.md", "tflite_tools.golden", including="--check=result.json")
    assert "passed: app.tflite on a phone" in run(check, workplace)


def test_a_file_with_the_channels_first_comes_in(workplace):
    def network(image):
        x = tf.nn.conv2d(tf.transpose(image, (0, 2, 3, 1)), tf.ones((3, 3, 3, 2)), 1, "SAME")
        return tf.transpose(x, (0, 3, 1, 2))

    (workplace / "nchw.tflite").write_bytes(converted(network, (1, 3, 24, 32)))
    words = line_of("from_frameworks.md", "export.from_framework", including="nchw.tflite")
    assert "takes [1, height, width, channels]" in run(words, workplace)


def test_a_check_of_an_npu_without_its_sdk_says_what_is_missing(workplace):
    words = line_of("devices.md", "tflite_tools.check_device", including="qualcomm")
    done = run_command(*words, cwd=workplace)
    assert done.returncode == 1
    assert "qualcomm:SM8750: skipped: the vendor's SDK is missing: pip install" in done.stdout


def test_scoring_of_a_foreign_file_runs(workplace):
    words = line_of("evaluate.md", "tflite_tools.evaluate", including="theirs.tflite")
    assert "theirs" in run(words, workplace)


def test_looking_at_a_file_runs(workplace):
    run(line_of("look.md", "tflite_tools.segment", including="street.jpg"), workplace)
    assert (workplace / "segmentation" / "street_overlay.jpg").is_file()
    run(line_of("look.md", "tflite_tools.segment", including="compared"), workplace)
    assert len(list((workplace / "compared").glob("*_compared.jpg"))) == 10
    text = run(line_of("look.md", "tflite_tools.describe"), workplace)
    assert "To be faster" in text


@pytest.mark.slow
def test_rebuilding_a_file_runs(workplace):
    run(line_of("retrain_a_tflite.md", "tflite_tools.to_keras"), workplace)
    assert (workplace / "theirs_keras" / "report.md").is_file()
