"""Dense values of weights that a file stores sparse.

schema.fbs, `SparsityParameters`: the axes, and behind them the axes inside a block, are stored in
`traversalOrder`; each is DENSE (all indices) or SPARSE_CSR (only those that `arrayIndices` lists
between two entries of `arraySegments`, per index of the axes before it). `blockMap` names the axis
that each block axis divides.
"""

import math

import numpy as np
from ai_edge_litert import schema_py_generated as schema


def to_dense(
    values: np.ndarray, shape: tuple[int, ...], *, sparsity: schema.SparsityParametersT
) -> np.ndarray:
    """Puts stored values in their places; the others are 0.

    Args:
        values: those that are stored, one-dimensional.
        shape: of the tensor.
        sparsity: the schema's description of the places.

    Returns:
        An array of the tensor's shape.

    Raises:
        ValueError: the description contradicts itself, the shape or the number of values.
    """
    order = [int(axis) for axis in sparsity.traversalOrder]
    blocks = [int(axis) for axis in sparsity.blockMap] if sparsity.blockMap is not None else []
    rank, axes = len(shape), sparsity.dimMetadata or []
    if sorted(order) != list(range(rank + len(blocks))) or len(axes) != len(order):
        raise ValueError(f"its axes {order} do not fit {rank} dimensions and {len(blocks)} blocks")
    if any(not 0 <= axis < rank for axis in blocks):
        raise ValueError(f"its blocks divide the axes {blocks}")
    # Every place is a value or has a segment in the file: a small file cannot fill the memory.
    stored = [len(values), *(len(axis.arraySegments.values) for axis in axes if _is_sparse(axis))]
    paths = np.zeros((1, 0), np.int64)
    for axis in axes:
        parents, indices = _indices(axis, len(paths), most=max(stored))
        paths = np.concatenate([paths[parents], indices[:, None]], axis=1)
    if len(paths) != len(values):
        raise ValueError(f"it names {len(paths)} places and has {len(values)} values")
    places = np.zeros((len(paths), rank), np.int64)
    sizes = {}
    for column, axis in enumerate(order):
        if axis >= rank:
            sizes[axis - rank] = int(axes[column].denseSize)
    for column, axis in enumerate(order):
        if axis < rank:
            inside = math.prod(size for block, size in sizes.items() if blocks[block] == axis)
            places[:, axis] += paths[:, column] * inside
        else:
            places[:, blocks[axis - rank]] += paths[:, column]
    if len(places) and ((places < 0) | (places >= np.array(shape))).any():
        raise ValueError("it names a place outside the tensor")
    dense = np.zeros(shape, values.dtype)
    dense[tuple(places.T)] = values
    return dense


def _is_sparse(axis: schema.DimensionMetadataT) -> bool:
    return axis.format != schema.DimensionType.DENSE


def _indices(
    axis: schema.DimensionMetadataT, parents: int, *, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for each entry of an axis, its parent among the axes before, and its index."""
    if not _is_sparse(axis):
        size = int(axis.denseSize)
        if size < 0 or parents * size > most:
            raise ValueError("it names more places than the file holds")
        return np.repeat(np.arange(parents), size), np.tile(np.arange(size), parents)
    segments = np.asarray(axis.arraySegments.values, np.int64)
    indices = np.asarray(axis.arrayIndices.values, np.int64)
    counts = np.diff(segments)
    if len(segments) != parents + 1 or (counts < 0).any() or segments[0] != 0:
        raise ValueError("its segments do not fit the axes before them")
    if segments[-1] != len(indices):
        raise ValueError(f"its segments end at {segments[-1]}, it has {len(indices)} indices")
    return np.repeat(np.arange(parents), counts), indices
