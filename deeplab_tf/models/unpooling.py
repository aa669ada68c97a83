"""Max-unpooling, which TFLite has no operator for: in networks that measure what it is worth."""

import tensorflow as tf
import tf_keras as keras


class MaxUnpooling(keras.layers.Layer):
    """Puts each value where the maximum of its 2x2 window was, zeros beside it.

    Badrinarayanan et al. 2015, SegNet, arXiv:1511.00561. Equal maxima of a window all get it.

    Call arguments: a list of features [batch, h, w, channels], and the input
    [batch, h2, w2, channels] and output [batch, h, w, channels] of a max pool of 2x2 at stride 2,
    padding "same". Returns [batch, h2, w2, channels].
    """

    def call(self, inputs):
        features, before, pooled = inputs
        is_maximum = tf.cast(tf.equal(before, _doubled(pooled, before)), features.dtype)
        return _doubled(features, before) * tf.stop_gradient(is_maximum)


def _doubled(x, reference):
    """Each value four times, cut to the size of `reference`."""
    _, height, width, _ = reference.shape
    return tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)[:, :height, :width]
