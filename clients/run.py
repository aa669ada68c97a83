"""Checks that other programs predict the same mask from our file as our interpreter.

python -m clients.run                     # all; the first run installs environments, minutes
python -m clients.run --client=mediapipe,vela

The zoo's int8 CamVid file gets its metadata, and each client runs it on a photo of its size.
Devices that this machine cannot emulate are skipped with a reason, or fail if --client names them.
The last line is `N passed, N failed`; the exit status is 1 if one failed.
"""

import dataclasses
import json
import os
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from absl import flags
from PIL import Image

from clients.class_map import with_arg_max
from clients.environments import FOLDER, node_in_browser_folder, python_of, run
from deeplab_tf import command
from deeplab_tf.data.images import read_image
from deeplab_tf.data.preprocessing import place
from deeplab_tf.data.readers.synthetic import draw_scene
from tflite_tools.contract import ModelContract, read_contract
from tflite_tools.deployment.add_metadata import AddOptions, add_metadata
from tflite_tools.deployment.client_rules import Client, check_file
from tflite_tools.deployment.devices.check import Folders, check_device, read_subject
from tflite_tools.deployment.devices.names import emulated_devices, parse_device
from tflite_tools.deployment.devices.programs import UnavailableError
from tflite_tools.deployment.devices.report import sentence
from tflite_tools.deployment.phone_page.page import PageOptions, write_page
from tflite_tools.deployment.phone_result import compare_with_file, read_phone_result
from tflite_tools.metadata.segmenter import SegmenterMetadata
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner

FLAGS = flags.FLAGS
_ZOO = FOLDER.parent / "zoo"
_SAME_KERNELS = 0.999
"""MediaPipe and the browser run the same XNNPACK kernels; ties of the arg max may differ."""
_OTHER_KERNELS = 0.97
"""Kernels that round differently; trained int8 files usually agree on 99.7%."""
_MISREAD = 0.5
"""A class map that is read as H channels agrees only by chance."""
_BEAM_TESTS = "tests/tflite_tools/evaluation/test_sharded.py"
_VELA_ACCELERATORS = ("ethos-u55-256", "ethos-u65-512", "ethos-u85-512")


@dataclasses.dataclass(frozen=True)
class Scene:
    """The input of every client.

    Attributes:
        model: file with metadata.
        metadata: in that file.
        picture: PNG of the model's input size.
        mask: uint8 [height, width], of our interpreter.
        folder: for temporary files.
    """

    model: pathlib.Path
    metadata: SegmenterMetadata
    picture: pathlib.Path
    mask: np.ndarray
    folder: pathlib.Path


def _photo() -> tuple[np.ndarray, str]:
    if FLAGS.photo:
        return read_image(pathlib.Path(FLAGS.photo)), FLAGS.photo
    shared = pathlib.Path(os.environ.get("DEEPLAB_SHARED") or FOLDER.parents[1] / "shared")
    listed = shared / "data" / "camvid" / "val.txt"
    if listed.is_file():
        name = listed.read_text().split()[0]
        return read_image(listed.parent / name), name
    return draw_scene(0)[0], "a drawn scene (no sample data)"


def _scene(options: AddOptions, photo: np.ndarray) -> Scene:
    metadata = add_metadata(options)
    contract = read_contract(options.output)
    canvas, _ = place(photo, (contract.height, contract.width))
    picture = options.output.with_suffix(".png")
    Image.fromarray(canvas).save(picture)
    mask = _our_mask(contract, canvas)
    return Scene(options.output, metadata, picture=picture, mask=mask, folder=options.output.parent)


def _our_mask(contract: ModelContract, canvas: np.ndarray) -> np.ndarray:
    with InterpreterPool([contract], processes=1) as pool:
        [outcome] = pool.run([Task(0, ModelRunner.class_map, arguments=(canvas,))])
    if outcome.failure:
        raise RuntimeError(outcome.failure)
    return outcome.value


def _python_mask(name: str, scene: Scene) -> np.ndarray:
    output = scene.folder / f"{name}.npy"
    run([python_of(name), FOLDER / f"run_{name}.py", scene.model, scene.picture, output])
    return np.load(output)


