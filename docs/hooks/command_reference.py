"""Flags of every command of this project, read from the commands themselves.

    python docs/hooks/command_reference.py      # prints {module: command} as JSON

Every module with a function `console` is a command. `console` is called with `command.run`
replaced, so that flags are defined and nothing is run.
"""

import ast
import importlib
import json
import pathlib
import re
import sys
import types
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ("deeplab_tf", "tflite_tools", "export", "study", "clients")
_LISTS = ("comma separated list of strings", "whitespace separated list of strings")


def command_modules() -> list[str]:
    """Names of all modules with a function `console`, as `python -m` takes them."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if any(part.startswith(".") for part in path.relative_to(ROOT).parts):
                continue  # environments of clients
            tree = ast.parse(path.read_text())
            if any(isinstance(n, ast.FunctionDef) and n.name == "console" for n in tree.body):
                parts = path.relative_to(ROOT).with_suffix("").parts
                found.append(".".join(parts).removesuffix(".__main__"))
    return found


def console_scripts() -> dict[str, str]:
    """{module: console script} of pyproject.toml, modules as `python -m` takes them."""
    text = (ROOT / "pyproject.toml").read_text()  # tomllib is missing before Python 3.11
    section = text.partition("[project.scripts]\n")[2].partition("\n[")[0]
    scripts = re.findall(r'^([\w-]+) = "([\w.]+):console"$', section, re.MULTILINE)
    return {target.removesuffix(".__main__"): script for script, target in scripts}


def read_commands() -> dict[str, dict]:
    """{module: {"script", "text", "flags"}}; imports every command, TensorFlow included."""
    sys.path.insert(0, str(ROOT))
    from deeplab_tf import command  # noqa: PLC0415 - needs the path

    command.run = _note_positional
    scripts = console_scripts()
    return {
        name: {"script": scripts.get(name, ""), **_read_command(name)} for name in command_modules()
    }


_positional = [""]
"""Flag of the command that was read last whose value may stand without its name."""


def _note_positional(main: Any, *, positional: str = "", **_: Any) -> None:
    del main
    _positional[0] = positional


def _read_command(name: str) -> dict:
    from absl import flags  # noqa: PLC0415 - not needed by the list of commands

    module = _import_main(name)
    before = set(flags.FLAGS)
    module.console()
    own = [flags.FLAGS[flag] for flag in flags.FLAGS if flag not in before]
    rows = [_flag_row(flag) for flag in sorted(own, key=lambda flag: flag.name)]
    for flag in own:
        if flag.name in flags.FLAGS:
            delattr(flags.FLAGS, flag.name)
    return {"text": module.__doc__ or "", "flags": rows, "positional": _positional[0]}


def _import_main(name: str) -> types.ModuleType:
    module = importlib.import_module(name)
    return module if hasattr(module, "console") else importlib.import_module(f"{name}.__main__")


def _flag_row(flag: Any) -> dict:  # of absl, which is imported later
    required = any("must have a value other than None" in v.message for v in flag.validators)
    default = flag.default
    if isinstance(default, (list, tuple)):
        default = ",".join(map(str, default))
    values = getattr(flag.parser, "enum_values", None) or []
    text = " ".join((flag.help or "").split())
    return {
        "name": flag.name,
        "type": _type_name(flag, values),
        "default": "" if default is None else _without_machine(str(default)),
        "values": list(values),
        "required": required,
        "help": text.removeprefix(f"<{'|'.join(values)}>: ") if values else text,
    }


def _without_machine(text: str) -> str:
    return text.replace(f"{ROOT}/", "")


def _type_name(flag: Any, values: list[str]) -> str:
    if values:
        return "one of " + ", ".join(f"`{value}`" for value in values)
    return "list" if flag.flag_type() in _LISTS else flag.flag_type()


def as_page(commands: dict[str, dict]) -> str:
    """The reference of commands as one Markdown page."""
    lines = [
        "# Commands",
        "",
        "Made from the commands' own flags when these pages are built. Each command also has a "
        "console script where one is named; `--help` prints the same list, `--version` the "
        "version. A boolean flag `--x` is switched off by `--nox`. A list takes comma-separated "
        "values.",
        "",
        "| command | console script |",
        "|---|---|",
    ]
    for module, entry in commands.items():
        script = f"`{entry['script']}`" if entry["script"] else ""
        lines.append(f"| [`python -m {module}`](#{_anchor(module)}) | {script} |")
    for module, entry in commands.items():
        lines += ["", f"## python -m {module} {{ #{_anchor(module)} }}", ""]
        if entry["script"]:
            lines += [f"Console script: `{entry['script']}`.", ""]
        lines += [_text(entry["text"]), ""]
        if entry["flags"]:
            lines += ["| flag | type | default | meaning |", "|---|---|---|---|"]
            lines += [_flag_line(flag) for flag in entry["flags"]]
    return "\n".join(lines) + "\n"


def _anchor(module: str) -> str:
    return module.replace(".", "-")


def _flag_line(flag: dict) -> str:
    default = "**required**" if flag["required"] else ""
    if flag["default"] != "":
        default = f"`{flag['default']}`"
    cells = (f"`--{flag['name']}`", flag["type"], default, _escape(flag["help"]))
    return "| " + " | ".join(cells) + " |"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _text(docstring: str) -> str:
    """A module's docstring as Markdown: its command lines become one fenced block each."""
    lines, fenced = [], False
    for line in docstring.strip().splitlines():
        command = line.lstrip().startswith("python -m ") or (fenced and line.startswith("    "))
        if command and not fenced:
            lines.append("```")
        if fenced and not command:
            lines.append("```")
        fenced = command
        # Python joined lines that end in a backslash; they are broken again.
        line = re.sub(r" {4,}(?=--)", " \\\\\n    ", line.strip()) if command else line
        lines.append(line)
    return "\n".join([*lines, "```"] if fenced else lines)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(read_commands(), indent=1) + "\n")
