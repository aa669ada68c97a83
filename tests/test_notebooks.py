"""The notebooks run, on small settings, and keep their outputs in the repository."""

import os
import pathlib
import re

import pytest

nbformat = pytest.importorskip("nbformat", reason="the extra notebooks is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra notebooks is not installed")

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def outputs(notebook):
    return [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]


def test_there_are_four():
    assert {path.stem for path in NOTEBOOKS} == {
        "inference_deeplab",
        "keras_to_int8",
        "quantization_walkthrough",
        "retrain_a_tflite",
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_name_no_machine(path):
    notebook = nbformat.read(path, 4)
    assert outputs(notebook)
    assert not [o for o in outputs(notebook) if o.output_type == "error"]
    text = path.read_text()
    assert not re.search("/(root|home|tmp)/", text)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # of the kernel's own libraries
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("NOTEBOOK_STEPS", "4")
    notebook = nbformat.read(path, 4)
    kernel = nbclient.NotebookClient(
        notebook, timeout=800, resources={"metadata": {"path": str(FOLDER)}}
    )
    short = {"NOTEBOOK_STEPS": "4", "NOTEBOOK_PHOTOS": "24"}
    # The code beside the notebooks, which need not be what is installed.
    kernel.execute(env={**os.environ, **short, "PYTHONPATH": str(FOLDER.parent)})
    assert not [o for o in outputs(notebook) if o.output_type == "error"]
