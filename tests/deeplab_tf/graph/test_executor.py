"""Tests of the executor: values equal to Keras, bounded memory, weights that change in a run."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.executor import Executor, rounding_of
from deeplab_tf.graph.network import NetworkGraph, Node

DEPTH = 60


def deep_chain(depth: int) -> NetworkGraph:
    """Returns a chain of y = relu(x + 1): every value has one reader."""
    nodes, before = [], "image"
    for index in range(depth):
        for kind, settings in (("rescaling", {"scale": 1.0, "offset": 1.0}), ("relu", {})):
            name = f"{kind}{index}"
            nodes.append(Node(name, kind, inputs=(before,), attributes=settings))
            before = name
    return NetworkGraph("image", (8, 8, 4), nodes=tuple(nodes), output_name=before)


def branches() -> tuple[NetworkGraph, dict[str, np.ndarray]]:
    """Returns a convolution, two nodes that read it, and their sum, with known weights."""
    nodes = (
        Node("conv", "conv2d", inputs=("image",), attributes={"filters": 2, "kernel_size": 1}),
        Node("left", "relu", inputs=("conv",)),
        Node("right", "rescaling", inputs=("conv",), attributes={"scale": 2.0}),
        Node("sum", "add", inputs=("left", "right")),
    )
    kernel = np.array([[[[1.0, -1.0]]]], np.float32)
    arrays = {"conv/kernel": kernel, "conv/bias": np.array([0.5, 0.0], np.float32)}
    return NetworkGraph("image", (1, 1, 1), nodes=nodes, output_name="sum"), arrays


def image(value: float) -> np.ndarray:
    return np.full((1, 1, 1, 1), value, np.float32)


def test_a_network_computes_the_values_worked_out_by_hand():
    executor = Executor(*branches())
    # conv: [3 + 0.5, -3]; left: [3.5, 0]; right: [7, -6]; sum: [10.5, -6]
    np.testing.assert_array_equal(executor.run(image(3.0)).numpy().ravel(), [10.5, -6.0])


def test_memory_is_the_widest_cut_and_not_the_depth():
    network = deep_chain(DEPTH)
    alive: list[weakref.ref] = []
    most = 0

    def count(node, value):
        nonlocal most
        alive.append(weakref.ref(value))
        gc.collect(0)
        most = max(most, sum(reference() is not None for reference in alive))

    output = Executor(network, {}).run(np.zeros((1, 8, 8, 4), np.float32), count)
    assert float(output[0, 0, 0, 0]) == DEPTH
    # The current value, the one it was computed from, and one that a stack frame still refers to.
    assert most <= 3


def test_memory_of_many_batches_is_freed_batch_by_batch():
    network = deep_chain(3)
    run = Executor(network, {}).start([np.zeros((1, 8, 8, 4), np.float32)] * 5)
    for node in network.nodes:
        run.step(node)
    with pytest.raises(KeyError, match="relu0"):
        run.value("relu0", 0)
    assert len(run.values(network.output_name)) == 5


def test_values_that_are_not_kept_are_computed_again():
    network, arrays = branches()
    keeping = Executor(network, arrays).start([image(2.0)])
    recomputing = Executor(network, arrays).start([image(2.0)], keep=lambda node: False)
    for node in network.nodes:
        np.testing.assert_array_equal(recomputing.value(node.name, 0), expected(keeping, node))
        recomputing.step(node)
    np.testing.assert_array_equal(recomputing.value("sum", 0), keeping.value("sum", 0))


def expected(run, node):
    run.step(node)
    return run.value(node.name, 0)


def test_a_changed_weight_is_used_from_then_on():
    network, arrays = branches()
    executor = Executor(network, arrays)
    run = executor.start([image(1.0)])
    executor.set_weight("conv/bias", np.array([10.0, 0.0], np.float32))
    for node in network.nodes:
        run.step(node)
    # conv: [11, -1]; left: [11, 0]; right: [22, -2]
    np.testing.assert_array_equal(run.value("sum", 0).numpy().ravel(), [33.0, -2.0])


def test_executors_of_the_same_layers_share_weights_and_not_the_rounding():
    network, arrays = branches()
    exact = Executor(network, arrays)
    coarse = exact.rounded({"conv": tf.round})
    # conv: [3.5, -3], rounded to even: [4, -3]; sum: [4 + 8, 0 - 6]
    np.testing.assert_array_equal(coarse.run(image(3.0)).numpy().ravel(), [12.0, -6.0])
    np.testing.assert_array_equal(exact.run(image(3.0)).numpy().ravel(), [10.5, -6.0])
    zeros = {key: np.zeros_like(value) for key, value in arrays.items()}
    coarse.set_weights_of(network.nodes[0], zeros)
    np.testing.assert_array_equal(exact.run(image(3.0)).numpy().ravel(), [0.0, 0.0])


def test_later_nodes_read_the_adjusted_values():
    network, arrays = branches()
    run = Executor(network, arrays).start([image(1.0)])
    for node in network.nodes:
        run.step(node, (lambda values: [values[0] * 0 + 1]) if node.name == "conv" else None)
    np.testing.assert_array_equal(run.value("sum", 0).numpy().ravel(), [3.0, 3.0])


def test_ranges_round_input_and_nodes_to_256_steps():
    network, arrays = branches()
    rounding = rounding_of({"image": (0.0, 255.0), "left": (0.0, 510.0)})
    executor = Executor(network, arrays, rounding=rounding)
    # input 3.4 -> 3; conv [3.5, -3]; left has steps of 2: 3.5 -> 4; right [7, -6]
    np.testing.assert_allclose(executor.run(image(3.4)).numpy().ravel(), [11.0, -6.0])


def test_a_traced_run_computes_the_same():
    network, arrays = branches()
    executor = Executor(network, arrays)
    traced = tf.function(executor.run)
    np.testing.assert_array_equal(traced(tf.constant(image(3.0))), executor.run(image(3.0)))
    executor.set_weight("conv/bias", np.array([0.0, 0.0], np.float32))
    np.testing.assert_array_equal(traced(tf.constant(image(3.0))), executor.run(image(3.0)))


def test_the_executor_computes_the_same_as_the_keras_model():
    network, arrays = branches()
    model = build_model(network)
    model.set_weights([arrays["conv/kernel"], arrays["conv/bias"]])
    np.testing.assert_array_equal(model(image(0.25)), Executor(network, arrays).run(image(0.25)))


@pytest.mark.parametrize("change", [{}, {"conv/kernel": np.zeros((1, 1, 2, 2), np.float32)}])
def test_weights_that_do_not_fit_are_named(change):
    network, arrays = branches()
    given = {"conv/bias": arrays["conv/bias"]} | change
    with pytest.raises(ValueError, match=r"conv/kernel: expected shape \(1, 1, 1, 2\), got"):
        Executor(network, given)
