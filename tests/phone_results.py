"""Results as a phone's page saves them."""

import base64
import gzip
import pathlib

import numpy as np

from deeplab_tf.data.images import read_image
from deeplab_tf.data.preprocessing import place
from tflite_tools.contract import read_contract
from tflite_tools.deployment.phone_page.trial import our_mask
from tflite_tools.manifest import sha256_of


def packed(values: np.ndarray) -> str:
    return base64.b64encode(gzip.compress(values.tobytes())).decode()


def phone_result(model: pathlib.Path, photo: pathlib.Path) -> dict:
    """What a page saves whose CPU gives our own mask, and whose GPU gives another one."""
    contract = read_contract(model)
    pixels, _ = place(read_image(photo), (contract.height, contract.width))
    mask = our_mask(contract, pixels)
    cpu = {
        "accelerator": "cpu",
        "on_gpu": "none",
        "build": "jspi",
        "threads": 1,
        "mask": packed(mask),
        "latency_ms": {"median": 41.5, "p90": 44.0, "runs": [41.5] * 20, "warm_up": 3},
    }
    gpu = {
        "accelerator": "gpu",
        "on_gpu": "part",
        "build": "jspi",
        "threads": None,
        "mask": packed(np.roll(mask, 40, axis=0)),
        "latency_ms": None,
    }
    entry = {
        "file": model.name,
        "sha256": sha256_of(model.read_bytes()),
        "height": contract.height,
        "width": contract.width,
        "mean": list(contract.preprocessing.mean),
        "std": list(contract.preprocessing.std),
        "pixels": packed(pixels),
        "runs": [cpu, gpu],
    }
    return {
        "kind": "phone_result",
        "format": 1,
        "photo": photo.name,
        "device": {"name": "a phone", "browser": "a browser", "cores": 8},
        "models": [entry],
    }
