"""What a user asks for: a network of some framework, and how it is read."""

import dataclasses
import enum
import pathlib

from deeplab_tf.data.preprocessing import Preprocessing


class Framework(enum.Enum):
    """Where a network comes from, and what runs it for comparison."""

    PYTORCH = "pytorch"
    """An exported program (`.pt2`), or a Python file with an `nn.Module`; through litert-torch."""
    ONNX = "onnx"
    """An `.onnx` file; through onnx2tf, compared with ONNX Runtime."""
    KERAS = "keras"
    """A `.keras` file of Keras 3, or a SavedModel folder; through TensorFlow."""
    TFLITE = "tflite"
    """A float `.tflite` that another program made; only its input and outputs are put in order."""


_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")

NORMALIZATIONS = {
    "imagenet": Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "zero_to_one": Preprocessing((0.0,) * 3, (255.0,) * 3),
    "minus_one_to_one": Preprocessing((127.5,) * 3, (127.5,) * 3),
    "none": Preprocessing((0.0,) * 3, (1.0,) * 3),
}
"""By name, for pixels of 0 to 255. ImageNet's are 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225 of
pixels from 0 to 1, as in torchvision, timm and transformers."""


@dataclasses.dataclass(frozen=True)
class ConversionRequest:
    """A network to convert, and where the result goes.

    Attributes:
        source: the file, or the folder of a SavedModel.
        output_dir: folder to write.
        environments: folder of the frameworks' environments.
        module: name in a Python file that is, or returns, the `nn.Module`.
        weights: its weights, a state dictionary or safetensors; None for those that it has.
        python_file: file that registers a Keras network's own layers; its code is run.
        packages: requirements that the user's own file imports.
        size: (height, width) of the input; None: the network's own.
        outputs: names of the outputs to keep; empty for all.
        signature: of a SavedModel; "" for the only one, or the default one.
        trusted: load a SavedModel or an exported program without a check of what it runs.
        preprocessing: what the network expects of pixels; None: nothing is stated, and the network
            must normalize them itself.
        fold_normalization: let the file take (pixel - 128) / 128 where one scale for all channels
            cannot stand for the normalization.
        photos: folder of images for the comparison; None for built-in pictures.
        labels: names of the classes; empty: numbered.
        overwrite: replace earlier files.
        timeout_s: longest time of the conversion.
    """

    source: pathlib.Path
    output_dir: pathlib.Path
    environments: pathlib.Path
    module: str = ""
    weights: pathlib.Path | None = None
    python_file: pathlib.Path | None = None
    packages: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    outputs: tuple[str, ...] = ()
    signature: str = ""
    trusted: bool = False
    preprocessing: Preprocessing | None = None
    fold_normalization: bool = True
    photos: pathlib.Path | None = None
    labels: tuple[str, ...] = ()
    overwrite: bool = False
    timeout_s: float = 1800.0

    @property
    def framework(self) -> Framework:
        """The framework, by the kind of the source.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a kind that is not converted, or flags that do not fit it.
        """
        return framework_of(self.source)

    def check(self) -> None:
        """Checks that the files exist and that the settings fit the kind of source.

        Raises:
            FileNotFoundError: a file is missing.
            FileExistsError: the folder holds an earlier conversion and `overwrite` is not set.
            ValueError: settings that do not fit.
        """
        framework = self.framework
        for path in (self.weights, self.python_file, self.photos):
            if path is not None and not path.exists():
                raise FileNotFoundError(f"{path}: no such file; check its name")
        is_python = self.source.suffix == ".py"
        if is_python and not self.module:
            raise ValueError(
                f"{self.source}: expected the name of the network in it, got none; give "
                "--module=NAME, a class, or a function without arguments that returns the network"
            )
        if is_python and self.size is None:
            raise ValueError("a network from a Python file has no size of its own; give --size")
        if (self.module or self.weights) and not is_python:
            raise ValueError(
                "--module and --weights belong to a Python file; give it as --source=FILE.py"
            )
        if self.python_file and framework is not Framework.KERAS:
            raise ValueError("--python_file belongs to a .keras file; leave it out")
        if self.signature and not self.source.is_dir():
            raise ValueError("--signature belongs to a SavedModel; leave it out")
        if self.packages and framework is not Framework.PYTORCH:
            raise ValueError("--packages belongs to PyTorch; leave it out")
        if self.source.suffix == ".pt2" and not self.trusted:
            raise ValueError(
                f"{self.source}: torch.export.load may run code of the file, as PyTorch's own "
                "documentation warns; if it is yours, give --trust_source"
            )
        model = self.output_dir / MODEL
        if model.exists() and not self.overwrite:
            raise FileExistsError(
                f"{model} exists; choose another --output_dir, or give --overwrite"
            )


MODEL = "float32.tflite"
"""Name of the file in the output folder."""


def framework_of(source: pathlib.Path) -> Framework:
    """Returns the framework of a file or folder, by its kind.

    Args:
        source: the file or folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a kind that is not converted.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file; give the network as --source")
    if source.is_dir():
        if (source / "saved_model.pb").is_file():
            return Framework.KERAS
        raise ValueError(f"{source}: expected a SavedModel folder, got no saved_model.pb in it")
    kinds = {
        ".pt2": Framework.PYTORCH,
        ".py": Framework.PYTORCH,
        ".onnx": Framework.ONNX,
        ".keras": Framework.KERAS,
        ".tflite": Framework.TFLITE,
    }
    if source.suffix in kinds:
        return kinds[source.suffix]
    if source.suffix in _PICKLES:
        raise ValueError(
            f"{source}: weights without a network, or a pickle, which runs code when it is loaded; "
            "give the Python file as --source, its --module, and this file as --weights, or save "
            "the network with torch.export.save as .pt2"
        )
    if source.suffix in (".h5", ".hdf5"):
        raise ValueError(
            f"{source}: Keras 2 files need no other framework; give it to export.to_tflite as "
            "--keras_file"
        )
    raise ValueError(
        f"{source}: expected {', '.join(kinds)} or a SavedModel folder, got {source.suffix!r}"
    )


def normalization(
    name: str, mean: tuple[float, ...], *, std: tuple[float, ...]
) -> Preprocessing | None:
    """Returns the normalization that the flags state; None if they state none.

    Args:
        name: key of `NORMALIZATIONS`, or "".
        mean: pixel means of all channels or of each; empty if not given.
        std: divisors, as `mean`.

    Raises:
        ValueError: both ways at once, one of mean and std, or values of pixels from 0 to 1.
    """
    if name and (mean or std):
        raise ValueError("--normalization and --mean, --std exclude each other; give one of them")
    if name:
        return NORMALIZATIONS[name]
    if not mean and not std:
        return None
    if not mean or not std:
        raise ValueError("--mean and --std belong together; give both")
    count = max(len(mean), len(std), 3 if len(mean) == len(std) == 1 else 1)
    values = [numbers * count if len(numbers) == 1 else numbers for numbers in (mean, std)]
    if 0 < max(values[0]) <= 1 and max(values[1]) <= 1:
        scaled = [",".join(f"{255 * value:.6g}" for value in numbers) for numbers in values]
        raise ValueError(
            f"--mean and --std are in units of pixels from 0 to 255, got {values[0]} and "
            f"{values[1]}; give --mean={scaled[0]} --std={scaled[1]}"
        )
    return Preprocessing(*values)
