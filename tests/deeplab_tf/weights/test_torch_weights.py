"""Torch weights: names, layout, and, where torch is installed, the same features and logits."""

import numpy as np
import pytest
import tf_keras as keras
from safetensors.numpy import save_file

from deeplab_tf.models.backbones.form import BackboneForm
from deeplab_tf.models.backbones.registry import build_backbone
from deeplab_tf.weights.matching import load_named
from deeplab_tf.weights.npz import read_weights
from deeplab_tf.weights.pixel_normalization import PixelNormalization, fold_normalization
from deeplab_tf.weights.torchvision import convert_state
from tests.children import run_command

SIZE = (64, 96)


def backbone(name):
    image = keras.Input((*SIZE, 3))
    return keras.Model(image, build_backbone(name, image, form=BackboneForm(32))[32])


def torch_twin(name):
    """The network in torch, written from torchvision's documentation, with random statistics."""
    torch = pytest.importorskip("torch", reason="needs the extra `torch`")
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, before, channels, stride, wide):
            super().__init__()
            after = channels * 4 if wide else channels
            kernels = (1, 3, 1) if wide else (3, 3)
            sizes = (before, *([channels] * (len(kernels) - 1)), after)
            for index, kernel in enumerate(kernels, 1):
                step = stride if index == (2 if wide else 1) else 1
                convolution = nn.Conv2d(
                    sizes[index - 1], sizes[index], kernel, step, kernel // 2, bias=False
                )
                setattr(self, f"conv{index}", convolution)
                setattr(self, f"bn{index}", nn.BatchNorm2d(sizes[index]))
            self.count = len(kernels)
            self.downsample = None
            if stride > 1 or before != after:
                self.downsample = nn.Sequential(
                    nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
                )

        def forward(self, x):
            y = x
            for index in range(1, self.count + 1):
                y = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(y))
                y = torch.relu(y) if index < self.count else y
            return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    class ResNet(nn.Module):
        def __init__(self, repeats, wide):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
            before = 64
            for stage, count in enumerate(repeats):
                channels, blocks = 64 * 2**stage, []
                for index in range(count):
                    stride = 2 if stage and not index else 1
                    blocks.append(Block(before, channels, stride, wide))
                    before = channels * 4 if wide else channels
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            self.fc = nn.Linear(before, 1000)

        def features(self, x):
            x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
            return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    class Vgg(nn.Module):
        def __init__(self):
            super().__init__()
            found, before = [], 3
            for channels in (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"):
                if channels == "M":
                    found.append(nn.MaxPool2d(2, 2))
                    continue
                found += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels)]
                found.append(nn.ReLU())
                before = channels
            self.features = nn.Sequential(*found)
            self.classifier = nn.Sequential(nn.Linear(512 * 7 * 7, 8))

    torch.manual_seed(0)
    network = {
        "resnet18": lambda: ResNet((2, 2, 2, 2), False),
        "resnet50": lambda: ResNet((3, 4, 6, 3), True),
        "vgg11_bn": Vgg,
    }[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return torch, network.eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11_bn"])
def test_features_and_logits_equal_those_of_torch(name, tmp_path):
    torch, network = torch_twin(name)
    torch.save(network.state_dict(), tmp_path / "state.pth")
    output = tmp_path / "weights.npz"
    flags = [f"--weights={tmp_path / 'state.pth'}", f"--backbone={name}", f"--output={output}"]
    run_command(
        "deeplab_tf.weights.import_torch", *flags, "--nofold_normalization"
    ).check_returncode()
    model = backbone(name)
    report = load_named(model, read_weights(output))
    assert not report.missing
    assert not report.mismatched
    image = np.random.default_rng(0).uniform(-2, 2, (2, *SIZE, 3)).astype(np.float32)
    found = model(image).numpy()
    with torch.no_grad():
        wanted = network.features(torch.from_numpy(image.transpose(0, 3, 1, 2)))
        wanted = wanted.numpy().transpose(0, 2, 3, 1)
        if name != "vgg11_bn":  # the classifier of a ResNet takes the mean
            weight, bias = network.fc.weight.numpy(), network.fc.bias.numpy()
            logits = [f.mean((1, 2)) @ weight.T + bias for f in (found, wanted)]
            np.testing.assert_allclose(logits[0], logits[1], atol=1e-4 * np.abs(logits[1]).max())
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def random_state():
    """ResNet-18 and a classifier by torch's names."""
    rng = np.random.default_rng(0)
    state = {}

    def add(convolution, batch_norm, shape):
        state[f"{convolution}.weight"] = rng.normal(0, 0.1, shape).astype(np.float32)
        for weight in ("weight", "bias", "running_mean", "running_var"):
            state[f"{batch_norm}.{weight}"] = rng.uniform(0.5, 1, shape[0]).astype(np.float32)
        state[f"{batch_norm}.num_batches_tracked"] = np.array(7)

    add("conv1", "bn1", (64, 3, 7, 7))
    before = 64
    for stage, channels in enumerate((64, 128, 256, 512), 1):
        for index in range(2):
            block = f"layer{stage}.{index}"
            add(f"{block}.conv1", f"{block}.bn1", (channels, before, 3, 3))
            add(f"{block}.conv2", f"{block}.bn2", (channels, channels, 3, 3))
            if channels != before:
                add(f"{block}.downsample.0", f"{block}.downsample.1", (channels, before, 1, 1))
            before = channels
    state["fc.weight"] = np.zeros((1000, 512), np.float32)
    return state


def test_names_and_layout():
    state = {f"module.backbone.{name}": value for name, value in random_state().items()}
    arrays, unused = convert_state(state, "resnet18")
    assert unused == ["module.backbone.fc.weight"]
    assert len(arrays) == 20 * 5
    assert {
        "bn1/beta",
        "bn1/moving_mean",
        "bn1/moving_variance",
        "layer2_0_downsample_bn/gamma",
        "layer2_0_downsample_conv/kernel",
    } <= set(arrays)
    kernel = state["module.backbone.conv1.weight"]
    assert arrays["conv1/kernel"][2, 3, 1, 5] == kernel[5, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layer3.1.conv2.weight", None, "the file has no layer3_1_conv2/kernel; give the complete"),
        ("conv1.weight", np.zeros((64, 3, 3, 3)), r"expected shape \(7, 7, 3, 64\), got \(3, 3, 3"),
        ("bn1.bias", np.full(64, np.nan), "bn1/beta contains NaN or infinity"),
        ("conv1.weight", np.zeros(5), r"conv1/kernel of resnet18: expected shape .*, got \(5,\)"),
    ],
)
def test_incomplete_weights_are_refused(name, value, message):
    state = random_state() | {name: value}
    if value is None:
        del state[name]
    with pytest.raises(ValueError, match=message):
        convert_state(state, "resnet18")


