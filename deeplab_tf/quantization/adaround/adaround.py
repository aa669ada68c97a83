"""AdaRound: learns from images, layer by layer, whether each weight is rounded up or down.

Nagel et al. 2020, Up or Down?, arXiv:2004.10568. Rounding to nearest minimizes the error of each
weight, but the error of the layer's output matters, in which errors of weights can cancel:

    W~   = scale * (floor(W / scale) + h(V)),   h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)
    loss = |f(W x + b) - f(W~ x~ + b)|^2 + regularization * sum(1 - |2 h(V) - 1|^beta)

x is the input of the layer in the float network, x~ that in the network with all earlier layers
quantized, f the following ReLU. As beta decreases, every h(V) converges to 0 or 1. Biases stay
float.

Every layer is computed as a product of matrices, [groups, positions, inputs] @ [groups, inputs,
outputs], over a sample of output positions; a depthwise convolution has one group per channel.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable

import numpy as np

from deeplab_tf.graph.edit import cut_after
from deeplab_tf.graph.executor import Executor, rounding_of
from deeplab_tf.graph.kernels import WITH_KERNEL, kernel_key
from deeplab_tf.graph.network import NetworkGraph, Node
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
    """Result for one layer.

    Attributes:
        name: name of the node.
        error_nearest: mean squared difference from the float network, after the activation,
            with this layer rounded to nearest and all earlier layers as learned; on held-out
            positions.
        error_learned: the same with the learned rounding; never larger.
        changed: number of weights that are not rounded to nearest.
        weights: number of weights of the kernel.
        seconds: time, including sampling.
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
        arrays: float32 "layer/weight" arrays. Every kernel is scale * q with integer q in
            -127..127; its largest weights are unchanged, so that a symmetric quantizer of the
            same kind (per channel, or per tensor) computes the same scale.
        layers: results in the order of execution.
        skipped: "layer: reason" of layers whose kernels are rounded to nearest.
    """

    arrays: dict[str, np.ndarray]
    layers: tuple[LayerRounding, ...]
    skipped: tuple[str, ...]


def learn_rounding(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    batches: Iterable[np.ndarray],
    ranges: dict[str, tuple[float, float]],
    options: AdaRoundOptions,
    per_channel: bool = True,
    progress: Callable[[LayerRounding], None] | None = None,
    ignore_empty: bool = False,
) -> AdaRound:
    """Learns the rounding of all kernels in the order of execution.

    Weights that are on the grid already do not change, so a rounded network is returned unchanged.
    An output channel with a larger error on held-out positions stays rounded to nearest. Layers
    with few positions learn little: a layer after a global pool has one position per image.

    Both networks are executed in parallel, node by node, over all images. Only values that a later
    node reads are kept, as float32: a feature map of 184 x 240 x 96 of 32 images takes 0.5 GB in
    each network.

    Args:
        description: a network without batch norms after its convolutions
            (`fold_batch_norm.fold_batch_norms`).
        arrays: its weights.
        batches: float32 [batch, height, width, channels], normalized; all of the same height and
            width, which may differ from the network's input size.
        ranges: {node or input: (min, max)} of the tensors with an 8-bit range of their own in the
            integer network, asymmetric, with 0 inside (chosen by `scheme.plan_layers`, measured
            by `ranges.observe_ranges`).
        options: options of the optimization.
        per_channel: one scale per output channel, max |kernel| / 127; False for one per kernel.
        progress: called after each layer.
        ignore_empty: whether to ignore positions that depend on empty pixels only
            (`empty_pixels`).

    Returns:
        New arrays and a report; on one machine the same for the same arguments.

    Raises:
        ValueError: no images, or of different sizes; NaN or infinity in images or arrays; a
            missing array; a range of an unknown node, or without 0 inside.
    """
    reached, _ = cut_after(description, {}, name=description.output_name)
    images = _checked_images(description, batches)
    _check_values(description, arrays, ranges=ranges)
    with_kernel = [node for node in description.nodes if node.kind in WITH_KERNEL]
    grids = {
        node.name: Grid.from_kernel(node, arrays[kernel_key(node)], per_channel=per_channel)
        for node in with_kernel
    }
    skipped = {
        name: reason for name, grid in grids.items() if (reason := _skip_reason(reached, grid.node))
    }
    rounded = {key: np.asarray(value, np.float32) for key, value in arrays.items()}
    rounded |= {kernel_key(grid.node): grid.kernel(grid.nearest) for grid in grids.values()}

    size = images[0].shape[1:3] if images[0].ndim == 4 else None
    exact = Executor(reached, arrays, size=size).start(images)
    executor = Executor(reached, rounded, size=size, rounding=rounding_of(ranges))
    quantized = executor.start(images)
    schedule = Schedule.from_options(options)
    report: list[LayerRounding] = []
    weights_of_batches = pixel_weights(images, ignore_empty)
    for index, node in enumerate(reached.nodes):
        if len(report) + len(skipped) == len(grids):
            break
        started = time.perf_counter()
        exact.step(node)
        if node.name in grids and node.name not in skipped:
            grid = grids[node.name]
            random = np.random.default_rng((options.seed, index))
            sample = draw_sample(
                grid,
                quantized.values(node.inputs[0]),
                outputs=exact.values(node.name),
                options=options,
                random=random,
                weights_of_batches=weights_of_batches,
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
        rounded,
        tuple(report),
        skipped=tuple(f"{name}: {reason}" for name, reason in skipped.items()),
    )


def _checked_images(description: NetworkGraph, batches: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Returns the batches that contain images, as float32, after checking them."""
    images = [np.asarray(batch, np.float32) for batch in batches]
    if not sum(len(batch) for batch in images):
        raise ValueError("no calibration images; give at least one")
    dimensions = 1 + len(description.input_shape)
    for index, batch in enumerate(images):
        if batch.ndim != dimensions or batch.shape[1:] != images[0].shape[1:]:
            raise ValueError(
                f"batch {index} has shape {list(batch.shape)}; expected {dimensions} dimensions "
                "and the same size for all images"
            )
        if not np.isfinite(batch).all():
            raise ValueError(f"batch {index} contains NaN or infinity; remove that image")
    return [batch for batch in images if len(batch)]


def _check_values(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    ranges: dict[str, tuple[float, float]],
) -> None:
    names = {description.input_name} | {node.name for node in description.nodes}
    for node in description.nodes:
        if node.kind in WITH_KERNEL and kernel_key(node) not in arrays:
            raise ValueError(f"{kernel_key(node)} is missing in the weights")
    for key, value in arrays.items():
        if key.rpartition("/")[0] in names and not np.isfinite(value).all():
            raise ValueError(f"{key} contains NaN or infinity; the training diverged")
    for name, (low, high) in ranges.items():
        if name not in names:
            raise ValueError(f"got a range for {name!r}, which is not a node of the network")
        if not (-np.inf < low <= 0 <= high < np.inf):
            raise ValueError(f"range of {name!r} must be finite with 0 inside; got {low}..{high}")


def _skip_reason(reached: NetworkGraph, node: Node) -> str:
    """Returns why the rounding of a layer is not learned; empty if it is."""
    if node.name not in {other.name for other in reached.nodes}:
        return "the output does not depend on it"
    if node.kind == "conv2d_transpose":
        return "it is a transposed convolution"
    if node.attributes.get("data_format") == "channels_first":
        return "its channels are first"
    return ""
