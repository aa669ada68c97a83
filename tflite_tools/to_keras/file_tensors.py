"""Values of any tensors of a file as the runtime computes them, in a child process."""

import concurrent.futures
import multiprocessing
import pathlib
import tempfile
from concurrent.futures.process import BrokenProcessPool

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.graph import FILE_IDENTIFIER

PATIENCE_S = 300.0
"""Longest time that loading a file and running it on all inputs may take."""


def with_outputs(content: bytes, tensors: list[int]) -> bytes:
    """The file with other tensors as its outputs.

    Delegated kernels keep no intermediate tensor, but they do write every output.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    model.subgraphs[0].outputs = np.asarray(tensors, np.int32)
    model.signatureDefs = None  # they name the outputs that were
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def run_tensors(
    path: str | pathlib.Path,
    tensors: list[int],
    *,
    inputs: list[np.ndarray],
    input_tensor: int,
    builtin: bool = False,
) -> list[list[np.ndarray]]:
    """Runs a file on some inputs.

    Args:
        path: the file.
        tensors: indices of computed tensors.
        inputs: one run each, in the type of the file's input.
        input_tensor: index of the input that they are for; others hold zeros.
        builtin: the runtime's own kernels instead of XNNPACK's.

    Returns:
        for each input the values of each tensor, in the tensor's own type.

    Raises:
        RuntimeError: the runtime refuses the file, crashes, or gives no answer.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "tensors.tflite"
        copy.write_bytes(with_outputs(pathlib.Path(path).read_bytes(), tensors))
        pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
        try:
            answer = pool.submit(_run, str(copy), tensors, inputs, input_tensor, builtin)
            return answer.result(PATIENCE_S)
        except BrokenProcessPool as error:
            raise RuntimeError(f"{path} crashed the runtime") from error
        except TimeoutError as error:
            for process in pool._processes.values():
                process.terminate()
            raise RuntimeError(f"{path} gave no answer in {PATIENCE_S:.0f} s") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _run(path, tensors, inputs, input_tensor, builtin):
    # Only children load the runtime: it writes to stderr and can crash.
    from ai_edge_litert import interpreter as litert  # noqa: PLC0415

    resolver = litert.OpResolverType
    interpreter = litert.Interpreter(
        path,
        num_threads=1,
        experimental_op_resolver_type=(
            resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES if builtin else resolver.AUTO
        ),
    )
    try:
        interpreter.allocate_tensors()
        found = []
        for details in interpreter.get_input_details():
            interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
        for value in inputs:
            interpreter.set_tensor(input_tensor, value)
            interpreter.invoke()
            found.append([interpreter.get_tensor(index) for index in tensors])
        return found
    except ValueError as error:
        raise RuntimeError(" ".join(str(error).split())) from error
