"""AdaRound: every weight learns from photos whether it is rounded up or down, layer by layer.

Nagel et al. 2020, up or down?, arXiv:2004.10568. Nearest rounding makes the error of each weight
small; what counts is the layer's output, where the errors of many weights can cancel:

    W~   = scale * (floor(W / scale) + h(V)),   h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)
    loss = |f(W x + b) - f(W~ x~ + b)|^2 + regularization * sum(1 - |2 h(V) - 1|^beta)

x is the layer's input in the float network, x~ the one in the network as quantized so far, f the
ReLU that follows. beta falls, and with it every h(V) goes to 0 or to 1. Biases stay float.

Every layer is a product of matrices here, [groups, positions, inputs] @ [groups, inputs, outputs],
over a sample of output positions; a depthwise convolution has as many groups as channels.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable

import numpy as np

from deeplab_tf.graph.edit import cut_after
from deeplab_tf.graph.executor import Executor, rounding_of
from deeplab_tf.graph.kernels import WITH_KERNEL, kernel_key
from deeplab_tf.graph.network import NetworkDescription, Node
from deeplab_tf.quantization.adaround.descent import (
    Schedule,
    activation_after,
    build_problem,
    solve_layer,
)
from deeplab_tf.quantization.adaround.grid import Grid
from deeplab_tf.quantization.adaround.options import AdaRoundOptions
from deeplab_tf.quantization.adaround.sample import draw_sample
from deeplab_tf.quantization.calibration.empty_pixels import pixel_weights


@dataclasses.dataclass(frozen=True)
class LayerRounding:
    """What was learned for one layer.

    Attributes:
        name: of the node.
        error_nearest: mean squared difference from the float network, behind the activation,
            with this layer rounded to nearest and all before it as learned; on positions that
            did not teach.
        error_learned: the same with the learned rounding; never larger.
        changed: weights that are not rounded to nearest.
        weights: of the kernel.
        seconds: sampling included.
    """

    name: str
    error_nearest: float
    error_learned: float
    changed: int
    weights: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class AdaRound:
    """A network whose kernels lie on the int8 grid.

    Attributes:
        arrays: float32 "layer/weight" arrays. Every kernel is scale * q with whole q in
            -127..127; its largest weights stay what they were, so that a symmetric quantizer
            of the same kind (per channel, or per tensor) finds the same scale again.
        layers: in the order of execution.
        left: "layer: why not" of layers whose kernels are rounded to nearest.
    """

    arrays: dict[str, np.ndarray]
    layers: tuple[LayerRounding, ...]
    left: tuple[str, ...]


def learn_rounding(
    description: NetworkDescription,
    arrays: dict[str, np.ndarray],
    *,
    batches: Iterable[np.ndarray],
    ranges: dict[str, tuple[float, float]],
    options: AdaRoundOptions,
    per_channel: bool = True,
    progress: Callable[[LayerRounding], None] | None = None,
    ignore_empty: bool = False,
) -> AdaRound:
    """Learns the rounding of all kernels, each layer behind those that are learned already.

    Weights that are on the grid already stay, so a rounded network comes back as it is. An
    output channel that errs more on positions held out of learning stays rounded to nearest.
    What the photos do not show is not learned: a layer behind a global pool has one position
    a photo.

    Both networks are walked node by node, side by side, over all photos. Only values that a
    later node reads are kept, float32: a feature map of 184 x 240 x 96 of 32 photos takes
    0.5 GB in each network.

    Args:
        description, arrays: a network without batch norms behind its convolutions
            (`folding.fold_batch_norms`).
        batches: float32 [batch, height, width, channels], normalized; all of one height and
            width, which need not be the network's own.
        ranges: {node or input: (min, max)} of the tensors that have 8 bits of their own in
            the integer network, asymmetric, with 0 inside (`scheme.plan_layers` says which,
            `ranges.observe_ranges` measures them).
        options: how it is learned.
        per_channel: one scale an output channel, max |kernel| / 127; else one a kernel.
        progress: called behind each layer.
        ignore_empty: learn nothing from positions that see only empty pixels (`empty_pixels`).

    Returns:
        new arrays and a report; on one machine the same for the same arguments.

    Raises:
        ValueError: no photos, or of several sizes; NaN or infinity in photos or arrays; an
            array that is missing; a range of an unknown node, or without 0 inside.
    """
    reached, _ = cut_after(description, {}, name=description.output_name)
    photos = _checked_photos(description, batches)
    _check_values(description, arrays, ranges=ranges)
    with_kernel = [node for node in description.nodes if node.kind in WITH_KERNEL]
    grids = {
        node.name: Grid.from_kernel(node, arrays[kernel_key(node)], per_channel)
        for node in with_kernel
    }
    left = {name: why for name, grid in grids.items() if (why := _why_not(reached, grid.node))}
    rounded = {key: np.asarray(value, np.float32) for key, value in arrays.items()}
    rounded |= {kernel_key(grid.node): grid.kernel(grid.nearest) for grid in grids.values()}

    size = photos[0].shape[1:3] if photos[0].ndim == 4 else None
    exact = Executor(reached, arrays, size=size).start(photos)
    executor = Executor(reached, rounded, size=size, rounding=rounding_of(ranges))
    quantized = executor.start(photos)
    schedule, report = Schedule.of(options), []
    weights_of_batches = pixel_weights(photos, ignore_empty)
    for index, node in enumerate(reached.nodes):
        if len(report) + len(left) == len(grids):
            break
        started = time.perf_counter()
        exact.step(node)
        if node.name in grids and node.name not in left:
            grid = grids[node.name]
            random = np.random.default_rng((options.seed, index))
            read, given = quantized.values(node.inputs[0]), exact.values(node.name)
            sample = draw_sample(
                grid,
                read,
                outputs=given,
                options=options,
                random=random,
                every_weights=weights_of_batches,
            )
            function = activation_after(reached, node, arrays=arrays)
            problem = build_problem(
                grid, sample, arrays=arrays, function=function, batch_pixels=options.batch_pixels
            )
            steps, errors = solve_layer(problem, sample, grid=grid, schedule=schedule)
            rounded[kernel_key(node)] = grid.kernel(steps)
            executor.set_weight(kernel_key(node), rounded[kernel_key(node)])
            changed = int((steps != grid.nearest).sum())
            seconds = time.perf_counter() - started
            report.append(
                LayerRounding(
                    node.name,
                    errors[0],
                    error_learned=errors[1],
                    changed=changed,
                    weights=steps.size,
                    seconds=seconds,
                )
            )
            if progress is not None:
                progress(report[-1])
        quantized.step(node)
    return AdaRound(
        rounded, tuple(report), left=tuple(f"{name}: {why}" for name, why in left.items())
    )


def _checked_photos(description: NetworkDescription, batches) -> list[np.ndarray]:
    photos = [np.asarray(batch, np.float32) for batch in batches]
    if not sum(len(batch) for batch in photos):
        raise ValueError("no calibration images; give at least one")
    for index, batch in enumerate(photos):
        if batch.ndim != 1 + len(description.input_shape) or batch.shape[1:] != photos[0].shape[1:]:
            raise ValueError(
                f"batch {index} has shape {list(batch.shape)}; all need one size and "
                f"{1 + len(description.input_shape)} dimensions"
            )
        if not np.isfinite(batch).all():
            raise ValueError(f"batch {index} holds NaN or infinity")
    return [batch for batch in photos if len(batch)]


def _check_values(description: NetworkDescription, arrays, *, ranges) -> None:
    names = {description.input_name} | {node.name for node in description.nodes}
    for node in description.nodes:
        if node.kind in WITH_KERNEL and kernel_key(node) not in arrays:
            raise ValueError(f"{kernel_key(node)} is missing")
    for key, value in arrays.items():
        if key.rpartition("/")[0] in names and not np.isfinite(value).all():
            raise ValueError(f"{key} holds NaN or infinity; the training diverged")
    for name, (low, high) in ranges.items():
        if name not in names:
            raise ValueError(f"there is a range for {name!r}, which is no node of the network")
        if not (-np.inf < low <= 0 <= high < np.inf):
            raise ValueError(f"range of {name!r} must be finite with 0 inside; got {low}..{high}")


def _why_not(reached: NetworkDescription, node: Node) -> str:
    """Why the rounding of a layer is not learned; empty where it is."""
    if node.name not in {other.name for other in reached.nodes}:
        return "the output does not depend on it"
    if node.kind == "conv2d_transpose":
        return "it is a transposed convolution"
    if node.attributes.get("data_format") == "channels_first":
        return "its channels come first"
    return ""
