"""The rules of the house that a reader would otherwise have to trust."""

import ast
import subprocess
import sys

import pytest

from tests.children import run_command
from tests.paths import ROOT

PACKAGES = ("deeplab_tf", "export", "tflite_tools")
COMMANDS = {  # a command may import what it joins
    "study/compare.py",
    "deeplab_tf/weights/import_torch.py",
    "deeplab_tf/train.py",
}
OF_DEEPLAB_TF = ("deeplab_tf.data", "deeplab_tf.command", "deeplab_tf.atomic_file")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


def test_imports_run_one_way():
    wrong = []
    for path in modules("deeplab_tf"):
        name = path.relative_to(ROOT).as_posix()
        if name not in COMMANDS:
            wrong += [(name, m) for m in imports(path) if m.startswith(("export", "tflite_tools"))]
    for path in modules("tflite_tools"):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("tflite_tools/to_keras/"):  # a command with its parts
            continue
        for module in imports(path):
            allowed = module == "deeplab_tf" or module.startswith(OF_DEEPLAB_TF)
            if module.startswith("export") or (module.startswith("deeplab_tf") and not allowed):
                wrong.append((name, module))
    assert wrong == []


def test_data_room_knows_no_model_and_no_interpreter():
    rooms = ("deeplab_tf.models", "deeplab_tf.training", "deeplab_tf.quantization")
    wrong = [
        (path.name, module)
        for path in modules("deeplab_tf/data")
        for module in imports(path)
        if module.startswith((*rooms, "ai_edge_litert"))
    ]
    assert wrong == []


def test_networks_know_no_flags():
    for room in ("deeplab_tf/models", "deeplab_tf/quantization"):
        for path in modules(room):
            if path.relative_to(ROOT).as_posix() in COMMANDS:
                continue
            assert not [module for module in imports(path) if module.startswith("absl.flags")], path


def test_evaluator_does_not_load_tensorflow():
    # Children of the pool import these modules: TensorFlow there would cost seconds and memory.
    code = "import sys, tflite_tools.evaluate; print('tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_no_room_for_leftovers():
    names = {path.name for package in PACKAGES for path in modules(package)}
    assert not names & {"utils.py", "util.py", "common.py", "helpers.py"}


@pytest.mark.parametrize(
    "module",
    [
        "deeplab_tf.train",
        "study.compare",
        "deeplab_tf.data.check",
        "deeplab_tf.data.download",
        "deeplab_tf.data.lidar.measure_sensor",
        "deeplab_tf.weights.import_torch",
        "deeplab_tf.training.measure_pipeline",
        "export.compare_quantization",
        "export.correct_bias",
        "export.requantize",
        "export.to_tflite",
        "tflite_tools.evaluate",
        "tflite_tools.evaluate_points",
        "tflite_tools.report",
        "study.report.score",
        "tflite_tools.add_metadata",
        "tflite_tools.check_client",
        "tflite_tools.golden",
        "tflite_tools.diagnose",
        "tflite_tools.benchmark",
        "tflite_tools.evaluate_sharded",
        "tflite_tools.check_target",
        "export.sensitivity",
        "export.check_calibration",
        "tflite_tools.measure_overhead",
        "tflite_tools.to_keras",
    ],
)
def test_every_command_explains_itself(module):
    done = run_command(module, "--help", timeout=120)
    assert f"python -m {module}" in done.stdout
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


def test_zoo_fits_into_its_twenty_megabytes():
    sizes = [path.stat().st_size for path in (ROOT / "zoo").rglob("*") if path.is_file()]
    assert sum(sizes) <= 20e6
