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
import typing
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from deeplab_tf.models.imported import (
    IDENTITY,
    NetworkDescription,
    Node,
    build_imported,
    cut_after,
)
from deeplab_tf.quantization.apply import short_name
from deeplab_tf.quantization.kernels import (
    WITH_KERNEL,
    along_outputs,
    bias_key,
    int8_scales,
    kernel_key,
    output_channels,
)

LARGEST_SAMPLE_BYTES = 2**28
"""A layer with wide windows keeps fewer positions, so that its sample stays below this."""
HELD_OUT_SHARE = 0.2
"""Of the positions: they do not teach, they judge what was learned."""
ON_GRID = 1e-4
"""Steps; float32 rounding of a kernel moves its weights by up to 127 * 2^-24 = 8e-6."""
_PINNED = -20.0
"""V of a weight that is not learned: h(V) = 0, and so is its gradient."""


@dataclasses.dataclass(frozen=True)
class AdaRoundOptions:
    """How the rounding of a layer is learned.

    Attributes:
        iterations: Adam steps a layer.
        batch_pixels: output positions a step.
        sample_pixels: output positions kept of a layer, drawn from all photos alike.
        learning_rate: of Adam, for V.
        regularization: weight of the pull to 0 or 1. The error beside it is divided by what
            one step of a weight changes at an input of root mean square size, so that one
            value fits every layer; 0.1 to 1 did about equally well, 0.01 worse. (The paper's
            0.01 stands beside an error in units of the activations.)
        warm_start: share of the iterations without the pull.
        beta_start, beta_end: the exponent falls from one to the other along a cosine.
        seed: of the positions.

    Raises:
        ValueError: a value outside its bounds, named.
    """

    iterations: int = 1000
    batch_pixels: int = 512
    sample_pixels: int = 16384
    learning_rate: float = 0.03
    regularization: float = 0.3
    warm_start: float = 0.2
    beta_start: float = 20.0
    beta_end: float = 2.0
    seed: int = 0

    def __post_init__(self):
        for name in ("iterations", "batch_pixels", "sample_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("learning_rate", "regularization"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        if not 0 <= self.warm_start < 1:
            raise ValueError(f"warm_start is a share, 0 to below 1; got {self.warm_start}")
        if not 1 < self.beta_end <= self.beta_start < np.inf:
            raise ValueError(
                "beta falls from beta_start to beta_end, both above 1; "
                f"got {self.beta_start} and {self.beta_end}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more; got {self.seed}")


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
    batches: Iterable[np.ndarray],
    ranges: dict[str, tuple[float, float]],
    options: AdaRoundOptions,
    per_channel: bool = True,
    progress: Callable[[LayerRounding], None] | None = None,
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

    Returns:
        new arrays and a report; on one machine the same for the same arguments.

    Raises:
        ValueError: no photos, or of several sizes; NaN or infinity in photos or arrays; an
            array that is missing; a range of an unknown node, or without 0 inside.
    """
    reached, _ = cut_after(description, {}, description.output_name)
    photos = _checked_photos(description, batches)
    _check_values(description, arrays, ranges)
    with_kernel = [node for node in description.nodes if node.kind in WITH_KERNEL]
    grids = {
        node.name: _Grid.of(node, arrays[kernel_key(node)], per_channel) for node in with_kernel
    }
    left = {name: why for name, grid in grids.items() if (why := _why_not(reached, grid.node))}
    rounded = {key: np.asarray(value, np.float32) for key, value in arrays.items()}
    rounded |= {kernel_key(grid.node): grid.kernel(grid.nearest) for grid in grids.values()}

    exact, quantized = _Walk(reached, arrays, photos, {}), _Walk(reached, rounded, photos, ranges)
    schedule, report = _Schedule.of(options), []
    for index, node in enumerate(reached.nodes):
        if len(report) + len(left) == len(grids):
            break
        started = time.perf_counter()
        exact.step(node)
        if node.name in grids and node.name not in left:
            grid = grids[node.name]
            random = np.random.default_rng((options.seed, index))
            sample = _draw(grid, quantized.read_by(node), exact.values[node.name], options, random)
            function = _function_behind(reached, node, arrays)
            problem = _pose(grid, sample, arrays, function, options.batch_pixels)
            steps, errors = _solve(problem, sample, grid, schedule)
            rounded[kernel_key(node)] = grid.kernel(steps)
            quantized.replace_kernel(node, rounded[kernel_key(node)])
            changed = int((steps != grid.nearest).sum())
            seconds = time.perf_counter() - started
            report.append(LayerRounding(node.name, *errors, changed, steps.size, seconds))
            if progress is not None:
                progress(report[-1])
        quantized.step(node)
    return AdaRound(rounded, tuple(report), tuple(f"{name}: {why}" for name, why in left.items()))


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


def _check_values(description: NetworkDescription, arrays, ranges) -> None:
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


@dataclasses.dataclass(frozen=True)
class _Grid:
    """A kernel on its int8 grid.

    Attributes:
        node: the layer.
        exact: kernel / scale, float64, in the kernel's shape.
        scales: one an output channel, float64 [channels]; 1 where all weights are 0.
    """

    node: Node
    exact: np.ndarray
    scales: np.ndarray

    @classmethod
    def of(cls, node: Node, kernel: np.ndarray, per_channel: bool) -> "_Grid":
        kernel = kernel.astype(np.float64)
        scales = int8_scales(node, kernel, per_channel)
        return cls(node, kernel / along_outputs(node, kernel, scales), scales)

    @property
    def nearest(self) -> np.ndarray:
        return np.rint(self.exact)

    @property
    def fixed(self) -> np.ndarray:
        """Weights that stay: on the grid already, as zeros and the largest are."""
        return np.abs(self.exact - self.nearest) < ON_GRID

    @property
    def below(self) -> np.ndarray:
        """The step below each weight; of those that stay, their own."""
        return np.where(self.fixed, self.nearest, np.floor(self.exact))

    def kernel(self, steps: np.ndarray) -> np.ndarray:
        """scale * steps, float32."""
        return (steps * along_outputs(self.node, self.exact, self.scales)).astype(np.float32)

    @property
    def groups(self) -> int:
        if self.node.kind == "depthwise_conv2d":
            return self.exact.shape[2]
        return int(self.node.attributes.get("groups", 1))

    def matrix(self, values: np.ndarray) -> np.ndarray:
        """Values in the kernel's shape -> [groups, inputs, outputs]."""
        channels = output_channels(self.node, self.exact)
        split = values.reshape(-1, self.groups, channels // self.groups)
        return split.transpose(1, 0, 2)

    def from_matrix(self, values: np.ndarray) -> np.ndarray:
        return values.transpose(1, 0, 2).reshape(self.exact.shape)

    def row(self, values: np.ndarray) -> np.ndarray:
        """One value an output channel -> [groups, 1, outputs]."""
        return values.reshape(self.groups, 1, -1)


class _Walk:
    """A network that computes node by node and forgets what no later node reads.

    Attributes:
        values: {node or input: one tensor a batch}.
    """

    def __init__(self, description: NetworkDescription, arrays, photos: list[np.ndarray], ranges):
        size = photos[0].shape[1:3] if photos[0].ndim == 4 else ()
        self._model = build_imported(description, *size)
        for layer in self._model.layers:
            layer.set_weights([_array_of(layer, variable, arrays) for variable in layer.weights])
        self._ranges = ranges
        self._last_reader = {name: node.name for node in description.nodes for name in node.inputs}
        image = description.input_name
        self.values = {image: [self._rounded(image, tf.constant(batch)) for batch in photos]}

    def read_by(self, node: Node) -> list[tf.Tensor]:
        return self.values[node.inputs[0]]

    def replace_kernel(self, node: Node, kernel: np.ndarray) -> None:
        name = kernel_key(node).rpartition("/")[2]
        getattr(self._model.get_layer(node.name), name).assign(kernel)

    def step(self, node: Node) -> None:
        """Computes a node's value from those of its inputs."""
        done = [name for name in set(node.inputs) if self._last_reader[name] == node.name]
        self.values[node.name] = []
        for index in range(len(self.values[node.inputs[0]])):
            inputs = [self.values[name][index] for name in node.inputs]
            self.values[node.name].append(self._rounded(node.name, self._applied(node, inputs)))
            for name in done:  # batch by batch: a whole feature map beside the next is too much
                self.values[name][index] = None
        for name in done:
            del self.values[name]

    def _applied(self, node: Node, inputs: list[tf.Tensor]) -> tf.Tensor:
        value = inputs if len(inputs) > 1 else inputs[0]
        return value if node.kind == IDENTITY else self._model.get_layer(node.name)(value)

    def _rounded(self, name: str, value: tf.Tensor) -> tf.Tensor:
        if name not in self._ranges:
            return value
        low, high = self._ranges[name]
        return tf.quantization.fake_quant_with_min_max_vars(value, low, high, num_bits=8)


def _array_of(layer, variable, arrays: dict[str, np.ndarray]) -> np.ndarray:
    key = f"{layer.name}/{short_name(variable)}"
    value = arrays.get(key)
    if value is None or value.shape != tuple(variable.shape):
        found = "nothing" if value is None else f"shape {value.shape}"
        raise ValueError(f"{key} needs shape {tuple(variable.shape)}, found {found}")
    return value


@dataclasses.dataclass(frozen=True)
class _Sample:
    """Output positions of a layer, in the order of the photos.

    Attributes:
        windows: what the quantized layer reads there, float32 [positions, taps, channels].
        targets: what the float layer gives there, float32 [positions, channels].
        teaching: indices of positions to learn from, in random order.
        judging: indices of positions to judge by, of other photos where there are several.
    """

    windows: np.ndarray
    targets: np.ndarray
    teaching: np.ndarray
    judging: np.ndarray


def _draw(grid: _Grid, inputs, outputs, options: AdaRoundOptions, random) -> _Sample:
    taps = grid.exact[..., 0, 0].size
    window_bytes = 4 * taps * inputs[0].shape[-1]
    count = max(min(options.sample_pixels, LARGEST_SAMPLE_BYTES // window_bytes), 1)
    share = count / sum(len(batch) for batch in inputs)
    windows, targets = [], []
    for given, wanted in zip(inputs, outputs, strict=True):
        given, wanted = given.numpy(), wanted.numpy()
        flat = wanted.reshape(-1, wanted.shape[-1])
        size = min(int(np.ceil(share * len(given))), len(flat))
        chosen = np.sort(random.choice(len(flat), size, replace=False))
        windows.append(windows_at(grid.node, grid.exact.shape, given, wanted.shape, chosen))
        targets.append(flat[chosen])
    windows, targets = np.concatenate(windows), np.concatenate(targets)
    cut = len(windows) - int(HELD_OUT_SHARE * len(windows))
    # Too few to hold any out: they judge what they taught.
    judging = np.arange(cut, len(windows)) if cut < len(windows) else np.arange(cut)
    return _Sample(windows, targets, random.permutation(cut), judging)


def windows_at(
    node: Node, kernel_shape, value: np.ndarray, output_shape, positions: np.ndarray
) -> np.ndarray:
    """What a layer reads for some positions of its output.

    Args:
        node: conv2d, depthwise_conv2d or dense.
        kernel_shape: of its kernel.
        value: its input, float32 [batch, height, width, channels]; dense: [..., channels].
        output_shape: of its output.
        positions: indices into the flattened output, without its channels.

    Returns:
        float32 [positions, kernel height * width, channels], 0 where padded.
    """
    if node.kind == "dense":
        return value.reshape(-1, 1, value.shape[-1])[positions]
    photo, row, column = np.unravel_index(positions, output_shape[:-1])
    rows, row_inside = _read_lines(node, 0, row, kernel_shape[0], value.shape[1], output_shape[1])
    columns, column_inside = _read_lines(
        node, 1, column, kernel_shape[1], value.shape[2], output_shape[2]
    )
    windows = value[photo[:, None, None], rows[:, :, None], columns[:, None, :]]
    windows[~(row_inside[:, :, None] & column_inside[:, None, :])] = 0
    return windows.reshape(len(positions), -1, value.shape[-1])


def _read_lines(node: Node, axis: int, position, taps: int, size: int, output_size: int):
    """Input rows (or columns) [positions, taps] of output rows, and whether they exist."""
    stride, dilation = (
        int(np.broadcast_to(node.attributes.get(name, 1), 2)[axis])
        for name in ("strides", "dilation_rate")
    )
    padded = 0
    if node.attributes.get("padding", "valid").lower() == "same":
        padded = max((output_size - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
    lines = position[:, None] * stride - padded // 2 + np.arange(taps) * dilation
    return np.clip(lines, 0, size - 1), (lines >= 0) & (lines < size)


_LINEAR = (1.0, np.inf)


def _function_behind(description: NetworkDescription, node: Node, arrays) -> tuple:
    """(slope, limit) of f(y) = min(max(y, slope * y), limit), the activation behind a layer."""
    follower = description.only_consumer(node.name)
    if follower is None:
        return _LINEAR
    settings = follower.attributes
    if follower.kind == "channel_limit":
        return 0.0, arrays[f"{follower.name}/limit"]
    if follower.kind != "relu" or settings.get("threshold"):
        return _LINEAR
    limit = settings.get("max_value")
    return settings.get("negative_slope") or 0.0, np.inf if limit is None else limit


class _Problem(typing.NamedTuple):
    """A layer in matrices, float32; w parts of the sample with p positions each.

    Attributes:
        inputs: [w, groups, p, inputs], of the quantized network.
        targets: [w, groups, p, outputs], of the float network in front of the activation.
        below: [groups, inputs, outputs], whole steps.
        start: V of the float weights, as `below`.
        scale, bias, slope, limit: [groups, 1, outputs].
        unit: [groups, 1, outputs], the output's change of one step at a typical input.
    """

    inputs: tf.Tensor
    targets: tf.Tensor
    below: tf.Tensor
    start: tf.Tensor
    scale: tf.Tensor
    bias: tf.Tensor
    slope: tf.Tensor
    limit: tf.Tensor
    unit: tf.Tensor


class _Schedule(typing.NamedTuple):
    """The options as scalars, so that other options need no other graph."""

    iterations: tf.Tensor
    warm_iterations: tf.Tensor
    learning_rate: tf.Tensor
    regularization: tf.Tensor
    beta_start: tf.Tensor
    beta_end: tf.Tensor

    @classmethod
    def of(cls, options: AdaRoundOptions) -> "_Schedule":
        numbers = {name: getattr(options, name) for name in cls._fields if hasattr(options, name)}
        numbers["warm_iterations"] = options.warm_start * options.iterations
        return cls(**{name: tf.constant(float(value)) for name, value in numbers.items()})


def _pose(grid: _Grid, sample: _Sample, arrays, function: tuple, batch_pixels: int) -> _Problem:
    size = min(batch_pixels, len(sample.teaching))
    used = sample.teaching[: len(sample.teaching) // size * size]
    below = grid.matrix(grid.below)
    # h(start) = W / scale - floor(W / scale)
    above = np.clip(grid.matrix(grid.exact) - below, 0, 1)
    start = np.where(grid.matrix(grid.fixed), _PINNED, -np.log(1.2 / (above + 0.1) - 1))
    channels = np.ones(len(grid.scales))
    slope, limit = function
    inputs = _as_matrix(sample.windows[used], grid.groups, size)
    typical = np.sqrt(np.mean(np.square(inputs), (0, 2, 3)))[:, None, None]
    parts = {
        "inputs": inputs,
        "targets": _as_matrix(sample.targets[used][:, None], grid.groups, size),
        "below": below,
        "start": start,
        "scale": grid.row(grid.scales),
        "bias": grid.row(channels * arrays.get(bias_key(grid.node), 0.0)),
        "slope": grid.row(channels * slope),
        "limit": grid.row(channels * limit),
        "unit": grid.row(grid.scales) * np.where(typical > 0, typical, 1.0),
    }
    return _Problem(**{name: tf.constant(value, tf.float32) for name, value in parts.items()})


def _as_matrix(windows: np.ndarray, groups: int, size: int) -> np.ndarray:
    """[positions, taps, channels] -> [positions / size, groups, size, taps * channels / groups]."""
    _, taps, channels = windows.shape
    split = windows.reshape(-1, size, taps, groups, channels // groups)
    return split.transpose(0, 3, 1, 2, 4).reshape(-1, groups, size, taps * channels // groups)


def _solve(problem: _Problem, sample: _Sample, grid: _Grid, schedule: _Schedule) -> tuple:
    """The steps of the kernel, and the errors on the judging positions before and after.

    An output channel that the learned rounding makes worse there is rounded to nearest.
    """
    up = _rectified_sigmoid(_descend(problem, schedule)).numpy() >= 0.5
    nearest, learned = grid.matrix(grid.nearest), problem.below.numpy() + up
    count = len(sample.judging)
    inputs = _as_matrix(sample.windows[sample.judging], grid.groups, count)[0]
    targets = _as_matrix(sample.targets[sample.judging][:, None], grid.groups, count)[0]
    before, after = (
        np.mean(np.square(_differences(problem, inputs, targets, steps.astype(np.float32))), 1)
        for steps in (nearest, learned)
    )
    steps = np.where(after[:, None] < before[:, None], learned, nearest)
    return grid.from_matrix(steps), (float(before.mean()), float(np.minimum(before, after).mean()))


def _rectified_sigmoid(value):
    return tf.clip_by_value(1.2 * tf.sigmoid(value) - 0.1, 0.0, 1.0)


def _differences(problem: _Problem, inputs, targets, steps):
    """Of the outputs behind the activation, [groups, p, outputs]."""

    def active(output):
        return tf.minimum(tf.maximum(output, problem.slope * output), problem.limit)

    return active(inputs @ (problem.scale * steps) + problem.bias) - active(targets)


_OF_SAMPLE, _OF_KERNEL = tf.TensorSpec([None] * 4), tf.TensorSpec([None] * 3)


@tf.function(
    input_signature=[
        _Problem(*[_OF_SAMPLE] * 2, *[_OF_KERNEL] * 7),
        _Schedule(*[tf.TensorSpec([])] * 6),
    ]
)
def _descend(problem: _Problem, schedule: _Schedule) -> tf.Tensor:
    """V after Adam (Kingma and Ba 2015, arXiv:1412.6980), part after part of the sample."""
    value = problem.start
    first, second = tf.zeros_like(value), tf.zeros_like(value)
    parts = tf.shape(problem.inputs)[0]
    for step in tf.range(schedule.iterations):
        part = tf.cast(step, tf.int32) % parts
        with tf.GradientTape() as tape:
            tape.watch(value)
            up = _rectified_sigmoid(value)
            error = _differences(
                problem, problem.inputs[part], problem.targets[part], problem.below + up
            )
            error = tf.reduce_mean(tf.square(error / problem.unit), 1)
            beta, pull = _pull(step, schedule)
            open_ends = tf.reduce_sum(1 - tf.abs(2 * up - 1) ** beta)
            loss = tf.reduce_sum(error) + pull * open_ends
        gradient = tape.gradient(loss, value)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * tf.square(gradient)
        corrected = first / (1 - 0.9 ** (step + 1))
        spread = tf.sqrt(second / (1 - 0.999 ** (step + 1)))
        value -= schedule.learning_rate * corrected / (spread + 1e-8)
    return value


def _pull(step, schedule: _Schedule):
    """Exponent and weight of the pull to 0 or 1 at a step."""
    warm, last = schedule.warm_iterations, schedule.iterations
    share = tf.clip_by_value((step - warm) / (last - warm), 0.0, 1.0)
    cosine = 0.5 * (1 + tf.cos(np.pi * share))
    beta = schedule.beta_end + (schedule.beta_start - schedule.beta_end) * cosine
    return beta, tf.where(step < warm, 0.0, schedule.regularization)