def _browser_mask(page: str, scene: Scene) -> np.ndarray:
    folder, output = node_in_browser_folder(), scene.folder / f"{page}.bin"
    run(["node", "run.mjs", page, scene.model, scene.picture, output], cwd=folder)
    return np.fromfile(output, np.uint8)


def _compared(mask: np.ndarray, scene: Scene, *, least: float) -> str:
    if mask.size != scene.mask.size:
        raise RuntimeError(f"expected a mask of {scene.mask.shape}, got {mask.shape}")
    share = float(np.mean(mask.reshape(scene.mask.shape) == scene.mask))
    if share < least:
        raise RuntimeError(f"{share:.4%} of the pixels agree, expected at least {least:.1%}")
    return f"{share:.4%} of the pixels agree"


def _python_client(name: str, least: float) -> Callable[[Scene], str]:
    return lambda scene: _compared(_python_mask(name, scene), scene, least=least)


def _browser_client(page: str) -> Callable[[Scene], str]:
    return lambda scene: _compared(_browser_mask(page, scene), scene, least=_SAME_KERNELS)


def _phone_page(scene: Scene) -> str:
    """Uses a page of tflite_tools.phone_page and compares the masks that it saves."""
    page, folder = scene.folder / "page.html", node_in_browser_folder()
    write_page(PageOptions((scene.model,), output=page))
    run(["node", "phone_page.mjs", page, scene.picture, scene.folder, "brief"], cwd=folder)
    result = read_phone_result(scene.folder / "result.json")
    [compared] = compare_with_file(result, scene.model)
    share = _compared(compared.run.mask, scene, least=_SAME_KERNELS)
    return f"{share} ({compared.run.accelerator})"


def _metadata_read_by_mediapipe(scene: Scene) -> str:
    """Compares every field with what MediaPipe's own generated classes read."""
    found = json.loads(run([python_of("mediapipe"), FOLDER / "read_metadata.py", scene.model]))
    ours = scene.metadata
    assert ours.preprocessing is not None
    expected = {
        "name": ours.name,
        "min_parser_version": "1.5.0",
        "mean": [float(np.float32(value)) for value in ours.preprocessing.mean],
        "std": [float(np.float32(value)) for value in ours.preprocessing.std],
        "color_space": 1,
        "output_axes": [1, 2],
        "label_type": 2,
        "labels": list(ours.labels),
        "custom_name": "SEGMENTER_METADATA",
        "activation": 2,
    }
    wrong = [name for name, value in expected.items() if found[name] != value]
    if wrong:
        raise RuntimeError(f"MediaPipe's classes read other values for {', '.join(wrong)}: {found}")
    return f"{len(expected)} fields, {len(ours.labels)} labels"


def _class_map_misread(scene: Scene) -> str:
    """Confirms check_client's rule on class maps: no error, but another mask."""
    model, labels = scene.folder / "class_map.tflite", scene.folder / "labels.txt"
    model.write_bytes(with_arg_max(scene.model.read_bytes()))
    labels.write_text("\n".join(scene.metadata.labels))
    photo = np.asarray(Image.open(scene.picture))
    other = _scene(AddOptions(model, scene.folder / "with_labels.tflite", labels=labels), photo)
    if not np.array_equal(other.mask, scene.mask):
        raise RuntimeError("the mask of the ARG_MAX differs from the arg max of the logits")
    if not any(finding.fatal for finding in check_file(other.model, Client.MEDIAPIPE)):
        raise RuntimeError("check_client does not refuse a class map for MediaPipe")
    share = float(np.mean(_python_mask("mediapipe", other) == other.mask))
    if share > _MISREAD:
        raise RuntimeError(
            f"{share:.1%} of the pixels agree, expected at most {_MISREAD:.0%}; the "
            "rule is out of date"
        )
    return f"misread without an error ({share:.1%} of the pixels agree), and refused"


