"""A training run as the subject of an experiment: its network, its data set, its input size."""

import pathlib
from collections.abc import Sequence

from deeplab_tf.data.dataset import SegmentationDataset, hold_out, hold_out_groups
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import open_dataset
from deeplab_tf.runs.config import read_config
from deeplab_tf.runs.folder import RunFolder
from export.conversion.source import RunSource
from export.conversion.start_file import import_start


class ExperimentRun:
    """A run folder and the data set that an experiment uses with it.

    Args:
        path: the run folder.
        dataset: name of the data set; None for the run's own.
        data_dir: folder of the data set; "" for the run's own.
        output_dir: folder of the results; "" for `quantization` in the run folder.

    Attributes:
        folder: of the run.
        config: of the run.
        source: its network.
        dataset: name of the data set.
        data_dir: folder of the data set.
        output_dir: folder of the results.

    Raises:
        ValueError: neither the run nor the caller names a data set.
    """

    def __init__(
        self, path: str, dataset: str | None, *, data_dir: str, output_dir: str = ""
    ) -> None:
        self.folder = RunFolder(pathlib.Path(path))
        self.config = read_config(self.folder.path)
        self.source = RunSource(self.folder)
        self.dataset = dataset or self.config.data.dataset
        self.data_dir = data_dir or self.config.data.data_dir
        self.output_dir = pathlib.Path(output_dir or self.folder.path / "quantization")
        if not self.dataset:
            raise ValueError(
                f"{self.folder.path}: the run names no data set; give --dataset and --data_dir"
            )

    def open_list(self, split: str) -> SegmentationDataset:
        """Opens a list of the data set.

        Args:
            split: name of the list.

        Returns:
            the list.

        Raises:
            ValueError: its classes are not those of the run.
        """
        samples = open_dataset(self.dataset, self.data_dir, split=split)
        self.folder.check_classes(samples)
        return samples

    def hold_out(
        self, samples: SegmentationDataset, count: int, *, groups: Sequence[str]
    ) -> tuple[SegmentationDataset, SegmentationDataset]:
        """Splits a list into images to calibrate on and images to choose a method on.

        Args:
            samples: the list.
            count: images to hold out; 0 for those that the run held out of its training.
            groups: hold out all images of these groups instead.

        Returns:
            the rest, the images held out.

        Raises:
            ValueError: nothing says what to hold out, or both do, or a part would be empty.
        """
        if groups and count:
            raise ValueError("--holdout_images and --holdout_groups exclude each other; give one")
        if groups:
            return hold_out_groups(samples, groups)
        seed = self.config.execution.seed
        if not (count or self.config.data.holdout_images):
            raise ValueError(
                f"{self.folder.path}: the run held no images out; give --holdout_images or "
                "--holdout_groups"
            )
        return hold_out(samples, count or self.config.data.holdout_images, seed=seed)

    def input_size(self, samples: SegmentationDataset) -> tuple[int, int]:
        """Returns (height, width) of the network's input for the images of a list."""
        height, width = samples.image(0).shape[:2]
        return self.config.model.padded_size(height, width)


def experiment_on_file(
    path: pathlib.Path,
    dataset: str,
    *,
    data_dir: str,
    output_dir: str = "",
    split: str = "train",
    preprocessing: Preprocessing | None = None,
) -> ExperimentRun:
    """Imports a network file into the folder of the results, as the run of an experiment.

    Args:
        path: `.tflite`, `.keras`, `.h5`, or the folder of a SavedModel.
        dataset: name of the data set.
        data_dir: its folder.
        output_dir: folder of the results; "" for `<name>_quantization`.
        split: list that the input size of a network without its own is taken from.
        preprocessing: normalization of the network's input; None for the file's own.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: the network cannot be read.
    """
    output_dir = output_dir or f"{path.stem}_quantization"
    folder = import_start(
        path,
        pathlib.Path(output_dir),
        dataset=open_dataset(dataset, data_dir, split=split),
        data_dir=data_dir,
        preprocessing=preprocessing,
        batch_norm=False,
    )
    return ExperimentRun(str(folder), dataset, data_dir=data_dir, output_dir=output_dir)
