"""The file under diagnosis, with its reference, label list and data set."""

import dataclasses
import pathlib

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.label_list import read_label_list
from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.contract import ModelContract, class_count, read_contract
from tflite_tools.flatbuffer.graph import Graph, Tensor, read_graph
from tflite_tools.flatbuffer.operators import CONVOLUTIONS
from tflite_tools.input_contract import PreprocessingSource
from tflite_tools.manifest import Manifest, read_manifest
from tflite_tools.runtime.runtime_shapes import with_known_shapes

INTEGER_TYPES = ("INT8", "UINT8", "INT16")


@dataclasses.dataclass(frozen=True)
class Case:
    """The input of the checks.

    Attributes:
        graph, contract: of the file.
        manifest: next to it, or None.
        given_preprocessing: whether the caller gave the normalization.
        labels: the list of class names to check, or () if there is none.
        reference_graph, reference: a float file of the same network, or None.
        dataset: labelled photos, or None.
    """

    graph: Graph
    contract: ModelContract
    manifest: Manifest | None
    given_preprocessing: bool
    labels: tuple[str, ...]
    reference_graph: Graph | None
    reference: ModelContract | None
    dataset: SegmentationDataset | None

    @property
    def input_tensor(self) -> Tensor:
        """The input of the file."""
        return self.graph.tensors[self.graph.inputs[0]]

    @property
    def is_integer(self) -> bool:
        """Whether most convolutions compute with integers."""
        computed = [
            self.graph.tensors[operator.outputs[0]]
            for operator in self.graph.operators
            if operator.kind in CONVOLUTIONS
        ]
        integer = [tensor for tensor in computed if tensor.type_name in INTEGER_TYPES]
        return 2 * len(integer) > len(computed)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by output index: of the list, else of the data set."""
        return self.labels or (self.dataset.label_set.names if self.dataset else ())

    def truth_obstacle(self) -> str:
        """Returns the reason why masks cannot be compared with labels, or ""."""
        if self.dataset is None:
            return "needs labelled photos: give --dataset and --data_dir"
        if self.contract.channels != self.dataset.channels:
            return (
                f"expected {self.dataset.channels} channels ({self.dataset.name}), got "
                f"{self.contract.channels}"
            )
        sensor = self.contract.sensor
        if sensor is not None and (other := sensor.difference(self.dataset.sensor)):
            return f"the file was trained on range images of another sensor ({other})"
        classes = class_count(self.graph, self.contract.num_classes)
        known = self.dataset.label_set.num_classes
        if classes is not None and classes != known:
            return f"expected {known} classes ({self.dataset.name}), got {classes}"
        return ""


def open_case(
    model: pathlib.Path,
    preprocessing: Preprocessing | None = None,
    *,
    labels: pathlib.Path | None = None,
    reference: pathlib.Path | None = None,
    dataset: SegmentationDataset | None = None,
) -> Case:
    """Reads a file for the diagnosis, without running it.

    Args:
        model: the file.
        preprocessing: normalization by the caller, or None for the file's own.
        labels: list of class names to check, or None for the file's own.
        reference: float file of the same network, or None.
        dataset: labelled photos, or None.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is damaged or no segmentation model, or the reference takes photos of
            another size or computes with integers.
    """
    contract = read_contract(model, preprocessing)
    manifest = read_manifest(model)
    names = read_label_list(labels) if labels else ()
    if not names and contract.label_set:
        names = contract.label_set.names
    other = _reference_contract(reference, contract) if reference else None
    case = Case(
        graph=_graph(contract),
        contract=contract,
        manifest=manifest,
        given_preprocessing=preprocessing is not None,
        labels=names,
        reference_graph=_graph(other) if other else None,
        reference=other,
        dataset=_fitting(dataset, contract.channels),
    )
    if reference and dataclasses.replace(case, graph=case.reference_graph).is_integer:  # type: ignore[arg-type]
        raise ValueError(
            f"reference {reference}: expected a float file, got one that computes with integers; "
            "give the float file"
        )
    return case


def _graph(contract: ModelContract) -> Graph:
    """Reads the graph of a file; of several outputs the one that is read comes first."""
    graph = with_known_shapes(read_graph(contract.path))
    own = graph.outputs[contract.output_position]
    return dataclasses.replace(graph, outputs=tuple(dict.fromkeys((own, *graph.outputs))))


def _fitting(dataset: SegmentationDataset | None, channels: int) -> SegmentationDataset | None:
    """Returns the photos with the network's channels, where they can be read so."""
    try:
        return dataset.with_channels(channels) if dataset else None
    except ValueError:
        return dataset  # the checks that need photos say why they were left out


def _reference_contract(path: pathlib.Path, contract: ModelContract) -> ModelContract:
    """Reads the reference with its own normalization, else with the file's."""
    reference = read_contract(path)
    if reference.preprocessing_source is PreprocessingSource.ASSUMED:
        reference = dataclasses.replace(reference, preprocessing=contract.preprocessing)
    size = (contract.height, contract.width, contract.channels)
    found = (reference.height, reference.width, reference.channels)
    if found != size:
        raise ValueError(
            f"reference {path}: expected an input {list(size)} as {contract.path} has, got "
            f"{list(found)}; give the float file of the same network at the same size"
        )
    return reference
