"""Import rules for pooling, resizing, padding and slicing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.to_keras.rules import rule
from tflite_tools.to_keras.view import OperatorView, Step


@rule("AVERAGE_POOL_2D")
def average_pool2d(view: OperatorView) -> list[Step]:
    """Imports an average pooling; one over the whole input becomes a global pooling.

    A global pooling also fits other input sizes.
    """
    kernel = (view.options.filterHeight, view.options.filterWidth)
    if kernel == view.input(0).shape[1:3] and view.output.shape[1:3] == (1, 1):
        settings = {"keepdims": True}
        return [Step("global_average_pool2d", settings, suffix="_linear"), *_fused(view)]
    return _pool(view, "average_pool2d")


@rule("MAX_POOL_2D")
def max_pool2d(view: OperatorView) -> list[Step]:
    """Imports a max pooling."""
    return _pool(view, "max_pool2d")


def _pool(view: OperatorView, kind: str) -> list[Step]:
    settings = {
        "pool_size": (view.options.filterHeight, view.options.filterWidth),
        "strides": (view.options.strideH, view.options.strideW),
        "padding": "same" if view.options.padding == schema.Padding.SAME else "valid",
    }
    note = "x".join(str(size) for size in settings["pool_size"])
    return [Step(kind, settings, suffix="_linear", note=note), *_fused(view)]


def _fused(view: OperatorView) -> list[Step]:
    return view.fused_activation() or view.cut_by_range()


@rule("MEAN")
def mean(view: OperatorView) -> list[Step]:
    """Imports a mean over any axes except a batch of several."""
    axes, keepdims = _reduced(view)
    if axes == [1, 2] and len(view.input(0).shape) == 4:
        step = Step("global_average_pool2d", {"keepdims": keepdims}, suffix="_linear")
    else:
        settings = {"axes": axes, "keepdims": keepdims}
        step = Step("reduce_mean", settings, suffix="_linear", note=f"over {axes}")
    return [step, *view.cut_by_range()]


@rule("SUM", "REDUCE_MAX", "REDUCE_MIN")
def reduce(view: OperatorView) -> list[Step]:
    """Imports a sum, maximum or minimum over any axes except a batch of several."""
    axes, keepdims = _reduced(view)
    operation = {"SUM": "sum", "REDUCE_MAX": "max", "REDUCE_MIN": "min"}[view.operator.kind]
    settings = {"operation": operation, "axes": axes, "keepdims": keepdims}
    return [Step("reduce", settings, note=f"{operation} over {axes}")]


def _reduced(view: OperatorView) -> tuple[list[int], bool]:
    """Returns the reduced axes, and whether they are kept with length 1.

    A batch of 1 stays: values that lack it in the file keep all their axes, so that they are
    broadcast to a tensor with a batch as in the file.
    """
    shape = view.input(0).shape
    axes = sorted({axis % len(shape) for axis in view.integers(1)})
    if 0 not in axes:
        return axes, bool(view.options.keepDims)
    if shape[0] != 1 or len(axes) == 1:
        raise ValueError("it reduces the batch")
    return axes[1:], True


@rule("RESIZE_BILINEAR")
def resize_bilinear(view: OperatorView) -> list[Step]:
    """Imports a bilinear resize."""
    return _resize(view, "bilinear")


@rule("RESIZE_NEAREST_NEIGHBOR")
def resize_nearest(view: OperatorView) -> list[Step]:
    """Imports a resize to the nearest pixel."""
    return _resize(view, "nearest")


def _resize(view: OperatorView, interpolation: str) -> list[Step]:
    """Returns a resize to the output's stored shape: the file may compute the size at run time."""
    alignment = "legacy"
    if view.options.alignCorners:
        alignment = "align_corners"
    elif view.options.halfPixelCenters:
        alignment = "half_pixel"
    _, in_height, in_width, _ = view.input(0).shape
    _, height, width, _ = view.output.shape
    if (in_height, in_width) == (height, width):
        return []
    settings = {
        "height": height,
        "width": width,
        "interpolation": interpolation,
        "alignment": alignment,
        "like": view.sizes.get((height, width)),  # the tensor that the resize is to match
        "factor": (height / in_height, width / in_width),
    }
    return [Step("resize", settings, note=f"{interpolation}, {alignment}, {height}x{width}")]


@rule("TILE")
def tile(view: OperatorView) -> list[Step]:
    """Imports the repetition of one pixel over an area as a resize."""
    multiples = view.integers(1)
    shape = view.input(0).shape
    if len(shape) != 4 or multiples[0] != 1 or multiples[3] != 1 or shape[1:3] != (1, 1):
        raise ValueError(
            f"its input must be one pixel; got {list(shape)}, to be repeated {multiples} times"
        )
    settings = {
        "height": multiples[1],
        "width": multiples[2],
        "interpolation": "nearest",
        "alignment": "half_pixel",
        "like": view.sizes.get((multiples[1], multiples[2])),
        "factor": (float(multiples[1]), float(multiples[2])),
    }
    return [Step("resize", settings, note=f"one pixel over {multiples[1]}x{multiples[2]}")]


