"""Max-unpooling, for comparison only: TFLite has no operator for it."""

import tensorflow as tf
import tf_keras as keras


class MaxUnpooling(keras.layers.Layer):
    """Puts each value where the maximum of its 2x2 window was, and zeros elsewhere.

    Badrinarayanan et al. 2015, SegNet, arXiv:1511.00561. If a window has several equal maxima,
    all get the value.

    The max pool is 2x2 with stride 2 and padding "same".
    """

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """Computes the output.

        Args:
            inputs: features [batch, h, w, channels]; input [batch, h2, w2, channels] and output
                [batch, h, w, channels] of the max pool.

        Returns:
            [batch, h2, w2, channels].
        """
        features, before, pooled = inputs
        is_maximum = tf.cast(tf.equal(before, _doubled(pooled, before)), features.dtype)
        return _doubled(features, before) * tf.stop_gradient(is_maximum)


def _doubled(x: tf.Tensor, reference: tf.Tensor) -> tf.Tensor:
    """Repeats each value in a 2x2 window; the result is cut to the size of `reference`."""
    _, height, width, _ = reference.shape
    return tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)[:, :height, :width]
