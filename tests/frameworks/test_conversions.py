"""Real networks of PyTorch, ONNX and Keras 3: converted, compared, and imported again."""

import json
import pathlib
import subprocess

import pytest

from export.frameworks.environments import default_folder, python_of
from tests.children import run_command

NETWORKS = pathlib.Path(__file__).parent / "networks"
TORCH = NETWORKS / "torch_networks.py"
SIZE = "--size=96,128"
PACKAGES = {
    "smp_unet": "segmentation-models-pytorch",
    "segformer": "transformers",
}


def convert(folder, *flags, name):
    output = folder / name
    done = run_command(
        "export.from_framework", f"--output_dir={output}", *flags, timeout=1500, cwd=folder
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
    report = json.loads((output / "report.json").read_text())
    assert report["outputs"]
    assert max(one["share_of_range"] for one in report["outputs"]) <= 1e-3
    return output / "float32.tflite"


def imported(path):
    """The file rebuilt by to_keras, which compares them; returns the folder."""
    folder = path.parent / "keras"
    done = run_command(
        "tflite_tools.to_keras", f"--model={path}", f"--output_dir={folder}", timeout=600
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
    return folder


def in_pytorch(code, folder):
    """Runs code in PyTorch's environment, with the networks' file in reach."""
    python = python_of("pytorch", default_folder())
    lines = ["import sys", f"sys.path.insert(0, {str(NETWORKS)!r})", "import torch", code]
    done = subprocess.run(
        [python, "-c", "\n".join(lines)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    "network",
    ["UNet", "FastSCNN", "YoloSegmentation", "lraspp", "deeplab", "smp_unet", "segformer"],
)
def test_a_pytorch_network_comes_in(network, tmp_path):
    flags = [f"--source={TORCH}", f"--module={network}", SIZE, "--normalization=imagenet"]
    if network in PACKAGES:
        flags.append(f"--packages={PACKAGES[network]}")
    assert imported(convert(tmp_path, *flags, name=network)).is_dir()


@pytest.mark.timeout(3000)
def test_weights_are_loaded_and_pickles_are_refused(tmp_path):
    in_pytorch(
        "import torch_networks\n"
        "network = torch_networks.UNet(4)\n"
        "torch.save(network.state_dict(), 'good.pt')\n"
        "torch.save(network, 'pickle.pt')",
        tmp_path,
    )
    (tmp_path / "mine.py").write_text(
        f"import sys\nsys.path.insert(0, {str(NETWORKS)!r})\nimport torch_networks\n"
        "def build():\n    return torch_networks.UNet(4)\n"
    )
    flags = ["--source=mine.py", "--module=build", SIZE, "--normalization=zero_to_one"]
    convert(tmp_path, *flags, "--weights=good.pt", name="good")
    done = run_command(
        "export.from_framework", "--output_dir=bad", *flags, "--weights=pickle.pt", cwd=tmp_path
    )
    assert done.returncode == 1
    assert "which is refused; save network.state_dict()" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "bad").exists()


@pytest.mark.timeout(3000)
def test_an_exported_program_and_an_onnx_file_come_in(tmp_path):
    in_pytorch(
        "import torch_networks\n"
        "network, image = torch_networks.UNet(4).eval(), torch.zeros(1, 3, 96, 128)\n"
        "torch.export.save(torch.export.export(network, (image,)), 'net.pt2')\n"
        "torch.onnx.export(network, (image,), 'net.onnx', dynamo=False, input_names=['image'],\n"
        "    dynamic_axes={'image': {0: 'batch'}})",
        tmp_path,
    )
    program = convert(
        tmp_path, "--source=net.pt2", "--trust_source", "--normalization=imagenet", name="program"
    )
    assert imported(program).is_dir()
    onnx = convert(tmp_path, "--source=net.onnx", "--normalization=imagenet", name="onnx")
    assert imported(onnx).is_dir()
