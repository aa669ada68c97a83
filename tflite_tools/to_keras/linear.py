"""Import rules for products of matrices and for operators that pick values by index."""

import numpy as np

from tflite_tools.to_keras.rules import rule
from tflite_tools.to_keras.view import OperatorView, Step

_PRODUCTS = {
    (False, False): "matrix_product",
    (True, False): "matrix_product_first_transposed",
    (False, True): "matrix_product_second_transposed",
    (True, True): "matrix_product_both_transposed",
}
"""{(first transposed, second transposed): function in `deeplab_tf.graph.functions`}."""


@rule("BATCH_MATMUL")
def batch_matmul(view: OperatorView) -> list[Step]:
    """Imports a product over the last two axes, of two tensors or with a constant."""
    slots = [slot for slot in (0, 1) if view.is_constant(slot)]
    constants = {f"constant{slot}": view.floats(slot) for slot in slots}
    transposed = (bool(view.options.adjX), bool(view.options.adjY))
    settings = {
        "function": _PRODUCTS[transposed],
        "constants": [[slot, list(constants[f"constant{slot}"].shape)] for slot in slots],
    }
    return [Step("tensor_function", settings, weights=constants)]


@rule("GATHER")
def gather(view: OperatorView) -> list[Step]:
    """Imports a choice by constant indices along any axis except the batch."""
    rank = len(view.input(0).shape)
    axis, indices = view.options.axis % rank, np.asarray(view.input(1).data)
    if view.input(1).data is None:
        raise ValueError("its indices are computed")
    if axis == 0 or view.options.batchDims:
        raise ValueError("it gathers along the batch")
    if indices.ndim > 1:
        raise ValueError(f"its indices have shape {list(indices.shape)}, not one dimension")
    length = view.input(0).shape[axis]
    if indices.size and not (indices.min() >= 0 and indices.max() < length):
        raise ValueError(f"its indices reach from {indices.min()} to {indices.max()} of {length}")
    settings = {"indices": indices.tolist(), "axis": axis}
    return [Step("gather", settings, note=f"{indices.size} of axis {axis}")]


@rule("SPACE_TO_DEPTH")
def space_to_depth(view: OperatorView) -> list[Step]:
    """Imports the move of blocks of height and width into the channels."""
    block = view.options.blockSize
    _, height, width, channels = view.input(0).shape
    if block < 1 or height % block or width % block:
        raise ValueError(f"its {height}x{width} pixels are no multiple of {block}x{block}")
    order = {"class_name": "Permute", "config": {"dims": [1, 3, 2, 4, 5]}}
    blocks = (height // block, block, width // block, block, channels)
    target = (height // block, width // block, block * block * channels)
    return [
        Step("reshape", {"target_shape": blocks}, suffix="_blocks"),
        Step("layer", order, suffix="_rows"),
        Step("reshape", {"target_shape": target}),
    ]
