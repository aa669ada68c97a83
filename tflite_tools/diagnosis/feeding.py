"""Checks whether photos are fed as in the training: range, channel order, orientation."""

from collections.abc import Callable

import numpy as np

from deeplab_tf.data.preprocessing import place
from deeplab_tf.metrics import confusion
from deeplab_tf.metrics.bootstrap import Interval, miou_difference
from deeplab_tf.metrics.resampling import Dependence
from tflite_tools.diagnosis.case import Case
from tflite_tools.diagnosis.finding import Finding, problem, warning
from tflite_tools.diagnosis.observation import Observations
from tflite_tools.diagnosis.views import (
    DECLARED,
    REVERSED,
    TRANSPOSED,
    UPSIDE_DOWN,
    describe,
)
from tflite_tools.input_contract import PreprocessingSource, quantized_preprocessing
from tflite_tools.likely_normalizations import normalizes_itself

_OTHER_UNITS = 16.0
"""Ranges whose widths differ more are pixels and normalized values, not two normalizations."""
_TOLERANCE = 0.02
"""Relative. 1/127.5 against 1/128 differs by 0.4%: half a gray level at the brightest pixel."""
_GAIN = 0.03
"""mIoU, a fraction: another feeding must score better by this much, and significantly."""
_FEW_PHOTOS = 6
"""From this number on, photos that all agree are significant: 2 / 2^6 = 3 %, with five 6 %. A
bootstrap of fewer photos repeats the same ones and underestimates the variance."""
_FEW_LEVELS = 8
_COVERED_MORE = 0.2
_RAW = "Normalize photos as in the training before feeding: (pixel - mean) / std"
_TWICE = "Normalize once: an integer input takes camera bytes, its scale is the normalization"


def input_range(case: Case, seen: Observations) -> list[Finding]:
    """Compares the range of normalized pixels with the range of the input; no photo is run."""
    del seen
    declared = case.contract.preprocessing.input_range
    expected = _expected_range(case)
    if expected is None:
        return []
    ratio = (declared[1] - declared[0]) / (expected[1] - expected[0])
    text = (
        f"pixels 0..255 become {describe(case.contract.preprocessing)}, the file's input covers "
        f"[{expected[0]:.3g}, {expected[1]:.3g}]"
    )
    if case.contract.preprocessing_source is PreprocessingSource.ASSUMED:
        if _alike(declared, expected):
            return []
        cure = "Give the normalization of the training (--mean, --std); other checks are skipped."
        return [warning("unknown_normalization", f"{text}; the first is an assumption", cure)]
    by_hand = case.given_preprocessing or case.contract.input_quantization is None
    if by_hand and ratio > _OTHER_UNITS:
        return [problem("raw_pixels", f"{text}: {ratio:.0f} times wider", f"{_RAW}.")]
    if by_hand and ratio < 1 / _OTHER_UNITS:
        return [problem("normalized_twice", f"{text}: {1 / ratio:.0f} times narrower", f"{_TWICE}")]
    width = expected[1] - expected[0]
    if _alike(declared, expected):
        return []
    apart = max(abs(a - b) for a, b in zip(declared, expected, strict=True)) / width
    return [
        problem(
            "input_scale",
            f"{text}: {apart:.0%} of the range apart",
            "Calibrate on photos that are normalized as manifest or metadata say, with both 0 and "
            "255 among the pixels; or give the normalization that the file was made with (--mean, "
            "--std).",
        )
    ]


def _alike(declared: tuple[float, float], expected: tuple[float, float]) -> bool:
    slack = _TOLERANCE * (expected[1] - expected[0])
    return all(abs(a - b) <= slack for a, b in zip(declared, expected, strict=True))


def _expected_range(case: Case) -> tuple[float, float] | None:
    """Returns the real values that the input can hold, or that the graph itself normalizes."""
    graph, image = case.graph, case.input_tensor
    followers = graph.consumers(image.index)
    if image.is_float and len(followers) == 1 and followers[0].kind == "QUANTIZE":
        image = graph.tensors[followers[0].outputs[0]]
    if own := quantized_preprocessing(image, case.contract.channels):
        return own.input_range
    return (0.0, 255.0) if normalizes_itself(graph) else None


def pixel_values(case: Case, seen: Observations) -> list[Finding]:
    """Finds photos that were normalized before they were stored."""
    del case
    narrow = [pair for pair in seen.pixel_ranges if pair[1] - pair[0] < _FEW_LEVELS]
    if not seen.pixel_ranges or 2 * len(narrow) <= len(seen.pixel_ranges):
        return []
    low, high = min(pair[0] for pair in narrow), max(pair[1] for pair in narrow)
    return [
        problem(
            "normalized_twice",
            f"{len(narrow)} of {len(seen.pixel_ranges)} photos hold only pixel values {low}..{high}"
            ": they were normalized before they were stored or given",
            "Give photos as the camera gives them, 0..255; the file's contract normalizes once.",
        )
    ]


