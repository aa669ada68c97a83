"""The one place that opens an interpreter: XNNPACK where it takes the file, else the built-in
kernels.

XNNPACK refuses a few files that the runtime's own kernels run, such as one whose
RESIZE_BILINEAR has different scales on input and output. Call it in child processes only: a
damaged file can crash the runtime.
"""

import enum
import pathlib


class Kernels(enum.StrEnum):
    """Which kernels run a file."""

    XNNPACK = "XNNPACK and builtin"
    """XNNPACK's for all operators that it has kernels for, the runtime's own for the rest."""
    BUILTIN = "builtin"
    """The runtime's own alone: slower, and some of them round in other places."""


BUILTIN_NOTE = (
    "XNNPACK refuses it: the builtin kernels ran it, slower, and some round in other places"
)
"""What a user must know of a file that only the built-in kernels run."""


def open_interpreter(
    path: str | pathlib.Path,
    num_threads: int = 1,
    *,
    kernels: Kernels | None = None,
    preserve_all_tensors: bool = False,
):
    """Loads a file and allocates its tensors.

    Args:
        path: the file.
        num_threads: of the interpreter.
        kernels: which to use; default: XNNPACK's, and the built-in ones where XNNPACK refuses
            the file.
        preserve_all_tensors: keep every intermediate tensor.

    Returns:
        an `Interpreter`, and the `Kernels` that it runs.

    Raises:
        RuntimeError, ValueError: the runtime refuses the file.
    """
    # The runtime writes to stderr when it is loaded; only children that run files load it.
    from ai_edge_litert.interpreter import Interpreter, OpResolverType  # noqa: PLC0415

    resolvers = {
        Kernels.XNNPACK: OpResolverType.AUTO,
        Kernels.BUILTIN: OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    }

    def load(wanted: Kernels):
        interpreter = Interpreter(
            str(path),
            num_threads=num_threads,
            experimental_op_resolver_type=resolvers[wanted],
            experimental_preserve_all_tensors=preserve_all_tensors,
        )
        interpreter.allocate_tensors()
        return interpreter, wanted

    if kernels is not None:
        return load(kernels)
    try:
        return load(Kernels.XNNPACK)
    except RuntimeError as refusal:  # of a delegate, or of the runtime itself
        try:
            return load(Kernels.BUILTIN)
        except RuntimeError:
            raise refusal from None
