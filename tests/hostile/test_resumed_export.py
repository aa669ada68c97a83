"""An export that was interrupted goes on with the same command; whole files are kept."""

import dataclasses
import json

import pytest

from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.readers.synthetic import LABEL_SET
from export.conversion import freeze, pipeline
from export.conversion.convert import ConverterProcess
from export.conversion.pipeline import export_files
from export.conversion.source import Source
from export.conversion.variants import Head, Variant, plan_files
from tests.export.conftest import make_plan
from tests.small_network import SIZE, small_keras_model

VARIANTS = (Variant.FLOAT32, Variant.DYNAMIC_RANGE, Variant.INT8)


class Small(Source):
    """A network of four convolutions."""

    description = "small"
    choosable_heads = True

    def __init__(self, digest="1"):
        self._digest = digest

    def fingerprint(self):
        return self._digest

    def frozen(self, phase, head, height, width):
        return freeze.freeze_model(small_keras_model(), head)


def plan_for(folder, **changes):
    files, _ = plan_files(list(VARIANTS), [Head.LOGITS])
    labels = LabelSet(LABEL_SET.names, LABEL_SET.colors)
    return make_plan(
        folder, files, **{"height": SIZE[0], "width": SIZE[1], "label_set": labels, **changes}
    )


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """An export that ended after its first file."""
    conversions = []
    convert = ConverterProcess.convert

    def once(self, conversion):
        conversions.append(conversion.spec.variant)
        if len(conversions) == 2:
            raise KeyboardInterrupt
        return convert(self, conversion)

    monkeypatch.setattr(ConverterProcess, "convert", once)
    with pytest.raises(KeyboardInterrupt):
        export_files(Small(), plan_for(tmp_path))
    assert [path.name for path in tmp_path.glob("*.tflite")] == ["float32.tflite"]
    assert not list(tmp_path.glob(".*"))
    return tmp_path, conversions


def test_the_same_command_makes_what_is_missing(interrupted):
    folder, conversions = interrupted
    before = (folder / "float32.tflite").stat().st_mtime_ns
    # Killed between the manifest and the file that it describes:
    manifest = json.loads((folder / "float32.json").read_text())
    (folder / "dynamic_range.json").write_text(json.dumps(manifest))
    results = export_files(Small(), plan_for(folder))
    assert [result.failure for result in results] == [""] * 3
    assert [result.size_bytes > 0 for result in results] == [True] * 3
    assert conversions[2:] == [Variant.DYNAMIC_RANGE, Variant.INT8]
    assert (folder / "float32.tflite").stat().st_mtime_ns == before
    export_files(Small(), plan_for(folder))
    assert len(conversions) == 4  # all are kept


@pytest.mark.parametrize(
    ("source", "changes", "refused"),
    [
        (Small("2"), {}, "float32.tflite"),
        (Small(""), {}, "float32.tflite"),
        (Small(), {"height": 64}, "float32.tflite"),
        (Small(), {"label_set": LabelSet.from_names("abcde")}, "float32.tflite"),
    ],
)
def test_files_that_were_made_otherwise_stay(interrupted, source, changes, refused):
    folder, _ = interrupted
    content = (folder / "float32.tflite").read_bytes()
    with pytest.raises(FileExistsError, match=rf"already holds {refused}; give --overwrite"):
        export_files(source, plan_for(folder, **changes))
    assert (folder / "float32.tflite").read_bytes() == content


def test_a_damaged_file_stays_and_is_named(interrupted):
    folder, _ = interrupted
    path = folder / "float32.tflite"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FileExistsError, match=r"already holds float32\.tflite"):
        plan_for(folder)
    plan = dataclasses.replace(
        plan_for(folder, overwrite=True), files=plan_for(folder, overwrite=True).files[:1]
    )
    assert [result.failure for result in export_files(Small(), plan)] == [""]


def test_other_photos_make_another_file(tmp_path):
    plan = plan_for(tmp_path)
    specs = {spec.variant: spec for spec in plan.files}
    photos = {name: tmp_path / f"{name}.npy" for name in ("a", "b")}
    for name, path in photos.items():
        path.write_text(name)

    def recipe(variant, name):
        return pipeline.recipe_of(plan, specs[variant], network="1", calibration_file=photos[name])

    assert recipe(Variant.INT8, "a") != recipe(Variant.INT8, "b")
    assert recipe(Variant.FLOAT32, "a") == recipe(Variant.FLOAT32, "b")
