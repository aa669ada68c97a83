"""Converts labels of other programs into the folder layout that trains.

    python -m deeplab_tf.data.convert --from=coco --input=DIR --output=photos

Formats: color_masks, binary, coco, yolo, labelme, cvat, roboflow, supervisely. The input is not
changed; the output is a new folder with images/, labels/, classes.txt, train.txt and val.txt.

Status 0: converted. Status 1: one line on stderr gives the reason, and nothing is written.
"""

import enum
import pathlib
import sys
from typing import TypeVar

from absl import flags, logging

from deeplab_tf import child_process, command
from deeplab_tf.data.convert.conversion import Request, convert, report
from deeplab_tf.data.convert.formats import FORMATS
from deeplab_tf.data.convert.photos import Orientation
from deeplab_tf.data.convert.regions import BACKGROUND, Overlaps, Vertices

FLAGS = flags.FLAGS
_OF_FORMAT = "format"
_Choice = TypeVar("_Choice", bound=enum.Enum)


def _define_flags() -> None:
    flags.DEFINE_enum("from", None, sorted(FORMATS), "Format of the labels; default: recognized.")
    flags.DEFINE_string("input", None, "Folder or file of the labels.", required=True)
    flags.DEFINE_string("output", None, "New folder.", required=True)
    flags.DEFINE_string("images", "", "Folder of the photos, if they are not below --input.")
    flags.DEFINE_string("masks", "", "Folder of mask pictures, together with --images.")
    flags.DEFINE_string(
        "classes", "", "File with the classes in the wanted order, `name` or `name red green blue`."
    )
    flags.DEFINE_list("ignored_classes", [], "Classes whose pixels are ignored (255).")
    flags.DEFINE_enum(
        "unlabelled",
        BACKGROUND,
        [BACKGROUND, "ignored"],
        "Pixels that no region covers: class 0, or ignored.",
    )
    flags.DEFINE_enum(
        "overlaps",
        _OF_FORMAT,
        [_OF_FORMAT, *(rule.value for rule in Overlaps)],
        "Which of several regions a pixel gets.",
    )
    flags.DEFINE_enum(
        "vertices",
        _OF_FORMAT,
        [_OF_FORMAT, *(one.value for one in Vertices)],
        "Whether outlines go around pixels (corners) or through them (pixels, as OpenCV's).",
    )
    flags.DEFINE_enum(
        "orientation",
        Orientation.AUTO.value,
        [one.value for one in Orientation],
        "Which picture was labelled, where a photo has an EXIF orientation.",
    )
    flags.DEFINE_bool("snap_colors", False, "Give unknown colours the nearest class's; counted.")
    flags.DEFINE_bool("fill_boxes", False, "Fill boxes of COCO and YOLO that have no outline.")
    flags.DEFINE_bool("skip_faulty", False, "Leave out what is faulty; counted.")
    flags.DEFINE_string(
        "group_by", "", "Regular expression for the group in a photo's path; groups stay together."
    )
    flags.DEFINE_string("groups", "", "File of lines `name group`; groups stay together.")
    flags.DEFINE_float("validation_share", 0.2, "Share of the photos that validate.")
    flags.DEFINE_bool("divide_again", False, "Divide although the format names train and val.")


def _path(text: str) -> pathlib.Path | None:
    return pathlib.Path(text) if text else None


def _choice(kind: type[_Choice], text: str) -> _Choice | None:
    return None if text == _OF_FORMAT else kind(text)


def main() -> int:
    """Converts what the flags name and prints classes, counts and the next command.

    Returns:
        exit status.
    """
    # Small text can become large lists: out of memory is then an error, not the machine's end.
    child_process.limit_memory(child_process.memory_allowance(child_process.WHOLE_MACHINE))
    request = Request(
        pathlib.Path(FLAGS.input),
        pathlib.Path(FLAGS.output),
        format=FLAGS["from"].value or "",
        images=_path(FLAGS.images),
        masks=_path(FLAGS.masks),
        classes=_path(FLAGS.classes),
        ignored_classes=tuple(name for name in FLAGS.ignored_classes if name),
        unlabelled_ignored=FLAGS.unlabelled != BACKGROUND,
        overlaps=_choice(Overlaps, FLAGS.overlaps),
        vertices=_choice(Vertices, FLAGS.vertices),
        orientation=Orientation(FLAGS.orientation),
        snap_colors=FLAGS.snap_colors,
        fill_boxes=FLAGS.fill_boxes,
        skip_faulty=FLAGS.skip_faulty,
        group_by=FLAGS.group_by,
        groups=_path(FLAGS.groups),
        validation_share=FLAGS.validation_share,
        divide_again=FLAGS.divide_again,
    )
    conversion = convert(request, progress=True)
    logging.info("%s: %s", request.input, FORMATS[conversion.format].title)
    sys.stdout.write(report(conversion, request.output))
    return 0


def console() -> None:
    """Runs the command line."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()
