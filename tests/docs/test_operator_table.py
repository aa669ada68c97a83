"""The page of operators is what its script makes."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHEAP = ("EXP", "ELU", "LEAKY_RELU", "GATHER")
"""One form each, so that the whole row takes a few conversions."""


@pytest.fixture(scope="module")
def script():
    path = ROOT / "docs" / "hooks" / "operator_table.py"
    spec = importlib.util.spec_from_file_location("operator_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_operator_has_a_row_with_what_the_importer_knows(script):
    table = script.read_page()
    assert set(table) == set(script.OPERATORS)
    for kind, cells in table.items():
        assert cells["float"] == ("yes" if script.rule_of(kind) else "no"), kind


@pytest.mark.parametrize("kind", CHEAP)
def test_rows_are_current(script, kind):
    found, written = script.row(kind), script.read_page()[kind]
    if found["Ethos-U"] == script.UNCHECKED:  # Vela is not installed
        found["Ethos-U"] = written["Ethos-U"]
    assert found == written


def test_the_page_is_made_by_the_script(script):
    """No word of it is written by hand."""
    assert script.PAGE.read_text() == script.as_page(script.read_page())
