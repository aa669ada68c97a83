"""One model in one program, invoked once for each line of standard input.

Runs in the program's own environment; answers "ready", then the milliseconds of each invoke, one
per line.
"""

import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

_OPSET = "17"


def litert(model: str, num_threads: int) -> Callable[[], object]:
    """Loads the file in this project's own runtime, with XNNPACK kernels.

    Args:
        model: path of the `.tflite`.
        num_threads: of the program.

    Returns:
        A function that runs one invoke.
    """
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    interpreter = Interpreter(model, num_threads=num_threads)
    interpreter.allocate_tensors()
    [tensor] = interpreter.get_input_details()
    interpreter.set_tensor(tensor["index"], _noise(tensor["shape"], tensor["dtype"]))
    return interpreter.invoke


def openvino(model: str, num_threads: int) -> Callable[[], object]:
    """Loads the file in OpenVINO's CPU plugin.

    Args:
        model: path of the `.tflite`.
        num_threads: of the program.

    Returns:
        A function that runs one invoke.
    """
    import openvino as program  # noqa: PLC0415

    settings = {
        # Processors with AMX compute float in bfloat16 unless told otherwise.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": num_threads,
        "NUM_STREAMS": 1,
    }
    compiled = program.Core().compile_model(model, "CPU", settings)
    tensor = compiled.input(0)
    request = compiled.create_infer_request()
    dtype = tensor.element_type.to_dtype()
    request.set_input_tensor(program.Tensor(_noise(tuple(tensor.shape), dtype)))
    return request.infer


def onnxruntime(model: str, num_threads: int) -> Callable[[], object]:
    """Converts the file with tf2onnx and loads it in ONNX Runtime.

    Args:
        model: path of the `.tflite`.
        num_threads: of the program.

    Returns:
        A function that runs one invoke.
    """
    import onnxruntime as program  # noqa: PLC0415

    options = program.SessionOptions()
    options.intra_op_num_threads = num_threads
    with tempfile.TemporaryDirectory() as folder:
        converted = pathlib.Path(folder) / "model.onnx"
        command = [sys.executable, "-m", "tf2onnx.convert", "--tflite", model]
        command += ["--opset", _OPSET, "--output", str(converted)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        session = program.InferenceSession(converted, options, providers=["CPUExecutionProvider"])
    [tensor] = session.get_inputs()
    dtypes = {"tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(float)": np.float32}
    feed = {tensor.name: _noise(tensor.shape, dtypes[tensor.type])}
    return lambda: session.run(None, feed)


def _noise(shape: Sequence[int], dtype: npt.DTypeLike) -> np.ndarray:
    dtype = np.dtype(dtype)
    noise = np.random.default_rng(0)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return noise.integers(limits.min, limits.max + 1, shape).astype(dtype)
    return noise.uniform(-1, 1, shape).astype(dtype)


PROGRAMS = {"litert": litert, "openvino": openvino, "onnxruntime": onnxruntime}


def main(program: str, model: str, *, num_threads: int) -> None:
    """Answers every line of standard input with the milliseconds of one invoke.

    Args:
        program: key of `PROGRAMS`.
        model: path of the `.tflite`.
        num_threads: of the program.
    """
    invoke = PROGRAMS[program](model, num_threads)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        started = time.perf_counter()
        invoke()
        sys.stdout.write(f"{(time.perf_counter() - started) * 1e3}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], num_threads=int(sys.argv[3]))
