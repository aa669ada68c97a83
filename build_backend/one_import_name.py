"""Builds the wheel so that it installs one top-level package (PEP 517, around setuptools).

In a checkout `deeplab_tf`, `tflite_tools`, `export` and `study` are packages of their own, which
`python -m export.to_tflite` needs. In site-packages a package named `export` would meet those of
others. So a wheel is built from a copy in which the four lie below `deeplab_tflite.lib`, and every
import, and every other mention of one of their modules, says so. An editable install (`pip install
-e .`) is not changed.

The copy is rewritten by three rules, and the build fails where they do not suffice:

    from export.conversion import gate  ->  from deeplab_tflite.lib.export.conversion import gate
    import export                       ->  from deeplab_tflite.lib import export
    "python -m export.to_tflite ..."    ->  "python -m deeplab_tflite.lib.export.to_tflite ..."
"""

import ast
import contextlib
import io
import os
import pathlib
import re
import shutil
import tempfile
import tokenize
from collections.abc import Iterator
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401 - hooks of PEP 517 and 660 that stay as they are
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
)

PACKAGES = ("deeplab_tf", "tflite_tools", "export", "study")
TOP = "deeplab_tflite"
BELOW = f"{TOP}.lib"
_FILES = ("pyproject.toml", "README.md", "LICENSE")
_ROOT = pathlib.Path(__file__).resolve().parents[1]
_ANY = "|".join(PACKAGES)
_IN_PYPROJECT = re.compile(rf'"({_ANY})(?=[.*])')
"""Modules of console scripts, keys of package data, patterns of packages."""


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Builds the wheel from a rewritten copy; a hook of PEP 517.

    Args:
        wheel_directory: where the wheel goes.
        config_settings: for setuptools.
        metadata_directory: not used: the metadata are those of the copy.

    Returns:
        name of the wheel.
    """
    del metadata_directory
    target = os.path.abspath(wheel_directory)  # noqa: PTH100 - before the folder is changed
    with tempfile.TemporaryDirectory(prefix="deeplab-wheel-") as folder:
        copy = pathlib.Path(folder)
        write_copy(_ROOT, copy)
        with _inside(copy):
            return build_meta.build_wheel(target, config_settings)


@contextlib.contextmanager
def _inside(folder: pathlib.Path) -> Iterator[None]:
    before = pathlib.Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def write_copy(root: pathlib.Path, copy: pathlib.Path) -> None:
    """Writes the sources as the wheel has them.

    Args:
        root: the checkout.
        copy: an empty folder.

    Raises:
        ValueError: an import that the rules do not cover.
    """
    for name in _FILES:
        shutil.copy(root / name, copy / name)
    pyproject = copy / "pyproject.toml"
    text = pyproject.read_text(encoding="utf-8")
    pyproject.write_text(_IN_PYPROJECT.sub(rf'"{BELOW}.\1', text), encoding="utf-8")
    skipped = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    shutil.copytree(root / TOP, copy / TOP, ignore=skipped)
    below = copy / TOP / "lib"
    below.mkdir()
    (below / "__init__.py").write_text('"""What the functions and commands are made of."""\n')
    for package in PACKAGES:
        shutil.copytree(root / package, below / package, ignore=skipped)
    modules = module_names(root)
    for path in sorted((copy / TOP).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        path.write_text(rewritten(text, modules, name=str(path)), encoding="utf-8")


def module_names(root: pathlib.Path) -> set[str]:
    """Returns the dotted names of all modules and packages that move, without the four tops.

    Args:
        root: the checkout.
    """
    paths = (path for package in PACKAGES for path in (root / package).rglob("*.py"))
    parts = (path.relative_to(root).with_suffix("").parts for path in paths)
    names = {
        ".".join(part[:-1] if part[-1] in ("__init__", "__main__") else part) for part in parts
    }
    return names - set(PACKAGES)


def rewritten(text: str, modules: set[str], *, name: str) -> str:
    """Returns the text of a module as the wheel has it.

    Args:
        text: as the checkout has it.
        modules: of `module_names`.
        name: of the module, for messages.

    Raises:
        ValueError: the rules do not cover an import, or would change more than imports and text.
    """
    tree = ast.parse(text)
    longest_first = sorted(modules, key=len, reverse=True)
    mention = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, longest_first))})(?![\w/])")
    lines = text.splitlines(keepends=True)
    for line, begin, end in reversed(_texts(text)):
        found = lines[line][begin:end]
        lines[line] = lines[line][:begin] + mention.sub(rf"{BELOW}.\1", found) + lines[line][end:]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            line = node.lineno - 1
            lines[line] = _moved(node, lines[line], name=name)
    changed = "".join(lines)
    if _without_text(ast.parse(changed)) != _without_text(tree):  # which changes the trees
        raise ValueError(f"{name}: an f-string evaluates what is called like a module; rename it")
    return changed


def _texts(text: str) -> list[tuple[int, int, int]]:
    """Returns (line, first column, last column) of what strings and comments take of each line."""
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", None)}
    found = []
    lines = text.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in kinds:
            (first, begin), (last, end) = token.start, token.end
            for line in range(first, last + 1):
                whole = len(lines[line - 1])
                found.append(
                    (line - 1, begin if line == first else 0, end if line == last else whole)
                )
    return found


def _moved(node: ast.ImportFrom | ast.Import, line: str, *, name: str) -> str:
    """Returns the first line of an import as the wheel has it."""
    if isinstance(node, ast.ImportFrom):
        if node.module is None or node.module.split(".")[0] not in PACKAGES:
            return line
        return line.replace(f"from {node.module} ", f"from {BELOW}.{node.module} ")
    ours = [alias for alias in node.names if alias.name.split(".")[0] in PACKAGES]
    if not ours:
        return line
    (alias,) = ours if len(node.names) == 1 else (None,)
    if alias is None or "." in alias.name or alias.asname:
        raise ValueError(
            f"{name}:{node.lineno}: `{ast.unparse(node)}` cannot be moved; write `from package "
            "import module`"
        )
    return line.replace(f"import {alias.name}", f"from {BELOW} import {alias.name}")


class _WithoutText(ast.NodeTransformer):
    """Takes away what the rules may change."""

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant("") if isinstance(node.value, str) else node


def _without_text(tree: ast.Module) -> str:
    return ast.dump(_WithoutText().visit(tree))
