"""Tests of real conversions: they make environments of gigabytes, so they run on request only."""

import os
import pathlib

import pytest

HERE = pathlib.Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("frameworks")
            item.add_marker("slow")
            if not os.environ.get("DEEPLAB_TEST_FRAMEWORKS"):
                reason = "make test-frameworks runs it: it installs PyTorch and onnx2tf"
                item.add_marker(pytest.mark.skip(reason=reason))
