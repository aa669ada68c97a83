"""The sources of a network to export: a run, a Keras file, a SavedModel, a frozen graph."""

import abc
import dataclasses
import hashlib
import json
import pathlib

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import logging

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.lidar.sensor import Sensor
from deeplab_tf.graph.build import main_output
from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.graph.network import LAYER
from deeplab_tf.models.config import ImportedConfig
from deeplab_tf.models.registry import build_network
from deeplab_tf.quantization.qat.apply import float_arrays_inside, quantize_aware
from deeplab_tf.quantization.qat.weight_ranges import fit_weight_ranges
from deeplab_tf.runs.config import read_config
from deeplab_tf.runs.events import read_training_minutes
from deeplab_tf.runs.folder import Phase, RunFolder
from deeplab_tf.weights.matching import load_named
from deeplab_tf.weights.npz import read_weights
from export.conversion import freeze
from export.conversion.foreign_operators import checked_saved_model
from export.conversion.imported import imported_network
from export.conversion.keras_file import read_keras_file
from export.conversion.recipe import file_digest, folder_digest
from export.conversion.variants import Head


class Source(abc.ABC):
    """A network that can be frozen at a size.

    Attributes:
        description: for the manifest.
        quantization_aware: whether there is a quantization-aware graph, not only the float one.
        choosable_heads: False where the graph ends in a head of its own.
        tolerated: whether faults that the gate finds are only logged: for a scheme that serves as
            a comparison.
        channels: of the images that the network takes; None if that is not known before it is
            frozen.
        fixed_size: (height, width) of its input where it takes no other; else None.
    """

    description: str
    quantization_aware: bool = False
    choosable_heads: bool = False
    tolerated: bool = False
    channels: int | None = None
    fixed_size: tuple[int, int] | None = None

    def fingerprint(self) -> str:
        """Returns a digest that changes with the network or its weights; "" if there is none."""
        return ""

    @abc.abstractmethod
    def frozen(
        self, phase: Phase, head: Head, *, height: int, width: int
    ) -> tf.types.experimental.ConcreteFunction:
        """Freezes the network of a phase with a head.

        Args:
            phase: float or quantization-aware.
            head: what comes after the logits.
            height: of the input.
            width: of the input.

        Returns:
            concrete function float32 [1, height, width, channels] -> one output, or those of
            `named_outputs`.
        """

    @property
    def named_outputs(self) -> tuple[tuple[int, str], ...]:
        """(number of the model's output, name) of several outputs, in the files' order.

        Number 0 is the output that the head belongs to. Empty where there is one output.
        """
        return ()

    def training_minutes(self, phase: Phase) -> float | None:
        """Returns how long the steps of a phase took; None where that is not recorded."""
        del phase
        return None

    @property
    def sensor(self) -> Sensor | None:
        """The sensor of the range images that the network was trained on; None for cameras."""
        return None

    @property
    def logits_alignment(self) -> Alignment:
        """Convention by which logits are resized to the size of the image."""
        return Alignment.HALF_PIXEL

    def float_model(self, height: int, width: int) -> keras.Model:
        """Builds the float network as one flat Functional graph that ends in scores.

        Args:
            height: of the input.
            width: of the input.

        Returns:
            the network with its weights.

        Raises:
            ValueError: the network cannot be imported as one graph.
        """
        frozen = self.frozen(Phase.FLOAT, Head.LOGITS_LOW, height=height, width=width)
        return imported_network(frozen, self.description, named_outputs=self.named_outputs)


