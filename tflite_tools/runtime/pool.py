"""Child processes that run files with a contract: images in, class maps out."""

import dataclasses
from collections.abc import Sequence

from tflite_tools.contract import ModelContract
from tflite_tools.runtime.child_pool import TIMEOUT_S, ChildPool
from tflite_tools.runtime.runner import ModelRunner


@dataclasses.dataclass(frozen=True)
class _ContractFile:
    """A file that a child process opens with its contract."""

    contract: ModelContract

    def open(self, num_threads: int) -> ModelRunner:
        """Opens its interpreter."""
        return ModelRunner(self.contract, num_threads)

    def memory_bytes(self) -> int:
        """Returns the most memory that it should take."""
        return self.contract.memory_bytes


class InterpreterPool(ChildPool):
    """A pool of child processes whose tasks get a `ModelRunner`.

    Args:
        contracts: of the files, by index.
        processes: number of child processes.
        num_threads: of each interpreter.
        quiet: whether to drop what the runtime writes to stderr.
        timeout_s: longest time of one task.
    """

    def __init__(
        self,
        contracts: Sequence[ModelContract],
        processes: int,
        *,
        num_threads: int = 1,
        quiet: bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        super().__init__(
            [_ContractFile(contract) for contract in contracts],
            processes,
            num_threads=num_threads,
            quiet=quiet,
            timeout_s=timeout_s,
        )
