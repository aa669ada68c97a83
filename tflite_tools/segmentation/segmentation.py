"""Segments photos and videos with any number of files, and writes what a person looks at."""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Generator, Iterator
from typing import Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from deeplab_tf import atomic_file, bounded_file
from tflite_tools.drawing import palette_image
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.json_values import finite
from tflite_tools.manifest import sha256_of
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.segmentation import overlay
from tflite_tools.segmentation.classes import Model
from tflite_tools.segmentation.comparison import Drawn, agreements, comparison_sheet
from tflite_tools.segmentation.prediction import Prediction, predict_all
from tflite_tools.segmentation.sources import Picture, Source
from tflite_tools.segmentation.video import REMEDY, VideoWriter, writing
from tflite_tools.versions import versions

NUMBERS = "segmentation.json"
JOURNAL = ".segmentation-files"
"""Names of what a call that has not ended has written so far."""
_JPEG_QUALITY = 92


@dataclasses.dataclass(frozen=True)
class SegmentationOptions:
    """How pictures are segmented and drawn.

    Attributes:
        output_dir: folder of everything that is written.
        opacity: of the colours, 0..1.
        limit: pictures, or 0 for all.
        tile_overlap: see `ModelRunner.full_size_class_map`.
        frame_masks: also write the mask of every picture of a video.
        overwrite: replace files of other origin, too.
        processes: interpreters that work in parallel.
    """

    output_dir: pathlib.Path = pathlib.Path("segmentation")
    opacity: float = 0.55
    limit: int = 0
    tile_overlap: int = -1
    frame_masks: bool = False
    overwrite: bool = False
    processes: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.opacity <= 1:
            raise ValueError(f"opacity must be from 0 to 1; got {self.opacity:g}")
        if self.limit < 0:
            raise ValueError(f"limit must not be negative; got {self.limit}")
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1; got {self.processes}")


@dataclasses.dataclass
class PictureResult:
    """Numbers of one picture.

    Attributes:
        name: of the photo or of the video's picture.
        seconds: of a video, since its start.
        height, width: of the picture.
        shares: {file: {class: share of the picture}}, the largest first.
        ms: {file: milliseconds}.
        agreement: {file: share of the pixels with the class of the first file}.
    """

    name: str
    seconds: float
    height: int
    width: int
    shares: dict[str, dict[str, float]]
    ms: dict[str, float]
    agreement: dict[str, float]


@dataclasses.dataclass
class Segmentation:
    """Result of `segment`.

    Attributes:
        models: the files.
        pictures: numbers of each picture, in order.
        written: files in the output folder, by name.
        failures: why a file or a photo gave nothing, one line each.
        interrupted: whether it was stopped before the end.
    """

    models: list[Model]
    pictures: list[PictureResult] = dataclasses.field(default_factory=list)
    written: list[str] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)
    interrupted: bool = False

    def mean_shares(self, model: str) -> dict[str, float]:
        """Returns the mean share of each class over the pictures, the largest first.

        Args:
            model: name of the file.
        """
        total: dict[str, float] = {}
        counted = [each.shares[model] for each in self.pictures if model in each.shares]
        for shares in counted:
            for name, share in shares.items():
                total[name] = total.get(name, 0.0) + share / len(counted)
        return dict(sorted(total.items(), key=lambda item: -item[1]))

    def to_json(self) -> dict:
        """Returns the numbers for JSON."""
        return finite(
            {
                "models": [_model_json(model) for model in self.models],
                "pictures": [dataclasses.asdict(picture) for picture in self.pictures],
                "mean_shares": {model.name: self.mean_shares(model.name) for model in self.models},
                "files": self.written,
                "failures": self.failures,
                "interrupted": self.interrupted,
                "versions": versions(),
            }
        )


def _model_json(model: Model) -> dict:
    contract, classes = model.contract, model.classes
    count = contract.num_classes or len(classes.names)
    return {
        "name": model.name,
        "file": contract.path.name,
        "sha256": sha256_of(read_model_bytes(contract.path)),
        "input": [contract.height, contract.width, contract.channels],
        "mean": contract.preprocessing.mean,
        "std": contract.preprocessing.std,
        "normalization_from": contract.preprocessing_source.value,
        "classes": [
            {"id": label, "name": classes.name(label), "color": classes.color(label)}
            for label in range(count)
        ],
        "warnings": contract.warnings,
    }


