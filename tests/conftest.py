"""Fixtures of all tests."""

import os
import pathlib

import pytest


@pytest.fixture(scope="session")
def shared_dir() -> pathlib.Path:
    """The folder with real sample data and third-party models, which is not in the repository."""
    beside = pathlib.Path(__file__).resolve().parents[2] / "shared"
    folder = pathlib.Path(os.environ.get("DEEPLAB_SHARED") or beside)
    if not folder.is_dir():
        pytest.skip(f"no sample data: {folder} is missing; DEEPLAB_SHARED names another folder")
    return folder
