"""Pages that are made when the documents are built: commands, Python API, two files of the top."""

import importlib.util
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parents[2]
_COMMANDS = pathlib.Path(__file__).with_name("command_reference.py")
_LIBRARIES = ("deeplab_tflite", "deeplab_tf", "tflite_tools", "export", "study")
_API, _API_FOLDER = "Python API", "reference/python/"
_TOP_FILES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the pages of the Python API into the navigation."""
    pages = [{pathlib.PurePath(path).stem: path} for path, _ in _module_pages()]
    for entry in config.nav:
        for rows in entry.values():
            if isinstance(rows, list):
                for row in rows:
                    if row.get(_API) == _API_FOLDER:
                        row[_API] = pages
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the made pages to those of the folder."""
    for path, text in (_command_page(), *_top_pages(), *_module_pages()):
        files.append(File.generated(config, path, content=text))
    return files


def _command_page() -> tuple[str, str]:
    # In a child: flags are global, and TensorFlow writes to the terminal.
    done = subprocess.run(
        [sys.executable, _COMMANDS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the commands cannot be read: {done.stderr[-2000:]}")
    spec = importlib.util.spec_from_file_location("command_reference", _COMMANDS)
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    return "reference/commands.md", reference.as_page(json.loads(done.stdout))


def _top_pages() -> Iterator[tuple[str, str]]:
    for name, page in _TOP_FILES.items():
        yield page, (ROOT / name).read_text().replace("](docs/", "](")


def _module_pages() -> Iterator[tuple[str, str]]:
    """One page per package and sub-package, with all of its modules."""
    for library in _LIBRARIES:
        for init in sorted((ROOT / library).rglob("__init__.py")):
            folder = init.parent
            package = ".".join(folder.relative_to(ROOT).parts)
            modules = [package] if init.stat().st_size else []
            modules += [
                f"{package}.{p.stem}" for p in sorted(folder.glob("*.py")) if p.stem[0] != "_"
            ]
            if modules:
                body = "\n\n".join(f"## {module}\n\n::: {module}" for module in modules)
                yield f"reference/python/{package}.md", f"# {package}\n\n{body}\n"
