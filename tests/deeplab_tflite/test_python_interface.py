"""The Python interface: the functions of the commands, results as tables."""

import builtins
import dataclasses
import inspect
import json
import pathlib
import subprocess
import sys
import textwrap

import keras as keras3
import numpy as np
import pytest
from PIL import Image

import deeplab_tflite as dt
from deeplab_tf.data.readers.synthetic import LABEL_SET, draw_scene
from deeplab_tf.runs.folder import RunFolder
from deeplab_tflite.table import Table
from tests.children import run_command
from tests.paths import CAMVID, ROOT
from tests.small_network import SIZE, small_int8_file, small_keras_model, write_small_run

FUNCTIONS = (
    *("train", "export", "evaluate", "compare", "segment", "import_tflite", "quantize"),
    "diagnose",
)
SMALL = dt.EvaluationOptions(processes=1, limit=12, latency_repeats=0)


@pytest.fixture(scope="module")
def scenes():
    return dt.open_dataset("synthetic")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    photos = [draw_scene(seed)[0] for seed in range(6)]
    return dt.quantize(
        small_keras_model(),
        photos,
        output_dir=tmp_path_factory.mktemp("quantized"),
        labels=LABEL_SET.names,
    )


@pytest.fixture(scope="module")
def scores(quantized, scenes):
    return dt.evaluate([quantized.float32, quantized], scenes, options=SMALL)


def test_everything_is_there_and_explained():
    assert sorted(dt.__all__) == dt.__all__
    for name in dt.__all__:
        assert getattr(dt, name) is not None
    for name in FUNCTIONS:
        function = getattr(dt, name)
        text = inspect.getdoc(function)
        for argument in inspect.signature(function).parameters:
            assert f"{argument}: " in text
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dt.nothing


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_dataclasses_that_show_themselves(name):
    kind = getattr(dt, name).__annotations__["return"]
    assert kind.__name__ in dt.__all__
    assert dataclasses.is_dataclass(kind)
    assert issubclass(kind, Table)


def test_scores_are_those_of_the_command(quantized, scores, tmp_path):
    flags = (
        f"--model={quantized.float32},{quantized.int8}",
        *("--dataset=synthetic", "--limit=12", "--latency_repeats=0", "--grid_images=0"),
        f"--output_dir={tmp_path / 'out'}",
    )
    done = run_command("tflite_tools.evaluate", *flags)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())["models"]
    assert [row["miou"] for row in written] == [scores.miou("float32"), scores.miou("int8")]
    assert written[1]["agreement"] == scores["int8"].agreement
    assert written[0]["iou"] == scores.iou("float32")


def test_scores_as_a_table(scores):
    float32, int8 = scores.rows()
    assert [float32["file"], int8["file"]] == ["float32", "int8"]
    assert float32["difference"] is None
    assert int8["low"] <= int8["difference"] <= int8["high"]
    assert int8["difference"] == pytest.approx(
        100 * (scores.miou("int8") - scores.miou("float32")), abs=0.2
    )
    html = scores._repr_html_()
    assert html.count("<tr>") == 3
    assert "12 images" in html
    with pytest.raises(KeyError, match="there are float32, int8"):
        _ = scores["other"]


def test_a_result_prints_as_a_table(scores):
    title, header, float32, int8, *notes = repr(scores).splitlines()
    assert title == "Scores:"
    assert header.split()[:2] == ["file", "miou_percent"]
    assert float32.startswith("float32 ")
    assert int8.startswith("int8 ")
    assert "12 images" in notes[0]


def test_a_table_escapes_what_files_say():
    @dataclasses.dataclass(frozen=True, repr=False)
    class Named(Table):
        def rows(self):
            return [{"<b>": "<script>", "known": None, "share": 0.123456}]

    html = Named()._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert "0.1235" in html


def test_a_missing_pandas_is_one_line(scores, monkeypatch):
    found = builtins.__import__

    def without_pandas(name, *rest):
        if name == "pandas":
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(ImportError, match=r"needs pandas.*pip install pandas"):
        scores.to_dataframe()


