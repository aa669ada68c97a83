"""The rules of the repository that a reader would otherwise have to trust."""

import ast
import re
import subprocess
import sys

import pytest

from tests.children import run_command
from tests.paths import ROOT

PACKAGES = ("deeplab_tf", "tflite_tools", "export", "study", "deeplab_tflite")
"""Each may import those before it, and no other."""
UPWARD = "deeplab_tf/train.py"
"""The only module that may import upwards: its preset flags export and score what it trained."""
LAYERS = (
    {"bounded_file", "child_process", "field_types", "folder_lock", "quiet_start", "terminal"},
    {"scratch"},
    {"sandbox"},
    {"command", "atomic_file"},
    {"data", "metrics"},
    {"graph"},
    {"models"},
    {"weights"},
    {"runs"},
    {"pruning", "quantization"},
    {"training"},
)
"""Inside `deeplab_tf`: each may import those before it."""
FOR_TFLITE_TOOLS = (
    *("data", "graph", "weights", "metrics", "runs", "models.config", "command", "atomic_file"),
    *(
        "bounded_file",
        "child_process",
        "field_types",
        "folder_lock",
        "sandbox",
        "scratch",
        "terminal",
    ),
)
"""Parts of `deeplab_tf` that `tflite_tools` may import."""
FIXED_SIGNATURES = {
    # Called by position: Keras' quantizers, network builders, the pool, tf.data, PyTorch, Python.
    "deeplab_tf/data/augmentation.py": {"augment", "random_scale_crop", "random_flip"},
    "deeplab_tf/data/download/archives.py": {"write"},
    "deeplab_tf/data/pipeline.py": {"batches"},
    "deeplab_tf/graph/executor.py": {"quantize_activation"},
    "deeplab_tf/graph/functions.py": {"select"},
    "deeplab_tf/quantization/qat/quantizers.py": {"build"},
    "deeplab_tf/training/loop.py": {"build"},
    "export/conversion/source.py": {"model"},
    "export/frameworks/workers/convert_pytorch.py": {"layer_norm"},
    "study/children.py": {"run"},
    "tflite_tools/benchmarking/timing.py": {"first_invoke"},
    "tflite_tools/diagnosis/finding.py": {"problem", "warning"},
    "tflite_tools/diagnosis/layers.py": {"measure_layers"},
    "tflite_tools/evaluation/boundaries.py": {"score_boundaries"},
    "tflite_tools/html_report/pictures.py": {"small_mask"},
    "tflite_tools/segmentation/prediction.py": {"predict"},
    "tflite_tools/to_keras/self_check.py": {"compare"},
}
"""Functions with more than two positional parameters."""
PACKERS = ("tflite_tools/flatbuffer/", "tflite_tools/metadata/")

TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
"""Of every module, by its path."""
MODULES = {
    path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in TREES
}
COMMANDS = sorted(
    name.removesuffix(".__main__")
    for name, path in MODULES.items()
    if any(
        isinstance(node, ast.FunctionDef) and node.name == "console" for node in TREES[path].body
    )
)


def is_for_types(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def nodes(tree, *, at_import=False):
    """All nodes of a module; with `at_import`, those that importing it runs."""
    for node in ast.iter_child_nodes(tree):
        function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if at_import and (function or is_for_types(node)):
            continue
        yield node
        yield from nodes(node, at_import=at_import)


def imports(path, *, at_import=False):
    """Modules, and members of modules, that a module imports."""
    for node in nodes(TREES[path], at_import=at_import):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name, parents):
    return any(f"{name}.".startswith(f"{parent}.") for parent in parents)


def own_imports():
    """(path, imported module) of the packages, the exception left out."""
    for path in TREES:
        if path != UPWARD:
            yield from ((path, name) for name in imports(path) if below(name, PACKAGES))


def test_packages_import_downwards_only():
    order = {package: position for position, package in enumerate(PACKAGES)}
    wrong = [
        (path, name)
        for path, name in own_imports()
        if order[name.split(".")[0]] > order[path.split("/")[0]]
    ]
    assert wrong == []


def test_the_exception_is_still_one():
    assert any(below(name, PACKAGES[1:]) for name in imports(UPWARD))


def test_tflite_tools_knows_no_training_and_no_quantization():
    allowed = [f"deeplab_tf.{part}" for part in FOR_TFLITE_TOOLS]
    wrong = [
        (path, name)
        for path, name in own_imports()
        if path.startswith("tflite_tools/")
        and below(name, ["deeplab_tf"])
        and name not in ("deeplab_tf", "deeplab_tf.models.config")
        and name.removeprefix("deeplab_tf.") not in FOR_TFLITE_TOOLS
        and not below(name, allowed)
    ]
    assert wrong == []


def test_deeplab_tf_is_layered():
    level = {part: number for number, parts in enumerate(LAYERS) for part in parts}
    wrong = []
    for path, name in own_imports():
        own = path.removesuffix(".py").split("/")[1]
        if not path.startswith("deeplab_tf/") or own == "__init__":
            continue
        if name in ("deeplab_tf", "deeplab_tf.__version__"):
            continue
        if (ast.get_docstring(TREES[path]) or "").startswith("Deprecated name of"):
            continue
        other = name.split(".")[1]
        if own != other and level[other] >= level[own]:
            wrong.append((path, name))
    assert wrong == []


