"""The command's page as a reader sees it: drawn scenes, three files, a real browser."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.registry import open_dataset
from tests.children import run_command
from tests.paths import CAMVID, ZOO
from tests.phone_results import phone_result
from tflite_tools.flatbuffer.graph import parse_model
from tflite_tools.flatbuffer.pack import pack
from tflite_tools.html_report.pictures import DIFFERENCE_COLORS, LOST, WON

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
ODD_NAME = 'a<b>&"c|d</script>$x^$'
"""A class name that would break a page, a table or a plot that does not escape."""


def flat_copy(path):
    """A file whose logits are all equal: every mask is one class."""
    model = parse_model((CAMVID / "int8.tflite").read_bytes(), "int8")
    graph = model.subgraphs[0]
    last = [operator for operator in graph.operators if len(operator.inputs) == 3][-1]
    weights = model.buffers[graph.tensors[last.inputs[1]].buffer]
    weights.data = np.zeros_like(weights.data)
    path.write_bytes(pack(model, 1 << 20))
    return path


def run_report(*flags):
    done = run_command("tflite_tools.report", *flags, timeout=300)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, errors


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Four drawn scenes as somebody's own folder with eleven classes, one of an odd name."""
    folder = tmp_path_factory.mktemp("scenes")
    source = open_dataset("synthetic", None, split="val")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for index in range(4):
        image, label = source.image(index), source.label(index).copy()
        label[:8] = 255
        Image.fromarray(image).save(folder / "images" / f"{index}.png")
        Image.fromarray(label).save(folder / "labels" / f"{index}.png")
    names = json.loads((CAMVID / "labels.json").read_text())["names"]
    (folder / "classes.txt").write_text("\n".join([ODD_NAME, *names[1:]]))
    (folder / "val.txt").write_text("\n".join(str(index) for index in range(4)))
    return folder


@pytest.fixture(scope="module")
def report_dir(scenes, tmp_path_factory):
    """A report on int8 (the reference), qat_int8, a constant file and one of other classes."""
    work = tmp_path_factory.mktemp("work")
    # A class map of 21 classes runs on a list of 11; logits would be refused.
    animals = ZOO / "voc_animals_deeplab_mobilenet_v2" / "int8.tflite"
    shutil.copy(animals, work / "animals.tflite")  # without its manifest
    files = [
        CAMVID / "int8.tflite",
        CAMVID / "qat_int8.tflite",
        flat_copy(work / "flat.tflite"),
        work / "animals.tflite",
    ]
    result = work / "result.json"
    result.write_text(json.dumps(phone_result(files[1], scenes / "images" / "0.png")))
    status, output, errors = run_report(
        "--model=" + ",".join(map(str, files)),
        f"--reference={files[0]}",
        f"--phone_results={result}",
        "--dataset=folder",
        f"--data_dir={scenes}",
        "--latency_repeats=2",
        f"--output_dir={work / 'report'}",
    )
    assert (status, errors) == (0, []), output
    return work / "report"


@pytest.fixture(scope="module")
def browser():
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium on this machine: what a reader sees is not checked")


