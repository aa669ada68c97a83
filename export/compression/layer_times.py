"""Measures the time of layers as a function of their channels, in the real runtime.

Every layer is a file of its own with all channels, half of those that it reads, half of those that
it computes, and half of both. The files are timed in turn; the fastest invoke counts, as in the
operator profile. Four times determine a + b i + c o + d i o.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.optimize
from absl import logging

from deeplab_tf.scratch import scratch_folder
from export.compression.layer_files import LayerForm, layer_file
from export.compression.number_format import NumberFormat
from export.compression.polynomial import LayerCost
from tflite_tools.runtime.child_pool import ChildPool, Task
from tflite_tools.runtime.file_interpreter import AnyFile, FileInterpreter

_ROUNDS = 6
_INVOKES = 4
_SHARE_THAT_STAYS = 0.1
"""Part of a layer's time that does not fall with its channels, where only one time is known."""


@dataclasses.dataclass(frozen=True)
class TimedLayer:
    """A layer whose time is asked for.

    Attributes:
        form: its form.
        inputs: channels that it reads.
        outputs: channels that it computes.
        number: format that it computes in.
    """

    form: LayerForm
    inputs: int
    outputs: int
    number: NumberFormat = NumberFormat.INT8


def measure_layer_times(
    layers: Iterable[TimedLayer], *, num_threads: int = 1
) -> dict[TimedLayer, LayerCost]:
    """Times layers on this processor, equal ones once.

    Args:
        layers: the layers.
        num_threads: of the interpreter.

    Returns:
        {layer: milliseconds as a function of its channels}.

    Raises:
        RuntimeError: the runtime refuses a file.
    """
    points = {layer: _points(layer) for layer in dict.fromkeys(layers)}
    wanted = sorted(
        {
            (layer.form, inputs, outputs, layer.number)
            for layer, own in points.items()
            for inputs, outputs in own
        },
        key=repr,
    )
    with scratch_folder("layers") as folder:
        paths = []
        for number, (form, inputs, outputs, kind) in enumerate(wanted):
            paths.append(folder / f"{number}.tflite")
            paths[-1].write_bytes(layer_file(form, inputs, outputs=outputs, number=kind))
        logging.info("%d files of one layer are timed", len(paths))
        times = dict(zip(wanted, _times(paths, num_threads), strict=True))
    return {
        layer: fit_cost(own, [times[layer.form, i, o, layer.number] for i, o in own])
        for layer, own in points.items()
    }


def _points(layer: TimedLayer) -> list[tuple[int, int]]:
    """Returns (inputs, outputs) to measure at."""
    if layer.form.depthwise:
        multiplier = layer.outputs // layer.inputs
        return [(count, multiplier * count) for count in _with_half(layer.inputs)]
    return list(itertools.product(_with_half(layer.inputs), _with_half(layer.outputs)))


def _with_half(channels: int) -> list[int]:
    """Returns a number of channels and about half of it in multiples of 8; one for few channels."""
    half = channels // 2 // 8 * 8
    return [channels, half] if half else [channels]


def fit_cost(points: Sequence[tuple[int, int]], times: Sequence[float]) -> LayerCost:
    """Fits a cost without negative parts to measured values.

    Args:
        points: (inputs, outputs) of each.
        times: the values.
    """
    rows = np.array([[1, i, o, i * o] for i, o in points], np.float64)
    if len(points) == 1:
        (inputs, outputs), value = points[0], times[0]
        moving = (1 - _SHARE_THAT_STAYS) * value / (inputs * outputs)
        return LayerCost(_SHARE_THAT_STAYS * value, per_product=moving)
    if len({i * points[0][1] == o * points[0][0] for i, o in points}) == 1:
        rows[:, 2:] = 0  # a depthwise layer: one number of channels
    scale = np.maximum(rows.max(0), 1)
    weights = 1 / np.asarray(times)  # relative errors
    found, _ = scipy.optimize.nnls(rows / scale * weights[:, None], np.asarray(times) * weights)
    return LayerCost(*(found / scale).tolist())


def _times(paths: list[pathlib.Path], num_threads: int) -> list[float]:
    """Returns the fastest invoke of each file, milliseconds; the files are timed in turn."""
    fastest = [np.inf] * len(paths)
    with ChildPool([AnyFile(path) for path in paths], 1, num_threads=num_threads) as pool:
        tasks = (
            Task(index, fastest_invoke_ms, arguments=(_INVOKES,))
            for _ in range(_ROUNDS)
            for index in range(len(paths))
        )
        for outcome in pool.run(tasks):
            if outcome.failure:
                raise RuntimeError(f"a layer cannot be timed: {outcome.failure}")
            index = outcome.task.model
            fastest[index] = min(fastest[index], outcome.value)
    return fastest


def fastest_invoke_ms(file: FileInterpreter, invokes: int) -> float:
    """Returns the fastest of some invokes; runs in a child process.

    Args:
        file: the interpreter.
        invokes: how many.
    """
    return min(file.invoke_ms() for _ in range(invokes))


def scaled_by_products(inputs: int, outputs: int, *, ms: float, depthwise: bool) -> LayerCost:
    """Returns the time of a layer of which only one time is known, as on another device.

    A tenth stays; the rest falls with the multiply-adds.

    Args:
        inputs: channels that it reads.
        outputs: channels that it computes.
        ms: its time with these.
        depthwise: whether each channel has its own kernel.
    """
    if depthwise:
        moving = (1 - _SHARE_THAT_STAYS) * ms / inputs
        return LayerCost(_SHARE_THAT_STAYS * ms, per_input=moving)
    return fit_cost([(inputs, outputs)], [ms])
