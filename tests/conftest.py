"""Fixtures of all tests."""

import os
import pathlib

import pytest

from tests import children
from tests.paths import ROOT

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
    """Marks what needs the shared folder, whichever fixture asks for it."""
    for item in items:
        if "shared_dir" in getattr(item, "fixturenames", ()):
            item.add_marker("shared")
