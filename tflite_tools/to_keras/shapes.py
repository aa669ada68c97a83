"""Import rules for operators that move values without changing them."""

import numpy as np

from tflite_tools.to_keras.rules import rule
from tflite_tools.to_keras.view import OperatorView, ShapeMismatchError, Step


@rule("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
def reshape(view: OperatorView) -> list[Step]:
    """Imports RESHAPE, SQUEEZE and EXPAND_DIMS as a reshape to the output's stored shape.

    A network keeps its batch dimension: where the last operator of a file drops a batch of 1,
    the network's output still has it.
    """
    source, target = view.input(0).shape, view.output.shape
    if int(np.prod(source)) != int(np.prod(target)):
        raise ShapeMismatchError(f"its shapes {list(source)} and {list(target)} differ in size")
    if source == target:
        return []
    if view.operator.outputs[0] in view.batchless and len(target) == 1:
        return []  # leading ones: without them it would not broadcast to tensors with a batch
    if view.operator.outputs[0] in view.batchless:
        return [Step("reshape", {"target_shape": target}, note="batch dimension kept")]
    if view.operator.inputs[0] in view.batchless:
        return [Step("reshape", {"target_shape": target[1:]}, note=str(list(target[1:])))]
    if not target or target[0] != source[0] or not _keeps_batch(view, source):
        if source[0] != 1 or view.graph.consumers(view.operator.outputs[0]):
            raise ValueError(f"it moves the batch: {list(source)} to {list(target)}")
        target = (1, *target)
        note = "batch dimension kept"
    else:
        note = ""
    if source[1:] == target[1:]:
        return []
    shape = tuple(int(size) for size in target[1:])
    return [Step("reshape", {"target_shape": shape}, note=note or str(list(shape)))]


def _keeps_batch(view: OperatorView, source: tuple[int, ...]) -> bool:
    if view.operator.kind != "SQUEEZE" or source[0] != 1:
        return True
    removed = view.operator.options.squeezeDims if view.operator.options else None
    if removed is None or len(removed) == 0:
        return False  # all dimensions of 1 are removed, including the batch
    return 0 not in {int(axis) % len(source) for axis in removed}


@rule("CONCATENATION")
def concatenation(view: OperatorView) -> list[Step]:
    """Imports a concatenation of computed tensors along any axis except the batch."""
    rank = len(view.output.shape)
    axis = view.options.axis % rank
    if axis == 0:
        raise ValueError("it joins along the batch")
    if any(view.is_constant(slot) for slot in range(len(view.operator.inputs))):
        raise ValueError("one of its inputs is constant")
    slots = tuple(range(len(view.operator.inputs)))
    activation = view.fused_activation() or view.cut_by_range(slots)
    if len(view.operator.inputs) == 1:
        return activation
    return [Step("concatenate", {"axis": axis}, suffix="_linear"), *activation]


@rule("ARG_MAX")
def arg_max(view: OperatorView) -> list[Step]:
    """Imports an arg max along any axis except the batch."""
    rank = len(view.input(0).shape)
    axis = view.integers(1)[0] % rank
    if axis == 0:
        raise ValueError("it compares along the batch")
    if view.output.type_name not in ("INT32", "INT64"):
        raise ValueError(f"its output type {view.output.type_name} is not supported")
    settings = {"axis": axis, "output_type": view.output.type_name.lower()}
    return [Step("argmax", settings, note=view.output.type_name.lower())]


@rule("TRANSPOSE")
def transpose(view: OperatorView) -> list[Step]:
    """Imports a permutation of the axes; a batch of 1 that it moves stays where it is, too."""
    order, source = view.integers(1), view.input(0).shape
    if order == sorted(order):
        return []
    without_batch = view.operator.inputs[0] in view.batchless
    if without_batch or order[0] != 0:
        if not without_batch and source[0] != 1:
            raise ValueError(f"it moves a batch of {source[0]}: axes {order}")
        return _moved_batch(view, order, without_batch=without_batch)
    settings = {"class_name": "Permute", "config": {"dims": order[1:]}}
    return [Step("layer", settings, note=f"axes {order}")]


def _moved_batch(view: OperatorView, order: list[int], *, without_batch: bool) -> list[Step]:
    """Returns the permutation behind the network's own batch, which the file's tensors lack.

    Where an axis of length 1 comes first in the file, that one is the batch again.
    """
    dims = [axis + 1 for axis in order]
    target = view.output.shape
    steps = [
        Step("reshape", {"target_shape": view.input(0).shape}, suffix="_batch"),
        Step(
            "layer",
            {"class_name": "Permute", "config": {"dims": dims}},
            suffix="_order",
            note=f"axes {order}",
        ),
        Step("reshape", {"target_shape": target[1:]}),
    ]
    last = 3 if view.operator.outputs[0] not in view.batchless else 2
    return steps[1 if without_batch else 0 : last]


@rule("GATHER_ND")
def gather_nd(view: OperatorView) -> list[Step]:
    """Imports a choice of slices by constant places along the first axes after the batch."""
    if view.input(1).data is None:
        raise ValueError("its indices are computed")
    if view.operator.inputs[0] not in view.batchless:
        raise ValueError("it gathers along the batch")
    source, places = view.input(0).shape, np.asarray(view.input(1).data)
    axes = places.shape[-1]
    lengths = source[:axes]
    if places.size and (places.min() < 0 or (places.reshape(-1, axes) >= lengths).any()):
        raise ValueError(f"its indices lie outside of {list(lengths)}")
    flat = np.ravel_multi_index(tuple(places.reshape(-1, axes).T), lengths)
    rest = source[axes:]
    return [
        Step("reshape", {"target_shape": (int(np.prod(lengths)), *rest)}, suffix="_flat"),
        Step("gather", {"indices": flat.tolist(), "axis": 1}, suffix="_chosen"),
        Step("reshape", {"target_shape": (*places.shape[:-1], *rest)}, note=f"{len(flat)} places"),
    ]


@rule("SPLIT")
def split(view: OperatorView) -> list[Step]:
    """Imports one output of a split: one of the equal parts of an axis, as a slice."""
    rank = len(view.input(1).shape)
    axis, parts = view.integers(0)[0] % rank, len(view.operator.outputs)
    if axis == 0:
        raise ValueError("it cuts the batch")
    length = view.input(1).shape[axis] // parts
    cut = [None, None, 1] if parts == 1 else [view.slot * length, (view.slot + 1) * length, 1]
    slices = [cut if index == axis else [None, None, 1] for index in range(1, rank)]
    return [Step("strided_slice", {"slices": slices}, note=f"part {view.slot + 1} of {parts}")]


@rule("SPLIT_V")
def split_unevenly(view: OperatorView) -> list[Step]:
    """Imports one output of a split into parts of given sizes, as a slice."""
    rank = len(view.input(0).shape)
    sizes, axis = view.integers(1), view.integers(2)[0] % rank
    if axis == 0:
        raise ValueError("it cuts the batch")
    if len(sizes) != len(view.operator.outputs):
        raise ValueError(f"it has {len(view.operator.outputs)} outputs of sizes {sizes}")
    length = view.input(0).shape[axis]
    sizes = [length - sum(s for s in sizes if s >= 0) if size < 0 else size for size in sizes]
    start = sum(sizes[: view.slot])
    slices = [
        [start, start + sizes[view.slot], 1] if index == axis else [None, None, 1]
        for index in range(1, rank)
    ]
    return [Step("strided_slice", {"slices": slices}, note=f"part {view.slot + 1}")]


@rule("UNPACK")
def unpack(view: OperatorView) -> list[Step]:
    """Imports one output of a division along an axis, which is dropped, as a slice."""
    rank = len(view.input(0).shape)
    axis = view.options.axis % rank
    if axis == 0:
        raise ValueError("it divides the batch")
    slices = [
        [view.slot, view.slot + 1, 1] if index == axis else [None, None, 1]
        for index in range(1, rank)
    ]
    settings = {"slices": slices, "dropped": [axis]}
    return [Step("strided_slice", settings, note=f"index {view.slot} of axis {axis}")]


@rule("PACK")
def pack(view: OperatorView) -> list[Step]:
    """Imports the stacking of computed tensors along a new axis."""
    axis = view.options.axis % len(view.output.shape)
    if axis == 0:
        raise ValueError("it stacks along the batch")
    if any(view.is_constant(slot) for slot in range(len(view.operator.inputs))):
        raise ValueError("one of its inputs is constant")
    return [Step("stack", {"axis": axis})]


@rule("DEPTH_TO_SPACE")
def depth_to_space(view: OperatorView) -> list[Step]:
    """Imports the move of channel blocks into height and width, row by row of the block."""
    block = view.options.blockSize
    _, height, width, channels = view.input(0).shape
    if block < 1 or channels % block**2:
        raise ValueError(f"its {channels} channels are not a multiple of {block}^2")
    rest = channels // block**2
    order = {"class_name": "Permute", "config": {"dims": [1, 3, 2, 4, 5]}}
    return [
        Step("reshape", {"target_shape": (height, width, block, block, rest)}, suffix="_blocks"),
        Step("layer", order, suffix="_rows"),
        Step("reshape", {"target_shape": (height * block, width * block, rest)}),
    ]
