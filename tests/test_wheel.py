"""The wheel: one import name, its commands, and the rules by which its sources are moved."""

import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest
from PIL import Image

from deeplab_tf import __version__
from deeplab_tf.data.readers.synthetic import draw_scene
from tests.paths import CAMVID, ROOT


def load_backend():
    path = ROOT / "build_backend" / "one_import_name.py"
    spec = importlib.util.spec_from_file_location("one_import_name", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pytest.importorskip("setuptools", reason="builds the wheel")
BACKEND = load_backend()
MODULES = {"export.to_tflite", "export.conversion", "export.conversion.gate", "study.plan"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "from export.conversion import gate, head",
            "from deeplab_tflite.lib.export.conversion import gate, head",
        ),
        ("    from export import to_tflite", "    from deeplab_tflite.lib.export import to_tflite"),
        ("import export", "from deeplab_tflite.lib import export"),
        ('"""python -m export.to_tflite"""', '"""python -m deeplab_tflite.lib.export.to_tflite"""'),
        ('x = ["-m", "study.plan"]', 'x = ["-m", "deeplab_tflite.lib.study.plan"]'),
        ("# see export.conversion.gate", "# see deeplab_tflite.lib.export.conversion.gate"),
        ('"""One\nof export.to_tflite\n"""', '"""One\nof deeplab_tflite.lib.export.to_tflite\n"""'),
        ("x = study.plan  # a variable", "x = study.plan  # a variable"),
        (
            '"export/conversion", "tf.export.to_tflite"',
            '"export/conversion", "tf.export.to_tflite"',
        ),
        ("import exporter, os", "import exporter, os"),
    ],
)
def test_a_module_is_moved(before, after):
    text = f"if True:\n{before}" if before.startswith(" ") else before
    moved = BACKEND.rewritten(text, MODULES, name="m.py")
    assert moved == text.replace(before, after)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import export.to_tflite", r"m.py:1: `import export.to_tflite` cannot be moved"),
        ("import export as e", "cannot be moved"),
        ("import os, export", "cannot be moved"),
        ('f"{study.plan}"', "rename it"),
    ],
)
@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="tokens of f-strings: Python 3.12 moves their text alone"
)
def test_what_cannot_be_moved_fails(text, message):
    with pytest.raises(ValueError, match=message):
        BACKEND.rewritten(text, MODULES, name="m.py")


def test_the_whole_project_is_moved(tmp_path):
    BACKEND.write_copy(ROOT, tmp_path)
    package = tmp_path / "deeplab_tflite"
    assert {path.name for path in (package / "lib").iterdir()} == {
        "__init__.py",
        *BACKEND.PACKAGES,
    }
    left = re.compile(r"^\s*(?:from|import) (?:deeplab_tf|tflite_tools|export|study)\b", re.M)
    assert [path for path in package.rglob("*.py") if left.search(path.read_text())] == []
    scripts = (tmp_path / "pyproject.toml").read_text().partition("[project.scripts]")[2]
    scripts = re.findall(r'^deeplab-[\w-]+ = "([\w.]+):console"$', scripts, re.M)
    assert len(scripts) > 30
    assert all(name.startswith("deeplab_tflite.lib.") for name in scripts)


@pytest.mark.slow
def test_the_wheel_installs_one_import_name(tmp_path):
    wheels, environment, empty = (tmp_path / name for name in ("wheels", "environment", "empty"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    ran(*build, "--wheel-dir", wheels, ROOT)
    (wheel,) = wheels.glob("*.whl")
    assert wheel.name == f"deeplab_tflite-{__version__}-py3-none-any.whl"
    ran(sys.executable, "-m", "venv", "--without-pip", environment)
    python, programs = environment / "bin" / "python", environment / "bin"
    site = next(environment.glob("lib/python*/site-packages"))
    install = ["install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", wheel]
    ran(*pip, "--python", python, *install)
    installed = {path.name for path in site.iterdir()}
    assert installed == {"deeplab_tflite", f"deeplab_tflite-{__version__}.dist-info"}
    # The libraries of this environment, without this project: its own .pth file is not read.
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    empty.mkdir()
    for suffix in (".tflite", ".json"):
        shutil.copy(CAMVID / f"int8{suffix}", empty / f"int8{suffix}")
    Image.fromarray(draw_scene(0)[0]).save(empty / "street.png")
    search = (
        "import importlib.util as u; print([n for n in ('export', 'study', 'deeplab_tf', "
        "'tflite_tools') if u.find_spec(n)])"
    )
    assert ran(python, "-c", search, cwd=empty).strip() == "[]"
    described = ran(programs / "deeplab-describe", "int8.tflite", cwd=empty)
    assert "11: sky, building" in described
    ran(programs / "deeplab-segment", "--model=int8.tflite", "--input=street.png", cwd=empty)
    assert (empty / "segmentation" / "street_overlay.jpg").is_file()
    assert ran(programs / "deeplab-train", "--version", cwd=empty).split()[-1] == __version__
    script = (
        "import deeplab_tflite as dt\n"
        "masks = dt.segment('int8.tflite', 'street.png')\n"
        "photo = masks.drawn[0][0].picture[:48, :64]\n"
        "made = dt.quantize(dt_network(), [photo], output_dir='out')\n"
        "print(dt.__version__, dt.__file__, masks.mask.shape, made.int8)\n"
    )
    network = (
        "def dt_network():\n"
        "    import tf_keras\n"
        "    image = tf_keras.Input((48, 64, 3))\n"
        "    return tf_keras.Model(image, tf_keras.layers.Conv2D(3, 3)(image))\n"
    )
    (empty / "five_lines.py").write_text(network + script)
    printed = ran(python, "five_lines.py", cwd=empty).split()
    assert printed[0] == __version__
    assert str(site) in printed[1]
    # A command that starts another as `python -m`: a study reads the flags of its stages.
    flags = (
        "from deeplab_tflite.lib.study import command_flags, stage\n"
        "print(stage.Stage.EVALUATE.module)\n"
        "print('mean_over' in command_flags.flags_of(stage.Stage.EVALUATE.module))\n"
    )
    assert ran(python, "-c", flags, cwd=empty).split() == [
        "deeplab_tflite.lib.study.report.score",
        "True",
    ]


def ran(*words, cwd=ROOT) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout
