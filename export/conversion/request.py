"""What one export is asked to do, completed by what the network and the data set say."""

import dataclasses
import difflib
import pathlib

from absl import logging

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import open_dataset
from deeplab_tf.quantization.ptq.post_training import PostTraining
from deeplab_tf.runs.config import TrainingConfig
from export.conversion.pipeline import SAVED_MODELS, ExportPlan
from export.conversion.source import RunSource, SavedModelSource, Source
from export.conversion.variants import RULES, FileSpec, Head, IoDtype, Target, Variant, plan_files

REPORTED_SPLITS = {"val", "validation", "test"}
"""Lists that results are reported on; calibration must not use them."""
DEFAULT_CALIBRATION_IMAGES = 100
DEFAULT_HEADS = (Head.LOGITS, Head.ARGMAX)
LARGEST_DEFAULT_PIXELS = 4_000_000


@dataclasses.dataclass(frozen=True)
class ExportRequest:
    """The files to make, and what only the caller knows of the network.

    Attributes:
        output_dir: where the files go; None for `tflite` in the run folder, else here.
        variants: number formats; () for all that the network has.
        heads: what comes after the logits; None for the target's usual ones.
        target: accelerator that the integer files are made for.
        input_dtype: input type of full-integer files.
        output_dtype: output type of full-integer files.
        size: (height, width) of the input; None for the network's own, else the first image's.
        dataset: name of the data set for calibration, or an open list; None for the run's own.
        data_dir: its folder; "" for the run's own.
        calibration_split: list that images are chosen from.
        calibration_images: how many; 0 for 100, or all of a shorter list.
        calibration_seed: of the choice.
        calibrate_on_evaluation: allow a list that results are reported on.
        mean, std: pixel normalization of a network that is no run: one number, or one per channel.
        label_set: classes of a network that is no run; None for those of the data set.
        post_training: steps for int8 files; None: the converter quantizes by itself.
        overwrite: replace files that exist.
    """

    output_dir: pathlib.Path | None = None
    variants: tuple[Variant, ...] = ()
    heads: tuple[Head, ...] | None = None
    target: Target = Target.NONE
    input_dtype: IoDtype = IoDtype.UINT8
    output_dtype: IoDtype = IoDtype.UINT8
    size: tuple[int, int] | None = None
    dataset: str | SegmentationDataset | None = None
    data_dir: str = ""
    calibration_split: str = "train"
    calibration_images: int = 0
    calibration_seed: int = 0
    calibrate_on_evaluation: bool = False
    mean: tuple[float, ...] = (128.0,)
    std: tuple[float, ...] = (128.0,)
    label_set: LabelSet | None = None
    post_training: PostTraining | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        integer = (Variant.INT8, Variant.QAT_INT8)
        others = [variant.value for variant in self.variants if variant not in integer]
        if self.target is Target.EDGETPU and others:
            raise ValueError(
                "--target=edgetpu: expected variants int8 and qat_int8, got "
                f"{', '.join(others)}; take the others out of --variants"
            )
        if self.post_training is not None and self.variants and Variant.INT8 not in self.variants:
            raise ValueError(
                "--keep_float, --int16, --equalize, --absorb_biases, --correct_biases, --adaround, "
                "--activation_ranges and --noper_channel apply only to int8; add it to --variants"
            )
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"--size: expected height,width, got {self.size[0]},{self.size[1]}")

    def plan(self, source: Source) -> ExportPlan:
        """Completes the request for a network.

        Args:
            source: the network.

        Returns:
            the files to make, with their calibration images.

        Raises:
            FileExistsError: a file exists that was made in another way.
            FileNotFoundError: the data set is missing.
            ValueError: settings that do not fit the network, or that it leaves open.
        """
        run = source if isinstance(source, RunSource) else None
        config = run.config if run else None
        variants, heads = self._variants(source), self._heads(source)
        dataset = self._calibration_dataset(config, variants, labels_known=run is not None)
        if source.channels and dataset is not None:
            dataset = dataset.with_channels(source.channels)
        own = source.fixed_size if self.size is None else None
        height, width = own or self._size(config, dataset)
        if config is not None:
            config.model.check_size(height, width)
        self._check_layers(source, height, width=width)
        channels = source.channels or (dataset.channels if dataset else 3)
        output_dir = self.output_dir or (run.folder.path if run else pathlib.Path()) / "tflite"
        files = self._files(variants, heads)
        _protect_source(source, output_dir)
        return ExportPlan(
            output_dir=output_dir,
            height=height,
            width=width,
            files=files,
            preprocessing=config.data.preprocessing if config else self._preprocessing(channels),
            label_set=run.folder.read_labels() if run else self._labels(dataset),
            calibration_dataset=dataset,
            calibration_images=self.calibration_images
            or min(DEFAULT_CALIBRATION_IMAGES, len(dataset) if dataset else 0),
            calibration_seed=self.calibration_seed,
            overwrite=self.overwrite,
            post_training=self.post_training,
            target=self.target,
        )

    def _variants(self, source: Source) -> list[Variant]:
        variants = list(self.variants)
        if Variant.QAT_INT8 in variants and not source.quantization_aware:
            raise ValueError(
                "qat_int8 needs a run with quantization-aware training; train with "
                "--quantize_delay_step of 0 or more"
            )
        if variants:
            return variants
        edgetpu = self.target is Target.EDGETPU
        variants = [Variant.INT8, Variant.QAT_INT8] if edgetpu else list(Variant)
        if not source.quantization_aware:
            variants.remove(Variant.QAT_INT8)
        return variants

    def _heads(self, source: Source) -> list[Head]:
        if not source.choosable_heads:
            logging.info("the graph keeps its own output: --heads applies to runs and Keras files")
            return [Head.LOGITS]
        if self.heads is not None:
            return list(self.heads)
        return [Head.LOGITS_LOW] if self.target is Target.EDGETPU else list(DEFAULT_HEADS)

    def _files(self, variants: list[Variant], heads: list[Head]) -> list[FileSpec]:
        files, left_out = plan_files(
            variants, heads, input_dtype=self.input_dtype, output_dtype=self.output_dtype
        )
        for line in left_out:
            logging.warning("skipped: %s", line)
        if not files:
            raise ValueError("; ".join(left_out))
        return files

    def _calibration_dataset(
        self, config: TrainingConfig | None, variants: list[Variant], *, labels_known: bool
    ) -> SegmentationDataset | None:
        """Opens the list that images are chosen from; None where nothing needs one."""
        needed = any(RULES[variant].calibrated for variant in variants)
        size_known = self.size is not None or (
            config is not None and config.model.fixed_size is not None
        )
        labels_known = labels_known or self.label_set is not None
        if not needed and labels_known and size_known:
            return None
        if isinstance(self.dataset, SegmentationDataset):
            split = self.dataset.split
        else:
            split = self.calibration_split
        dataset = self.dataset or (config.data.dataset if config else None)
        if not dataset:
            return None
        reported = REPORTED_SPLITS | ({config.data.validation_split} if config else set())
        if needed and split in reported and not self.calibrate_on_evaluation:
            raise ValueError(
                f"--calibration_split={split} is a list that results are reported "
                "on; choose another, or give --calibrate_on_evaluation"
            )
        if isinstance(dataset, SegmentationDataset):
            return dataset
        data_dir = self.data_dir or (config.data.data_dir if config else "")
        return open_dataset(dataset, data_dir, split=split)

    def _size(
        self, config: TrainingConfig | None, dataset: SegmentationDataset | None
    ) -> tuple[int, int]:
        if self.size is not None:
            return self.size
        if config is not None and config.model.fixed_size is not None:
            return config.model.padded_size(1, 1)
        if config is None or dataset is None:
            raise ValueError("the size of the input is not known; give --size=height,width")
        height, width = config.model.padded_size(*dataset.image(0).shape[:2])
        if height * width > LARGEST_DEFAULT_PIXELS:
            raise ValueError(
                f"the first image gives an input of {height} x {width}, expected at most "
                f"{LARGEST_DEFAULT_PIXELS} pixels; choose a size that the device can run with "
                "--size=height,width"
            )
        return height, width

    def _preprocessing(self, channels: int) -> Preprocessing:
        """Returns the normalization that the caller names: a number for all channels, or each."""
        values = []
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, channels):
                raise ValueError(
                    f"--{name}: expected one number, or {channels} for images of {channels} "
                    f"channel(s), got {len(numbers)}"
                )
            values.append(numbers * channels if len(numbers) == 1 else numbers)
        return Preprocessing(*values)

    def _labels(self, dataset: SegmentationDataset | None) -> LabelSet:
        if self.label_set is not None:
            return self.label_set
        if dataset is None:
            raise ValueError(
                "the classes are not known; give --labels=FILE, one class name per line, or "
                "--dataset"
            )
        return dataset.label_set

    def _check_layers(self, source: Source, height: int, *, width: int) -> None:
        """Raises ValueError for a layer to keep in more bits that the network does not have."""
        steps = self.post_training
        chosen = [*steps.keep_float, *steps.int16] if steps else []
        if not chosen:
            return
        known = {layer.name for layer in source.float_model(height, width).layers}
        for name in chosen:
            if name.removesuffix("_linear") not in known and name not in known:
                near = difflib.get_close_matches(name, known)
                raise ValueError(
                    f"--keep_float, --int16: the network has no layer {name}"
                    + (
                        f"; did you mean {', '.join(near)}?"
                        if near
                        else "; export.sensitivity lists the layers"
                    )
                )


def _protect_source(source: Source, output_dir: pathlib.Path) -> None:
    """Raises ValueError where the SavedModel that is read would be overwritten."""
    if not isinstance(source, SavedModelSource):
        return
    for name in SAVED_MODELS.values():
        if (output_dir / name).resolve() == source.path.resolve():
            raise ValueError(f"--output_dir would replace {source.path}; choose another")
