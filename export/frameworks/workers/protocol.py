"""What a worker and the command exchange: a request, the converted file, the reference outputs.

1. The worker gets the path of `request.json`, converts, writes `model.tflite` into the folder of
   the request, and prints "converted".
2. It then reads one line. With it `inputs.npy` exists, float32 [count, height, width, channels] as
   the network takes it; the framework runs it, and the worker writes `references.npz`.
"""

import json
import os
import pathlib
import resource
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

CONVERTED = "converted"
PIPE_VARIABLE = "DEEPLAB_PARENT_PIPE"
"""As in `deeplab_tf.child_process`, which is not installed here."""
REFUSED = "refused: "
"""Start of the last line on stderr of a mistake that the user can correct."""


class RefusalError(Exception):
    """A mistake of the user; its message is one line."""


def read_request() -> tuple[dict[str, Any], pathlib.Path]:
    """Returns the request as a dictionary, and the folder of all files.

    From here on the process ends with the command, and its memory is limited.
    """
    path = pathlib.Path(sys.argv[1])
    request = json.loads(path.read_text())
    _end_with_command(int(os.environ.pop(PIPE_VARIABLE, "-1")))
    _limit_memory(request["memory_bytes"])
    return request, path.parent


def _end_with_command(descriptor: int) -> None:
    """Ends this process and its own when the command has ended: its pipe is closed then."""

    def watch() -> None:
        while os.read(descriptor, 1):
            pass
        os.killpg(0, signal.SIGKILL)  # a group of its own

    if descriptor >= 0:
        threading.Thread(target=watch, daemon=True).start()


def _limit_memory(allowance_bytes: int) -> None:
    """Limits the address space to what it is now and an allowance; 0: no limit."""
    statm = pathlib.Path("/proc/self/statm")
    if allowance_bytes > 0 and statm.is_file():
        now = int(statm.read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = now + allowance_bytes
        if most != resource.RLIM_INFINITY:
            limit = min(limit, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def wait_for_inputs(folder: pathlib.Path) -> list[np.ndarray]:
    """Says that the file is converted; returns the inputs, each [1, height, width, channels]."""
    sys.stdout.write(f"\n{CONVERTED}\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        sys.exit(0)  # the command ended
    return [image[None] for image in np.load(folder / "inputs.npy")]


def write_references(folder: pathlib.Path, outputs: list[list[np.ndarray]]) -> None:
    """Writes the framework's outputs.

    Args:
        folder: of the request.
        outputs: of each input a list of arrays.
    """
    arrays = {
        str(position): np.stack(values)
        for position, values in enumerate(zip(*outputs, strict=True))
    }
    with (folder / "references.npz").open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def write_result(folder: pathlib.Path, **values: Any) -> None:
    """Writes `result.json`: names of the outputs, versions, and whatever the report says."""
    (folder / "result.json").write_text(json.dumps(values))


def run(main: Callable[[], None]) -> None:
    """Runs a worker; a refusal is one line on stderr and status 1."""
    try:
        main()
    except RefusalError as refusal:
        sys.stderr.write(f"\n{REFUSED}{' '.join(str(refusal).split())}\n")
        sys.exit(1)
    except MemoryError as error:
        sys.stderr.write(
            f"\nout of memory ({' '.join(str(error).split())[:200]}); DEEPLAB_CHILD_MEMORY_MB sets "
            "another limit\n"
        )
        sys.exit(1)
