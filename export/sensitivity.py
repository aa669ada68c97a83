"""Ranks the layers of a run by what they cost when they are integer.

    python -m export.sensitivity --run_dir=runs/camvid --budget=0.003

With --budget it also says which layers to keep float, as a flag for export.to_tflite. Table, JSON,
CSV and plot go to <run_dir>/quantization.
"""

import pathlib
import sys

from absl import flags

from deeplab_tf import command
from deeplab_tf.data.registry import DATASETS, open_dataset
from deeplab_tf.quantization.calibration.activation_ranges import RangeMethod
from deeplab_tf.quantization.ptq.equalization import Relu6
from deeplab_tf.quantization.ptq.post_training import PostTraining

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_string("run_dir", None, "Run folder of the float network.", required=True)
    flags.DEFINE_string("output_dir", "", "Default: <run_dir>/quantization.")
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Default: the run's own.")
    flags.DEFINE_string("data_dir", "", "Folder of --dataset.")
    flags.DEFINE_string("split", "train", "List of the photos; never the one you report on.")
    flags.DEFINE_integer("calibration_images", 32, "Photos that ranges come from.", lower_bound=2)
    flags.DEFINE_integer("score_images", 24, "Other photos, that layers are scored on.")
    flags.DEFINE_integer("seed", 0, "Which photos.")
    flags.DEFINE_float("budget", None, "mIoU that may be lost, fraction, such as 0.003.")
    flags.DEFINE_bool("per_channel", True, "One weight scale a channel; off: one a kernel.")
    flags.DEFINE_bool("equalize", False, "Equalize neighbouring kernels before.")
    flags.DEFINE_enum("equalize_relu6", "exact", [m.value for m in Relu6], "ReLU6 then.")
    flags.DEFINE_bool("absorb_biases", False, "Absorb high biases before.")
    methods = [member.value for member in RangeMethod]
    flags.DEFINE_enum("activation_ranges", "min_max", methods, "How ranges are chosen.")


def main() -> int:
    if FLAGS.budget is not None and not 0 <= FLAGS.budget < 1:
        raise ValueError(f"--budget is a fraction of mIoU, 0 to below 1; got {FLAGS.budget}")
    if FLAGS.score_images < 1:
        raise ValueError(f"--score_images must be at least 1; got {FLAGS.score_images}")
    from deeplab_tf.runs.config import read_config  # noqa: PLC0415 - flags are checked first
    from deeplab_tf.runs.folder import RunFolder  # noqa: PLC0415
    from export.conversion.source import RunSource  # noqa: PLC0415
    from export.experiments.sensitivity_report import (  # noqa: PLC0415
        SensitivityPlan,
        rank_layers,
        sensitivity_table,
        write_sensitivity,
    )

    folder = RunFolder(pathlib.Path(FLAGS.run_dir))
    config = read_config(folder.path)
    dataset, data_dir = FLAGS.dataset or config.data.dataset, FLAGS.data_dir or config.data.data_dir
    if not dataset:
        raise ValueError(f"{folder.path} names no data set; give --dataset and --data_dir")
    photos = open_dataset(dataset, data_dir, split=FLAGS.split)
    folder.check_classes(photos)
    height, width = config.model.padded_size(*photos.image(0).shape[:2])
    plan = SensitivityPlan(
        source=RunSource(folder),
        height=height,
        width=width,
        preprocessing=config.data.preprocessing,
        dataset=photos,
        calibration_images=FLAGS.calibration_images,
        score_images=FLAGS.score_images,
        seed=FLAGS.seed,
        steps=PostTraining(
            per_channel=FLAGS.per_channel,
            equalize=FLAGS.equalize,
            relu6=Relu6(FLAGS.equalize_relu6),
            absorb=FLAGS.absorb_biases,
            ranges=RangeMethod(FLAGS.activation_ranges),
        ),
        budget=FLAGS.budget,
    )
    found, choice = rank_layers(plan)
    output_dir = pathlib.Path(FLAGS.output_dir or folder.path / "quantization")
    write_sensitivity(plan, found, choice=choice, folder=output_dir)
    sys.stdout.write(sensitivity_table(found, choice) + "\n")
    sys.stdout.write(f"\nnumbers: {output_dir / 'sensitivity.json'}\n")
    return 0


def console() -> None:
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()