@rule("PAD", "PADV2")
def pad(view: OperatorView) -> list[Step]:
    """Imports a padding of any axis except the batch; zeros around an image as a stock layer."""
    paddings = _paddings(view)
    value = _pad_value(view) if view.has_input(2) else 0.0
    if not paddings.any():
        return []
    if len(paddings) == 4 and not paddings[3].any() and not value:
        zeros = tuple(tuple(int(n) for n in pair) for pair in paddings[1:3])
        return [Step("zero_padding2d", {"padding": zeros})]
    return [Step("padding", {"paddings": paddings[1:].tolist(), "value": value})]


def _pad_value(view: OperatorView) -> float:
    """Returns the padded value; a finite one for minus infinity, which a max pooling never takes.

    PyTorch's max pooling pads with minus infinity. Zeros do the same behind a ReLU, and leave the
    range of the values as it is.
    """
    stored = view.input(2).data
    if stored is None or not np.isneginf(stored.astype(np.float64)).all():
        return float(view.floats(2).item())
    readers = view.graph.consumers(view.operator.outputs[0])
    if {reader.kind for reader in readers} != {"MAX_POOL_2D"}:
        raise ValueError("it pads with minus infinity, and no max pooling follows")
    source = view.graph.producer(view.operator.inputs[0])
    fused = getattr(source.options, "fusedActivationFunction", None) if source else None
    relus = (schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6)
    positive = source is not None and (source.kind in ("RELU", "RELU6") or fused in relus)
    return 0.0 if positive else float(np.finfo(np.float32).min)


@rule("MIRROR_PAD")
def mirror_pad(view: OperatorView) -> list[Step]:
    """Imports a padding with mirrored values."""
    paddings = _paddings(view)
    reflects = view.options.mode == schema.MirrorPadMode.REFLECT
    mode = "reflect" if reflects else "symmetric"
    settings = {"paddings": paddings[1:].tolist(), "mode": mode}
    return [Step("padding", settings, note=mode)] if paddings.any() else []


def _paddings(view: OperatorView) -> np.ndarray:
    """Returns [before, after] of every axis, the batch first."""
    paddings = np.reshape(view.integers(1), (-1, 2))
    if len(paddings) != len(view.input(0).shape) or paddings.min() < 0:
        raise ValueError(f"its paddings are {paddings.tolist()}")
    if paddings[0].any():
        raise ValueError("it pads the batch")
    return paddings


@rule("SLICE")
def plain_slice(view: OperatorView) -> list[Step]:
    """Imports a slice that is given by its begin and size; size -1 goes to the end."""
    begins, sizes, shape = view.integers(1), view.integers(2), view.input(0).shape
    if len(begins) != len(shape) or len(sizes) != len(shape):
        raise ValueError(f"its begin {begins} and size {sizes} do not fit {list(shape)}")
    ends = [
        length if size == -1 else begin + size
        for begin, size, length in zip(begins, sizes, shape, strict=True)
    ]
    bounds = [slice(begin, end, 1) for begin, end in zip(begins, ends, strict=True)]
    if begins[0] != 0 or ends[0] != shape[0]:
        raise ValueError("it cuts the batch")
    if (crop := _as_crop(shape, bounds, dropped=())) is not None:
        return crop
    return [Step("strided_slice", {"slices": [(b.start, b.stop, 1) for b in bounds[1:]]})]


@rule("STRIDED_SLICE")
def strided_slice(view: OperatorView) -> list[Step]:
    """Imports a slice; one of height and width without a stride becomes a cropping."""
    options = view.options
    if options.ellipsisMask or options.newAxisMask:
        raise ValueError("its ellipsis or new axis is not supported")
    begins, ends, strides = (view.integers(slot) for slot in (1, 2, 3))
    shape = view.input(0).shape
    bounds = [
        _bounds(axis, begin, end=end, stride=stride, options=options)
        for axis, (begin, end, stride) in enumerate(zip(begins, ends, strides, strict=True))
    ]
    bounds += [slice(None)] * (len(shape) - len(bounds))
    if len(range(*bounds[0].indices(shape[0]))) != shape[0] or options.shrinkAxisMask & 1:
        raise ValueError("it cuts the batch")
    dropped = [axis for axis in range(1, len(begins)) if options.shrinkAxisMask >> axis & 1]
    if crop := _as_crop(shape, bounds, dropped=dropped):
        return crop
    slices = [(item.start, item.stop, item.step) for item in bounds[1:]]
    return [Step("strided_slice", {"slices": slices, "dropped": dropped})]


def _bounds(axis: int, begin: int, *, end: int, stride: int, options: Any) -> slice:
    """Returns the slice of one axis; the masks of the options replace its bounds."""
    if options.shrinkAxisMask >> axis & 1:
        return slice(begin, begin + 1 if begin != -1 else None, 1)
    start = None if options.beginMask >> axis & 1 else begin
    stop = None if options.endMask >> axis & 1 else begin + end if options.offset else end
    return slice(start, stop, stride)


def _as_crop(
    shape: tuple[int, ...], bounds: list[slice], *, dropped: Sequence[int]
) -> list[Step] | None:
    """Returns a stock cropping layer where only height and width are sliced, without a stride."""
    if len(shape) != 4 or dropped or any(item.step not in (1, None) for item in bounds):
        return None
    taken = [item.indices(size)[:2] for item, size in zip(bounds, shape, strict=True)]
    cuts = [(start, size - stop) for (start, stop), size in zip(taken, shape, strict=True)]
    if cuts[3] != (0, 0):
        return None
    if cuts[1] == cuts[2] == (0, 0):
        return []
    return [Step("cropping2d", {"cropping": (cuts[1], cuts[2])})]
