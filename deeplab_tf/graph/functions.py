"""Tensor functions of imported networks that no stock Keras layer computes.

A function is registered under its own name; the operator table names it
(`tflite_tools.flatbuffer.operators`), and the layer `TensorFunction` applies it.
"""

from collections.abc import Callable

import tensorflow as tf

Function = Callable[..., tf.Tensor]
FUNCTIONS: dict[str, Function] = {}
"""{name: function of one or more tensors that broadcast}; filled by `tensor_function`."""


def tensor_function(function: Function) -> Function:
    """Registers a function under its name.

    Args:
        function: function of one or more tensors that broadcast.

    Returns:
        The function itself.
    """
    FUNCTIONS[function.__name__] = function
    return function


@tensor_function
def divide(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Divides element by element."""
    return first / second


@tensor_function
def rsqrt(value: tf.Tensor) -> tf.Tensor:
    """Computes one over the square root, element by element."""
    return tf.math.rsqrt(value)


@tensor_function
def squared_difference(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Computes the square of the difference, element by element."""
    return tf.math.squared_difference(first, second)
