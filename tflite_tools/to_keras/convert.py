"""Imports a file from end to end: reads it, edits the head, inserts batch norms, compares."""

import dataclasses
import importlib.metadata
import pathlib
import platform
from collections.abc import Sequence

import numpy as np
import tf_keras as keras
from absl import logging

from deeplab_tf.data.preprocessing import Preprocessing, place
from deeplab_tf.data.registry import open_dataset
from deeplab_tf.graph.batch_norm import (
    adopt_statistics,
    insert_batch_norms,
    normalize_kernels,
)
from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.edit import append_classifier, last_convolution
from deeplab_tf.graph.network import NetworkGraph
from deeplab_tf.graph.simulate import simulate_quantization
from deeplab_tf.weights.matching import load_named, named_arrays
from tflite_tools.flatbuffer.graph import Graph, read_checked_graph
from tflite_tools.input_contract import InputContract, PreprocessingSource, read_input_contract
from tflite_tools.manifest import read_manifest
from tflite_tools.output_form import form_of_output
from tflite_tools.runtime.file_interpreter import FileRunner
from tflite_tools.to_keras import fidelity, self_check
from tflite_tools.to_keras.channels_last import channels_last
from tflite_tools.to_keras.importer import ImportedNetwork, import_graph
from tflite_tools.to_keras.pictures import built_in_pictures
from tflite_tools.to_keras.report import Result, check_output, write_result
from tflite_tools.to_keras.run import ImportedRun, as_run

_PACKAGES = ("tensorflow", "tf-keras", "ai-edge-litert")


@dataclasses.dataclass(frozen=True)
class ImportConfig:
    """Settings of an import.

    Attributes:
        model: the `.tflite`.
        output_dir: folder to write.
        trim_head: tensor to cut after; empty for the whole network.
        output: which of several outputs a run trains; empty for the first that is a segmentation.
        keep_outputs: whether a run's exports give the other outputs as well.
        num_classes: classes of a new classifier at the cut; 0 for none.
        seed: seed of the new classifier's kernel.
        unfold_batch_norm: insert a batch norm after every convolution.
        simulate_quantization: round every tensor to the file's integer steps.
        dataset: images for the batch norms and the comparison; "" for none.
        data_dir: folder of the data set.
        split: split of the data set.
        calibration_images: number of images.
        compare: compare the network with the file on those images.
        preprocessing: of the input; None: from the manifest, the metadata or the input's scale.
        overwrite: replace an earlier import.
    """

    model: pathlib.Path
    output_dir: pathlib.Path
    trim_head: str = ""
    output: str = ""
    keep_outputs: bool = True
    num_classes: int = 0
    seed: int = 0
    unfold_batch_norm: bool = False
    simulate_quantization: bool = False
    dataset: str = ""
    data_dir: str = ""
    split: str = "train"
    calibration_images: int = 16
    compare: bool = False
    preprocessing: Preprocessing | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.num_classes and not self.trim_head:
            raise ValueError(
                "num_classes needs trim_head, the tensor that the new classifier reads; "
                "report.md of an import without both lists the tensors"
            )
        if self.num_classes < 0:
            raise ValueError(f"num_classes must be positive; got {self.num_classes}")
        if self.unfold_batch_norm and self.simulate_quantization:
            raise ValueError(
                "unfold_batch_norm and simulate_quantization exclude each other: an integer "
                "file has no batch norms"
            )
        if (self.unfold_batch_norm or self.compare) and not self.dataset:
            raise ValueError("unfold_batch_norm and compare need images: give --dataset")
        if self.calibration_images < 1:
            raise ValueError(f"calibration_images must be positive; got {self.calibration_images}")
        if self.compare and self.trim_head:
            raise ValueError("compare looks at the file's outputs: leave --trim_head out")
        if self.output and self.trim_head:
            raise ValueError(
                "output and trim_head exclude each other; a cut network has one output"
            )


def convert(config: ImportConfig) -> Result:
    """Imports a file and writes its folder; if anything fails nothing is written.

    Args:
        config: the settings.

    Raises:
        ValueError: the file or a setting is not supported, or the network does not compute what a
            float file computes.
        FileExistsError: the folder holds an import and `overwrite` is not set.
        FileNotFoundError: the file or the images are missing.
    """
    check_output(config.output_dir, config.overwrite)
    with channels_last(read_checked_graph(config.model)) as graph:
        contract = read_input_contract(config.model, graph, given=config.preprocessing)
        for warning in contract.warnings:
            logging.warning("%s: %s", config.model, warning)
        output = config.output or ("" if config.trim_head else _first_segmentation(graph))
        network = import_graph(graph, config.trim_head, output=output)
        network = dataclasses.replace(network, contract=contract)
        result = _result(config, graph, network=network)
    write_result(result, config.output_dir)
    return result


def _first_segmentation(graph: Graph) -> str:
    """Returns the name of the first of several outputs that is a segmentation; "" for the first.

    A network for segmentation may give boxes or classes of the whole image before the masks.
    """
    _, *size = graph.tensors[graph.inputs[0]].shape
    if len(set(graph.outputs)) > 1 and len(size) == 3:
        for position, index in enumerate(graph.outputs):
            if form_of_output(graph, position, size=(size[0], size[1])) is not None:
                return graph.tensors[index].name
    return ""


