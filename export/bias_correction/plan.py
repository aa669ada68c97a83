"""The options of a bias correction."""

import dataclasses
import pathlib

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.manifest import manifest_path


@dataclasses.dataclass(frozen=True)
class BiasCorrectionPlan:
    """Which file to correct, and how.

    Attributes:
        model: the integer `.tflite`.
        output: the corrected file.
        calibration: list that images are chosen from.
        reference: float `.tflite` or run folder; None for the file's own weights without rounding
            of activations.
        calibration_images: how many.
        calibration_seed: of the choice.
        preprocessing: of the input; None: from manifest, metadata or the input's scale.
        overwrite: replace an output that exists.
    """

    model: pathlib.Path
    output: pathlib.Path
    calibration: SegmentationDataset
    reference: pathlib.Path | None = None
    calibration_images: int = 32
    calibration_seed: int = 0
    preprocessing: Preprocessing | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.calibration_images < 2:
            raise ValueError(
                f"calibration_images must be at least 2, got {self.calibration_images}: one image "
                "gives no reliable mean; 32 is a good number"
            )
        if self.output.suffix != ".tflite":
            raise ValueError(f"output must end in .tflite, got {self.output}; rename it")
        for source in (self.model, self.reference):
            if source and source.exists() and self.output.exists() and source.samefile(self.output):
                raise ValueError(f"output {self.output} would replace {source}; give another name")
        for path in (self.output, manifest_path(self.output)):
            if path.exists() and not self.overwrite:
                raise FileExistsError(f"{path} exists; give --overwrite or another output")
