"""What a worker and the command exchange: a request, the converted file, the reference outputs.

1. The worker gets the path of `request.json`, converts, writes `model.tflite` into the folder of
   the request, and prints "converted".
2. It then reads one line. With it `inputs.npy` exists, float32 [count, height, width, channels] as
   the network takes it; the framework runs it, and the worker writes `references.npz`.
"""

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

CONVERTED = "converted"
REFUSED = "refused: "
"""Start of the last line on stderr of a mistake that the user can correct."""


class RefusalError(Exception):
    """A mistake of the user; its message is one line."""


def read_request() -> tuple[dict[str, Any], pathlib.Path]:
    """Returns the request as a dictionary, and the folder of all files."""
    path = pathlib.Path(sys.argv[1])
    return json.loads(path.read_text()), path.parent


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