def browse(browser, page, profile, *flags):
    """Runs the browser on a page; its output and what the page's console said."""
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *("--virtual-time-budget=5000", f"--user-data-dir={profile}", *flags, page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def with_script(page, folder, script):
    """A copy of a page that runs a script after its own."""
    copy = folder / "with_script.html"
    copy.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    return copy


def element(dom, name):
    """Text of the element with an id."""
    found = re.search(rf'id="{name}"[^>]*>(.*?)</', dom, re.DOTALL)
    assert found, name
    return html.unescape(found.group(1)).strip()


def cells(dom):
    """Texts of the summary table, by file and column."""
    table = dom[dom.index('id="summary-table"') :]
    table = table[: table.index("</table>")]
    rows = re.findall(r'<tr data-model="(.*?)".*?>(.*?)</tr>', table, re.DOTALL)
    return {
        name: {
            key: html.unescape(text).strip()
            for key, text in re.findall(r'<td data-key="(\w+)"[^>]*>(.*?)</td>', row, re.DOTALL)
        }
        for name, row in rows
    }


def test_table_in_the_browser_shows_the_numbers_of_metrics_json(browser, report_dir, tmp_path):
    dom, console = browse(browser, report_dir / "index.html", tmp_path, "--dump-dom")
    assert console == []
    shown = cells(dom)
    document = json.loads((report_dir / "metrics.json").read_text())
    assert list(shown) == ["int8", "qat_int8", "flat", "animals"]
    for model in document["models"]:
        row = shown[model["model"]]
        for key in ("miou", "pixel_accuracy", "boundary_miou", "agreement"):
            if model[key] is not None:
                assert float(row[key]) == pytest.approx(100 * model[key], abs=0.0051), key
        assert (
            int(row["size_bytes"].replace("\N{NO-BREAK SPACE}", "").replace(" ", ""))
            == (model["size_bytes"])
        )
        assert float(row["median"]) == pytest.approx(model["latency_ms"]["median"], abs=0.051)
        assert float(row["p90"]) == pytest.approx(model["latency_ms"]["p90"], abs=0.051)
        if "miou_change" in model:
            change = model["miou_change"]
            numbers = re.findall(r"[+-][\d.]+", row["miou_change"].replace("\N{MINUS SIGN}", "-"))
            ends = [change[key] for key in ("difference", "low", "high")]
            wanted = [100 * end for end in ends if end is not None]  # none of four images
            assert [float(number) for number in numbers] == pytest.approx(wanted, abs=0.0051)
    assert shown["int8"]["miou_change"] == "reference"
    assert "CONSTANT MASK" in dom
    assert "its label list differs" in dom


def test_phones_have_rows_of_their_own(report_dir):
    cpu, gpu = json.loads((report_dir / "metrics.json").read_text())["phones"]
    assert cpu["model"] == gpu["model"] == "qat_int8"
    assert cpu["latency_ms"] == {"median": 41.5, "p90": 44.0, "runs": 20}
    assert cpu["agreement"] == 1
    assert not gpu["passed"]
    page = (report_dir / "index.html").read_text()
    [table] = re.findall(r'<table id="phone-table">.*?</table>', page, re.DOTALL)
    rows = re.findall(r"<tr>(<td.*?)</tr>", table)
    first = [html.unescape(re.sub("<[^>]+>", "", cell)) for cell in rows[0].split("</td>")[:-1]]
    assert first[:7] == [
        "qat_int8",
        "a phone",
        "cpu, jspi build, 1 thread",
        "41.5",
        "44.0",
        "20",
        "100.00",
    ]
    assert 'class="worse"' in rows[1]


def test_phone_that_ran_other_files(scenes, tmp_path):
    result = tmp_path / "result.json"
    result.write_text(json.dumps(phone_result(CAMVID / "qat_int8.tflite", scenes / "images/0.png")))
    status, _, errors = run_report(
        f"--model={CAMVID / 'int8.tflite'}",
        "--dataset=folder",
        f"--data_dir={scenes}",
        f"--phone_results={result}",
        f"--output_dir={tmp_path / 'report'}",
    )
    assert status == 1
    assert "the phone ran qat_int8.tflite, none of the report's files" in errors[0]
    assert not (tmp_path / "report").exists()


def test_a_reader_clicks_through_the_photos(browser, report_dir, tmp_path):
    script = """
      const seen = [];
      const note = () => seen.push(document.getElementById("position").textContent);
      const source = () => document.querySelector("#tile-difference img:last-child").src;
      note();
      const before = source();
      document.getElementById("next").click(); note();
      document.getElementById("previous").click(); note();
      document.getElementById("kind-best").click(); note();
      const classes = document.getElementById("class-choice");
      classes.value = "3"; classes.onchange(); note();
      const files = document.getElementById("file-choice");
      files.value = "2"; files.onchange(); note();
      const out = document.createElement("pre");
      out.id = "seen";
      out.textContent = JSON.stringify([seen, before === source(), document.images.length,
        [...document.querySelectorAll(".tiles figcaption")].map((c) => c.textContent),
        [...document.querySelectorAll("#tile-mask .legend > span")].map((c) => c.textContent)]);
      document.body.append(out);
    """
    page = with_script(report_dir / "index.html", tmp_path, script)
    dom, console = browse(browser, page, tmp_path / "profile", "--dump-dom")
    assert console == []
    seen, same_picture, images, captions, legend = json.loads(element(dom, "seen"))
    assert seen[0].startswith(f"{ODD_NAME}: worst, 1 of 2 (images/")
    assert seen[1].startswith(f"{ODD_NAME}: worst, 2 of 2")
    assert seen[2] == seen[0]
    assert seen[3].startswith(f"{ODD_NAME}: best, 1 of 2")
    assert seen[4].startswith("road: ")
    assert seen[5].startswith("road: worst, 1 of ")
    assert not same_picture
    assert images == 8
    assert captions[0] == "photo"
    assert captions[2] == "where flat and int8 differ"
    assert captions[4].startswith("flat: road ")
    assert len(legend) == 1  # the flat file shows one class
    assert captions[5] == "left of the border int8, right of it flat"


def test_differences_are_visible_on_the_dimmed_photo(browser, report_dir, tmp_path):
    # The flat file gives up nearly all: only covered or lost pictures have no red.
    script = """
      const files = document.getElementById("file-choice");
      files.value = "2"; files.onchange();
      document.querySelectorAll("body > *:not(#viewer)").forEach((e) => e.remove());
      document.querySelectorAll(".legend").forEach((e) => e.remove());
    """
    page = with_script(report_dir / "index.html", tmp_path, script)
    shot = tmp_path / "shot.png"
    flags = ("--window-size=1300,1000", f"--screenshot={shot}")
    _, console = browse(browser, page, tmp_path / "profile", *flags)
    assert console == []
    with Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for mark in (LOST, WON):
        assert (pixels == DIFFERENCE_COLORS[mark]).all(1).sum() > 300, mark


def test_the_browser_check_would_see_an_error(browser, report_dir, tmp_path):
    page = with_script(report_dir / "index.html", tmp_path, "document.getElementById('x').y()")
    _, console = browse(browser, page, tmp_path / "profile", "--dump-dom")
    assert "TypeError" in console[0]


def test_page_asks_no_host_for_anything(report_dir):
    text = (report_dir / "index.html").read_text()
    targets = re.findall(r'\b(?:src|href|action|xlink:href)\s*=\s*"([^"]*)"', text)
    assert len(targets) > 5
    assert [target for target in targets if not target.startswith(("data:", "#"))] == []
    assert (
        re.findall(r"url\((?!#)|@import|fetch\(|XMLHttpRequest|<link (?!rel=\"icon\")", text) == []
    )
    assert "default-src 'none'" in text
    assert len(text) < 10e6


def test_files_beside_the_page(report_dir):
    found = sorted(path.name for path in report_dir.iterdir())
    assert found == ["index.html", "metrics.csv", "metrics.json", "model_card.md"]
    document = json.loads((report_dir / "metrics.json").read_text())
    matrix = np.array(document["models"][0]["confusion_matrix"])
    assert matrix.sum() == 4 * (192 - 8) * 256
    assert (report_dir / "metrics.csv").read_text().count("\n") == 5
    card = (report_dir / "model_card.md").read_text()
    assert card.startswith("# Model card: int8, qat_int8, flat, animals")
    assert "100 photos of camvid, split train, seed 0" in card


def test_a_file_that_fails_is_named_and_the_others_stand(scenes, tmp_path):
    # Seven classes that no file has: logits of eleven cannot be scored.
    output_dir = tmp_path / "report"
    flags = (
        "--dataset=synthetic",
        "--limit=2",
        "--latency_repeats=0",
        f"--output_dir={output_dir}",
    )
    animals = ZOO / "voc_animals_deeplab_mobilenet_v2" / "int8.tflite"
    status, _, errors = run_report(f"--model={CAMVID / 'qat_int8.tflite'},{animals}", *flags)
    assert (status, errors) == (1, [])
    text = (output_dir / "index.html").read_text()
    assert "qat_int8 failed: expected 7 classes (synthetic), got 11" in text
    models = json.loads((output_dir / "metrics.json").read_text())["models"]
    assert "miou" not in models[0]
    assert models[1]["miou"] is not None
    assert "No float file to compare with" in text

    status, _, errors = run_report(f"--model={animals}", *flags)
    assert status == 1
    assert errors == [
        f"error: {output_dir / 'index.html'} exists; give --overwrite or another --output_dir"
    ]
    status, _, errors = run_report(f"--model={CAMVID / 'int8.tflite'}", "--overwrite", *flags)
    assert (status, errors) == (1, [])
    text = (output_dir / "index.html").read_text()
    assert "int8 failed" in text  # and no file is left: a page all the same
    assert 'id="album"' not in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give --model=FILE"),
        (("--model=missing.tflite", "--dataset=synthetic"), "missing.tflite: no such file"),
        (("--run_dir=missing",), "missing: no such folder; check --run_dir"),
    ],
)
def test_user_errors_are_one_line(tmp_path, flags, message):
    status, _, errors = run_report(*flags, f"--output_dir={tmp_path / 'r'}")
    assert status == 1
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "r").exists()


def test_real_photos_and_boundaries(shared_dir, tmp_path):
    status, output, errors = run_report(
        f"--model={CAMVID / 'int8.tflite'},{CAMVID / 'qat_int8.tflite'}",
        f"--reference={CAMVID / 'int8.tflite'}",
        "--dataset=camvid",
        f"--data_dir={shared_dir / 'data' / 'camvid'}",
        "--limit=4",
        "--latency_repeats=0",
        f"--output_dir={tmp_path}",
    )
    assert (status, errors) == (0, []), output
    for model in json.loads((tmp_path / "metrics.json").read_text())["models"]:
        iou, band = model["iou"], model["boundary_iou"]
        # Large things lose in the band; poles are thinner than it, so both agree.
        assert band["road"] < iou["road"] - 0.05
        assert band["building"] < iou["building"] - 0.1
        assert band["pole"] == pytest.approx(iou["pole"], abs=0.01)