def test_normalization_goes_into_the_first_layer():
    # By hand for one pixel of each channel under a kernel that only sees its own place.
    state = random_state()
    state["conv1.weight"][0] = 0
    state["conv1.weight"][0, :, 3, 3] = (2.0, 3.0, 5.0)
    arrays, _ = convert_state(state, "resnet18")
    folded = fold_normalization(arrays, "resnet18", normalization=PixelNormalization())
    pixel = np.array([10.0, 128.0, 250.0])
    theirs = (pixel / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    wanted = theirs @ [2.0, 3.0, 5.0] - arrays["bn1/moving_mean"][0]
    ours = (pixel - 128) / 128 @ folded["conv1/kernel"][3, 3, :, 0] - folded["bn1/moving_mean"][0]
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)


def test_command_reads_safetensors_and_rejects_the_rest(tmp_path):
    save_file(random_state(), tmp_path / "w.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"text")

    def command(weights, backbone="resnet18"):
        return run_command(
            "deeplab_tf.weights.import_torch",
            f"--weights={tmp_path / weights}",
            f"--backbone={backbone}",
            f"--output={tmp_path / 'out.npz'}",
        )

    for done, message in (
        (command("bad.safetensors"), "bad.safetensors: not a safetensors file"),
        (command("none.safetensors"), "none.safetensors: no such file; check --weights"),
        (command("w.safetensors", "vgg11_bn"), "expected names of vgg11_bn, got"),
    ):
        assert done.returncode == 1
        assert message in done.stderr.splitlines()[-1]
        assert not (tmp_path / "out.npz").exists()
    done = command("w.safetensors")
    assert done.returncode == 0, done.stderr
    assert "100 arrays of resnet18" in done.stdout
    assert "1 not used: fc.weight" in done.stdout
    assert command("w.safetensors").returncode == 1  # out.npz exists


def test_backbones_that_torch_pads_differently():
    with pytest.raises(ValueError, match="torch weights fit resnet101, resnet18"):
        convert_state({"features.0.0.weight": np.zeros((32, 3, 3, 3))}, "mobilenet_v2")
    with pytest.raises(ValueError, match="the first kernel takes 3 channels"):
        arrays, _ = convert_state(random_state(), "resnet18")
        fold_normalization(
            arrays, "resnet18", normalization=PixelNormalization((0.5,) * 5, (0.2,) * 5)
        )
