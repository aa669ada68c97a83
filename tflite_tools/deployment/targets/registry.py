"""The targets that a file can be checked for, by name."""

from collections.abc import Callable

from tflite_tools.deployment.targets import edgetpu, ethosu, gpu, nnapi
from tflite_tools.deployment.targets.result import TargetResult
from tflite_tools.flatbuffer.graph import Graph
from tflite_tools.runtime.runtime_shapes import with_known_shapes

TARGETS: dict[str, Callable[[Graph, str], TargetResult]] = {
    "edgetpu": edgetpu.check,
    **dict.fromkeys(ethosu.ACCELERATORS, ethosu.check),
    "gpu": gpu.check,
    **dict.fromkeys(("nnapi", "nnapi-28", "nnapi-29", "nnapi-30"), nnapi.check),
}


def check_target(graph: Graph, target: str) -> TargetResult:
    """Checks one file for one target.

    Args:
        graph: a checked file.
        target: name of the target.

    Raises:
        ValueError: an unknown target, or an operator without an input that it needs.
        RuntimeError: the target's compiler is missing or failed.
    """
    if target not in TARGETS:
        raise ValueError(f"unknown target {target!r}; known: {', '.join(TARGETS)}")
    try:
        return TARGETS[target](with_known_shapes(graph), target)
    except IndexError as error:
        raise ValueError(
            f"{graph.path}: damaged .tflite (an operator lacks an input or a dimension)"
        ) from error
