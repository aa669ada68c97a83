"""One small conversion for all tests of export."""

import pytest

from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import open_dataset
from deeplab_tf.training.run_folder import Phase
from export.conversion import freeze
from export.conversion.pipeline import ExportPlan, export_files
from export.conversion.source import Source
from export.conversion.variants import Head, Variant, plan_files
from tests.conversions import made_once
from tests.zoo import LIVE_SIZE, trained_float_model, trained_quantized_model


class TrainedSource(Source):
    """The zoo's network at a small size."""

    description = "zoo camvid at 96x128"
    quantization_aware = True
    choosable_heads = True

    def frozen(self, phase: Phase, head: Head, height: int, width: int):
        quantized = phase is Phase.QUANTIZED
        model = trained_quantized_model() if quantized else trained_float_model()
        return freeze.freeze_model(model, head)


def make_plan(output_dir, files, **changes) -> ExportPlan:
    values = {
        "output_dir": output_dir,
        "height": LIVE_SIZE[0],
        "width": LIVE_SIZE[1],
        "files": files,
        "preprocessing": Preprocessing(),
        "label_set": LabelSet.from_names([f"class{index}" for index in range(11)]),
        "calibration_dataset": open_dataset("synthetic", None, split="train"),
        "calibration_images": 4,
    }
    return ExportPlan(**(values | changes))


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Every variant with full-size logits, and class maps of the integer ones."""

    def make(folder):
        files, _ = plan_files(list(Variant), [Head.LOGITS])
        for head in (Head.ARGMAX, Head.ARGMAX_LOW, Head.LOGITS_LOW):
            files += plan_files([Variant.INT8], [head])[0]
        results = export_files(TrainedSource(), make_plan(folder, files))
        assert [result.failure for result in results] == [""] * len(files)

    return made_once(tmp_path_factory, "exported", make)
