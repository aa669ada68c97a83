"""What `--device` takes, and what it says of what it does not take."""

import pytest

from tflite_tools.deployment.devices import npu_targets
from tflite_tools.deployment.devices.names import (
    Device,
    DeviceKind,
    emulated_devices,
    parse_device,
)


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("arm64", Device(DeviceKind.ARM64, "cortex-a72")),
        ("arm64:neoverse-n1", Device(DeviceKind.ARM64, "neoverse-n1")),
        ("gpu_f16", Device(DeviceKind.GPU_F16)),
        ("browser_gpu", Device(DeviceKind.BROWSER_GPU)),
        ("qualcomm:SM8750", Device(DeviceKind.NPU, "qualcomm:SM8750")),
        ("google_tensor:tensor_g5", Device(DeviceKind.NPU, "google_tensor:Tensor_G5")),
    ],
)
def test_names_are_devices(text, device):
    assert parse_device(text) == device


def test_a_device_has_the_name_that_it_was_asked_by():
    names = ["arm64", "arm64:cortex-a76", "gpu", "gpu_f16", "browser_gpu", "mediatek:MT6989"]
    assert [parse_device(name).name for name in names] == names
    assert [device.name for device in emulated_devices()] == ["arm64", *names[2:5]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("phone", r"unknown 'phone'; known: arm64\[:CPU\], gpu, .*, qualcomm:SOC"),
        ("arm64:m1", "unknown processor 'm1'; known: cortex-a72, "),
        ("arm64:", "unknown processor ''"),
        ("gpu:1", "unknown 'gpu:1'"),
        ("qualcomm", "no SoC given; .* SM8650, SM8750"),
        ("mediatek:SM8750", "unknown SoC 'SM8750'; .* MT6989"),
        ("qualcomm:ALL", "unknown SoC 'ALL'"),
    ],
)
def test_unknown_names_are_refused_with_the_list(text, said):
    with pytest.raises(ValueError, match=said):
        parse_device(text)


def test_vendors_are_those_of_the_runtime_package():
    assert {"google_tensor", "mediatek", "qualcomm"} <= set(npu_targets.vendors())
    assert "example" not in npu_targets.vendors()
