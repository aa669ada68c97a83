"""Trains a network of `networks/torch_networks.py` for some minutes; in PyTorch's environment.

    PYTHON tests/frameworks/train_torch.py lraspp DATA weights.pt --minutes=4

DATA is a folder with train.txt, a line "photo annotation" each, 11 classes, larger ids ignored.
"""

import argparse
import pathlib
import random
import sys
import time

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parent / "networks"))
import torch_networks

MEAN = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
STD = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
WARM_UP = 0.05
"""Share of the time in which the rate rises; transformers need it."""


def sample(folder, line, size):
    photo, annotation = (folder / name for name in line.split()[:2])
    height, width = size
    image = Image.open(photo).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    label = Image.open(annotation).resize((width, height), Image.Resampling.NEAREST)
    image, label = np.asarray(image), np.asarray(label).astype(np.int64)
    if random.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    image = (torch.from_numpy(image.copy()).permute(2, 0, 1).float() - MEAN) / STD
    return image, torch.from_numpy(np.where(label < 11, label, 255))


def logits_of(found):
    found = getattr(found, "logits", found)
    return found["out"] if isinstance(found, dict) else found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("network")
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("weights", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--size", default="192,256")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    options = parser.parse_args()
    size = tuple(map(int, options.size.split(",")))
    random.seed(0)
    torch.manual_seed(0)
    network = getattr(torch_networks, options.network)().train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1  # with torchvision's 0.01 a few hundred steps leave no statistics
    lines = (options.data / "train.txt").read_text().split("\n")
    lines = [line for line in lines if line.strip()]
    optimizer = torch.optim.AdamW(network.parameters(), options.rate, weight_decay=1e-4)
    started, step, losses = time.monotonic(), 0, []
    while (share := (time.monotonic() - started) / (60 * options.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1, share / WARM_UP) * (1 - share) ** 0.9
        batch = [sample(options.data, random.choice(lines), size) for _ in range(options.batch)]
        images, labels = (torch.stack(part) for part in zip(*batch, strict=True))
        logits = logits_of(network(images))
        logits = torch.nn.functional.interpolate(logits, labels.shape[1:], mode="bilinear")
        loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        step += 1
        if step % 20 == 0:
            sys.stdout.write(f"{options.network} {step} {np.mean(losses[-20:]):.3f}\n")
            sys.stdout.flush()
    torch.save(network.state_dict(), options.weights)


if __name__ == "__main__":
    main()
