"""What a network costs with any number of channels: milliseconds, bytes, bytes of the download.

The time of each operator in the uncompressed int8 file is read from the runtime's profiler, or
from a profile of another device (`tflite_tools.benchmark --profile --output_dir`). How it changes
with the channels is measured layer by layer (`layer_times`); an addition, a resize or a pool takes
time in proportion to its channels. Kernels take one byte a weight; their share in the download is
that of the deflated kernel in the uncompressed file.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from deeplab_tf.bounded_file import read_json
from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.kernels import (
    WITH_KERNEL,
    along_outputs,
    input_channels,
    int8_scales,
    kernel_key,
    output_channels,
)
from deeplab_tf.graph.network import NetworkGraph, Node
from deeplab_tf.pruning.channel_groups import ChannelMap, layer_name
from export.compression.layer_files import LayerForm
from export.compression.layer_times import TimedLayer, measure_layer_times, scaled_by_products
from export.compression.number_format import NumberFormat
from export.compression.polynomial import Channels, LayerCost, Polynomial
from export.rewriting.mixed_precision import layer_positions
from tflite_tools.benchmarking.profile import profile
from tflite_tools.contract import read_contract
from tflite_tools.download_size import deflated_bytes, download_bytes

MS, BYTES, DOWNLOAD = "ms", "bytes", "download_bytes"
"""The resources."""
_BYTES_PER_OUTPUT = 12
"""int32 bias, float32 scale and, as a share of the common vector, a zero point."""
_REPEATS = 30


@dataclasses.dataclass(frozen=True)
class OperatorMs:
    """Time of one operator of the uncompressed file.

    Attributes:
        position: in the file.
        ms: its fastest time.
    """

    position: int
    ms: float


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """Costs of one layer with a kernel, with all channels.

    Attributes:
        name: of the layer.
        kind: of its node.
        inputs, outputs: channels.
        ms: in the uncompressed int8 file.
        cost: ms as a function of the channels.
        extra: {format: {resource: what it costs more than int8}}.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    ms: float
    cost: LayerCost
    extra: dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class NetworkCosts:
    """Costs of a network.

    Attributes:
        polynomials: {resource: cost in int8}.
        layers: of the layers with a kernel.
        source: where the times come from, in words.
    """

    polynomials: dict[str, Polynomial]
    layers: tuple[LayerRow, ...]
    source: str


def profile_file(path: pathlib.Path, num_threads: int) -> list[OperatorMs]:
    """Times the operators of a file on this processor.

    Args:
        path: the `.tflite`.
        num_threads: of the interpreter.

    Raises:
        RuntimeError: the profiler gives no times.
    """
    (found,) = profile([read_contract(path)], (num_threads,), repeats=_REPEATS)
    if found.failure:
        raise RuntimeError(f"{path}: no times of operators: {found.failure}")
    return [
        OperatorMs(-1 if operator.position is None else operator.position, operator.ms[num_threads])
        for operator in found.operators
    ]


def read_profile(path: pathlib.Path) -> list[OperatorMs]:
    """Reads the times of another device: the first profile of a `benchmark.json`.

    Args:
        path: written by `tflite_tools.benchmark --profile --output_dir` for the uncompressed file.

    Raises:
        ValueError: another kind of file.
    """
    try:
        operators = read_json(path)["profiles"][0]["operators"]
        return [
            OperatorMs(
                -1 if values["position"] is None else int(values["position"]),
                float(next(iter(values["ms"].values()))),
            )
            for values in operators
        ]
    except (KeyError, IndexError, TypeError, AttributeError, StopIteration, ValueError) as error:
        raise ValueError(
            f"{path}: expected the benchmark.json of tflite_tools.benchmark --profile "
            f"--output_dir ({error})"
        ) from error


def measure_costs(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    channels: ChannelMap,
    uncompressed: pathlib.Path,
    formats: Sequence[NumberFormat],
    times: list[OperatorMs],
    here: bool,
    num_threads: int = 1,
) -> NetworkCosts:
    """Measures the costs of a network.

    Args:
        description: the network, batch norms folded.
        arrays: its weights.
        channels: of the network.
        uncompressed: its int8 file.
        formats: number formats of layers to measure, beside int8.
        times: of the operators of that file.
        here: whether these are of this processor, so that layers can be timed on it.
        num_threads: of the interpreter.
    """
    shapes = _shapes(description)
    layers = [n for n in description.nodes if n.kind in WITH_KERNEL]
    timed = {
        (node.name, number): _timed(node, arrays, shape=shapes[node.inputs[0]], number=number)
        for node in layers
        for number in (NumberFormat.INT8, *formats)
        if node.kind != "conv2d_transpose"
    }
    known = measure_layer_times(timed.values(), num_threads=num_threads) if here else {}
    positions = layer_positions(uncompressed.read_bytes())
    left = {time.position: time.ms for time in times if time.position >= 0}
    milliseconds = Polynomial()
    rows = []
    for node in layers:
        ms = left.pop(positions.get(layer_name(node.name), positions.get(node.name, -1)), None)
        own = timed.get((node.name, NumberFormat.INT8))
        kernel = arrays[kernel_key(node)]
        sizes = input_channels(node, kernel), output_channels(node, kernel)
        cost = _time_of(node, known.get(own) if own else None, sizes=sizes, ms=ms)
        extra = {}
        for number in formats:
            alone = timed.get((node.name, number))
            if alone is not None and alone in known and own is not None:
                more = known[alone].at(*sizes) - known[own].at(*sizes)
                extra[number.value] = {MS: more, **_more_bytes(node, arrays, number)}
        rows.append(
            LayerRow(layer_name(node.name), node.kind, *sizes, cost.at(*sizes), cost, extra)
        )
        _add(milliseconds, cost, node=node, channels=channels)
    for node in description.nodes:
        if node.kind in WITH_KERNEL or node.name not in positions:
            continue
        ms = left.pop(positions[node.name], None)
        if ms is not None:
            per_channel = LayerCost(per_output=ms / max(len(channels.ids[node.name]), 1))
            _add(milliseconds, per_channel, node=node, channels=channels)
    milliseconds.constant += sum(left.values())
    milliseconds.constant += sum(time.ms for time in times if time.position < 0)
    polynomials = {MS: milliseconds} | _sizes(
        layers, arrays, channels=channels, uncompressed=uncompressed
    )
    source = "measured here" if here else "profile of another device"
    return NetworkCosts(polynomials, tuple(rows), source)


