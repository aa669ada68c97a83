"""Opens the files that segment pictures: how each is fed, and its classes."""

import dataclasses
import pathlib

from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.contract import ModelContract, read_contract
from tflite_tools.evaluation.request import table_names
from tflite_tools.file_list import UnreadFile, read_contracts
from tflite_tools.input_contract import PreprocessingSource
from tflite_tools.segmentation.classes import ColorChoice, Model, class_list
from tflite_tools.segmentation.prediction import check_input


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the caller says about files that do not say it themselves.

    Attributes:
        preprocessing: normalization; of several files, for those that state none.
        output: name or number of the output to read, of files with several.
        names: class names, or () for the file's own.
        colors: where the colours of classes come from.
    """

    preprocessing: Preprocessing | None = None
    output: str = ""
    names: tuple[str, ...] = ()
    colors: ColorChoice = ColorChoice.DISTINCT


def open_models(
    paths: list[pathlib.Path], reading: Reading
) -> tuple[list[Model], list[UnreadFile]]:
    """Opens the files that can be read, each once.

    Args:
        paths: the files.
        reading: what the caller says about them.

    Returns:
        The files in order, and those that could not be read.

    Raises:
        FileNotFoundError: no file of the list exists.
        ValueError: no file is given or can be read, one takes no photos, or the caller's names
            are not as many as its classes.
    """
    if not paths:
        raise ValueError("expected a file, got none; give --model=FILE[,FILE...]")
    paths = list(dict.fromkeys(paths))
    contracts, unread = read_contracts(paths, table_names(paths), output=reading.output)
    models = []
    for contract in contracts:
        check_input(contract)
        used = _contract(contract, reading, only=len(paths) == 1)
        models.append(Model(used, class_list(used, names=reading.names, choice=reading.colors)))
    return models, unread


def _contract(contract: ModelContract, reading: Reading, *, only: bool) -> ModelContract:
    """Returns a contract with the caller's normalization; of several files only if it lacks one."""
    given = reading.preprocessing
    if given is None or (not _is_assumed(contract) and not only):
        return contract
    return read_contract(contract.path, given, name=contract.name, output=reading.output)


def _is_assumed(contract: ModelContract) -> bool:
    return contract.preprocessing_source is PreprocessingSource.ASSUMED


def without_normalization(models: list[Model]) -> Model | None:
    """Returns the first file whose normalization is on record nowhere, or None.

    Args:
        models: the files.
    """
    return next((model for model in models if _is_assumed(model.contract)), None)
