"""What a file's input means, and which labels it carries."""

import dataclasses
import io
import pathlib
import zipfile

import numpy as np

from tflite_tools.flatbuffer.graph import Tensor

MAX_LABEL_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class InputContract:
    """How 8-bit pixels become the numbers that the rebuilt network takes.

        network input = (pixel - mean) / std

    Attributes:
        tensor: name in the file.
        shape: with the batch.
        dtype: of the file's input, "uint8" for example.
        scale, zero_point: real = scale * (quantized - zero_point); None for float inputs.
        mean, std: in pixel units; None where the file does not say (float inputs).
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None
    mean: float | None
    std: float | None

    def with_normalization(self, mean: float | None, std: float | None) -> "InputContract":
        """The contract with what the user knows.

        Raises:
            ValueError: the file itself says otherwise, or std is not positive.
        """
        if mean is None and std is None:
            return self
        if mean is None or std is None or std <= 0:
            raise ValueError(f"mean and a positive std belong together; got {mean} and {std}")
        if (
            self.mean is not None
            and self.std is not None
            and not (
                np.isclose(self.mean, mean, atol=1e-3) and np.isclose(self.std, std, atol=1e-3)
            )
        ):
            raise ValueError(
                f"the file's input says mean {self.mean:g} and std {self.std:g}, not {mean:g} "
                f"and {std:g}; leave --mean and --std out"
            )
        return dataclasses.replace(self, mean=mean, std=std)


def input_contract(tensor: Tensor) -> InputContract:
    """Reads the contract off an input: a uint8 pixel is the quantized value, an int8 one is
    the pixel less 128; so they are without a scale, where the graph casts them itself."""
    scale = zero_point = mean = std = None
    shift = {"UINT8": 0, "INT8": 128}.get(tensor.type_name)
    if tensor.quantization is not None and shift is not None:
        scale = float(tensor.quantization.scale[0])
        zero_point = int(tensor.quantization.zero_point[0])
        mean, std = float(zero_point + shift), 1.0 / scale
    elif tensor.quantization is None and shift is not None:
        mean, std = float(shift), 1.0
    return InputContract(
        tensor.name, tensor.shape, tensor.type_name.lower(), scale, zero_point, mean, std
    )


def read_labels(path: str | pathlib.Path) -> tuple[str, ...] | None:
    """The label list that is packed into a file as a ZIP of text files, None without one.

    Raises:
        ValueError: the packed file is damaged.
    """
    content = pathlib.Path(path).read_bytes()
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            texts = [item for item in packed.infolist() if item.filename.endswith(".txt")]
            texts.sort(key=lambda item: "label" not in item.filename)
            if not texts:
                return None
            with packed.open(texts[0]) as stream:
                text = stream.read(MAX_LABEL_BYTES).decode()
    except (zipfile.BadZipFile, UnicodeDecodeError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{path}: its packed label list cannot be read ({error})") from error
    return tuple(line.strip() for line in text.splitlines() if line.strip()) or None