def test_rows_become_a_dataframe(scores):
    pandas = pytest.importorskip("pandas")
    frame = scores.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["file"]) == ["float32", "int8"]


def test_masks_of_a_photo(tmp_path):
    image = draw_scene(3)[0]
    Image.fromarray(image).save(tmp_path / "street.png")
    masks = dt.segment(CAMVID / "int8.tflite", tmp_path / "street.png")
    assert masks.mask.shape == image.shape[:2]
    assert masks.overlay().height >= image.shape[0]
    shares = {row["class"]: row["share_percent"] for row in masks.rows()}
    assert sum(shares.values()) == pytest.approx(100)
    assert shares["sky"] == pytest.approx(100 * np.mean(masks.mask == 0))
    assert masks._repr_html_().startswith('<img src="data:image/jpeg;base64,')
    assert list(tmp_path.iterdir()) == [tmp_path / "street.png"]


def test_masks_are_not_guessed(quantized, tmp_path):
    """Nothing states how a float file without its manifest is fed."""
    unknown, photo = tmp_path / "unknown.tflite", tmp_path / "street.png"
    unknown.write_bytes(quantized.float32.read_bytes())
    Image.fromarray(draw_scene(3)[0]).save(photo)
    with pytest.raises(ValueError, match=r"give preprocessing=Preprocessing"):
        dt.segment(unknown, photo)
    given = dt.Preprocessing((128.0,) * 3, (128.0,) * 3)
    masks = dt.segment(unknown, photo, preprocessing=given)
    np.testing.assert_array_equal(masks.mask, dt.segment(quantized.float32, photo).mask)


def test_findings(tmp_path, quantized, scenes):
    found = dt.diagnose(quantized, scenes, limit=2, sample=2)
    assert {row["severity"] for row in found.rows()} <= {"problem", "warning"}
    assert len(found.problems) <= len(found.rows())
    assert "checks ran" in found._repr_html_()


