"""Chooses channels and number formats under budgets by integer programming (SciPy's `milp`).

    minimize   loss, or a cost        over  x_gi = 1 where group g keeps its option i,
                                            y_lf = 1 where layer l computes in format f
    under      sum_i x_gi = 1, sum_f y_lf = 1, every cost within its budget

The costs hold products of two shares (`polynomial`). Each is made linear with variables z_gihj that
are the product of x_gi and x_hj: sum_j z_gihj = x_gi, sum_i z_gihj = x_hj. Losses of single options
are added, as independent errors of the network's output are.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.optimize
import scipy.sparse

from export.compression.polynomial import Polynomial

LOSS = "loss"
"""Name of the loss among the costs."""
_SECONDS = 60.0
_GAP = 0.002


@dataclasses.dataclass(frozen=True)
class ChannelOption:
    """A group with some of its channels.

    Attributes:
        kept: number of channels.
        share: of the group's channels.
        loss: squared error of the network's output that it causes.
    """

    kept: int
    share: float
    loss: float


@dataclasses.dataclass(frozen=True)
class FormatOption:
    """A layer in a number format.

    Attributes:
        name: of the format.
        loss: squared error of the network's output that it causes.
        costs: {resource: what it adds to the layer's cost as int8}.
    """

    name: str
    loss: float
    costs: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Problem:
    """What there is to choose from.

    Attributes:
        groups: {group: its options, the first one with all channels}.
        layers: {layer: its formats, the first one int8}.
        costs: {resource: cost of the network in int8}.
    """

    groups: Mapping[str, Sequence[ChannelOption]]
    layers: Mapping[str, Sequence[FormatOption]]
    costs: Mapping[str, Polynomial]


@dataclasses.dataclass(frozen=True)
class Choice:
    """A solution.

    Attributes:
        groups: {group: the chosen option}.
        layers: {layer: the chosen format}.
        costs: {resource: predicted cost}, with the loss under `LOSS`.
    """

    groups: dict[str, ChannelOption]
    layers: dict[str, FormatOption]
    costs: dict[str, float]


def solve(
    problem: Problem, budgets: Mapping[str, float], *, objective: str = LOSS
) -> Choice | None:
    """Chooses one option for every group and layer.

    Args:
        problem: the options.
        budgets: {resource, or `LOSS`: largest value}.
        objective: what is made small: `LOSS` or a resource.

    Returns:
        The best choice; None if nothing meets the budgets.

    Raises:
        RuntimeError: the solver ends without an answer.
    """
    variables = _Variables(problem)
    rows, low, high = variables.rules()
    for name, limit in budgets.items():
        row, constant = variables.cost(name)
        scale = max(
            float(np.abs(row).max(initial=0.0)), 1e-12
        )  # the solver's tolerance is absolute
        rows.append(scipy.sparse.csr_array(row[None] / scale))
        low.append(-np.inf)
        high.append((limit - constant) / scale)
    target, _ = variables.cost(objective)
    scale = max(float(np.abs(target).max(initial=0.0)), 1e-12)
    done = scipy.optimize.milp(
        target / scale,
        constraints=scipy.optimize.LinearConstraint(scipy.sparse.vstack(rows), low, high),
        integrality=variables.integrality,
        bounds=scipy.optimize.Bounds(0, 1),
        options={"time_limit": _SECONDS, "mip_rel_gap": _GAP},
    )
    if done.status == 2:
        return None
    if done.x is None:
        raise RuntimeError(f"the integer program was not solved: {done.message}")
    return variables.choice(done.x)


class _Variables:
    """The variables of one program: options of groups, formats of layers, products of options."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._groups: dict[str, slice] = {}
        self._layers: dict[str, slice] = {}
        self._products: dict[tuple[str, str], slice] = {}
        self._count = 0
        for name, options in problem.groups.items():
            self._groups[name] = self._more(len(options))
        for name, formats in problem.layers.items():
            self._layers[name] = self._more(len(formats))
        whole = self._count
        for cost in problem.costs.values():
            for one, other in cost.products:
                if one != other and (one, other) not in self._products:
                    sizes = len(problem.groups[one]), len(problem.groups[other])
                    self._products[one, other] = self._more(sizes[0] * sizes[1])
        self.integrality = (np.arange(self._count) < whole).astype(int)

    def _more(self, count: int) -> slice:
        start, self._count = self._count, self._count + count
        return slice(start, self._count)

    def rules(self) -> tuple[list[scipy.sparse.csr_array], list[float], list[float]]:
        """Returns rows, lower and upper limits that make the variables what they stand for."""
        rows, limits = [], []
        for part in (*self._groups.values(), *self._layers.values()):
            row = np.zeros(self._count)
            row[part] = 1
            rows.append(row)
            limits.append(1.0)
        for (one, other), part in self._products.items():
            first, second = self._groups[one], self._groups[other]
            places = np.arange(part.start, part.stop).reshape(
                first.stop - first.start, second.stop - second.start
            )
            for group, lines in ((first, places), (second, places.T)):
                for variable, line in zip(range(group.start, group.stop), lines, strict=True):
                    row = np.zeros(self._count)
                    row[line], row[variable] = 1, -1
                    rows.append(row)
                    limits.append(0.0)
        return [scipy.sparse.csr_array(np.stack(rows))], list(limits), list(limits)

    def _shares(self, group: str) -> np.ndarray:
        return np.array([option.share for option in self._problem.groups[group]])

    def cost(self, name: str) -> tuple[np.ndarray, float]:
        """Returns the coefficients of a cost or of the loss, and its constant part."""
        row, constant = np.zeros(self._count), 0.0
        for layer, formats in self._problem.layers.items():
            row[self._layers[layer]] = [
                option.loss if name == LOSS else option.costs.get(name, 0.0) for option in formats
            ]
        if name == LOSS:
            for group, options in self._problem.groups.items():
                row[self._groups[group]] = [option.loss for option in options]
            return row, constant
        cost = self._problem.costs[name]
        for group, value in cost.linear.items():
            row[self._groups[group]] += value * self._shares(group)
        for (one, other), value in cost.products.items():
            if one == other:
                row[self._groups[one]] += value * self._shares(one) ** 2
            else:
                both = np.outer(self._shares(one), self._shares(other))
                row[self._products[one, other]] += value * both.ravel()
        return row, cost.constant

    def choice(self, values: np.ndarray) -> Choice:
        """Returns what a solution stands for."""
        groups = {
            name: self._problem.groups[name][int(values[part].argmax())]
            for name, part in self._groups.items()
        }
        layers = {
            name: self._problem.layers[name][int(values[part].argmax())]
            for name, part in self._layers.items()
        }
        return choice_of(self._problem, groups, layers=layers)


def choice_of(
    problem: Problem,
    groups: dict[str, ChannelOption],
    *,
    layers: dict[str, FormatOption],
) -> Choice:
    """Returns a choice with its predicted costs.

    Args:
        problem: the options.
        groups: one option of every group.
        layers: one format of every layer.
    """
    shares = {name: option.share for name, option in groups.items()}
    costs = {
        name: cost.at(shares) + sum(option.costs.get(name, 0.0) for option in layers.values())
        for name, cost in problem.costs.items()
    }
    costs[LOSS] = sum(option.loss for option in groups.values())
    costs[LOSS] += sum(option.loss for option in layers.values())
    return Choice(groups, layers, costs)
