"""Runs the script of a framework in its own environment: converts, then runs the network."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

import numpy as np

from deeplab_tf import bounded_file, child_process
from export.frameworks.environments import python_of
from export.frameworks.request import ConversionRequest, Framework

_SCRIPTS = pathlib.Path(__file__).resolve().parent / "workers"
_CONVERTED = "converted\n"
_REFUSED = "refused: "
_EXCEPTION = re.compile(r"[\w.]*(?:Error|Exception|Exit|Interrupt)\b")
"""Start of the line of a traceback that names the exception."""
_MOST_LINES = 3
_FILE_COPIES = 30
"""A network in memory: its weights for each step of the conversion, and their graphs."""


class Worker:
    """A framework in a process of its own.

    Args:
        request: what to convert.
        source: the file or folder to load, the request's own or a checked copy.
        folder: empty, for the files that both sides write.

    Attributes:
        model: path of the converted file, once `convert` has returned.
        outputs: names of the outputs in the framework.
        versions: of the framework's packages.
        takes_pixels: whether the network is known to normalize pixels itself.
    """

    def __init__(
        self, request: ConversionRequest, source: pathlib.Path, *, folder: pathlib.Path
    ) -> None:
        self._request, self._source, self._folder = request, source, folder
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._late, self._pipe = False, -1
        self.model = folder / "model.tflite"
        self.outputs: tuple[str, ...] = ()
        self.versions: dict[str, str] = {}
        self.takes_pixels = False

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._kill()
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate()
            os.close(self._pipe)
        self._errors.close()

    def convert(self) -> None:
        """Converts the network.

        Raises:
            ValueError: the network cannot be used as it is; the message says why.
            RuntimeError: the converter failed, died, or took too long.
        """
        framework, request = self._request.framework, self._request
        values = {
            "source": str(self._source.resolve()),
            "module": request.module,
            "weights": str(request.weights.resolve()) if request.weights else "",
            "python_file": str(request.python_file.resolve()) if request.python_file else "",
            "size": request.size,
            "channels": request.preprocessing.channels if request.preprocessing else None,
            "outputs": request.outputs,
            "signature": request.signature,
            "memory_bytes": child_process.memory_allowance(
                _FILE_COPIES * _size_of(self._source, request.weights)
            ),
        }
        path = self._folder / "request.json"
        path.write_text(json.dumps(values))
        python: str | pathlib.Path = sys.executable
        if framework is not Framework.KERAS:
            python = python_of(framework.value, request.environments, packages=request.packages)
        environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
        read_end, self._pipe = os.pipe()  # closed by the end of this process, whatever ends it
        environment[child_process.PIPE_VARIABLE] = str(read_end)
        try:
            self._process = subprocess.Popen(
                [python, _SCRIPTS / f"convert_{framework.value}.py", path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                cwd=self._folder,
                env=environment,
                pass_fds=[read_end],
                start_new_session=True,  # its own children end with it
            )
        finally:
            os.close(read_end)
        with self._deadline():
            assert self._process.stdout is not None
            if not any(line == _CONVERTED for line in self._process.stdout):
                self._raise("could not be converted")
        path = self._folder / "result.json"
        with bounded_file.read_as(path, "a result of the converter"):
            result = bounded_file.read_json(path)
            self.outputs = tuple(str(name) for name in result["outputs"])
            self.versions = {str(k): str(v) for k, v in result["versions"].items()}
            self.takes_pixels = bool(result.get("takes_pixels"))

    def run(self, inputs: np.ndarray) -> list[np.ndarray]:
        """Runs the framework's own network.

        Args:
            inputs: float32 [count, height, width, channels], as the network takes them.

        Returns:
            Of each output an array [count, 1, ...]; images with the channels last.

        Raises:
            RuntimeError: the framework failed or died.
        """
        assert self._process is not None and self._process.stdin is not None
        np.save(self._folder / "inputs.npy", inputs)
        with self._deadline():
            self._process.communicate("\n")
        if self._process.returncode:
            self._raise("could not be run")
        with np.load(self._folder / "references.npz") as references:
            return [references[str(position)] for position in range(len(references.files))]

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        timer = threading.Timer(self._request.timeout_s, self._kill, kwargs={"late": True})
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _kill(self, late: bool = False) -> None:
        assert self._process is not None
        self._late |= late
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _raise(self, what: str) -> None:
        """Raises the reason that the process left."""
        assert self._process is not None
        status = self._process.wait()
        self._errors.seek(0)
        lines = [line.rstrip() for line in self._errors.read().splitlines() if line.strip()]
        if lines and lines[-1].startswith(_REFUSED):
            # A checked copy is named as the user knows it.
            loaded, known = str(self._source.resolve()), str(self._request.source)
            raise ValueError(lines[-1].removeprefix(_REFUSED).replace(loaded, known))
        reason = _exception(lines) or f"it ended with status {status}"
        if self._late:
            reason = f"no result within {self._request.timeout_s:g} s; give a larger --timeout_s"
        raise RuntimeError(
            f"{self._request.source} {what} by the tools of {self._request.framework.value}: "
            f"{reason}"
        )


def _size_of(source: pathlib.Path, weights: pathlib.Path | None) -> int:
    """Returns the bytes of all files of a network."""
    files = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in (*files, *([weights] if weights else [])))


def _exception(lines: list[str]) -> str:
    """Returns the message of the last exception in a traceback, in one line.

    Args:
        lines: of stderr, without empty ones.
    """
    starts = [place for place, line in enumerate(lines) if _EXCEPTION.match(line)]
    shown = lines[starts[-1] :][:_MOST_LINES] if starts else lines[-_MOST_LINES:]
    return " | ".join(line.strip() for line in shown)