def test_a_quantized_file_has_a_manifest_and_its_recipe(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(4):
        Image.fromarray(draw_scene(seed)[0]).save(photos / f"{seed}.png")
    made = dt.quantize(
        small_keras_model(), photos, output_dir=tmp_path / "out", recipe="corrected_mse"
    )
    manifest = json.loads(made.int8.with_suffix(".json").read_text())
    assert manifest["quantization"]["bias"] == "empirical"
    assert manifest["quantization"]["ranges"] == "mse"
    assert sorted(manifest["calibration"]["samples"]) == ["0.png", "1.png", "2.png", "3.png"]
    assert made.rows()[0]["size_mb"] < 0.05
    assert pathlib.Path(made) == made.int8
    with pytest.raises(FileExistsError, match="overwrite"):
        dt.quantize(small_keras_model(), photos, output_dir=tmp_path / "out")


def test_bad_input_of_quantize(tmp_path):
    photos = [draw_scene(0)[0]]
    with pytest.raises(ValueError, match=r"network of Keras 3.*import deeplab_tflite first"):
        dt.quantize(keras3_network(), photos, output_dir=tmp_path)
    with pytest.raises(ValueError, match="unknown 'best'; known: per_tensor"):
        dt.quantize(small_keras_model(), photos, output_dir=tmp_path, recipe="best")
    with pytest.raises(ValueError, match=r"expected uint8.*not normalized"):
        dt.quantize(small_keras_model(), [photos[0] / 255.0], output_dir=tmp_path)
    with pytest.raises(ValueError, match="at least one"):
        dt.quantize(small_keras_model(), [], output_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder of photos"):
        dt.quantize(small_keras_model(), tmp_path / "none", output_dir=tmp_path)
    with pytest.raises(ValueError, match="expected a Keras network"):
        dt.quantize(len, photos, output_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def keras3_network():
    image = keras3.Input((*SIZE, 3))
    return keras3.Model(image, keras3.layers.Conv2D(5, 3, padding="same")(image))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras 3's own
def test_a_file_of_keras_3_is_quantized(tmp_path):
    keras3_network().save(tmp_path / "net.keras")
    photos = [draw_scene(seed)[0] for seed in range(2)]
    made = dt.quantize(tmp_path / "net.keras", photos, output_dir=tmp_path / "out")
    assert made.int8.is_file()


@pytest.mark.slow
def test_a_run_is_trained_exported_and_imported(tmp_path):
    start = write_small_run(tmp_path / "start")
    settings = dt.TrainingConfig.from_settings(
        model=small_model(start),
        dataset="synthetic",
        crop_height=SIZE[0],
        crop_width=SIZE[1],
        init_from=str(start),
        train_steps=4,
        batch_size=2,
        cache_mb=0,
        holdout_images=4,
        validation_split="holdout",
    )
    run = dt.train(settings, tmp_path / "run")
    (row,) = run.rows()
    assert row["step"] == 4
    assert row["miou"] == pytest.approx(run.miou)
    files = dt.export(run, ["float32", dt.Variant.INT8], heads=["logits"])
    assert [path.name for path in files] == ["float32.tflite", "int8.tflite"]
    assert list(files) == files.paths
    again = dt.import_tflite(files.paths[0], tmp_path / "again")
    assert again.keras_model().output_shape[-1] == LABEL_SET.num_classes
    assert {row["operator"] for row in again.rows()} >= {"CONV_2D", "ADD"}


def small_model(run):
    from deeplab_tf.runs.config import read_config  # noqa: PLC0415 - reads a file

    return read_config(run).model


@pytest.mark.slow
def test_methods_are_compared_on_a_keras_file(tmp_path):
    small_keras_model().save(tmp_path / "net.keras")
    scores = dt.compare(
        tmp_path / "net.keras",
        "synthetic",
        methods=["per_channel"],
        output_dir=tmp_path / "out",
        preprocessing=dt.Preprocessing((128.0,) * 3, (128.0,) * 3),
        options=SMALL,
        request=dt.ComparisonRequest(calibration_images=4),
    )
    assert [row["method"] for row in scores.rows()] == ["float32", "per_channel"]
    assert scores.best == "per_channel"
    assert (tmp_path / "out" / "ladder.json").is_file()
    with pytest.raises(ValueError, match="give dataset"):
        dt.compare(tmp_path / "net.keras")


def test_the_configuration_of_a_run():
    config = dt.training_config(
        "synthetic",
        network="unet",
        model={"backbone": "mobilenet_v2"},
        augmentation={"flip": False},
        train_steps=10,
    )
    assert config.model.num_classes == LABEL_SET.num_classes
    assert not config.data.augmentation.flip
    assert config.optimization.train_steps == 10
    with pytest.raises(ValueError, match="network 'enet' has no setting backbone"):
        dt.training_config("synthetic", network="enet", model={"backbone": "resnet50"})
    with pytest.raises(ValueError, match=r"unknown training keys \['steps'\]"):
        dt.training_config("synthetic", steps=10)


def test_a_run_folder_takes_a_string():
    assert RunFolder("runs/a") == RunFolder(pathlib.Path("runs/a"))
    assert RunFolder("runs/a").config == pathlib.Path("runs/a/config.json")


SCRIPT = """
import deeplab_tflite as dt
print("started")
scores = dt.evaluate("MODEL", dt.open_dataset("synthetic"),
                     options=dt.EvaluationOptions(limit=2, latency_repeats=0))
assert scores.rows()[0]["failure"] is None, scores.rows()
print("ended")
"""


def test_a_script_needs_no_guard(tmp_path):
    """Spawned children would run it a second time."""
    script = tmp_path / "five_lines.py"
    camvid_like = tmp_path / "int8.tflite"
    camvid_like.write_bytes(small_int8_file())
    script.write_text(textwrap.dedent(SCRIPT).replace("MODEL", str(camvid_like)))
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["started", "ended"]
