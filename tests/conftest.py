"""Fixtures of all tests."""

import os
import pathlib

# Two workers share the cores: a second thread of each would only wait.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests import children
from tests.paths import ROOT

SLOW_FIXTURES = {"exported", "walked", "with_activations_inside"}
"""What needs one of these is slow as a whole: most of its time is the fixture's."""

LONGEST_FIRST = (
    "tests/end_to_end/test_every_network.py",
    "tests/tflite_tools/test_untrusted.py",
    "tests/test_notebooks.py",
    "tests/deeplab_tf/training/test_run.py",
    "tests/deeplab_tf/training/test_quantized_phase.py",
    "tests/deeplab_tf/quantization/ptq/test_post_training.py",
    "tests/export/conversion/test_export.py",
    "tests/study/test_compare_command.py",
    "tests/tflite_tools/test_damaged_in_tools.py",
    "tests/export/experiments",
    "tests/tflite_tools/to_keras",
    "tests/export/rewriting",
)
"""Files that take longest, in the order in which they start: none is left for the end alone."""
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


def _place(item) -> int:
    """Where a test's file stands in the order of the run: those that take longest first."""
    return next(
        (index for index, name in enumerate(LONGEST_FIRST) if item.nodeid.startswith(name)),
        len(LONGEST_FIRST),
    )


def pytest_collection_modifyitems(items):
    """Orders the tests; marks what needs the shared folder or takes long."""
    items.sort(key=_place)
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "shared_dir" in fixtures:
            item.add_marker("shared")
        if fixtures & SLOW_FIXTURES:
            item.add_marker("slow")