def _shapes(description: NetworkGraph) -> dict[str, tuple[int, ...]]:
    layers = build_model(description, all_outputs=True).layers
    shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in layers}
    for node in description.nodes:
        shapes.setdefault(node.name, shapes.get(node.inputs[0], ()))
    return shapes


def _timed(
    node: Node, arrays: dict[str, np.ndarray], *, shape: tuple[int, ...], number: NumberFormat
) -> TimedLayer:
    kernel = arrays[kernel_key(node)]
    form = LayerForm.of(node, arrays, shape=shape)
    return TimedLayer(form, input_channels(node, kernel), output_channels(node, kernel), number)


def _time_of(
    node: Node, measured: LayerCost | None, *, sizes: tuple[int, int], ms: float | None
) -> LayerCost:
    """Returns a layer's time: its form as measured alone, its amount as in the whole file."""
    if measured is None:
        depthwise = node.kind == "depthwise_conv2d"
        return scaled_by_products(*sizes, ms=ms or 0.0, depthwise=depthwise)
    return measured if ms is None else measured.times(ms / measured.at(*sizes))


def _add(cost: Polynomial, layer: LayerCost, *, node: Node, channels: ChannelMap) -> None:
    cost.add(
        layer,
        inputs=Channels.of(channels.ids[node.inputs[0]], channels),
        outputs=Channels.of(channels.ids[node.name], channels),
    )


def _more_bytes(
    node: Node, arrays: dict[str, np.ndarray], number: NumberFormat
) -> dict[str, float]:
    """Returns the bytes of a layer in a format less those of the layer in int8."""
    weights = arrays[kernel_key(node)].size
    outputs = output_channels(node, arrays[kernel_key(node)])
    if number is NumberFormat.INT16:
        return {BYTES: 4.0 * outputs, DOWNLOAD: 2.0 * outputs}  # a bias of 64 bits
    return {BYTES: 3.0 * weights, DOWNLOAD: 2.8 * weights}  # floats deflate by 8 %


def _sizes(
    layers: list[Node],
    arrays: dict[str, np.ndarray],
    *,
    channels: ChannelMap,
    uncompressed: pathlib.Path,
) -> dict[str, Polynomial]:
    """Returns bytes and download; what the kernels do not explain is constant."""
    found = {}
    whole = {BYTES: uncompressed.stat().st_size, DOWNLOAD: download_bytes(uncompressed)}
    for resource, total in whole.items():
        cost = Polynomial()
        for node in layers:
            kernel = arrays[kernel_key(node)]
            share = _deflated_share(node, kernel) if resource == DOWNLOAD else 1.0
            taps = kernel.size / (kernel.shape[-1] * kernel.shape[-2])
            if node.kind == "depthwise_conv2d":
                layer = LayerCost(per_output=share * taps + _BYTES_PER_OUTPUT)
            else:
                layer = LayerCost(per_output=_BYTES_PER_OUTPUT, per_product=share * taps)
            _add(cost, layer, node=node, channels=channels)
        cost.constant += total - cost.at({})
        found[resource] = cost
    return found


def _deflated_share(node: Node, kernel: np.ndarray) -> float:
    """Returns the deflated size of an int8 kernel as a share of its own."""
    scales = along_outputs(node, kernel, values=int8_scales(node, kernel, per_channel=True))
    steps = np.rint(kernel / scales).astype(np.int8)
    return deflated_bytes(steps.tobytes()) / steps.size


def times_to_json(costs: NetworkCosts) -> list[Mapping[str, object]]:
    """Returns the cost table as JSON values, one row per layer."""
    return [
        {
            "layer": row.name,
            "kind": row.kind,
            "inputs": row.inputs,
            "outputs": row.outputs,
            "ms": row.ms,
            "ms_terms": list(dataclasses.astuple(row.cost)),
            "formats": row.extra,
        }
        for row in costs.layers
    ]
