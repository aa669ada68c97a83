"""LiteRT's web runtime on WebGPU, in Chromium without a window, on its software driver.

The web runtime has several builds of its WebAssembly. The one whose code waits for promises (JSPI)
runs every file; the plain one fails where the GPU needs its inputs converted, although it says that
everything is accelerated. Both are tried, so that a file that needs the first is named.
"""

import os
import pathlib
import shutil

import numpy as np

from tflite_tools.deployment.devices.browser_page import Page, open_page
from tflite_tools.deployment.devices.gpu import fallback_of
from tflite_tools.deployment.devices.programs import UnavailableError
from tflite_tools.deployment.devices.reference import Outputs
from tflite_tools.deployment.devices.result import DeviceRun
from tflite_tools.deployment.phone_page.web_runtime import WebRuntime, web_runtime
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.flatbuffer.graph import Graph, parse_model

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_TIMEOUT_S = 600.0


def find_browser() -> str:
    """Returns the path of Chromium or Chrome; the variable CHROMIUM names another.

    Raises:
        UnavailableError: there is none.
    """
    given = os.environ.get("CHROMIUM", "")
    found = given or next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if not found or shutil.which(found) is None:
        where = f"CHROMIUM names {given}, which is no program" if given else "Chromium is missing"
        raise UnavailableError(f"{where}; install Chromium or Chrome, or set CHROMIUM to its path")
    return found


def prepare(cache: pathlib.Path) -> WebRuntime:
    """Returns the web runtime, fetched with npm if missing; the pages for phones use the same.

    Args:
        cache: folder of all environments.

    Raises:
        UnavailableError: there is no npm, or it cannot fetch it.
    """
    try:
        return web_runtime(cache)
    except RuntimeError as error:
        raise UnavailableError(str(error)) from error


def run(runtime: WebRuntime, graph: Graph, *, inputs: list[np.ndarray]) -> list[DeviceRun]:
    """Runs a file in a browser.

    Args:
        runtime: of `prepare`.
        graph: the file.
        inputs: values of its input, one array per picture.

    Raises:
        UnavailableError: there is no browser.
        RuntimeError: the browser crashed or took too long.
    """
    browser, model = find_browser(), read_model_bytes(graph.path)
    page = _page(model, inputs, build="jspi", runtime=runtime)
    end = open_page(page, browser, timeout_s=_TIMEOUT_S)
    if "error" in end:
        return [DeviceRun("", None, failure=_one_line(end["error"]))]
    log = "\n".join(end["said"])
    fallback, _ = fallback_of(log)
    if not end["all"] and not fallback:
        fallback = ("some operators; the web runtime does not say which",)
    notes = [] if end["onGpu"] else ["no operator ran on the GPU"]
    plain = _page(model, inputs[:1], build="plain", runtime=runtime)
    refused = open_page(plain, browser, timeout_s=_TIMEOUT_S).get("error")
    if refused:
        notes.append(
            "needs the web runtime's JSPI build (loadLiteRt(path, {jspi: true})): the plain one "
            f"fails with '{_one_line(refused)}'"
        )
    title = f"Chromium, {end['adapter']}"
    found = _in_order(page, graph, model)
    return [DeviceRun(title, found, fallback=fallback, notes=tuple(notes))]


def _page(model: bytes, inputs: list[np.ndarray], *, build: str, runtime: WebRuntime) -> Page:
    files = {
        "/runtime.js": runtime.script().encode(),
        "/loader.js": runtime.loader(build).encode(),
        "/runtime.wasm": runtime.wasm(build),
    }
    return Page(model, inputs, files=files)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _in_order(page: Page, graph: Graph, model: bytes) -> Outputs:
    """Returns the outputs in the file's order; the web runtime has those of its signature."""
    named = output_names(graph, model)
    return [
        [outputs[name] for name in named]
        if set(named) == set(outputs)
        else list(outputs.values())  # of one output, or without a signature, in the file's order
        for outputs in page.outputs
    ]


def output_names(graph: Graph, model: bytes) -> list[str]:
    """Returns the names of the outputs in the file's first signature, in the order of the file.

    Args:
        graph: the file.
        model: its bytes.

    Returns:
        Names of the tensors where there is no signature.
    """
    signatures = parse_model(model, str(graph.path)).signatureDefs or []
    names = {}
    for output in signatures[0].outputs if signatures else []:
        text = output.name
        names[output.tensorIndex] = text.decode() if isinstance(text, bytes) else text
    return [names.get(index, graph.tensors[index].name) for index in graph.outputs]
