"""Fixtures of all tests."""

import os
import pathlib

import pytest

from tests import children
from tests.paths import ROOT

SLOW_FIXTURES = {"exported", "walked", "with_activations_inside"}
"""What needs one of these is slow as a whole: most of its time is the fixture's."""

children.start_quickly()


@pytest.fixture(scope="session")
def shared_dir() -> pathlib.Path:
    """The folder with real sample data and third-party models, which is not in the repository."""
    folder = pathlib.Path(os.environ.get("DEEPLAB_SHARED") or ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"no sample data: {folder} is missing; DEEPLAB_SHARED names another folder")
    return folder


@pytest.fixture
def real_children():
    """Spawned children are interpreters of their own, as in production, for this test."""
    children.start_truly()
    yield
    children.start_quickly()


def pytest_collection_modifyitems(items):
    """Marks what needs the shared folder, and what needs a fixture that takes long."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "shared_dir" in fixtures:
            item.add_marker("shared")
        if fixtures & SLOW_FIXTURES:
            item.add_marker("slow")
