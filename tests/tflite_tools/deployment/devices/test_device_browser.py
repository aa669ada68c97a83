"""The page in a browser, with programs that stand for the browser."""

import dataclasses
import pathlib
import sys

import numpy as np
import pytest

from tests.paths import CAMVID
from tflite_tools.deployment.devices import browser_gpu
from tflite_tools.deployment.devices.browser_page import Page, open_page
from tflite_tools.deployment.devices.programs import UnavailableError
from tflite_tools.flatbuffer.graph import read_graph

INPUTS = [np.arange(6, dtype=np.uint8).reshape(1, 1, 2, 3), np.ones((1, 1, 2, 3), np.uint8)]

RUNS = """
import json, urllib.parse, urllib.request
def get(path): return urllib.request.urlopen(address + path).read()
def post(path, body): urllib.request.urlopen(address + path, body)
task = json.loads(get("task.json"))
assert get("model.tflite") == b"model"
for picture in range(task["pictures"]):
    pixels = get(f"input/{picture}")
    for name, step in (("b", 2), ("a", 1)):
        query = urllib.parse.urlencode(
            {"picture": picture, "name": name, "type": task["dtype"], "shape": "1,1,2,3"})
        post("output?" + query, bytes(value + step for value in pixels))
post("end", json.dumps({"pictures": task["pictures"]}).encode())
time.sleep(60)
"""


@pytest.fixture
def page():
    return Page(b"model", INPUTS, files={"/runtime.js": b"var types;"})


def browser(tmp_path: pathlib.Path, code: str) -> str:
    path = tmp_path / "browser"
    path.write_text(f"#!{sys.executable}\nimport os, sys, time\naddress = sys.argv[-1]\n{code}\n")
    path.chmod(0o755)
    return str(path)


def test_a_page_gives_outputs_of_every_picture(page, tmp_path):
    assert open_page(page, browser(tmp_path, RUNS), timeout_s=60) == {"pictures": 2}
    assert [list(outputs) for outputs in page.outputs] == [["b", "a"]] * 2
    for values, outputs in zip(INPUTS, page.outputs, strict=True):
        np.testing.assert_array_equal(outputs["a"], values + 1)
        np.testing.assert_array_equal(outputs["b"], values + 2)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.abort()", r"the browser crashed \(SIGABRT\)"),
        ("sys.exit(3)", "the browser ended with status 3"),
        ("time.sleep(60)", "took more than 1 s"),
    ],
)
def test_a_browser_that_does_not_run_the_page(page, tmp_path, code, said):
    with pytest.raises(RuntimeError, match=said):
        open_page(page, browser(tmp_path, code), timeout_s=1)


def test_the_server_gives_its_files_and_no_others(page):
    assert b"/page.js" in page.content("/")[0]
    assert page.content("/page.js")[1] == "text/javascript"
    assert page.content("/runtime.js") == (b"var types;", "text/javascript")
    assert page.content("/input/1")[0] == INPUTS[1].tobytes()
    assert page.content("/loader.js") is None
    assert page.content("/../browser_page.py") is None


def test_a_missing_browser_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(UnavailableError, match="Chromium is missing; install"):
        browser_gpu.find_browser()
    monkeypatch.setenv("CHROMIUM", "/no/chromium")
    with pytest.raises(UnavailableError, match="CHROMIUM names /no/chromium, which is no program"):
        browser_gpu.find_browser()
    with pytest.raises(UnavailableError, match="npm is missing"):
        browser_gpu.prepare(tmp_path / "cache")


def false_pages(monkeypatch, ends):
    """Browsers that end with these words, without outputs of their own."""
    pages = []

    def fake(page, browser, *, timeout_s):
        pages.append(page)
        page.outputs = [{"output_0": np.zeros((1, 2))} for _ in page.inputs]
        return ends[page.files["/loader.js"].decode()]

    monkeypatch.setattr(browser_gpu, "open_page", fake)
    monkeypatch.setattr(browser_gpu, "find_browser", lambda: "chromium")
    return pages


WHOLE = {"adapter": "SwiftShader", "onGpu": True, "all": True, "said": []}


@dataclasses.dataclass
class Runtime:
    """Each build is its name."""

    def script(self):
        return ""

    def loader(self, build):
        return build

    def wasm(self, build):
        return build.encode()


def run():
    return browser_gpu.run(Runtime(), read_graph(CAMVID / "int8.tflite"), inputs=INPUTS)


def test_a_file_that_needs_a_special_build_is_named(monkeypatch):
    ends = {"jspi": WHOLE, "plain": {"error": "Asyncify is not\ndefined", "said": []}}
    pages = false_pages(monkeypatch, ends)
    [found] = run()
    assert "needs the web runtime's JSPI build" in found.notes[0]
    assert "fails with 'Asyncify is not defined'" in found.notes[0]
    assert [len(page.inputs) for page in pages] == [2, 1]
    assert (found.title, len(found.outputs)) == ("Chromium, SwiftShader", 2)


def test_a_file_that_runs_in_every_build_has_no_note(monkeypatch):
    false_pages(monkeypatch, {"jspi": WHOLE, "plain": WHOLE})
    [found] = run()
    assert (found.notes, found.fallback) == ((), ())


def test_what_a_browser_leaves_to_the_cpu_is_told(monkeypatch):
    part = {**WHOLE, "all": False, "onGpu": False}
    false_pages(monkeypatch, {"jspi": part, "plain": part})
    [found] = run()
    assert found.notes == ("no operator ran on the GPU",)
    assert found.fallback == ("some operators; the web runtime does not say which",)


def test_a_page_that_fails_is_one_line(monkeypatch):
    false_pages(monkeypatch, {"jspi": {"error": "this browser\ngives no GPU", "said": []}})
    [found] = run()
    assert (found.outputs, found.failure) == (None, "this browser gives no GPU")


def test_outputs_have_the_names_of_the_signature():
    path = CAMVID / "int8.tflite"
    assert browser_gpu.output_names(read_graph(path), path.read_bytes()) == ["output_0"]
