"""Flags that name the network of an experiment: a run folder, or any network file."""

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from deeplab_tf.data.registry import DATASETS
from tflite_tools.evaluation_flags import define_normalization_flags, read_preprocessing

if TYPE_CHECKING:  # loads TensorFlow; flags are checked first
    from export.experiments.experiment_run import ExperimentRun

FLAGS = flags.FLAGS
_FILES = ("model", "keras_file", "saved_model")


def define_subject_flags() -> None:
    """Defines the flags that `open_subject` reads."""
    flags.DEFINE_string("run_dir", "", "Run folder of the float network.")
    flags.DEFINE_string("model", "", "Or a .tflite of it, which is imported.")
    flags.DEFINE_string("keras_file", "", "Or a .keras or .h5 file.")
    flags.DEFINE_string("saved_model", "", "Or the folder of a SavedModel.")
    define_normalization_flags()
    flags.DEFINE_string("output_dir", "", "Default: <run_dir>/quantization, <name>_quantization.")
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Default: the run's own.")
    flags.DEFINE_string("data_dir", "", "Folder of --dataset.")


def check_subject() -> None:
    """Checks the flags before anything is loaded.

    Raises:
        ValueError: none or several networks are given, or a file without a data set.
    """
    given = [name for name in ("run_dir", *_FILES) if FLAGS[name].value]
    if len(given) != 1:
        raise ValueError(
            "expected one of --run_dir, --model, --keras_file, --saved_model, got "
            + (", ".join(given) or "none")
        )
    if given != ["run_dir"] and not FLAGS.dataset:
        raise ValueError(f"--{given[0]} needs --dataset, the data set with its classes")
    if given == ["run_dir"] and read_preprocessing() is not None:
        raise ValueError("--mean and --std are for files; a run states its own")


def subject_path() -> pathlib.Path:
    """Returns the run folder or file that the flags name."""
    return pathlib.Path(next(FLAGS[n].value for n in ("run_dir", *_FILES) if FLAGS[n].value))


def results_folder(name: str) -> pathlib.Path:
    """Returns --output_dir; where it is not given it becomes <run_dir>/name, or <file>_name.

    Args:
        name: of the kind of results.
    """
    if not FLAGS.output_dir:
        path = subject_path()
        FLAGS.output_dir = str(path / name if FLAGS.run_dir else f"{path.stem}_{name}")
    return pathlib.Path(FLAGS.output_dir)


def open_subject(split: str) -> "ExperimentRun":
    """Opens the network; a file is imported into the folder of the results first.

    Args:
        split: list that the input size of a network without its own is taken from.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: the network cannot be read.
    """
    from export.experiments import experiment_run  # noqa: PLC0415 - flags are checked first

    if FLAGS.run_dir:
        return experiment_run.ExperimentRun(
            FLAGS.run_dir, FLAGS.dataset, data_dir=FLAGS.data_dir, output_dir=FLAGS.output_dir
        )
    path = pathlib.Path(next(FLAGS[name].value for name in _FILES if FLAGS[name].value))
    return experiment_run.experiment_on_file(
        path,
        FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        output_dir=FLAGS.output_dir,
        split=split,
        preprocessing=read_preprocessing(),
    )