@dataclasses.dataclass
class RunSource(Source):
    """A training run with float weights, quantization-aware weights, or both.

    Attributes:
        folder: of the run.
        best: whether to take the weights of the best validation instead of the last ones.
        config: its configuration.
    """

    folder: RunFolder
    best: bool = False
    choosable_heads = True

    def __post_init__(self) -> None:
        self.config = read_config(self.folder.path)
        if not any(self._weights(phase).is_file() for phase in Phase):
            raise FileNotFoundError(
                f"{self.folder.path}: the run has not finished a phase; train it to the end, or "
                "give --checkpoint=best if it was validated at least once"
            )
        self.quantization_aware = self._weights(Phase.QUANTIZED).is_file()
        self.channels = self.config.model.channels
        self.tolerated = self.config.quantization.scheme.is_stock
        self.description = f"{self.config.model.describe()}, {self.config.data.dataset}"

    def fingerprint(self) -> str:
        """Returns the sha256 of configuration and weights."""
        config = json.dumps(self.config.to_json(), sort_keys=True)
        weights = [self._weights(phase) for phase in Phase if self._weights(phase).is_file()]
        return hashlib.sha256(f"{config} {file_digest(*weights)}".encode()).hexdigest()

    def training_minutes(self, phase: Phase) -> float | None:
        """Returns how long the steps of a phase took; None where that is not recorded."""
        return read_training_minutes(self.folder.path, phase.value)

    @property
    def named_outputs(self) -> tuple[tuple[int, str], ...]:
        """The outputs of an imported file, by their names there."""
        if not isinstance(self.config.model, ImportedConfig):
            return ()
        graph = self.config.model.description
        return tuple((graph.outputs.index(node), name) for node, name in graph.named_outputs)

    def _weights(self, phase: Phase) -> pathlib.Path:
        return (self.folder.best_weights if self.best else self.folder.weights)(phase)

    def model(self, phase: Phase, height: int, width: int) -> keras.Model:
        """Builds the network of a phase with its trained weights.

        The float network of a run that was quantization-aware from the first step is the one
        inside the quantization-aware network.

        Args:
            phase: float or quantization-aware.
            height: of the input.
            width: of the input.

        Returns:
            the network.

        Raises:
            ValueError: the weights do not fit the network.
        """
        model = build_network(self.config.model, (height, width))
        stored = self._weights(phase)
        if phase is Phase.QUANTIZED:
            config = self.config
            model = quantize_aware(
                model, config.data.preprocessing.input_range, qat_scheme=config.quantization.scheme
            )
            arrays = read_weights(stored)
        elif stored.is_file() and self.config.quantization.delay_step != 0:
            arrays = read_weights(stored)
        else:
            arrays = self._arrays_inside_quantized()
        self._load(model, arrays)
        if phase is Phase.QUANTIZED:
            fit_weight_ranges(model)
        return model

    def float_models(self, height: int, width: int) -> dict[Phase, keras.Model]:
        """Builds the float networks that files of this run can come from.

        Args:
            height: of the input.
            width: of the input.

        Returns:
            the network of the float phase, and the one inside the quantization-aware network if
            the run has that phase.
        """
        models = {Phase.FLOAT: self.model(Phase.FLOAT, height, width)}
        if self._weights(Phase.QUANTIZED).is_file():
            inside = build_network(self.config.model, (height, width))
            self._load(inside, self._arrays_inside_quantized())
            models[Phase.QUANTIZED] = inside
        return models

    def _arrays_inside_quantized(self) -> dict[str, np.ndarray]:
        return float_arrays_inside(read_weights(self._weights(Phase.QUANTIZED)))

    def _load(self, model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
        report = load_named(model, arrays)
        if report.missing or report.mismatched:
            raise ValueError(
                f"{self.folder.path}: weights do not fit the network ({report.lines()[1]}); train "
                "the run again"
            )

    @property
    def sensor(self) -> Sensor | None:
        """The sensor of the run's range images; None for cameras."""
        return self.config.data.sensor

    @property
    def logits_alignment(self) -> Alignment:
        """Convention by which the network's logits are resized."""
        return self.config.model.logits_alignment

    def float_model(self, height: int, width: int) -> keras.Model:
        """Builds the float network."""
        return self.model(Phase.FLOAT, height, width)

    def frozen(
        self, phase: Phase, head: Head, *, height: int, width: int
    ) -> tf.types.experimental.ConcreteFunction:
        """Freezes the network of a phase with a head."""
        model = self.model(phase, height, width)
        return freeze.freeze_model(model, head, alignment=self.logits_alignment)


class KerasModelSource(Source):
    """A Keras network of stock layers that ends in logits.

    Args:
        model: the network, of Keras 2; not changed.
        name: for messages and the manifest.
        output: layer that gives the output, where there are several; "" for the largest, of
            equal ones the first.
        keep_outputs: whether the files also give the other outputs.

    Raises:
        ValueError: it is no network of Keras 2 with an image as input and scores as output, or
            its weights are not finite.
    """

    choosable_heads = True

    def __init__(
        self, model: keras.Model, name: str, *, output: str = "", keep_outputs: bool = False
    ) -> None:
        self.description = name
        self._model, self._named = _with_chosen_output(
            _of_keras2(model, name), name, output=output, keep=keep_outputs
        )
        shapes = [self._model.input_shape, main_output(self._model).output_shape]
        if any(isinstance(shape, list) or len(shape) != 4 for shape in shapes):
            raise ValueError(
                f"{name}: expected one input [batch, height, width, channels] and one output "
                f"of the same rank, got {shapes[0]} and {shapes[1]}; give a segmentation network"
            )
        _, height, width, self.channels = self._model.input_shape
        if height is not None and width is not None:
            self.fixed_size = (height, width)
        for weight in self._model.weights:
            if not np.isfinite(weight.numpy()).all():
                raise ValueError(
                    f"{name}: {weight.name} holds NaN or infinity; the training diverged"
                )

    @property
    def named_outputs(self) -> tuple[tuple[int, str], ...]:
        """The outputs that are kept, by the names of their layers."""
        return self._named

    @property
    def num_classes(self) -> int:
        """Channels of the output."""
        return main_output(self._model).output_shape[-1]

    def frozen(
        self, phase: Phase, head: Head, *, height: int, width: int
    ) -> tf.types.experimental.ConcreteFunction:
        """Freezes the network with a head."""
        return freeze.freeze_model(self._resized(height, width), head)

    def float_model(self, height: int, width: int) -> keras.Model:
        """Builds the network at a size; one that is no flat graph of known layers is imported.

        Args:
            height: of the input.
            width: of the input.

        Returns:
            the network with its weights.

        Raises:
            ValueError: the file's network has another fixed size, or cannot be imported.
        """
        model = self._resized(height, width)
        try:
            graph, _ = graph_from_keras(model)
        except ValueError as error:
            reason = str(error)
        else:
            others = [node.name for node in graph.nodes if node.kind == LAYER]
            if not others:
                return model
            reason = f"layer {others[0]!r} is no operator of the network graph"
        logging.info("%s is converted to one graph first: %s", self.description, reason)
        return super().float_model(height, width)

    def _resized(self, height: int, width: int) -> keras.Model:
        own = self._model.input_shape[1:3]
        if None not in own and own != (height, width):
            raise ValueError(
                f"{self.description}: expected size {own[0]},{own[1]}, which it is built for, got "
                f"{height},{width}; give --size={own[0]},{own[1]}"
            )
        image = keras.Input((height, width, self._model.input_shape[-1]))
        model = keras.models.clone_model(self._model, input_tensors=image)
        model.set_weights(self._model.get_weights())
        return model


class KerasFileSource(KerasModelSource):
    """A `.keras` or `.h5` file of stock layers that ends in logits.

    Args:
        path: of the file.
        output, keep_outputs: as of `KerasModelSource`.
    """

    def __init__(self, path: pathlib.Path, output: str = "", *, keep_outputs: bool = False) -> None:
        self.path = path
        super().__init__(read_keras_file(path), str(path), output=output, keep_outputs=keep_outputs)
        self.description = path.name

    def fingerprint(self) -> str:
        """Returns the sha256 of the file."""
        return file_digest(self.path)


def _of_keras2(model: keras.Model, name: str) -> keras.Model:
    if any(base.__module__.split(".")[0] == "keras" for base in type(model).__mro__):
        raise ValueError(
            f"{name}: is a network of Keras 3, which is in force if TensorFlow was imported before "
            "deeplab_tflite, or if it was built with `import keras`; import deeplab_tflite first "
            "and build with tf.keras, or save the network and give its .keras file"
        )
    if not isinstance(model, keras.Model) or not hasattr(model, "input_shape"):
        raise ValueError(
            f"{name}: expected a Keras network with an input of a known shape, got "
            f"{type(model).__name__}; give a Functional or built Sequential one"
        )
    return model


def _with_chosen_output(
    model: keras.Model, name: str, *, output: str, keep: bool
) -> tuple[keras.Model, tuple[tuple[int, str], ...]]:
    """Returns the network up to the chosen output, or with that output as its first.

    Also the outputs that are kept, by the names of their layers; () where one is left.
    """
    names = list(model.output_names)
    if output and output not in names:
        raise ValueError(f"{name}: no output {output!r}; it has {', '.join(names)}")
    if len(names) == 1:
        return model, ()
    chosen = names.index(output) if output else _largest(model.outputs)
    if keep:
        order = [chosen, *(place for place in range(len(names)) if place != chosen)]
        named = tuple((order.index(place), layer) for place, layer in enumerate(names))
        return keras.Model(model.inputs, [model.outputs[place] for place in order]), named
    if not output:
        logging.warning(
            "%s has %d outputs (%s); %s is exported, --output chooses another, --keep_outputs "
            "keeps all",
            name,
            len(names),
            ", ".join(names),
            names[chosen],
        )
    return keras.Model(model.inputs, model.outputs[chosen]), ()


def _largest(outputs: list[tf.Tensor]) -> int:
    """Returns the place of the output with the most pixels; auxiliary ones are smaller."""
    pixels = [
        (output.shape[1] or 0) * (output.shape[2] or 0) if len(output.shape) == 4 else -1
        for output in outputs
    ]
    return pixels.index(max(pixels))


@dataclasses.dataclass
class SavedModelSource(Source):
    """A signature of a SavedModel: the default one, or the only one.

    Attributes:
        path: of the folder.
        trusted: load it without checking its operators.
        output: which of several outputs; "" where there is one.
    """

    path: pathlib.Path
    trusted: bool = False
    output: str = ""

    def fingerprint(self) -> str:
        """Returns a digest of all files of the folder."""
        return folder_digest(self.path)

    def __post_init__(self) -> None:
        self.description = self.path.name
        if not self.trusted:
            with checked_saved_model(self.path):
                pass  # refused before any work is done

    def frozen(
        self, phase: Phase, head: Head, *, height: int, width: int
    ) -> tf.types.experimental.ConcreteFunction:
        """Freezes the signature; the graph keeps its own output."""
        return freeze.freeze_saved_model(
            self.path, height, width=width, trusted=self.trusted, output=self.output
        )


@dataclasses.dataclass
class FrozenGraphSource(Source):
    """A TF1 frozen graph.

    Attributes:
        path: of the `.pb` file.
        input_array: name of the node that takes the image.
        output_array: name of the node that gives the output.
        trusted: do not check its operators.
    """

    path: pathlib.Path
    input_array: str
    output_array: str
    trusted: bool = False

    def fingerprint(self) -> str:
        """Returns a digest of the file and the names of its input and output."""
        names = f"{self.input_array} {self.output_array} {file_digest(self.path)}"
        return hashlib.sha256(names.encode()).hexdigest()

    def __post_init__(self) -> None:
        self.description = self.path.name
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such frozen graph; check --frozen_graph")
        freeze.read_graph(self.path, trusted=self.trusted)  # refused before any work is done

    def frozen(
        self, phase: Phase, head: Head, *, height: int, width: int
    ) -> tf.types.experimental.ConcreteFunction:
        """Freezes the graph; it keeps its own output."""
        return freeze.freeze_graph(
            self.path,
            self.input_array,
            output_array=self.output_array,
            height=height,
            width=width,
            trusted=self.trusted,
        )
