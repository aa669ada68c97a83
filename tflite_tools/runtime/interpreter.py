"""Opens the interpreter of a file: with XNNPACK if it accepts the file, else with builtin kernels.

XNNPACK refuses a few files that the runtime's own kernels run, such as one whose
RESIZE_BILINEAR has different scales on input and output. All interpreters are opened here, and in
child processes only: a damaged file can crash the runtime.
"""

import enum
import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter


class Kernels(str, enum.Enum):
    """Which kernels run a file."""

    XNNPACK = "XNNPACK and builtin"
    """XNNPACK kernels for all operators that have one, the runtime's own for the rest."""
    BUILTIN = "builtin"
    """Only the runtime's own kernels: slower, and some of them round at other places."""

    def __str__(self) -> str:  # as enum.StrEnum has it from Python 3.11 on
        return str(self.value)


BUILTIN_NOTE = (
    "XNNPACK refuses it: the builtin kernels ran it, slower, and some round at other places"
)
"""Warning about a file that only the builtin kernels run."""


def open_interpreter(
    path: str | pathlib.Path,
    num_threads: int = 1,
    *,
    kernels: Kernels | None = None,
    preserve_all_tensors: bool = False,
) -> tuple["Interpreter", Kernels]:
    """Loads a file and allocates its tensors.

    Args:
        path: the file.
        num_threads: of the interpreter.
        kernels: which to use; default: XNNPACK's, or the builtin ones if XNNPACK refuses the
            file.
        preserve_all_tensors: keep every intermediate tensor.

    Returns:
        The interpreter, and the kernels that it runs.

    Raises:
        RuntimeError: the runtime refuses the file.
        ValueError: the file cannot be read.
    """
    # The runtime writes to stderr when it is loaded; only child processes that run files load it.
    from ai_edge_litert.interpreter import Interpreter, OpResolverType  # noqa: PLC0415

    resolvers = {
        Kernels.XNNPACK: OpResolverType.AUTO,
        Kernels.BUILTIN: OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    }

    def load(chosen: Kernels) -> tuple[Interpreter, Kernels]:
        interpreter = Interpreter(
            str(path),
            num_threads=num_threads,
            experimental_op_resolver_type=resolvers[chosen],
            experimental_preserve_all_tensors=preserve_all_tensors,
        )
        interpreter.allocate_tensors()
        return interpreter, chosen

    if kernels is not None:
        return load(kernels)
    try:
        return load(Kernels.XNNPACK)
    except RuntimeError as refusal:  # of a delegate, or of the runtime itself
        try:
            return load(Kernels.BUILTIN)
        except RuntimeError:
            raise refusal from None
