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


@tensor_function
def exponential(value: tf.Tensor) -> tf.Tensor:
    """Computes e to the power of each element."""
    return tf.exp(value)


@tensor_function
def logarithm(value: tf.Tensor) -> tf.Tensor:
    """Computes the natural logarithm of each element."""
    return tf.math.log(value)


@tensor_function
def square_root(value: tf.Tensor) -> tf.Tensor:
    """Computes the square root of each element."""
    return tf.sqrt(value)


@tensor_function
def absolute(value: tf.Tensor) -> tf.Tensor:
    """Computes the absolute value of each element."""
    return tf.abs(value)


@tensor_function
def square(value: tf.Tensor) -> tf.Tensor:
    """Computes the square of each element."""
    return tf.square(value)


@tensor_function
def floor(value: tf.Tensor) -> tf.Tensor:
    """Rounds each element down."""
    return tf.floor(value)


@tensor_function
def ceiling(value: tf.Tensor) -> tf.Tensor:
    """Rounds each element up."""
    return tf.math.ceil(value)


@tensor_function
def sine(value: tf.Tensor) -> tf.Tensor:
    """Computes the sine of each element."""
    return tf.sin(value)


@tensor_function
def cosine(value: tf.Tensor) -> tf.Tensor:
    """Computes the cosine of each element."""
    return tf.cos(value)


@tensor_function
def power(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Raises to a power, element by element."""
    return tf.pow(first, second)


@tensor_function
def floor_divide(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Divides and rounds down, element by element."""
    return tf.math.floordiv(first, second)


@tensor_function
def l2_normalize(value: tf.Tensor) -> tf.Tensor:
    """Divides by the Euclidean norm over the last axis."""
    return tf.math.l2_normalize(value, axis=-1, epsilon=1e-12)


@tensor_function
def gelu_tanh(value: tf.Tensor) -> tf.Tensor:
    """Computes the tanh form of the Gaussian error linear unit."""
    return tf.nn.gelu(value, approximate=True)


def _with_equal_ranks(first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives the tensor of lower rank axes of length 1 behind its batch.

    A constant has no batch: one of two dimensions is multiplied with every matrix.
    """
    ranks = first.shape.rank, second.shape.rank
    while 2 < first.shape.rank < ranks[1]:
        first = tf.expand_dims(first, 1)
    while 2 < second.shape.rank < ranks[0]:
        second = tf.expand_dims(second, 1)
    return first, second


@tensor_function
def matrix_product(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Multiplies matrices over the last two axes."""
    return tf.matmul(*_with_equal_ranks(first, second))


@tensor_function
def matrix_product_first_transposed(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Multiplies matrices, the first transposed."""
    return tf.matmul(*_with_equal_ranks(first, second), transpose_a=True)


@tensor_function
def matrix_product_second_transposed(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Multiplies matrices, the second transposed."""
    return tf.matmul(*_with_equal_ranks(first, second), transpose_b=True)


@tensor_function
def matrix_product_both_transposed(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Multiplies matrices, both transposed."""
    return tf.matmul(*_with_equal_ranks(first, second), transpose_a=True, transpose_b=True)


@tensor_function
def less(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Compares element by element."""
    return tf.less(first, second)


@tensor_function
def less_equal(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Compares element by element."""
    return tf.less_equal(first, second)


@tensor_function
def greater(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Compares element by element."""
    return tf.greater(first, second)


@tensor_function
def greater_equal(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Compares element by element."""
    return tf.greater_equal(first, second)


@tensor_function
def equal(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Compares element by element."""
    return tf.equal(first, second)


@tensor_function
def not_equal(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Compares element by element."""
    return tf.not_equal(first, second)


@tensor_function
def logical_and(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Combines truth values."""
    return tf.logical_and(first, second)


@tensor_function
def logical_or(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Combines truth values."""
    return tf.logical_or(first, second)


@tensor_function
def logical_not(value: tf.Tensor) -> tf.Tensor:
    """Reverses truth values."""
    return tf.logical_not(value)


@tensor_function
def select(condition: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Takes the first where the condition holds, else the second."""
    return tf.where(tf.cast(condition, tf.bool), first, second)  # constants are stored as floats