def test_no_module_imports_itself_through_others():
    edges = {}
    for name, path in MODULES.items():
        used = set(imports(path, at_import=True))
        used |= {one.rpartition(".")[0] for one in used}
        edges[name] = {one for one in used if one in MODULES and one != name}
    state: dict[str, str] = {}

    def visit(name, trail):
        assert state.get(name) != "open", " -> ".join([*trail, name])
        if name not in state:
            state[name] = "open"
            for one in sorted(edges[name]):
                visit(one, [*trail, name])
            state[name] = "done"

    for name in MODULES:
        visit(name, [])


def test_no_module_is_named_in_a_string():
    """Renaming a module would break it in silence; a command line to show is no import."""
    wrong = []
    for path, tree in TREES.items():
        shown = {
            id(item)
            for node in nodes(tree)
            if isinstance(node, (ast.List, ast.Tuple))
            for before, item in zip(node.elts, node.elts[1:], strict=False)
            if isinstance(before, ast.Constant) and before.value == "-m"
        }
        for node in nodes(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                name = node.value
                named = name in MODULES and "." in name
                if named and id(node) not in shown:
                    wrong.append((path, node.lineno, name))
    assert wrong == []


def functions(body, in_class=False):
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from functions(node.body, in_class=True)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node, in_class


def test_public_functions_take_two_arguments_by_position():
    wrong, needless = (
        [],
        {(path, name) for path, names in FIXED_SIGNATURES.items() for name in names},
    )
    for path, tree in TREES.items():
        for function, in_class in functions(tree.body):
            if function.name.startswith("_") and function.name != "__init__":
                continue
            bound = in_class and "staticmethod" not in map(ast.unparse, function.decorator_list)
            positional = [*function.args.posonlyargs, *function.args.args][bound:]
            if len(positional) > 2:
                needless.discard((path, function.name))
                if function.name not in FIXED_SIGNATURES.get(path, ()):
                    wrong.append((path, function.lineno, function.name))
    assert wrong == []
    assert needless == set(), "no longer an exception; remove it from the list"


def test_no_module_reads_the_flags_of_another():
    wrong = []
    for path, tree in TREES.items():
        defined, read = set(), set()
        for node in nodes(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                defined.add(node.value)
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("FLAGS"):
                read.add(node.attr)
        if read:
            assert any("DEFINE_" in ast.unparse(n.func) for n in nodes(tree) if type(n) is ast.Call)
        wrong += [(path, name) for name in sorted(read - defined)]
        wrong += [
            (path, name)
            for name in imports(path)
            if name.endswith(".FLAGS") and name != "absl.flags.FLAGS"
        ]
    assert wrong == []


def test_only_commands_have_flags():
    used = {path for path in TREES if any(below(n, ["absl.flags"]) for n in imports(path))}
    commands = {MODULES.get(f"{name}.__main__", MODULES.get(name)) for name in COMMANDS}
    shared = {
        "deeplab_tf/command.py",
        "deeplab_tf/sandbox.py",
        "tflite_tools/evaluation_flags.py",
        "export/adaround_flags.py",
        "export/subject_flags.py",
    }
    assert used - commands <= shared


def test_no_flatbuffer_is_packed_elsewhere():
    wrong = [
        (path, node.lineno)
        for path, tree in TREES.items()
        if not path.startswith(PACKERS)
        for node in nodes(tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("Pack", "Finish"))
        or (isinstance(node, ast.Name) and node.id == "flatbuffers")
    ]
    assert wrong == []


def test_data_needs_no_interpreter():
    data = [path for path in TREES if path.startswith("deeplab_tf/data/")]
    assert not [path for path in data if any(below(n, ["ai_edge_litert"]) for n in imports(path))]


def test_evaluator_does_not_load_tensorflow():
    # Children of the pool import these modules: TensorFlow there would cost seconds and memory.
    code = "import sys, tflite_tools.evaluate; print('tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_python_interface_starts_no_tensorflow_to_read_files():
    code = (
        "import sys, deeplab_tflite as dt; heavy = 'numpy' in sys.modules; "
        "dt.segment, dt.evaluate, dt.diagnose; print(heavy, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_modules_say_what_they_hold():
    parts = {part for name in MODULES for part in name.split(".")}
    assert not parts & {"utils", "util", "common", "helpers", "misc"}


def test_commands_are_those_of_the_package():
    scripts = re.findall(
        r'^deeplab-[\w-]+ = "([\w.]+):console"$', (ROOT / "pyproject.toml").read_text(), re.M
    )
    assert scripts
    assert {name.removesuffix(".__main__") for name in scripts} <= set(COMMANDS)


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_explains_itself(module):
    done = run_command(module, "--help")
    assert f"python -m {module}" in done.stdout
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


def test_zoo_fits_into_its_twenty_megabytes():
    sizes = [path.stat().st_size for path in (ROOT / "zoo").rglob("*") if path.is_file()]
    assert sum(sizes) <= 20e6