def segment(result: Segmentation, source: Source, *, options: SegmentationOptions) -> None:
    """Segments every picture, and writes masks, overlays, comparisons and numbers.

    Ctrl-C leaves complete files of what was done until then: photos, a video that plays, numbers.

    Args:
        result: of the files; filled while they run.
        source: the pictures.
        options: how they are segmented and drawn.

    Raises:
        FileExistsError: a file would be replaced that no earlier call has written.
        OSError: the disk is full, or the folder cannot be written to.
        RuntimeError: every file fails.
        ValueError: the only photo cannot be read, or no picture can.
        KeyboardInterrupt: Ctrl-C, after the files were completed.
    """
    folder = _Folder(options.output_dir, options.overwrite, written=result.written)
    several = len(result.models) > 1
    try:
        with (
            _output(source, options, folder=folder, several=several) as output,
            contextlib.closing(segmented(result, source, options=options)) as pictures,
        ):
            for picture, drawn in pictures:
                output.add(picture, drawn)
    except KeyboardInterrupt:
        result.interrupted = True
        raise
    finally:
        if result.pictures:
            folder.write_json(result.to_json())


def segmented(
    result: Segmentation, source: Source, *, options: SegmentationOptions
) -> Generator[tuple[Picture, list[Drawn]], None, None]:
    """Segments every picture and writes nothing; a picture is counted when the next is asked for.

    Args:
        result: of the files; filled while they run.
        source: the pictures.
        options: how they are segmented and drawn.

    Yields:
        A picture, and the mask and overlay of each file that did not fail.

    Raises:
        RuntimeError: every file fails.
        ValueError: the only photo cannot be read, or no picture can.
    """
    models = result.models
    single = source.count == 1
    processes = 1 if single else options.processes
    contracts = [model.contract for model in models]
    count = source.count
    if options.limit:
        count = min(options.limit, count or options.limit)
    pictures = itertools.islice(source.pictures(), options.limit or None)
    bar = tqdm(total=count, desc="segment", unit="picture", disable=None)
    try:
        with (
            bar,
            InterpreterPool(
                contracts, processes, num_threads=options.processes if single else 1
            ) as pool,
        ):
            predictions = predict_all(
                pool,
                contracts,
                pictures=pictures,
                processes=processes,
                tile_overlap=options.tile_overlap,
            )
            for picture, found in predictions:
                drawn = _draw(models, picture, found=found, opacity=options.opacity, source=source)
                if not drawn:
                    break
                yield picture, drawn
                result.pictures.append(_numbers(picture, drawn, found=found, models=models))
                bar.update()
            result.failures += [f"{contracts[m].path}: {text}" for m, text in pool.broken.items()]
    finally:
        result.failures += source.failures
    if not result.pictures:
        raise RuntimeError("; ".join(result.failures) or "the input holds no picture")


def _draw(
    models: list[Model],
    picture: Picture,
    *,
    found: list[Prediction | None],
    opacity: float,
    source: Source,
) -> list[Drawn]:
    return [
        Drawn(
            model,
            prediction.mask,
            overlay.overlay(
                picture.image,
                prediction.mask,
                classes=model.classes,
                opacity=opacity,
                names=not source.is_video,  # they would jump from frame to frame
            ),
        )
        for model, prediction in zip(models, found, strict=True)
        if prediction is not None
    ]


def _numbers(
    picture: Picture, drawn: list[Drawn], *, found: list[Prediction | None], models: list[Model]
) -> PictureResult:
    return PictureResult(
        name=picture.name,
        seconds=picture.seconds,
        height=picture.image.shape[0],
        width=picture.image.shape[1],
        shares={
            each.model.name: {
                each.model.classes.name(label): share
                for label, share in each.model.classes.shares(each.mask).items()
            }
            for each in drawn
        },
        ms={
            model.name: prediction.ms
            for model, prediction in zip(models, found, strict=True)
            if prediction is not None
        },
        agreement=agreements(drawn),
    )


def with_legend(drawn: Drawn, height: int | None = None) -> np.ndarray:
    """Returns the overlay of a mask with the legend of its classes beside it.

    Args:
        drawn: the mask and its overlay.
        height: of the legend; None for as high as it needs to be.

    Returns:
        uint8 [height, width, 3], RGB.
    """
    panel = overlay.legend(
        drawn.model.classes,
        drawn.model.classes.shares(drawn.mask),
        shape=drawn.picture.shape,
        height=height,
    )
    return overlay.beside(drawn.picture, panel)


