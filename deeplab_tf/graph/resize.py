"""Resizes logits to the image size inside a TensorFlow graph, with a convention of `Alignment`."""

import tensorflow as tf

from deeplab_tf.data.alignment import Alignment


def resize_bilinear(
    images: tf.Tensor, size: tuple[int | tf.Tensor, int | tf.Tensor], *, alignment: Alignment
) -> tf.Tensor:
    """Resizes images bilinearly; an image that has the size already is returned as it is.

    Args:
        images: float32 [batch, h, w, channels].
        size: (height, width) of the result; integers or int32 scalars.
        alignment: convention of the source coordinates.

    Returns:
        float32 [batch, height, width, channels].
    """
    height, width = size
    if images.shape[1:3].as_list() == [tf.get_static_value(height), tf.get_static_value(width)]:
        return images
    return tf.raw_ops.ResizeBilinear(
        images=images,
        size=[height, width],
        align_corners=alignment is Alignment.ALIGN_CORNERS,
        half_pixel_centers=alignment is Alignment.HALF_PIXEL,
    )
