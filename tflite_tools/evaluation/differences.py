"""The difference of a file's mIoU from that of another, with its interval."""

from deeplab_tf.metrics.bootstrap import Interval, common_classes, miou_difference
from deeplab_tf.metrics.resampling import Dependence
from tflite_tools.evaluation.evaluation import ModelResult


def difference_from(
    base: ModelResult,
    result: ModelResult | None,
    *,
    classes: tuple[int, ...],
    dependence: Dependence,
) -> tuple[Interval | None, tuple[int, ...]]:
    """Compares the mIoU of a file with that of another, such as float.

    Args:
        base: the result of the other, with the confusion matrix of every image.
        result: of the file, likewise; None where there is none.
        classes: classes that means are taken over; empty for all.
        dependence: which images belong together.

    Returns:
        the difference of mIoU with its interval, and the classes that both count; None and () where
        a score is missing.
    """
    if result is None or result.image_matrices is None or base.image_matrices is None:
        return None, ()
    both = common_classes(base.image_matrices, result.image_matrices, classes=classes)
    if not both:
        return None, ()
    difference = miou_difference(
        base.image_matrices, result.image_matrices, classes=classes, dependence=dependence
    )
    return difference, both
