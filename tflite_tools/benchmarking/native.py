"""The runtime's own profiler, reached through the C interface of the package's `libLiteRt.so`.

The Python package has no binding for it: `Interpreter` gives no times, `CompiledModel` does not
expose its profiler, and the package's own benchmark script times whole invokes. The shared library
of the package exports the documented C interface with the profiler (`litert/c/litert_profiler.h`),
and thus the time of each operator inside XNNPACK and the name of its kernel. It is the same XNNPACK
that `Interpreter` uses, built into another library of the same package.

Times have a resolution of one microsecond. A wrong structure layout would crash, so only the
version that this module was written for is accepted, and the size of the profiler's records is
measured. Used in child processes.
"""

import ctypes
import dataclasses
import importlib.metadata
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

SUPPORTED = "2.3."
"""Versions of ai-edge-litert whose C interface was checked."""
_RECORD = struct.Struct("<Qi4xQQ6q2QI4x")
"""ProfiledEventData: tag, type, start us, elapsed us, memory before and after, two metadata
fields (the first is the node), source."""
_RECORD_SPACE = 4 * _RECORD.size
_UNWRITTEN = 0xA5
_CPU = 1
_OPERATOR, _DELEGATE_OPERATOR, _DEFAULT = 2, 8, 1
_HANDLE = ctypes.c_void_p
_SIZE = ctypes.c_size_t


@dataclasses.dataclass(frozen=True)
class Event:
    """One operator of one invoke.

    Attributes:
        tag: a builtin kernel's operator ("ARG_MAX"), or the name of an XNNPACK kernel.
        delegated: whether it ran inside XNNPACK.
        node: position in the file of a builtin operator; the number inside its partition of an
            XNNPACK kernel.
        elapsed_us: duration in microseconds.
    """

    tag: str
    delegated: bool
    node: int
    elapsed_us: int


class ProfiledModel:
    """A file loaded in the runtime, with its profiler.

    Args:
        path: the file.
        num_threads: of the runtime.

    Raises:
        RuntimeError: an unsupported version of the runtime, or it refuses the file.
    """

    def __init__(self, path: pathlib.Path, num_threads: int) -> None:
        self._library = _load()
        self._libc = ctypes.CDLL(None)
        self._libc.strdup.restype = _HANDLE
        environment = self._make("LiteRtCreateEnvironment", 0, None)
        model = self._make("LiteRtCreateModelFromFile", environment, str(path).encode())
        options = self._options(num_threads)
        self._model = self._make("LiteRtCreateCompiledModel", environment, model, options)
        self._profiler = self._make("LiteRtCompiledModelGetProfiler", self._model)
        if not self._profiler:
            raise RuntimeError("the runtime gave no profiler")
        signature = self._make("LiteRtGetModelSignature", model, _SIZE(0))
        self._inputs = self._buffers("Input", environment, signature=signature)
        self._outputs = self._buffers("Output", environment, signature=signature)

    def _call(self, name: str, *arguments: Any) -> None:
        if status := getattr(self._library, name)(*arguments):
            raise RuntimeError(f"{name} of the runtime failed with status {status}")

    def _make(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        handle = _HANDLE()
        self._call(name, *arguments, ctypes.byref(handle))
        return handle

    def _options(self, num_threads: int) -> ctypes.c_void_p:
        options = self._make("LiteRtCreateOptions")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
        free = ctypes.cast(self._libc.free, _HANDLE)
        for identifier, text in (
            (b"runtime_options_string", b"enable_profiling = true\n"),
            (b"xnnpack", f"num_threads = {num_threads}\n".encode()),
        ):
            payload = _HANDLE(self._libc.strdup(text))  # freed by the runtime
            opaque = self._make("LiteRtCreateOpaqueOptions", identifier, payload, free)
            self._call("LiteRtAddOpaqueOptions", options, opaque)
        return options

    def _buffers(
        self, side: str, environment: ctypes.c_void_p, *, signature: ctypes.c_void_p
    ) -> ctypes.Array[ctypes.c_void_p]:
        count = _SIZE()
        self._call(f"LiteRtGetNumSignature{side}s", signature, ctypes.byref(count))
        handles = []
        for index in range(count.value):
            tensor = self._make(f"LiteRtGetSignature{side}TensorByIndex", signature, _SIZE(index))
            kind = ctypes.create_string_buffer(256)  # LiteRtRankedTensorType, 72 bytes
            self._call("LiteRtGetRankedTensorType", tensor, kind)
            needed = self._make(
                f"LiteRtGetCompiledModel{side}BufferRequirements",
                self._model,
                _SIZE(0),
                _SIZE(index),
            )
            handles.append(
                self._make(
                    "LiteRtCreateManagedTensorBufferFromRequirements", environment, kind, needed
                )
            )
        return (_HANDLE * len(handles))(*handles)

    def run(self) -> None:
        """Runs one invoke on the content of the buffers (zeros)."""
        self._call(
            "LiteRtRunCompiledModel",
            self._model,
            _SIZE(0),
            _SIZE(len(self._inputs)),
            self._inputs,
            _SIZE(len(self._outputs)),
            self._outputs,
        )

    def run_profiled(self) -> tuple[list[Event], int]:
        """Runs one invoke under the profiler.

        Returns:
            Its operators in the order of execution, and the microseconds of the whole invoke.
        """
        self._call("LiteRtResetProfiler", self._profiler)
        self._call("LiteRtStartProfiler", self._profiler)
        self.run()
        self._call("LiteRtStopProfiler", self._profiler)
        events, whole = [], 0
        for tag, kind, _, elapsed, *_, node, _, _ in self._records():
            if kind in (_OPERATOR, _DELEGATE_OPERATOR):
                events.append(Event(tag, kind == _DELEGATE_OPERATOR, node=node, elapsed_us=elapsed))
            elif kind == _DEFAULT and tag == "Invoke":
                whole = elapsed
        return events, whole

    def _records(self) -> Iterator[tuple]:
        count = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, ctypes.byref(count))
        if count.value < 1:
            raise RuntimeError("the runtime's profiler recorded nothing")
        raw = (ctypes.c_ubyte * (count.value * _RECORD_SPACE))()
        ctypes.memset(raw, _UNWRITTEN, len(raw))
        self._call("LiteRtGetProfilerEvents", self._profiler, count, raw)
        content = bytes(raw)
        written = len(content.rstrip(bytes([_UNWRITTEN])))
        if abs(written - count.value * _RECORD.size) > 4:  # the tail may be padding
            raise RuntimeError(
                f"expected records of {_RECORD.size} bytes from the runtime's profiler, got "
                f"{written / count.value:.1f}"
            )
        for record in _RECORD.iter_unpack(content[: count.value * _RECORD.size]):
            yield (ctypes.string_at(record[0]).decode(errors="replace"), *record[1:])


def _load() -> ctypes.CDLL:
    version = importlib.metadata.version("ai-edge-litert")
    if not version.startswith(SUPPORTED):
        raise RuntimeError(
            f"times of operators: expected ai-edge-litert {SUPPORTED}x, got {version}; install a "
            "supported version"
        )
    found = importlib.metadata.distribution("ai-edge-litert").locate_file("ai_edge_litert")
    library = pathlib.Path(str(found)) / "libLiteRt.so"
    if not library.is_file():
        raise RuntimeError(
            "the package ai-edge-litert has no libLiteRt.so, which the profiler needs"
        )
    return ctypes.CDLL(str(library))
