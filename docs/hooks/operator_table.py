"""Writes docs/operators.md: what this project can do with each operator of the operator table.

    python docs/hooks/operator_table.py

Nothing is filled in by hand. "float" says whether the importer has a rule. The other columns come
from converting the functions of tests/tflite_tools/to_keras/test_operators.py with TensorFlow's
converter and asking the project's own checks about the operator in the file. An operator without
such a function is "not checked", unless a target's table lacks it. Takes two minutes; the column
of the Ethos-U needs Vela (`pip install -e '.[vela]'`).
"""

import ast
import collections
import contextlib
import functools
import itertools
import os
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402 - the path comes first
import tensorflow as tf  # noqa: E402
import tf_keras as keras  # noqa: E402

from deeplab_tf.graph.build import build_model  # noqa: E402
from deeplab_tf.quantization.qat.scheme import unknown_layers  # noqa: E402
from tests.tflite_tools.to_keras.test_operators import OPERATORS as SAMPLES  # noqa: E402
from tflite_tools.deployment.targets import edgetpu, ethosu, gpu  # noqa: E402
from tflite_tools.flatbuffer.graph import Graph, Operator, read_graph  # noqa: E402
from tflite_tools.flatbuffer.operators import OPERATORS, traits  # noqa: E402
from tflite_tools.to_keras.importer import import_graph  # noqa: E402
from tflite_tools.to_keras.rules import rule_of  # noqa: E402

PAGE = ROOT / "docs" / "operators.md"
COLUMNS = ("float", "int8", "int16", "quantization-aware", "Edge TPU", "GPU", "Ethos-U")
UNCHECKED = "not checked"
_SHAPE = (9, 11, 4)
_NO_ARITHMETIC = {"BOOL", "INT32", "INT64"}
"""Types of indices and conditions beside the numbers that an operator computes with."""
_ETHOS = "ethos-u85-256"


def _prelu() -> keras.Model:
    image = keras.Input(_SHAPE, batch_size=1)
    return keras.Model(image, keras.layers.PReLU(shared_axes=(1, 2))(image))


FUNCTIONS = [*SAMPLES.values(), (_prelu, "PRELU")]
"""(function of one image, the operator that it becomes)."""
_TARGETS = {
    "Edge TPU": lambda operator: edgetpu.reason(None, operator),
    "GPU": lambda operator: gpu.reason(None, operator),
}
"""Refuse an operator that their tables lack, whatever the file is."""


def rows() -> dict[str, dict[str, str]]:
    """Returns {operator: {column: text}} of the whole table."""
    table = {}
    for kind in OPERATORS:
        found = [_measure(function, kind) for function, made in FUNCTIONS if made == kind]
        table[kind] = _row(kind, found)
    return table


def row(kind: str) -> dict[str, str]:
    """Returns {column: text} of one operator."""
    return _row(kind, [_measure(function, kind) for function, made in FUNCTIONS if made == kind])


def _row(kind: str, found: list[dict[str, bool]]) -> dict[str, str]:
    cells = {"float": "yes" if rule_of(kind) else "no"}
    for column in COLUMNS[1:]:
        answers = collections.Counter(one[column] for one in found if column in one)
        total = sum(answers.values())
        if total:
            share = f"{answers[True]} of {total} forms"
            cells[column] = {total: "yes", 0: "no"}.get(answers[True], share)
        else:
            cells[column] = "no" if _is_unknown(column, kind) else UNCHECKED
    return cells


def _is_unknown(column: str, kind: str) -> bool:
    """Whether a target refuses the operator as it refuses one that nobody knows."""
    if column not in _TARGETS:
        return False
    nobody = "CUSTOM:nobody" if kind.startswith("CUSTOM:") else "NOBODY"
    found, unknown = (
        Operator(0, name, inputs=(), outputs=(), options=None) for name in (kind, nobody)
    )
    try:
        return _TARGETS[column](found) == _TARGETS[column](unknown)
    except (AttributeError, IndexError, TypeError):  # in its table: its rule wants a file
        return False


