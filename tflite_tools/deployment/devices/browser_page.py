"""A server on this machine for a page in a browser, and the browser that opens it.

The page gets the web runtime, the model and its inputs from here, and sends back raw outputs. It
reaches nothing else.
"""

import contextlib
import dataclasses
import http.server
import json
import os
import pathlib
import queue
import signal
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

import numpy as np

from deeplab_tf import child_process
from deeplab_tf.scratch import scratch_folder
from tflite_tools.deployment.devices.programs import how_it_ended

_WEB = pathlib.Path(__file__).with_name("web")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm"}
_BYTES = "application/octet-stream"
_PAGE = "page.html"
_OWN = (_PAGE, "page.js")
_POLL_S = 0.2
_FLAGS = (
    *(
        "--headless=new",
        "--no-first-run",
        "--disable-extensions",
        "--disable-background-networking",
    ),
    *("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"),
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
)


@dataclasses.dataclass
class Page:
    """What the page gets and what it has sent.

    Attributes:
        model: bytes of the file.
        inputs: values of its input, one array per picture.
        files: other files that it gets, by their address.
        outputs: by picture, then by name.
    """

    model: bytes
    inputs: list[np.ndarray]
    files: Mapping[str, bytes]
    outputs: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.outputs = [{} for _ in self.inputs]
        self.end: queue.Queue[dict] = queue.Queue()

    def content(self, path: str) -> tuple[bytes, str] | None:
        """Returns what is at an address, and its type; None for nothing.

        Args:
            path: of the request.
        """
        if path == "/model.tflite":
            return self.model, _BYTES
        if path == "/task.json":
            return json.dumps(self._task()).encode(), "application/json"
        if path.startswith("/input/"):
            return self.inputs[int(path.rpartition("/")[2])].tobytes(), _BYTES
        name = pathlib.PurePosixPath(_PAGE if path == "/" else path)
        kind = _TYPES.get(name.suffix, _BYTES)
        if path in self.files:
            return self.files[path], kind
        if name.name in _OWN:
            return (_WEB / name.name).read_bytes(), kind
        return None

    def _task(self) -> dict:
        first = self.inputs[0]
        return {
            "pictures": len(self.inputs),
            "dtype": str(first.dtype),
            "shape": list(first.shape),
        }

    def take(self, path: str, body: bytes) -> None:
        """Takes what the page sends.

        Args:
            path: of the request, with its query.
            body: of the request.
        """
        parts = urllib.parse.urlsplit(path)
        if parts.path == "/end":
            self.end.put(json.loads(body))
            return
        query = dict(urllib.parse.parse_qsl(parts.query))
        shape = [int(size) for size in query["shape"].split(",")]
        values = np.frombuffer(body, query["type"]).reshape(shape)
        self.outputs[int(query["picture"])][query["name"]] = values


def open_page(page: Page, browser: str, *, timeout_s: float) -> dict[str, Any]:
    """Opens a page in a browser without a window and waits until it has ended.

    Args:
        page: what it gets.
        browser: path of Chromium.
        timeout_s: longest time.

    Returns:
        What the page says at its end.

    Raises:
        RuntimeError: the browser crashed or ended, or took too long.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(page))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with scratch_folder("browser") as profile:
            process = _start(browser, profile, address=f"http://127.0.0.1:{server.server_port}/")
            try:
                return _wait(page, process, timeout_s=timeout_s)
            finally:
                _stop(process)
    finally:
        server.shutdown()
        server.server_close()


def _handler(page: Page) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = page.content(urllib.parse.urlsplit(self.path).path)
            self._answer(404 if found is None else 200, *(found or (b"", "text/plain")))

        def do_POST(self) -> None:
            page.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(200, b"", "text/plain")

        def _answer(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Writes no line per request."""

    return Handler


def _start(browser: str, profile: pathlib.Path, *, address: str) -> subprocess.Popen:
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's own refusal as root
    return subprocess.Popen(
        [browser, *_FLAGS, *sandbox, f"--user-data-dir={profile}", address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(profile)},  # it is killed, and would leave sockets
        start_new_session=True,
        preexec_fn=child_process.end_child_with_parent,
    )


def _wait(page: Page, process: subprocess.Popen, *, timeout_s: float) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            return page.end.get(timeout=_POLL_S)
        except queue.Empty:
            if process.poll() is not None:
                raise RuntimeError(
                    f"the browser {how_it_ended(process.returncode)} before the page had run"
                ) from None
    raise RuntimeError(f"the page in the browser took more than {timeout_s:.0f} s")


def _stop(process: subprocess.Popen) -> None:
    """Ends the browser with all its processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
