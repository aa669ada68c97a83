"""What to do with a file whose biases are to be corrected."""

import dataclasses
import pathlib

from deeplab_tf.data.dataset import SegmentationDataset
from tflite_tools.manifest import manifest_path


@dataclasses.dataclass(frozen=True)
class BiasCorrectionPlan:
    """What to do with a file.

    Attributes:
        model: the integer `.tflite`.
        output: the corrected one.
        calibration: list that photos are chosen from.
        reference: float `.tflite` or run folder; None for the file's own weights without any
            rounding of activations.
        calibration_images, calibration_seed: how many photos, and which.
        mean, std: of the input, in pixel units; None: by manifest, metadata or input's scale.
        overwrite: replace an output that exists.
    """

    model: pathlib.Path
    output: pathlib.Path
    calibration: SegmentationDataset
    reference: pathlib.Path | None = None
    calibration_images: int = 32
    calibration_seed: int = 0
    mean: float | None = None
    std: float | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.calibration_images < 2:
            raise ValueError(
                f"calibration_images must be at least 2; got {self.calibration_images}: what one "
                "photo gives is no mean, 32 is a good number"
            )
        if self.output.suffix != ".tflite":
            raise ValueError(f"output must end in .tflite; got {self.output}")
        for source in (self.model, self.reference):
            if source and source.exists() and self.output.exists() and source.samefile(self.output):
                raise ValueError(f"output {self.output} would replace {source}; give another name")
        for path in (self.output, manifest_path(self.output)):
            if path.exists() and not self.overwrite:
                raise FileExistsError(f"{path} exists; give --overwrite or another output")