def _measure(function: Callable, kind: str) -> dict[str, bool]:
    """Returns {column: whether it works} of one function that becomes an operator."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        float_file = _convert(function, "float32", pathlib.Path(folder))
        operator = _only(float_file, kind)
        found["GPU"] = not gpu.reason(float_file, operator)
        found["quantization-aware"] = _is_trainable(float_file, operator)
        for column, variant, types in (
            ("int8", "int8", {"INT8"}),
            ("int16", "int16", {"INT16"}),
        ):
            with contextlib.suppress(ValueError, RuntimeError):
                file = _convert(function, variant, pathlib.Path(folder))
                operator = _only(file, kind)
                found[column] = _activations(file, operator) <= types
                if column == "int8" and found[column]:
                    found["Edge TPU"] = not edgetpu.reason(file, operator)
                    with contextlib.suppress(RuntimeError):
                        found["Ethos-U"] = _runs_on_ethos(file, operator)
        for column in ("int8", "int16"):
            found.setdefault(column, False)
        if not found["int8"]:
            found |= {"Edge TPU": False, "Ethos-U": False}
    return found


def _convert(function: Callable, variant: str, folder: pathlib.Path) -> Graph:
    """Returns the file of a function; raises where the converter cannot make it."""
    if function is _prelu:
        converter = tf.lite.TFLiteConverter.from_keras_model(_prelu())
    else:
        traced = tf.function(function, input_signature=[tf.TensorSpec((1, *_SHAPE), tf.float32)])
        concrete = [traced.get_concrete_function()]
        converter = tf.lite.TFLiteConverter.from_concrete_functions(concrete, None)
    if variant != "float32":
        random = np.random.default_rng(0)
        images = [random.normal(size=(1, *_SHAPE)).astype(np.float32) for _ in range(3)]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image] for image in images)
        sets = tf.lite.OpsSet
        converter.target_spec.supported_ops = [
            sets.TFLITE_BUILTINS_INT8
            if variant == "int8"
            else sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
    path = folder / f"{variant}.tflite"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        path.write_bytes(converter.convert())
    return read_graph(path)


def _only(graph: Graph, kind: str) -> Operator:
    """Returns the first operator of a kind; ValueError where the converter made others of it."""
    for operator in graph.operators:
        if operator.kind == kind:
            return operator
    raise ValueError(f"no {kind}")


def _activations(graph: Graph, operator: Operator) -> set[str]:
    row, indices = traits(operator.kind), [*operator.outputs]
    indices += operator.inputs if row.data is None else [operator.inputs[row.data]]
    types = {graph.tensors[i].type_name for i in indices if i >= 0}
    return types - _NO_ARITHMETIC or types


def _is_trainable(graph: Graph, operator: Operator) -> bool:
    """Whether the quantization scheme knows every layer that the operator becomes."""
    network = import_graph(graph)
    tensor = graph.tensors[operator.outputs[0]].name
    node = network.nodes_of_tensors[tensor]
    own = [
        name
        for name in unknown_layers(build_model(network.description))
        if name == node or name.startswith(f"{node}_")
    ]
    return not own


@functools.cache
def _ethos(path: pathlib.Path, size: int) -> dict[int, str]:
    result = ethosu.check(read_graph(path), _ETHOS)
    return {placement.operator.position: placement.reason for placement in result.placements}


def _runs_on_ethos(graph: Graph, operator: Operator) -> bool:
    return not _ethos(graph.path, graph.size_bytes)[operator.position]


OTHER_SOURCES = [
    ("keras 2", "A `.keras` or `.h5` file of stock layers: `export.to_tflite --keras_file`."),
    ("tensorflow", "A SavedModel or a TF1 frozen graph: `export.to_tflite`."),
    ("any", "A `.tflite` of the operators above, in any number format: `to_keras`."),
]
INTRODUCTION = f"""# Operators

Made by `python docs/hooks/operator_table.py` from the operator table
(`tflite_tools/flatbuffer/operators.py`), the importer's rules and the checks of the targets; a
test compares it. Each operator is converted alone, in the forms that `tests/tflite_tools/to_keras`
tries, by TensorFlow {{version}}.

| column | yes means |
|---|---|
| float | `to_keras` rebuilds it; the self-check compares every file |
| int8, int16 | the converter computes it in integers: 8 bits, or `int16x8` |
| quantization-aware | the scheme of `train` quantizes every layer that it becomes |
| Edge TPU, GPU | the rules of `check_target` take it: in an int8 file, in a float file |
| Ethos-U | Arm's Vela maps it, in an int8 file, for {_ETHOS} |

"2 of 3 forms": some of its forms, such as a resize by 2 but not by 1.7. "not checked": the project
has no form of it that reaches that column. Whether a whole file fits is said by `check_target` and
by the gate of `to_tflite`.

"""


def as_page(table: dict[str, dict[str, str]]) -> str:
    """Returns the page."""
    lines = ["| operator | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [
        f"| {kind} | " + " | ".join(cells[column] for column in COLUMNS) + " |"
        for kind, cells in sorted(table.items())
    ]
    lines += ["", "## What comes in", "", "| framework | what, and through what |", "|---|---|"]
    lines += [f"| {name} | {text} |" for name, text in _frameworks()]
    return INTRODUCTION.replace("{version}", tf.__version__) + "\n".join(lines) + "\n"


def _frameworks() -> list[tuple[str, str]]:
    """Returns (name, description) of each member of `Framework`, as its source states them."""
    tree = ast.parse((ROOT / "export" / "frameworks" / "request.py").read_text())
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Framework")
    pairs = itertools.pairwise(body)
    found = [
        (first.value.value, " ".join(second.value.value.split()))
        for first, second in pairs
        if isinstance(first, ast.Assign) and isinstance(second, ast.Expr)
    ]
    return [*found, *OTHER_SOURCES]


def read_page() -> dict[str, dict[str, str]]:
    """Returns the table that the page holds."""
    table = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == len(COLUMNS) + 1 and set("".join(cells)) != {"-"}:
            table[cells[0]] = dict(zip(COLUMNS, cells[1:], strict=True))
    return {kind: cells for kind, cells in table.items() if kind != "operator"}


if __name__ == "__main__":
    made, before = rows(), read_page() if PAGE.exists() else {}
    for name, cells in made.items():
        if cells["Ethos-U"] == UNCHECKED and name in before:  # Vela is not installed
            cells["Ethos-U"] = before[name]["Ethos-U"]
    PAGE.write_text(as_page(made))
