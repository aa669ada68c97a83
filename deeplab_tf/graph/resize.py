"""Bringing logits to a photo's size in a graph, by one of the conventions of `Alignment`."""

import tensorflow as tf

from deeplab_tf.data.alignment import Alignment


def resize_bilinear(images, size: tuple[int, int], *, alignment: Alignment) -> tf.Tensor:
    """float32 [batch, h, w, channels] -> float32 [batch, height, width, channels].

    `height` and `width` may be int32 tensors.
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
