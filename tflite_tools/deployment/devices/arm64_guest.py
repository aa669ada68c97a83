"""Runs a file in the aarch64 Python of an emulated processor; a script that imports nothing of us.

python3 arm64_guest.py MODEL.tflite FOLDER xnnpack|builtin

Reads input_0.npy, input_1.npy ... in FOLDER and writes PICTURE_OUTPUT.npy there.
"""

import pathlib
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType


def main(model: str, folder: pathlib.Path, *, kernels: str) -> None:
    """Runs the file on every input.

    Args:
        model: the file.
        folder: of inputs and outputs.
        kernels: xnnpack or builtin.
    """
    resolver = (
        OpResolverType.AUTO
        if kernels == "xnnpack"
        else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    interpreter = Interpreter(model, num_threads=1, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    image, *others = interpreter.get_input_details()
    for details in others:
        zeros = np.zeros(details["shape"], details["dtype"])
        interpreter.set_tensor(details["index"], zeros)
    for picture in range(len(list(folder.glob("input_*.npy")))):
        interpreter.set_tensor(image["index"], np.load(folder / f"input_{picture}.npy"))
        interpreter.invoke()
        for position, details in enumerate(interpreter.get_output_details()):
            np.save(folder / f"{picture}_{position}.npy", interpreter.get_tensor(details["index"]))


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), kernels=sys.argv[3])
