"""Shows the masks of a `.tflite` on a photo, a folder of photos, a video or a camera. No labels.

python -m tflite_tools.segment --model=int8.tflite --input=street.jpg
python -m tflite_tools.segment --model=float32.tflite,int8.tflite --input=photos --output_dir=masks
python -m tflite_tools.segment --model=int8.tflite --input=drive.mp4
python -m tflite_tools.segment --model=int8.tflite --input=camera

Writes masks (palette PNG, class numbers as values), overlays with names and a legend, of several
files also a comparison that shows where they differ, and segmentation.json. Of a video it writes
one video; Ctrl-C ends it, and the part written plays.
"""

import contextlib
import os
import pathlib
import sys

from absl import flags

from deeplab_tf import command, sandbox
from deeplab_tf.data.label_list import read_label_list
from tflite_tools.description.description import describe
from tflite_tools.description.report import summary_lines
from tflite_tools.evaluation_flags import define_normalization_flags, read_preprocessing
from tflite_tools.file_list import UnreadFile, unread_text
from tflite_tools.segmentation.classes import ColorChoice, Model
from tflite_tools.segmentation.models import Reading, open_models, without_normalization
from tflite_tools.segmentation.overlay import percent
from tflite_tools.segmentation.readings import FILE as READINGS
from tflite_tools.segmentation.readings import write_readings
from tflite_tools.segmentation.segmentation import (
    NUMBERS,
    Segmentation,
    SegmentationOptions,
    segment,
)
from tflite_tools.segmentation.sources import Source, open_source

FLAGS = flags.FLAGS

_LINES = 20
"""Pictures with a line of their own; of more, only the mean is printed."""
_SHARES = 6


def _define_flags() -> None:
    sandbox.define_flag()
    flags.DEFINE_list("model", None, "Files; several are compared with the first.", required=True)
    flags.DEFINE_string(
        "input", None, "A photo, a folder of photos, a video, camera or camera:1.", required=True
    )
    flags.DEFINE_string("output_dir", "segmentation", "Folder of what is written.")
    define_normalization_flags()
    flags.DEFINE_string("output", "", "Name or number of the output to read, of several.")
    flags.DEFINE_string("labels", "", "Class names, one per line; default: the file's own.")
    flags.DEFINE_enum(
        "colors",
        ColorChoice.DISTINCT.value,
        [choice.value for choice in ColorChoice],
        "distinct: also for colour-blind readers; file: those of its manifest.",
    )
    flags.DEFINE_float("opacity", 0.55, "Of the colours over the photo, 0 to 1.")
    flags.DEFINE_integer("limit", 0, "Only the first so many pictures; 0 = all.")
    flags.DEFINE_integer(
        "tile_overlap",
        -1,
        "Larger photos are cut in tiles of the input's size that overlap by so many pixels at "
        "least, and stitched; -1 = they are scaled to fit.",
    )
    flags.DEFINE_bool("frame_masks", False, "Also the mask of every picture of a video.")
    flags.DEFINE_bool("overwrite", False, "Replace files that this command has not written.")
    flags.DEFINE_integer("processes", 0, "Interpreters side by side; 0 = one per core.")


def _models() -> tuple[list[Model], list[UnreadFile]]:
    reading = Reading(
        read_preprocessing(),
        FLAGS.output,
        read_label_list(pathlib.Path(FLAGS.labels)) if FLAGS.labels else (),
        ColorChoice(FLAGS.colors),
    )
    return open_models([pathlib.Path(name) for name in FLAGS.model if name], reading)