def normalization(case: Case, seen: Observations) -> list[Finding]:
    """Checks whether another normalization scores better."""
    best = _first_of_the_best(
        {
            name: matrices
            for name, matrices in seen.views.items()
            if name not in (DECLARED, REVERSED, TRANSPOSED, UPSIDE_DOWN)
        }
    )
    if best is None or not (evidence := _better(seen, best)):
        return []
    declared = case.contract.preprocessing.input_range
    found = seen.view_contracts[best].preprocessing
    low, high = found.input_range
    ratio = (declared[1] - declared[0]) / (high - low)
    mean, std = (",".join(f"{value:g}" for value in part) for part in (found.mean, found.std))
    flags = f"here --mean={mean} --std={std}"
    text = f"fed as {describe(case.contract.preprocessing)}; {evidence}"
    if case.contract.preprocessing_source is PreprocessingSource.ASSUMED:
        cure = f"Give the normalization of the training; {flags} scores better."
        return [warning("unknown_normalization", f"{text}; the first is an assumption", cure)]
    make = _severity(seen)
    if ratio > _OTHER_UNITS:
        return [make("raw_pixels", text, f"{_RAW}; {flags}.")]
    if ratio < 1 / _OTHER_UNITS:
        return [make("normalized_twice", text, f"{_TWICE}; {flags}.")]
    cure = f"Use the normalization of the training; {flags} scores better."
    return [make("other_normalization", text, cure)]


def _first_of_the_best(views: dict[str, np.ndarray]) -> str | None:
    """Returns the first view that is not significantly worse than the one of highest mIoU."""
    if not views:
        return None
    highest = max(views.values(), key=_mean_iou)
    alike = (name for name in views if _gain(views[name], highest).low <= 0)
    return next(alike, None)


def channel_order(case: Case, seen: Observations) -> list[Finding]:
    """Checks whether blue-green-red scores better than red-green-blue."""
    del case
    if REVERSED not in seen.views or not (evidence := _better(seen, REVERSED)):
        return []
    return [
        _severity(seen)(
            "channel_order",
            evidence,
            "Give photos and network one channel order: OpenCV reads blue first, this project "
            "and most networks take red first.",
        )
    ]


def orientation(case: Case, seen: Observations) -> list[Finding]:
    """Checks whether photos or the canvas are transposed, or photos upside down."""
    if TRANSPOSED in seen.views and (evidence := _better(seen, TRANSPOSED)):
        return [
            _severity(seen)(
                "width_height_swapped",
                evidence,
                "Photos are transposed: arrays are [height, width, channels], Pillow's size is "
                "(width, height).",
            )
        ]
    if UPSIDE_DOWN in seen.views and (evidence := _better(seen, UPSIDE_DOWN)):
        return [
            _severity(seen)(
                "upside_down",
                evidence,
                "Photos are upside down relative to their masks: phones store that as an EXIF tag, "
                "which is not applied here; deeplab_tf.data.check names such photos.",
            )
        ]
    if not seen.sizes:
        return []
    height, width = case.contract.height, case.contract.width
    covered = float(np.median([_covered(size, height, width=width) for size in seen.sizes]))
    swapped = float(np.median([_covered(size, width, width=height) for size in seen.sizes]))
    if swapped - covered < _COVERED_MORE:
        return []
    return [
        problem(
            "width_height_swapped",
            f"photos cover {covered:.0%} of the canvas {height} x {width} (height x width); of "
            f"{width} x {height} they would cover {swapped:.0%}",
            "Export with height and width swapped (--size=height,width), or rotate the photos.",
        )
    ]


def _covered(size: tuple[int, int], height: int, *, width: int) -> float:
    _, placement = place(np.zeros((*size, 1), np.uint8), (height, width))
    return placement.height * placement.width / (height * width)


def _true_classes(matrices: np.ndarray) -> tuple[int, ...]:
    """Returns the classes that the photos contain; others cannot gain by another feeding."""
    return tuple(np.flatnonzero(matrices.sum((0, 2))).tolist())


def _mean_iou(matrices: np.ndarray) -> float:
    return confusion.mean_iou(matrices.sum(0), _true_classes(matrices))[0]


def _gain(first: np.ndarray, second: np.ndarray) -> Interval:
    # The photos are spread over the list, and `_severity` says where they are few.
    return miou_difference(
        first,
        second,
        dependence=Dependence(tuple(str(number) for number in range(len(first)))),
        classes=_true_classes(first),
        fewest_units=1,
    )


def _severity(seen: Observations) -> Callable[[str, str, str], Finding]:
    """Returns `problem`, or `warning` if there are too few photos for one."""
    return warning if len(seen.views[DECLARED]) < _FEW_PHOTOS else problem


def _better(seen: Observations, view: str) -> str:
    """Returns the numbers if this feeding is significantly better than the declared; else ""."""
    declared, other = seen.views[DECLARED], seen.views[view]
    interval = _gain(declared, other)
    if not (interval.difference >= _GAIN and interval.low > 0):
        return ""
    few = ", too few to be sure" if len(declared) < _FEW_PHOTOS else ""
    return (
        f"mIoU {_mean_iou(declared):.1%} as declared, {_mean_iou(other):.1%} with {view} "
        f"({len(declared)} photos{few}, gain {interval.low:.1%} to {interval.high:.1%})"
    )
