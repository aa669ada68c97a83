"""What is said of a device that agrees, differs, falls back, fails, or cannot be checked."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest

from tests.children import run_command
from tests.paths import CAMVID
from tflite_tools.deployment.devices import arm64, check, gpu, npu, report
from tflite_tools.deployment.devices.comparison import ComparedOutput, Meaning
from tflite_tools.deployment.devices.names import parse_device
from tflite_tools.deployment.devices.programs import UnavailableError
from tflite_tools.deployment.devices.reference import Reference
from tflite_tools.deployment.devices.result import DeviceRun
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.runtime.interpreter import Kernels

INT8 = CAMVID / "int8.tflite"
OURS = np.arange(40, dtype=np.uint8).reshape(1, 2, 10, 2)
FOLDERS = check.Folders(pathlib.Path("nowhere"))


def outputs(*, steps=0, other_pixels=0):
    """Outputs of one picture of 20 pixels."""
    values = OURS + np.uint8(steps)
    changed = values.reshape(20, 2)
    changed[:other_pixels] = changed[:other_pixels, ::-1]
    return [[changed.reshape(OURS.shape)]]


@pytest.fixture
def subject():
    return check.Subject(
        INT8,
        read_graph(INT8),
        outputs=(ComparedOutput("logits", Meaning.SCORES, scale=0.5),),
        inputs=[],
        pictures="street.jpg",
        reference=Reference(Kernels.XNNPACK, outputs(), builtin=outputs(steps=1)),
    )


def result_of(monkeypatch, subject, name, *runs, error=None):
    def fake(subject, device, folders):
        if error:
            raise error
        return list(runs)

    device = parse_device(name)
    monkeypatch.setitem(check._RUNNERS, device.kind, fake)
    return check.check_device(subject, device, folders=FOLDERS)


def test_a_device_that_gives_our_values(monkeypatch, subject):
    run = DeviceRun("XNNPACK kernels", outputs())
    result = result_of(monkeypatch, subject, "arm64", run)
    assert result.passed
    assert report.sentence(result) == (
        "arm64: an emulated Arm processor (cortex-a72, NEON): every value is the same as here."
    )


def test_a_device_that_rounds_differently(monkeypatch, subject):
    assert subject.required == 0.995  # kernel sets here agree everywhere
    close = DeviceRun("SwiftShader", outputs(steps=2))
    result = result_of(monkeypatch, subject, "gpu", close)
    assert result.passed
    assert report.sentence(result) == (
        "gpu: the GPU path in single precision, on SwiftShader: the same class in 100.00%, values "
        "at most 2 steps apart."
    )


def test_a_device_with_another_mask_fails(monkeypatch, subject):
    other = DeviceRun("SwiftShader", outputs(other_pixels=1))
    result = result_of(monkeypatch, subject, "gpu", other)
    assert not result.passed
    assert "FAILED, at least 99.50% expected: the same class in 95.00%" in report.sentence(result)
    [row] = report.table([result]).splitlines()[1:]
    assert row.split() == ["gpu", "SwiftShader", "logits", "95.00%", "95.0000%", "1", "step"]


def test_two_kernel_sets_are_told_apart(monkeypatch, subject):
    runs = [
        DeviceRun("XNNPACK kernels", outputs()),
        DeviceRun("builtin kernels", None, failure="qemu crashed (SIGSEGV)"),
    ]
    result = result_of(monkeypatch, subject, "arm64", *runs)
    assert not result.passed
    assert report.sentence(result).endswith(
        "XNNPACK kernels: every value is the same as here; builtin kernels: FAILED: qemu crashed "
        "(SIGSEGV)."
    )


def test_what_runs_on_the_cpu_is_named(monkeypatch, subject):
    fallback = ("ARG_MAX: Tensor type(INT64) is not supported.", "2 of 85 operators")
    run = DeviceRun("SwiftShader", outputs(steps=1), fallback=fallback)
    said = report.sentence(result_of(monkeypatch, subject, "gpu", run))
    assert "on the CPU: ARG_MAX: Tensor type(INT64) is not supported., 2 of 85 operators" in said


def test_numbers_that_are_none_fail(monkeypatch, subject):
    values = [[np.full(OURS.shape, np.nan, np.float32)]]
    ours = [[OURS.astype(np.float32)]]
    real = check.Subject(
        **{
            **vars(subject),
            "outputs": (ComparedOutput("logits", Meaning.SCORES),),
            "reference": Reference(Kernels.XNNPACK, ours, builtin=ours),
        }
    )
    result = result_of(monkeypatch, real, "gpu_f16", DeviceRun("llvmpipe", values))
    assert not result.passed
    assert "FAILED: output 'logits' holds values that are no numbers" in report.sentence(result)


def test_other_outputs_than_the_file_has_fail(monkeypatch, subject):
    result = result_of(monkeypatch, subject, "gpu", DeviceRun("SwiftShader", [[OURS, OURS]]))
    assert "FAILED: expected 1 outputs, got 2" in report.sentence(result)
    assert not result.passed


def test_a_skipped_device_says_why(monkeypatch, subject):
    error = UnavailableError("apt-get missing")
    result = result_of(monkeypatch, subject, "arm64", error=error)
    assert report.sentence(result) == "arm64: skipped: apt-get missing"
    assert not result.passed
    assert report.table([result]) == ""


def test_a_device_that_cannot_start_is_one_sentence(monkeypatch, subject):
    result = result_of(monkeypatch, subject, "gpu", error=RuntimeError("dpkg failed"))
    assert report.sentence(result).endswith("FAILED: dpkg failed.")


def test_half_precision_that_is_none_is_told(monkeypatch, subject):
    same = [
        result_of(monkeypatch, subject, name, DeviceRun("SwiftShader", outputs(steps=1)))
        for name in ("gpu", "gpu_f16")
    ]
    said = [report.sentence(result) for result in check._with_precision(same)]
    assert ["nothing shows that the driver computed in half" in text for text in said] == [0, 1]
    other = result_of(monkeypatch, subject, "gpu_f16", DeviceRun("llvmpipe", outputs(steps=2)))
    assert check._with_precision([same[0], other]) == [same[0], other]


def test_a_compiled_file_is_no_check_of_numbers(monkeypatch, subject):
    run = DeviceRun("compiled for SM8750", None, notes=("83 of 84 operators on the NPU",))
    said = report.sentence(result_of(monkeypatch, subject, "qualcomm:SM8750", run))
    assert said == (
        "qualcomm:SM8750: the vendor's compiler; nothing ran, so that no number is checked: "
        "compiled for SM8750, 83 of 84 operators on the NPU."
    )


def test_the_result_is_json(monkeypatch, subject):
    results = [
        result_of(monkeypatch, subject, "gpu", DeviceRun("SwiftShader", outputs(steps=2))),
        result_of(monkeypatch, subject, "arm64", error=UnavailableError("apt-get missing")),
    ]
    content = json.loads(json.dumps(report.to_json(subject, results)))
    first, second = content["devices"]
    assert first["runs"][0]["outputs"][0]["largest_difference_steps"] == 2
    assert (first["passed"], second["passed"], second["skipped"]) == (True, None, "apt-get missing")
    assert "never of speed" in content["note"]


@pytest.mark.parametrize(
    ("kernels", "builtin", "expected"),
    [
        (Kernels.XNNPACK, outputs(), ["XNNPACK", "BUILTIN"]),
        (Kernels.XNNPACK, None, ["XNNPACK"]),
        (Kernels.BUILTIN, outputs(), ["BUILTIN"]),
    ],
)
def test_arm_runs_the_kernels_that_run_here(monkeypatch, subject, kernels, builtin, expected):
    ran = []

    def run(task, chosen):
        ran.append(chosen.name)
        return DeviceRun("", outputs())

    monkeypatch.setattr(arm64, "prepare", lambda cache: cache)
    monkeypatch.setattr(arm64.EmulatedTask, "run", run)
    reference = Reference(kernels, outputs(), builtin=builtin)
    here = dataclasses.replace(subject, reference=reference)
    check.check_device(here, parse_device("arm64"), folders=FOLDERS)
    assert ran == expected


def test_a_driver_is_only_seen_by_the_children(monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/own")
    monkeypatch.delenv("VK_ICD_FILENAMES", raising=False)
    driver = gpu.Driver(pathlib.Path("/driver/icd.json"), pathlib.Path("/driver"))
    with pytest.raises(RuntimeError, match="stop"), gpu._use(driver):
        assert os.environ["LD_LIBRARY_PATH"] == "/driver:/own"
        assert os.environ["VK_ICD_FILENAMES"] == "/driver/icd.json"
        raise RuntimeError("stop")
    assert os.environ["LD_LIBRARY_PATH"] == "/own"
    assert "VK_ICD_FILENAMES" not in os.environ


LOG = """INFO: [delegate_webgpu.cc:363] Created a WebGPU environment.
I0000 00:00:17 1 environment.cc:532] Selected adapter: SwiftShader Device (Subzero), arch=x
ERROR: Following operations are not supported by GPU delegate:
ARG_MAX: Tensor type(INT64) is not supported. prediction
RESHAPE: Tensor type(INT64) is not supported. prediction
83 operations will run on the GPU, and the remaining 2 operations will run on the CPU.
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
"""


def test_the_runtimes_log_tells_what_falls_back():
    assert gpu.fallback_of(LOG) == (
        (
            "ARG_MAX: Tensor type(INT64) is not supported. prediction",
            "RESHAPE: Tensor type(INT64) is not supported. prediction",
            "2 of 85 operators",
        ),
        True,
    )
    assert gpu.fallback_of(LOG.splitlines()[1]) == ((), True)
    assert gpu.fallback_of(LOG.replace("83 operations", "0 operations"))[1] is False
    assert gpu.fallback_of("Failed to create a WebGPU environment")[1] is False


@pytest.mark.parametrize(
    ("target", "package"),
    [
        ("qualcomm:SM8750", "ai-edge-litert-sdk-qualcomm;"),
        ("google_tensor:Tensor_G5", r"ai-edge-litert-sdk-google-tensor \(or set GOOGLE_TENSOR_"),
        ("intel_openvino:LNL", "ai-edge-litert-sdk-intel;"),
    ],
)
def test_a_missing_sdk_is_named(target, package):
    with pytest.raises(UnavailableError, match=f"pip install {package}"):
        npu.run(target, INT8, output_dir=None)


def test_operators_that_an_npu_left_are_counted():
    left = npu.left_on_cpu(INT8)  # not compiled: all of them
    assert "RESIZE_BILINEAR (3)" in left


def test_an_npus_log_is_read_and_removed(tmp_path):
    log = tmp_path / "tmp.error"
    log.write_text("INFO: loads\nERROR: no such SoC\n")
    said = npu._with_details(f"ValueError in call: failed. See {log} for details.")
    assert said == "the vendor's compiler refuses the file: ERROR: no such SoC"
    assert not log.exists()
    assert npu._with_details("the file crashed the runtime") == "the file crashed the runtime"


# The command


def test_a_device_that_was_asked_for_and_is_skipped_ends_with_an_error(tmp_path):
    (tmp_path / "bin").mkdir()
    path = tmp_path / "result.json"
    done = run_command(
        "tflite_tools.check_device",
        f"--model={INT8}",
        "--device=arm64,qualcomm:SM8750",
        f"--cache_dir={tmp_path / 'cache'}",
        f"--json={path}",
        environment={"PATH": str(tmp_path / "bin")},
    )
    assert done.returncode == 1
    assert "XNNPACK's and the builtin kernels here: the same class in 9" in done.stdout
    assert "arm64: skipped: apt-get and dpkg missing" in done.stdout
    assert "qualcomm:SM8750: skipped: the vendor's SDK is missing" in done.stdout
    assert report.NUMBERS_ONLY in done.stdout
    assert [device["passed"] for device in json.loads(path.read_text())["devices"]] == [None] * 2
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "expected a file, got none"),
        (["--model=missing.tflite"], "missing.tflite"),
        ([f"--model={INT8}", "--input=missing.jpg"], "missing.jpg: no such image"),
        ([f"--model={INT8}", "--device=phone"], "unknown 'phone'"),
    ],
)
def test_wrong_flags_are_one_line(flags, said):
    done = run_command("tflite_tools.check_device", *flags)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
