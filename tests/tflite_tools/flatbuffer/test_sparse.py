"""Sparse weights: the schema's own example, blocks, a published file, and damaged descriptions."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.flatbuffer.sparse import to_dense

DENSE, CSR = schema.DimensionType.DENSE, schema.DimensionType.SPARSE_CSR


def axis(size=None, segments=None, indices=None):
    made = schema.DimensionMetadataT()
    if size is not None:
        made.format, made.denseSize = DENSE, size
        return made
    made.format = CSR
    made.arraySegments, made.arrayIndices = schema.Int32VectorT(), schema.Int32VectorT()
    made.arraySegments.values, made.arrayIndices.values = segments, indices
    return made


def sparsity(order, axes, blocks=None):
    made = schema.SparsityParametersT()
    made.traversalOrder, made.dimMetadata, made.blockMap = order, axes, blocks
    return made


def test_rows_with_few_columns():
    """Row 0 holds column 1, row 1 nothing, row 2 columns 0 and 3."""
    dense = to_dense(
        np.array([5, 6, 7], np.float32),
        (3, 4),
        sparsity=sparsity([0, 1], [axis(3), axis(segments=[0, 1, 1, 3], indices=[1, 0, 3])]),
    )
    expected = np.zeros((3, 4), np.float32)
    expected[0, 1], expected[2, 0], expected[2, 3] = 5, 6, 7
    np.testing.assert_array_equal(dense, expected)
    assert dense.dtype == np.float32


def test_columns_first():
    dense = to_dense(
        np.array([1, 2], np.int8),
        (2, 3),
        sparsity=sparsity([1, 0], [axis(3), axis(segments=[0, 0, 1, 2], indices=[1, 0])]),
    )
    np.testing.assert_array_equal(dense, [[0, 0, 2], [0, 1, 0]])


def test_blocks_of_two_by_two():
    """The example of schema.fbs: 4 x 4 in blocks of 2 x 2, of which two hold values."""
    axes = [axis(2), axis(segments=[0, 1, 2], indices=[0, 1]), axis(2), axis(2)]
    dense = to_dense(
        np.arange(1, 9, dtype=np.float32),
        (4, 4),
        sparsity=sparsity([0, 1, 2, 3], axes, blocks=[0, 1]),
    )
    expected = np.zeros((4, 4), np.float32)
    expected[:2, :2], expected[2:, 2:] = [[1, 2], [3, 4]], [[5, 6], [7, 8]]
    np.testing.assert_array_equal(dense, expected)


@pytest.mark.parametrize(
    ("order", "axes", "message"),
    [
        ([0, 0], [axis(3), axis(1)], "its axes"),
        ([0, 1], [axis(3)], "its axes"),
        ([0, 1], [axis(3), axis(segments=[0, 1], indices=[0])], "segments do not fit"),
        ([0, 1], [axis(3), axis(segments=[0, 2, 1, 3], indices=[0, 0, 0])], "segments do not fit"),
        ([0, 1], [axis(3), axis(segments=[0, 1, 2, 9], indices=[0, 1, 2])], "segments end at 9"),
        ([0, 1], [axis(3), axis(segments=[0, 1, 2, 3], indices=[0, 1, 7])], "outside the tensor"),
        ([0, 1], [axis(3), axis(segments=[0, 1, 1, 2], indices=[0, 1])], "2 places and has 3"),
        ([0, 1], [axis(2**31 - 1), axis(2**31 - 1)], "more places than the file"),
    ],
)
def test_contradictions_are_said(order, axes, message):
    with pytest.raises(ValueError, match=message):
        to_dense(np.ones(3, np.float32), (3, 4), sparsity=sparsity(order, axes))


def test_published_file_has_mostly_zeros(shared_dir):
    graph = read_graph(shared_dir / "models" / "third_party" / "mp_pose_detection.tflite")
    kernel = next(t for t in graph.tensors if t.name == "model_1/model/conv2d_1/Conv2D_dequantize")
    assert kernel.shape == (16, 1, 1, 24)
    assert np.count_nonzero(kernel.data) == 96