def _ask(model: Model, source: Source, options: SegmentationOptions) -> str:
    """Draws the likely readings of the first picture; returns what to do with them."""
    path = options.output_dir / READINGS
    picture = next(source.pictures())
    readings = write_readings(model, picture, path=path, opacity=options.opacity)
    lines = "".join(
        f"  {number}: {reading.flags}{f'  ({reading.reason})' if reading.reason else ''}\n"
        for number, reading in enumerate(readings, 1)
    )
    sys.stdout.write(f"{path}: {picture.name} under {len(readings)} likely readings\n{lines}")
    return (
        f"{model.contract.path}: neither a manifest nor the file states how its "
        f"{model.contract.input_dtype} input is normalized; look at {path}, and run again with the "
        f"flags of the reading whose mask is right, such as {readings[0].flags}"
    )


def _check_folders(output_dir: pathlib.Path) -> None:
    given = pathlib.Path(FLAGS.input)
    if given.is_dir() and given.resolve() == output_dir.resolve():
        raise ValueError(
            f"{output_dir}: is the folder of the photos, and a second call would take masks for "
            "photos; give another --output_dir"
        )


def _shares_text(shares: dict[str, float]) -> str:
    shown = [f"{name} {percent(share)}" for name, share in list(shares.items())[:_SHARES]]
    more = len(shares) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _result_text(result: Segmentation) -> str:
    lines = []
    if len(result.pictures) <= _LINES:
        for picture in result.pictures:
            for model, shares in picture.shares.items():
                who = f" {model}" if len(result.models) > 1 else ""
                same = picture.agreement.get(model)
                agrees = f" (as {result.models[0].name} on {percent(same)})" if same else ""
                took = f", {picture.ms[model]:.0f} ms"
                lines.append(f"{picture.name}{who}: {_shares_text(shares)}{agrees}{took}")
    else:
        count = len(result.pictures)
        for name in (model.name for model in result.models):
            if shares := result.mean_shares(name):
                lines.append(f"{name}, mean of {count}: {_shares_text(shares)}")
    return "\n".join(lines) + "\n"


def _files_text(result: Segmentation, folder: pathlib.Path) -> str:
    if len(result.written) <= _SHARES:
        return "".join(f"{folder / name}\n" for name in result.written)
    count = len(result.written)
    return f"{folder}: {count} files, such as {result.written[-1]}, and {NUMBERS}\n"


def main() -> int:
    """Segments the input and writes the pictures.

    Returns:
        1 if a file or a photo could not be read or failed, else 0.
    """
    options = SegmentationOptions(
        pathlib.Path(FLAGS.output_dir),
        opacity=FLAGS.opacity,
        limit=FLAGS.limit,
        tile_overlap=FLAGS.tile_overlap,
        frame_masks=FLAGS.frame_masks,
        overwrite=FLAGS.overwrite,
        processes=FLAGS.processes or os.cpu_count() or 1,
    )
    models, unread = _models()
    _check_folders(options.output_dir)
    with contextlib.closing(open_source(FLAGS.input)) as source:
        source.with_fourth = any(model.contract.channels == 4 for model in models)
        if unknown := without_normalization(models):
            raise ValueError(_ask(unknown, source, options))
        result = Segmentation(models)
        try:
            segment(result, source, options=options)
        except KeyboardInterrupt:
            if result.pictures:
                count = f"stopped after {len(result.pictures)} of {source.count or '?'} pictures\n"
                files = _files_text(result, options.output_dir)
                sys.stdout.write(_result_text(result) + count + files)
            raise
    sys.stdout.write(_result_text(result) + _files_text(result, options.output_dir))
    if len(models) == 1:
        described = describe(models[0].contract.path, read_preprocessing(), output=FLAGS.output)
        sys.stdout.write("\n" + "\n".join(summary_lines(described)) + "\n")
        sys.stdout.write(f"\nTo be faster: {described.advice.sentence}\n")
    if unread:
        sys.stdout.write(unread_text(unread) + "\n")
    for failure in result.failures:
        sys.stdout.write(f"failed: {failure}\n")
    return 1 if unread or result.failures else 0


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main, outputs=lambda: [pathlib.Path(FLAGS.output_dir)])


if __name__ == "__main__":
    console()