def _device(name: str) -> Callable[[Scene], str]:
    """Checks a device of tflite_tools.check_device, on the picture of the other clients."""

    def check(scene: Scene) -> str:
        subject = read_subject(scene.model, photos=[scene.picture], preprocessing=None)
        folders = Folders(FOLDER / ".envs" / "devices")
        result = check_device(subject, parse_device(name), folders=folders)
        if result.skipped:
            raise UnavailableError(result.skipped)
        if not result.passed:
            raise RuntimeError(sentence(result))
        return sentence(result).removeprefix(f"{name}: ")

    return check


def _vela(scene: Scene) -> str:
    vela = python_of("vela").parent / "vela"
    parts = []
    for accelerator in _VELA_ACCELERATORS:
        folder = scene.folder / accelerator
        output = run(
            [vela, "--accelerator-config", accelerator, "--output-dir", folder, scene.model]
        )
        if not (folder / f"{scene.model.stem}_vela.tflite").is_file():
            raise RuntimeError(f"no file for {accelerator}")
        counts = [re.search(rf"{side} operators = (\d+)", output) for side in ("CPU", "NPU")]
        processor, npu = (int(count.group(1)) if count else -1 for count in counts)
        parts.append(f"{accelerator} {npu} operators, {processor} on the CPU")
    return "; ".join(parts)


def _beam(scene: Scene) -> str:
    """Runs the tests of sharded evaluation in an environment with Beam."""
    del scene
    tests = [python_of("beam"), "-m", "pytest", "-q", "-p", "no:cacheprovider", _BEAM_TESTS]
    last = run(tests, cwd=FOLDER.parent).strip().splitlines()[-1].strip("= ")
    if "skipped" in last:
        raise RuntimeError(f"tests were skipped: {last}")
    return last


CLIENTS = {
    "metadata": _metadata_read_by_mediapipe,
    "mediapipe": _python_client("mediapipe", _SAME_KERNELS),
    "mediapipe_class_map": _class_map_misread,
    "openvino": _python_client("openvino", _OTHER_KERNELS),
    "onnxruntime": _python_client("onnxruntime", _OTHER_KERNELS),
    "tflite_runtime": _python_client("tflite_runtime", _OTHER_KERNELS),
    "vela": _vela,
    "beam": _beam,
    "litertjs": _browser_client("litertjs"),
    "mediapipe_web": _browser_client("mediapipe"),
    "phone_page": _phone_page,
    **{device.name: _device(device.name) for device in emulated_devices()},
}


def main() -> int:
    """Runs all clients and prints one line per client.

    Returns:
        1 if one failed, else 0.
    """
    names = [name for name in FLAGS.client if name] or list(CLIENTS)
    for name in names:
        if name not in CLIENTS:
            raise ValueError(f"--client: unknown {name!r}; known: {', '.join(CLIENTS)}")
    photo, title = _photo()
    sys.stdout.write(f"{FLAGS.model}, photo: {title}\n")
    failed = skipped = 0
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "model.tflite"
        scene = _scene(AddOptions(pathlib.Path(FLAGS.model), output), photo)
        for name in names:
            started = time.monotonic()
            try:
                verdict = f"passed  {CLIENTS[name](scene)}"
            except UnavailableError as error:
                asked = bool(FLAGS.client)
                failed, skipped = failed + asked, skipped + (not asked)
                verdict = f"{'FAILED ' if asked else 'skipped'} {error}"
            except (RuntimeError, OSError) as error:
                failed += 1
                verdict = f"FAILED  {error}"
            seconds = time.monotonic() - started
            sys.stdout.write(f"{name:<20} {verdict}  [{seconds:.0f} s]\n")
            sys.stdout.flush()
    passed = len(names) - failed - skipped
    left_out = f", {skipped} skipped" if skipped else ""
    sys.stdout.write(f"{passed} passed, {failed} failed{left_out}\n")
    return 1 if failed else 0


def console() -> None:
    """Runs the command."""
    flags.DEFINE_list("client", "", f"Of {', '.join(CLIENTS)}; default: all.")
    default = _ZOO / "camvid_deeplab_mobilenet_v2" / "int8.tflite"
    flags.DEFINE_string("model", str(default), "A file with logits, uint8 in and out.")
    flags.DEFINE_string("photo", "", "Image; default: the first of the CamVid list.")
    command.run(main)


if __name__ == "__main__":
    console()
