"""The integer program against all choices, and the cost polynomial against sums over layers."""

import itertools

import numpy as np
import pytest

from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.pruning.channel_groups import find_channels
from export.compression.budgets import Budgets, Measured, excess
from export.compression.losses import numbers_to_keep
from export.compression.polynomial import Channels, LayerCost, Polynomial
from export.compression.solver import LOSS, ChannelOption, FormatOption, Problem, choice_of, solve
from tests.small_network import small_keras_model


def problem(seed=0):
    """Three groups of four options, a layer of two formats, costs with products and a square."""
    random = np.random.default_rng(seed)
    groups = {
        name: [
            ChannelOption(kept, kept / 32, float(random.uniform(1, 2) * (32 - kept) ** 2))
            for kept in (32, 24, 16, 8)
        ]
        for name in "abc"
    }
    layers = {"head": [FormatOption("int8", 50.0, {}), FormatOption("float32", 0.0, {"ms": 0.7})]}
    costs = {}
    for name in ("ms", "bytes"):
        cost = Polynomial(constant=float(random.uniform(1, 2)))
        for group in "abc":
            cost.linear[group] += float(random.uniform(0, 2))
        for pair in (("a", "b"), ("b", "c"), ("b", "b")):
            cost.products[pair] += float(random.uniform(0, 4))
        costs[name] = cost
    return Problem(groups, layers, costs)


def all_choices(given):
    for options in itertools.product(*given.groups.values()):
        for number in given.layers["head"]:
            groups = dict(zip(given.groups, options, strict=True))
            yield choice_of(given, groups, layers={"head": number})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("objective", [LOSS, "ms"])
def test_the_program_finds_the_best_of_all_choices(seed, objective):
    given = problem(seed)
    whole = {name: cost.at({}) for name, cost in given.costs.items()}
    budgets = {"ms": 0.6 * whole["ms"], "bytes": 0.7 * whole["bytes"]}
    if objective == "ms":
        budgets = {"bytes": 0.7 * whole["bytes"], LOSS: 900.0}
    meeting = [
        choice
        for choice in all_choices(given)
        if all(choice.costs[name] <= limit for name, limit in budgets.items())
    ]
    best = min(choice.costs[objective] for choice in meeting)
    found = solve(given, budgets, objective=objective)
    assert all(found.costs[name] <= limit * (1 + 1e-6) for name, limit in budgets.items())
    assert best <= found.costs[objective] <= best * 1.003 + 1e-9  # the solver's gap is 0.2 %


def test_an_impossible_budget_has_no_choice():
    assert solve(problem(), {"ms": 0.1}) is None


def test_the_polynomial_is_the_sum_over_layers():
    network = graph_from_keras(small_keras_model())
    channels = find_channels(*network)
    image, middle, scores = (
        Channels.of(channels.ids[name], channels) for name in ("image", "Conv1", "logits")
    )
    assert (image.fixed, image.of_groups) == (3, {})
    assert (middle.fixed, middle.of_groups) == (0, {"Conv1": 8})
    costs = [LayerCost(1, 2, 3, 4), LayerCost(0.5, 0.1, 0.2, 0.3), LayerCost(0, 0, 1, 2)]
    total = Polynomial()
    for cost, (inputs, outputs) in zip(
        costs, [(image, middle), (middle, middle), (middle, scores)], strict=True
    ):
        total.add(cost, inputs=inputs, outputs=outputs)
    classes = scores.fixed
    for share in (1.0, 0.5):
        count = 8 * share
        expected = costs[0].at(3, count) + costs[1].at(count, count) + costs[2].at(count, classes)
        assert total.at({"Conv1": share}) == pytest.approx(expected)


def test_numbers_to_keep_are_multiples_of_eight():
    assert numbers_to_keep(64) == [56, 48, 40, 32, 24, 16]
    assert numbers_to_keep(24) == [16, 8]
    assert numbers_to_keep(8) == []


def test_budgets_in_their_units():
    base = Measured(10.0, size_bytes=3_000_000, download_bytes=2_000_000, miou=0.7)
    file = Measured(7.5, size_bytes=1_500_000, download_bytes=1_000_000, miou=0.69)
    budgets = Budgets(time=0.75, megabytes=2.0, download_megabytes=1.25, max_loss=0.02)
    found = excess(file, base, budgets=budgets)
    assert found == pytest.approx(
        {"ms": 1.0, "bytes": 0.75, "download_bytes": 0.8, "miou_loss": 0.5}
    )
    assert excess(file, base, budgets=Budgets(milliseconds=5.0)) == {"ms": 1.5}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "expected a budget, got none"),
        ({"time": 1.2}, "--time: expected a fraction below 1, got 1.2"),
        ({"megabytes": -1.0}, "--megabytes must be positive; got -1"),
        ({"time": 0.5, "milliseconds": 3.0}, "exclude each other"),
    ],
)
def test_bad_budgets(values, message):
    with pytest.raises(ValueError, match=message):
        Budgets(**values)