def _result(config: ImportConfig, graph: Graph, *, network: ImportedNetwork) -> Result:
    description, arrays, steps = network.description, network.arrays, []
    batches = (
        _images(config, network.contract, shape=description.input_shape) if config.dataset else []
    )
    check = _self_check(graph, network, batches=batches)
    if config.trim_head:
        steps.append(f"cut after {config.trim_head}")
    if description.further_outputs:
        steps.append(
            f"{len(description.outputs)} outputs: {', '.join(description.outputs)}; a run trains "
            f"{description.output_name} (--output chooses another); "
            + (
                "its files give the others, too, with the weights that only they need as in the "
                "file (--nokeep_outputs leaves them out)"
                if config.keep_outputs
                else "its files give no other"
            )
        )
    if config.num_classes:
        description, arrays = append_classifier(
            description, arrays, num_classes=config.num_classes, seed=config.seed
        )
        name = last_convolution(description).name
        steps.append(f"new classifier {name} with {config.num_classes} classes")
    if config.unfold_batch_norm:
        description, arrays = unfold_batch_norm(description, arrays, batches=batches)
        steps.append(f"batch norms put back, statistics of {len(batches)} photos")
    if config.simulate_quantization:
        if not network.is_quantized:
            raise ValueError(f"{config.model} has no integer activations to simulate")
        description = simulate_quantization(description, network.ranges)
        steps.append("every quantized tensor rounded as XNNPACK's integer kernels round")
    agreement: tuple[fidelity.Fidelity, ...] = ()
    if config.compare:
        model = build_model(description, all_outputs=True)
        load_named(model, arrays)
        places = [graph.outputs.index(index) for index in network.output_tensors]
        agreement = fidelity.measure_all(
            FileRunner(graph.path), model, real_inputs=batches, places=places
        )
    run, no_run = _run(config, network, description=description, arrays=arrays)
    return Result(
        config.model,
        network,
        description=description,
        arrays=arrays,
        labels=network.contract.labels,
        steps=tuple(steps),
        fidelity=agreement,
        versions=_versions(),
        run=run,
        no_run=no_run,
        self_check=check,
    )


def _self_check(
    graph: Graph, network: ImportedNetwork, *, batches: list[np.ndarray]
) -> self_check.SelfCheck:
    """Compares file and network on the images, or on built-in pictures, and logs the result."""
    inputs, words = batches, f"{min(len(batches), self_check.PICTURES)} photos"
    if not inputs:
        contract, words = network.contract, "4 built-in pictures"
        if not contract.is_known:  # the comparison works with any normalization
            contract = dataclasses.replace(contract, source=PreprocessingSource.GIVEN)
        pictures = built_in_pictures(network.description.input_shape)
        inputs = [contract.real_values(picture) for picture in pictures]
    check = self_check.check(graph, network, inputs=inputs, description=words)
    doubtful = check.not_run or check.first_deviating_node
    for line in check.lines():
        logging.log(logging.WARNING if doubtful else logging.INFO, "%s", line)
    return check


def _run(
    config: ImportConfig,
    network: ImportedNetwork,
    *,
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
) -> tuple[ImportedRun | None, str]:
    """Returns the network as a run, or None and the reason."""
    labels = None
    if config.dataset:
        labels = open_dataset(config.dataset, config.data_dir, split=config.split).label_set
    manifest = read_manifest(config.model)
    try:
        run = as_run(
            description,
            arrays,
            contract=network.contract,
            label_set=labels,
            dataset=config.dataset,
            data_dir=config.data_dir,
            sensor=manifest.sensor if manifest else None,
            keep_outputs=config.keep_outputs,
        )
    except ValueError as error:
        return None, f"{error}; change its head with --trim_head and --num_classes"
    return run, ""


def unfold_batch_norm(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    batches: Sequence[np.ndarray],
) -> tuple[NetworkGraph, dict[str, np.ndarray]]:
    """Inserts batch norms with the statistics of images; the network's function is unchanged.

    Args:
        description: the folded network.
        arrays: its weights.
        batches: float32 [batch, height, width, channels] each, the network's input.

    Returns:
        The description and the arrays with batch norms.
    """
    keras.backend.clear_session()
    description, arrays = insert_batch_norms(description, arrays)
    model = build_model(description, all_outputs=True)
    load_named(model, arrays)
    adopt_statistics(model, batches)
    normalize_kernels(model)
    return description, named_arrays(model)


def _images(
    config: ImportConfig, contract: InputContract, *, shape: tuple[int, ...]
) -> list[np.ndarray]:
    """Returns the first images of the split, float32 [1, height, width, channels] each."""
    dataset = open_dataset(config.dataset, config.data_dir, split=config.split)
    if len(shape) != 3:
        raise ValueError(f"{config.model}: expected an image input, got {list(shape)}")
    dataset = dataset.with_channels(shape[2])
    count = min(config.calibration_images, len(dataset))
    canvases = (place(dataset.image(index), (shape[0], shape[1]))[0] for index in range(count))
    return [contract.real_values(canvas[None]) for canvas in canvases]


def _versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"Python": platform.python_version()} | versions
