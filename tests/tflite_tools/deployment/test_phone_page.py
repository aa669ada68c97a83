"""The page for a phone: its pixels and masks are ours, in Node.js and in a browser."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from PIL import Image

from clients.environments import node_in_browser_folder
from deeplab_tf.data.images import read_image
from deeplab_tf.data.preprocessing import Preprocessing, place
from deeplab_tf.data.readers.synthetic import draw_scene
from tests.children import run_command
from tests.paths import CAMVID, ZOO
from tflite_tools.contract import read_contract
from tflite_tools.deployment.phone_page.description import model_values
from tflite_tools.deployment.phone_page.page import PageOptions, write_page
from tflite_tools.deployment.phone_page.trial import TEMPLATES, our_mask, try_model
from tflite_tools.deployment.phone_page.web_runtime import web_runtime
from tflite_tools.deployment.phone_result import compare_with_file, read_phone_result
from tflite_tools.flatbuffer.graph import parse_model, read_graph
from tflite_tools.flatbuffer.pack import pack

INT8 = CAMVID / "int8.tflite"
QAT_INT8 = CAMVID / "qat_int8.tflite"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_LOG = re.compile(r"(?!pageerror)\w+: (?:INFO|WARNING): |(?!error)(?!pageerror)")
"""LiteRT writes all of its log as errors; the browser warns that it has no GPU."""
_PLACE = """
import { readFileSync, writeFileSync } from "node:fs";
import vm from "node:vm";
const [script, folder, height, width, canvasHeight, canvasWidth] = process.argv.slice(2);
const placePhoto = vm.runInThisContext(readFileSync(script, "utf8") + "\\nplacePhoto");
const rgba = new Uint8Array(readFileSync(folder + "/rgba.bin"));
const canvas = { height: Number(canvasHeight), width: Number(canvasWidth) };
const { pixels } = placePhoto(rgba, Number(height), Number(width), canvas);
writeFileSync(folder + "/pixels.bin", pixels);
"""


@pytest.fixture(scope="module")
def node():
    found = shutil.which("node")
    if found is None:
        pytest.skip("no Node.js on this machine: the page's scripts are not run")
    return found


@pytest.fixture(scope="module")
def runtime(node):
    """The web runtime, from the user's cache or npm."""
    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine: there is no web runtime to make a page with")
    try:
        return web_runtime()
    except RuntimeError as error:
        if "npm pack" not in str(error):
            raise
        pytest.skip(f"the web runtime cannot be fetched: {error}")


