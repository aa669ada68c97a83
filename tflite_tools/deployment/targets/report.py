"""Writes the result of a target as text and as JSON."""

from tflite_tools.deployment.targets.result import TargetResult
from tflite_tools.flatbuffer.graph import Operator
from tflite_tools.flatbuffer.multiply_adds import operator_multiply_adds
from tflite_tools.text_table import align

_HEADER = [("operator", "<"), ("count", ">"), ("mapped", "<"), ("why not", "<")]
_SHOWN = 8
"""Number of operators that are listed; --json has all of them."""


def to_text(result: TargetResult) -> str:
    """Formats a table of kinds, the operators that are not mapped, estimates and warnings.

    Args:
        result: of the check.
    """
    rows = [
        [kind, str(count), "yes" if mapped else "no", reason]
        for kind, count, mapped, reason in result.rows()
    ]
    parts = [align(_HEADER, rows), _left_off(result), f"partition: {result.partition}"]
    if result.estimates:
        parts.append(f"estimate: {_estimates(result.estimates)}")
    parts += [f"warning: {text}" for text in result.warnings]
    parts += [f"source: {result.source}", _verdict(result)]
    return "\n".join(part for part in parts if part) + "\n"


def _left_off(result: TargetResult) -> str:
    lines = [
        f"  {p.operator.position:4d} {p.operator.kind} {_output(result, p.operator)}"
        for p in result.left_off[:_SHOWN]
    ]
    more = len(result.left_off) - len(lines)
    if more > 0:
        lines.append(f"       and {more} more (--json has all)")
    return "\n".join(["not mapped, by position:", *lines]) if lines else ""


def _output(result: TargetResult, operator: Operator) -> str:
    tensor = result.graph.tensors[operator.outputs[0]]
    return f"{list(tensor.shape)} {tensor.name[:60]}"


def _estimates(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.2f}".removesuffix(".00") for name, value in values.items())


def _verdict(result: TargetResult) -> str:
    left, total = len(result.left_off), len(result.placements)
    if not left:
        return f"verdict: all {total} operators run on {result.target}"
    return (
        f"verdict: {left} of {total} operators stay off {result.target}; "
        f"{100 * result.mapped_share:.1f}% of the multiply-accumulates are on it"
    )


def to_json(result: TargetResult) -> dict:
    """Returns everything for JSON, operator by operator.

    Args:
        result: of the check.
    """
    return {
        "model": result.graph.path.name,
        "target": result.target,
        "everything_mapped": not result.left_off,
        "mapped_operators": len(result.placements) - len(result.left_off),
        "mapped_share_of_macs": result.mapped_share,
        "partition": result.partition,
        "source": result.source,
        "estimates": result.estimates,
        "warnings": list(result.warnings),
        "operators": [
            {
                "position": placement.operator.position,
                "kind": placement.operator.kind,
                "output": result.graph.tensors[placement.operator.outputs[0]].name,
                "shape": list(result.graph.tensors[placement.operator.outputs[0]].shape),
                "mapped": placement.mapped,
                "reason": placement.reason,
                "macs": operator_multiply_adds(result.graph, placement.operator),
            }
            for placement in result.placements
        ],
    }
