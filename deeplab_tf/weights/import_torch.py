"""Converts torchvision's backbone weights once, for `train --backbone_weights=FILE.npz`.

python -m deeplab_tf.weights.import_torch --weights=resnet18.pth --backbone=resnet18 \
    --output=resnet18.npz

`.safetensors` needs the package safetensors, `.pth` and `.pt` need torch (the extra `torch`). Only
tensors are read, no code in the file is run.
"""

import pathlib
import pickle
import sys

import numpy as np
from absl import flags

from deeplab_tf import command
from deeplab_tf.weights.npz import save_weights
from deeplab_tf.weights.pixel_normalization import PixelNormalization, fold_normalization
from deeplab_tf.weights.torchvision import LAYER_NAMES, convert_state

FLAGS = flags.FLAGS
_NORMALIZATION = PixelNormalization()


def _define_flags() -> None:
    flags.DEFINE_string("weights", None, "State dict: .pth, .pt or .safetensors.", required=True)
    flags.DEFINE_enum(
        "backbone", None, sorted(LAYER_NAMES), "Network of the weights.", required=True
    )
    flags.DEFINE_string("output", None, "Weights file to write, .npz.", required=True)
    flags.DEFINE_list("mean", list(_NORMALIZATION.mean), "Mean per channel, pixels 0 to 1.")
    flags.DEFINE_list("std", list(_NORMALIZATION.std), "Std per channel, pixels 0 to 1.")
    flags.DEFINE_bool(
        "fold_normalization", True, "Adapt the first layer to inputs (pixel - 128) / 128."
    )
    flags.DEFINE_bool("overwrite", False, "Replace --output.")


def read_state(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a state dict.

    Args:
        path: `.safetensors`, `.pth` or `.pt`.

    Returns:
        {name in torch: array}.

    Raises:
        FileNotFoundError: the file does not exist.
        RuntimeError: the package that reads this format is missing.
        ValueError: not a state dict.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check --weights")
    read = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
    try:
        return read(path)
    except ImportError as error:
        raise RuntimeError(f"{path}: {error}; pip install -e '.[torch]'") from error


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    import safetensors  # noqa: PLC0415 - an extra
    import safetensors.numpy  # noqa: PLC0415

    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error})") from error
    except TypeError as error:  # numpy has no bfloat16, for example
        raise ValueError(
            f"{path}: contains a dtype unknown to NumPy ({error}); save float32"
        ) from error


def _read_pickle(path: pathlib.Path) -> dict[str, np.ndarray]:
    import torch  # noqa: PLC0415 - an extra

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: not a file of torch tensors ({reason})") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    tensors = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    )
    if not tensors:
        raise ValueError(f"{path}: expected a state dict; save model.state_dict()")
    try:
        return {name: tensor.detach().float().cpu().numpy() for name, tensor in state.items()}
    except (NotImplementedError, RuntimeError, TypeError) as error:  # no data, or not dense
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: its tensors are not plain numbers ({reason})") from error


def main() -> int:
    """Converts the weights that the flags name."""
    output = pathlib.Path(FLAGS.output)
    if output.suffix != ".npz":
        raise ValueError(f"expected --output to end in .npz, got {output}")
    if output.exists() and not FLAGS.overwrite:
        raise FileExistsError(f"{output} exists; give --overwrite or another --output")
    try:
        normalization = PixelNormalization(
            tuple(map(float, FLAGS.mean)), tuple(map(float, FLAGS.std))
        )
    except ValueError as error:
        raise ValueError(f"--mean and --std: {error}") from error
    state = read_state(pathlib.Path(FLAGS.weights))
    arrays, unused = convert_state(state, FLAGS.backbone)
    if FLAGS.fold_normalization:
        arrays = fold_normalization(arrays, FLAGS.backbone, normalization=normalization)
    save_weights(arrays, output)
    sys.stdout.write(f"{output}: {len(arrays)} arrays of {FLAGS.backbone}\n")
    if unused:
        sys.stdout.write(f"{len(unused)} not used: {', '.join(unused)}\n")
    return 0


def console() -> None:
    """Runs the command line."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()