@pytest.fixture(scope="module")
def browser(runtime):
    """Puppeteer's folder, on a machine that has Chromium."""
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip("no Chromium on this machine: the page is not opened in a browser")
    try:
        return node_in_browser_folder()
    except RuntimeError as error:
        pytest.skip(f"puppeteer cannot be installed: {error}")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A drawn photo that is larger than the models' inputs and of another aspect ratio."""
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    Image.fromarray(draw_scene(3)[0]).resize((700, 460), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def page(runtime, scene, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(PageOptions((INT8, QAT_INT8), output=path, photo=scene))
    return path


def used(folder, page, photo, *options):
    """What a person sees who uses the page in a browser, and what it saves."""
    output = photo.parent / "_".join(["used", *options])
    output.mkdir(exist_ok=True)
    done = subprocess.run(
        ["node", "phone_page.mjs", str(page), str(photo), str(output), *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:] + (output / "seen.json").read_text()
    return json.loads((output / "seen.json").read_text()), output / "result.json"


@pytest.mark.parametrize(
    ("size", "canvas"),
    [((460, 700), (368, 480)), ((90, 31), (368, 480)), ((7, 300), (33, 20)), ((368, 480),) * 2],
)
def test_photos_are_placed_as_in_python(node, tmp_path, size, canvas):
    photo = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    alpha = np.full((*size, 1), 255, np.uint8)
    (tmp_path / "rgba.bin").write_bytes(np.concatenate([photo, alpha], 2).tobytes())
    (tmp_path / "place.mjs").write_text(_PLACE)
    numbers = [str(number) for number in (*size, *canvas)]
    subprocess.run(
        [node, tmp_path / "place.mjs", TEMPLATES / "photo.js", tmp_path, *numbers], check=True
    )
    found = np.fromfile(tmp_path / "pixels.bin", np.uint8).reshape(*canvas, 3)
    np.testing.assert_array_equal(found, place(photo, canvas)[0])


def tried(path, runtime, preprocessing=None, *, photo=None):
    """Share of the pixels that the web runtime gives as ours, on a drawn scene or a photo."""
    contract = read_contract(path, preprocessing)
    image = draw_scene(3)[0] if photo is None else read_image(photo)
    pixels, _ = place(image, (contract.height, contract.width))
    values = model_values(contract, read_graph(path))
    expected = our_mask(contract, pixels)
    return try_model(contract, values, runtime=runtime, pixels=pixels, expected=expected)


def test_web_runtime_gives_our_mask(runtime):
    assert tried(INT8, runtime) == 1


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("deeplabv3_257_mv_gpu.tflite", 0.9999),  # float scores
        ("deeplabv3_mnv2_ade20k_int8.tflite", 0.9999),  # int32 class map
        ("deeplabv3_mnv2_pascal_quant.tflite", 0.9999),  # int64 class map
        ("user_networks/nchw.tflite", 0.9999),  # channels first, in and out
    ],
)
def test_files_of_others_in_the_web_runtime(runtime, shared_dir, name, least):
    path = shared_dir / "models" / name
    assert tried(path, runtime, Preprocessing.of(3)) >= least


def test_page_holds_everything(page):
    text = page.read_text()
    assert 5e6 < page.stat().st_size < 20e6
    own = re.sub(r'<script type="[^"]+" id="[^"]+">.*?</script>', "", text, flags=re.DOTALL)
    assert not re.findall(r"https?://", own)
    assert not re.findall(r'\b(?:src|href)="(?!data:)', own)
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', own)
    assert "default-src &#39;none&#39;" in policy or "default-src 'none'" in policy
    assert "connect-src &#39;none&#39;" in policy


@pytest.mark.slow
def test_page_in_a_browser(browser, page, scene):
    seen, saved = used(browser, page, scene)
    assert [line for line in seen["console"] if not _LOG.match(line)] == []
    assert not [url for url in seen["requests"] if not url.startswith(("file:", "blob:", "data:"))]
    assert seen["sent"] == []
    assert seen["received"] == 0
    assert seen["wide"] == {"light": 390, "dark": 390}
    for ratios in seen["contrast"].values():
        assert min(ratios.values()) >= 4.5  # WCAG 2.2, 1.4.3
    assert all(name.strip() for _, name in seen["controls"]), seen["controls"]
    assert {"use-test", "choose", "take", "camera", "opacity", "measure", "device", "save"} <= set(
        seen["focused"]
    )
    assert seen["opacity"] == "0.59"
    assert "road" in seen["mask_label"]
    assert len(seen["legend"]) > 1
    assert [row[0] for row in seen["times"]] == [
        "int8, CPU, 1 thread, jspi",
        "qat_int8, CPU, 1 thread, jspi",
    ]
    result = read_phone_result(saved)
    assert result.device == "headless"
    for path, model in zip((INT8, QAT_INT8), result.models, strict=True):
        contract = read_contract(path)
        pixels, _ = place(np.asarray(Image.open(scene)), (contract.height, contract.width))
        np.testing.assert_array_equal(model.pixels, pixels)
        cpu = compare_with_file(result, path)[0]
        assert cpu.run.accelerator.startswith("cpu, jspi")
        assert cpu.comparison.agreement == 1
        median, p90, count = cpu.run.latency_ms
        assert 0 < median <= p90
        assert count == 20


@pytest.mark.slow
def test_browsers_without_the_newest_webassembly(browser, page, scene):
    _, saved = used(browser, page, scene, "compat", "brief")
    cpu = compare_with_file(read_phone_result(saved), INT8)[0]
    assert cpu.run.accelerator.startswith("cpu, compat")
    assert cpu.comparison.agreement == 1


class Isolating(http.server.SimpleHTTPRequestHandler):
    """A server that sends the headers of the folder's own file."""

    def end_headers(self):
        for line in (self.directory_path / "_headers").read_text().splitlines()[1:]:
            self.send_header(*line.strip().split(": "))
        super().end_headers()

    @property
    def directory_path(self):
        return type(self).root

    def log_message(self, *arguments):
        """Nothing."""


@pytest.mark.slow
def test_folder_runs_with_threads(browser, runtime, scene, tmp_path):
    site = tmp_path / "site"
    write_page(PageOptions((INT8,), output_dir=site))
    Isolating.root = site
    handler = functools.partial(Isolating, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        seen, saved = used(browser, f"http://127.0.0.1:{server.server_port}/", scene, "brief")
        server.shutdown()
    assert seen["isolated"]
    cpu = compare_with_file(read_phone_result(saved), INT8)[0]
    assert cpu.run.accelerator.startswith("cpu, threaded build, ")
    assert cpu.run.accelerator.endswith(" threads")
    assert cpu.comparison.agreement == 1


# Bad input


def refused(folder, *flags, environment=None):
    """The one line of a command that fails in a folder."""
    done = run_command(
        "tflite_tools.phone_page", *flags, environment=environment, cwd=folder, timeout=120
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert len(lines) == 1
    return lines[0]


def test_output_folder_is_missing(tmp_path):
    line = refused(tmp_path, f"--model={INT8}", f"--output={tmp_path / 'no' / 'page.html'}")
    assert "no: no such folder; create it" in line
    assert list(tmp_path.iterdir()) == []


def test_no_npm(tmp_path):
    flags = (f"--model={INT8}", f"--output={tmp_path / 'page.html'}", f"--cache_dir={tmp_path}")
    line = refused(tmp_path, *flags, environment={"PATH": str(tmp_path)})
    assert "npm is missing" in line
    assert "install Node.js 20" in line
    assert list(tmp_path.iterdir()) == []


def test_contract_is_unknown(shared_dir, tmp_path):
    path = shared_dir / "models" / "deeplabv3_257_mv_gpu.tflite"
    copy = tmp_path / "no_metadata.tflite"
    copy.write_bytes(path.read_bytes())
    line = refused(tmp_path, f"--model={copy}", f"--output={tmp_path / 'page.html'}")
    assert "how its float32 input is normalized; give --mean and --std" in line


def test_batch_of_any_size(shared_dir, tmp_path):
    path = shared_dir / "models" / "user_networks" / "flat_output.tflite"
    flags = (f"--model={path}", "--mean=128", "--std=128", "--output=page.html")
    line = refused(tmp_path, *flags)
    assert "needs a fixed batch of 1, got an input of [-1, 96, 128, 3]" in line
    assert "tflite_tools.fix_size" in line


def test_file_that_another_runtime_would_misread(shared_dir, runtime):
    """A real one: its class map is 0 everywhere in the web runtime, without an error."""
    path = shared_dir / "models" / "third_party" / "ps_deeplab_dm05_513_quant.tflite"
    with pytest.raises(RuntimeError, match=r"agrees with our interpreter on \d+\.\d% of"):
        tried(path, runtime, photo=shared_dir / "images" / "bird_segmentation.bmp")


def test_file_that_the_web_runtime_refuses(runtime, tmp_path):
    path = tmp_path / "unknown.tflite"
    model = parse_model(INT8.read_bytes(), "int8")
    operators = schema.BuiltinOperator
    [resize] = [c for c in model.operatorCodes if c.builtinCode == operators.RESIZE_BILINEAR]
    resize.builtinCode = resize.deprecatedBuiltinCode = operators.CUSTOM
    resize.customCode = b"NobodysOperator"
    path.write_bytes(pack(model, 1 << 20))
    line = refused(tmp_path, f"--model={path}", f"--output={tmp_path / 'page.html'}")
    assert "NobodysOperator" in line
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected 1 to 4 files, got 0"),
        ([f"--models={INT8},{QAT_INT8}"], "expected one of --output=page.html and --output_dir"),
        ([f"--models={INT8},{INT8}", "--output=page.html"], "given twice"),
        ([f"--model={INT8}", f"--output={ZOO}"], "is a folder; give --output=page.html"),
        ([f"--model={INT8}", "--output=page.html", "--photo=no.png"], "no.png: no such image"),
        (["--model=no.tflite", "--output=page.html"], "no.tflite"),
    ],
)
def test_flags_that_do_not_fit(flags, message, tmp_path):
    assert message in refused(tmp_path, *flags)
    assert list(tmp_path.iterdir()) == []


def test_existing_page_is_kept(tmp_path):
    (tmp_path / "page.html").write_text("mine")
    line = refused(tmp_path, f"--model={INT8}", f"--output={tmp_path / 'page.html'}")
    assert "page.html exists; give --overwrite" in line
    assert (tmp_path / "page.html").read_text() == "mine"
