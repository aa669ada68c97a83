"""Says whether a run's calibration set is large enough.

    python -m export.check_calibration --run_dir=runs/camvid --calibration_images=32

Two int8 files are made from disjoint photos of the training list and scored on other photos of that
list; exit status 1 when they differ by more than --bound.
"""

import pathlib
import sys

from absl import flags

from deeplab_tf import command
from deeplab_tf.data.registry import DATASETS, open_dataset
from deeplab_tf.quantization.calibration.activation_ranges import RangeMethod
from deeplab_tf.quantization.ptq.post_training import PostTraining

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_string("run_dir", None, "Run folder of the float network.", required=True)
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Default: the run's own.")
    flags.DEFINE_string("data_dir", "", "Folder of --dataset.")
    flags.DEFINE_string("split", "train", "List of the photos; never the one you report on.")
    flags.DEFINE_integer("calibration_images", 32, "Photos of each of the two sets.")
    flags.DEFINE_integer("score_images", 48, "Other photos, that both files are scored on.")
    flags.DEFINE_integer("seed", 0, "Which photos.")
    flags.DEFINE_float("bound", 0.005, "Largest difference in mIoU, fraction.")
    methods = [member.value for member in RangeMethod]
    flags.DEFINE_enum("activation_ranges", "min_max", methods, "How ranges are chosen.")


def main() -> int:
    from deeplab_tf.training.config import read_config  # noqa: PLC0415 - flags are checked first
    from deeplab_tf.training.run_folder import RunFolder  # noqa: PLC0415
    from export.conversion.source import RunSource  # noqa: PLC0415
    from export.experiments.calibration_stability import (  # noqa: PLC0415
        CalibrationCheckPlan,
        check_calibration,
    )

    folder = RunFolder(pathlib.Path(FLAGS.run_dir))
    config = read_config(folder.path)
    dataset, data_dir = FLAGS.dataset or config.dataset, FLAGS.data_dir or config.data_dir
    if not dataset:
        raise ValueError(f"{folder.path} names no data set; give --dataset and --data_dir")
    photos = open_dataset(dataset, data_dir, split=FLAGS.split)
    folder.check_classes(photos)
    height, width = config.model.padded_size(*photos.image(0).shape[:2])
    steps = PostTraining(ranges=RangeMethod(FLAGS.activation_ranges))
    plan = CalibrationCheckPlan(
        source=RunSource(folder),
        height=height,
        width=width,
        preprocessing=config.preprocessing,
        label_set=folder.read_labels(),
        dataset=photos,
        calibration_images=FLAGS.calibration_images,
        score_images=FLAGS.score_images,
        seed=FLAGS.seed,
        bound=FLAGS.bound,
        steps=steps if steps != PostTraining() else None,
    )
    found = check_calibration(plan)
    sys.stdout.write("\n".join(found.lines()) + "\n")
    return 0 if found.stable else 1


def console() -> None:
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()