class _Folder:
    """The output folder: replaces only what an earlier call has written.

    Args:
        path: of the folder.
        overwrite: replace everything.
        written: names of the files, filled here.
    """

    def __init__(self, path: pathlib.Path, overwrite: bool, *, written: list[str]) -> None:
        self.path, self._written, self._overwrite = path, written, overwrite
        _check_folder(path)
        self._ours = _written_before(path)
        self.claim(NUMBERS)

    def claim(self, name: str) -> pathlib.Path:
        """Returns the path of a file that will be written.

        Args:
            name: in the folder.

        Raises:
            FileExistsError: it exists, and no earlier call has written it.
        """
        path = self.path / name
        if path.exists() and not self._overwrite and name not in self._ours:
            raise FileExistsError(
                f"{path} exists and was not written by this command; give another --output_dir, or "
                "--overwrite"
            )
        return path

    def save(self, name: str, picture: Image.Image) -> None:
        """Writes a picture under its name when it is complete.

        Args:
            name: in the folder.
            picture: to write.
        """
        path = self.claim(name)
        self.begin(name)
        try:
            with atomic_file.atomic_path(path) as temporary:
                picture.save(temporary, quality=_JPEG_QUALITY)  # PNG ignores it
        except OSError as error:  # Pillow's has no path
            reason = error.strerror or error
            raise OSError(f"{path}: not written: {reason}; {REMEDY}") from error
        self.wrote(name)

    def wrote(self, name: str) -> None:
        """Notes a file that was written.

        Args:
            name: in the folder.
        """
        if name not in self._written:
            self._written.append(name)

    def begin(self, name: str) -> None:
        """Notes on the disk that a file will be written: a call after a killed one replaces it.

        Args:
            name: in the folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        journal = self.path / JOURNAL
        with atomic_file.naming(journal), journal.open("a", encoding="utf-8") as stream:
            stream.write(f"{json.dumps(name)}\n")

    def write_json(self, values: dict) -> None:
        """Writes the numbers.

        Args:
            values: for JSON.
        """
        atomic_file.write_text(self.path / NUMBERS, json.dumps(values, indent=1) + "\n")
        (self.path / JOURNAL).unlink(missing_ok=True)


def _check_folder(path: pathlib.Path) -> None:
    """Checks before the work what would stop the first file."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path}: is a file; give a folder as --output_dir")
    existing = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{existing}: cannot be written to; give another --output_dir")


def _written_before(folder: pathlib.Path) -> set[str]:
    """Returns the files of an earlier call, its numbers included."""
    names = set()
    with contextlib.suppress(OSError, *bounded_file.PARSING_ERRORS):
        names = {NUMBERS, *bounded_file.read_json(folder / NUMBERS)["files"]}
    with contextlib.suppress(OSError, *bounded_file.PARSING_ERRORS):
        for line in bounded_file.read_text(folder / JOURNAL).splitlines():
            names.add(json.loads(line))  # of a last line that is not whole no file was written
    return names


class _Output(Protocol):
    def add(self, picture: Picture, drawn: list[Drawn]) -> None: ...


@contextlib.contextmanager
def _output(
    source: Source, options: SegmentationOptions, *, folder: _Folder, several: bool
) -> Iterator["_Output"]:
    if not source.is_video:
        yield _PhotoOutput(folder)
        return
    assert source.video is not None
    output = _VideoOutput(folder, source.name, masks=options.frame_masks)
    path = folder.claim(f"{source.name}_{'compared' if several else 'overlay'}.mp4")
    folder.begin(path.name)
    try:
        with writing(path, source.video.info.rate) as writer:
            output.writer = writer
            yield output
    finally:
        if path.exists():
            folder.wrote(path.name)


@dataclasses.dataclass
class _PhotoOutput:
    """Masks, overlays and comparisons of photos."""

    folder: _Folder

    def add(self, picture: Picture, drawn: list[Drawn]) -> None:
        """Writes the files of one photo."""
        several = len(drawn) > 1
        for each in drawn:
            name = f"{picture.name}_{each.model.file_name}" if several else picture.name
            self.folder.save(f"{name}_mask.png", mask_image(each))
            self.folder.save(f"{name}_overlay.jpg", Image.fromarray(with_legend(each)))
        if several:
            sheet = comparison_sheet(picture.image, drawn)
            self.folder.save(f"{picture.name}_compared.jpg", Image.fromarray(sheet))


@dataclasses.dataclass
class _VideoOutput:
    """A video of overlays, or of comparisons."""

    folder: _Folder
    name: str
    masks: bool
    writer: VideoWriter | None = None

    def add(self, picture: Picture, drawn: list[Drawn]) -> None:
        """Writes one picture of the video."""
        assert self.writer is not None
        if len(drawn) > 1:
            sheet = comparison_sheet(picture.image, drawn)
        else:
            sheet = with_legend(drawn[0], picture.image.shape[0])
        number = self.writer.frames
        self.writer.add(sheet, picture.seconds)
        for each in drawn if self.masks else ():
            self.folder.save(
                f"{self.name}_{each.model.file_name}_mask_{number:06d}.png", mask_image(each)
            )


def mask_image(drawn: Drawn) -> Image.Image:
    """Returns a mask as a palette image whose values are class numbers; 16 bits above 256 classes.

    Args:
        drawn: the mask and its classes.
    """
    if drawn.mask.dtype != np.uint8:
        return Image.fromarray(drawn.mask.astype(np.uint16))
    return palette_image(drawn.mask, drawn.model.classes.colors)
