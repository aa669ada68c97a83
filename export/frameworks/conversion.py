"""A framework's network as a float `.tflite` for camera pixels: convert, put in order, compare."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator

import numpy as np
from absl import logging

from deeplab_tf import atomic_file
from deeplab_tf.data.images import read_image
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.preprocessing import Preprocessing, place
from deeplab_tf.scratch import scratch_folder
from export.conversion.variants import Head, Variant
from export.frameworks.agreement import OutputAgreement, match_outputs
from export.frameworks.keras3_file import checked_keras3_file
from export.frameworks.request import MODEL, ConversionRequest, Framework
from export.frameworks.worker import Worker
from export.rewriting.channels_last import to_channels_last, transpose_output
from export.rewriting.input_normalization import (
    fold_normalization,
    own_normalization,
    remove_own_normalization,
    takes_camera_bytes,
)
from export.rewriting.max_pool_padding import pad_pools_with_zero
from tflite_tools.contract import class_count
from tflite_tools.flatbuffer.editor import Editor
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.flatbuffer.graph import read_checked_graph, read_graph
from tflite_tools.input_contract import check_input_size
from tflite_tools.manifest import Manifest, manifest_path, sha256_of
from tflite_tools.output_form import output_form
from tflite_tools.to_keras.file_tensors import run_tensors
from tflite_tools.to_keras.pictures import built_in_pictures
from tflite_tools.versions import versions

MOST_PHOTOS = 8
"""Photos of a folder that are compared; the first in the order of their names."""
_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
REPORT = "report.json"


@dataclasses.dataclass(frozen=True)
class ConvertedFile:
    """The result of a conversion.

    Attributes:
        path: of the `.tflite`.
        preprocessing: what the file expects of pixels.
        steps: what was done to the converter's file, one line each.
        outputs: comparison of each output with the framework; empty for a `.tflite` source.
        pictures: what was compared, in words.
        versions: of the framework's packages.
        has_manifest: False where the outputs are no segmentation.
    """

    path: pathlib.Path
    preprocessing: Preprocessing
    steps: tuple[str, ...]
    outputs: tuple[OutputAgreement, ...]
    pictures: str
    versions: dict[str, str]
    has_manifest: bool

    def lines(self) -> list[str]:
        """Returns the result for a person, one line each."""
        lines = [*self.steps]
        lines.append(
            f"pixels: mean {_numbers(self.preprocessing.mean)}, std "
            f"{_numbers(self.preprocessing.std)}"
        )
        lines += [f"{output.line()} ({self.pictures})" for output in self.outputs]
        return lines


def _numbers(values: tuple[float, ...]) -> str:
    alike = len(set(values)) == 1
    return ", ".join(f"{value:g}" for value in (values[:1] if alike else values))


def convert(request: ConversionRequest) -> ConvertedFile:
    """Converts a network and writes its folder; if anything fails nothing is written.

    Args:
        request: what to convert.

    Raises:
        FileNotFoundError, FileExistsError: of the request's files.
        ValueError: the network cannot be used, its normalization is not known, or the file does
            not compute what the framework computes.
        RuntimeError: the environment could not be made, or the converter failed.
    """
    request.check()
    with scratch_folder("framework") as folder:
        if request.framework is Framework.TFLITE:
            read_checked_graph(request.source)
            with _damage_named(request.source):
                return _finish(request, request.source, folder=folder, worker=None)
        with _checked_source(request) as source, Worker(request, source, folder=folder) as worker:
            worker.convert()
            return _finish(request, worker.model, folder=folder, worker=worker)


@contextlib.contextmanager
def _damage_named(source: pathlib.Path) -> Iterator[None]:
    """Names a file whose operators have values that no converter writes."""
    try:
        yield
    except (TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ValueError(
            f"{source}: its graph is damaged ({type(error).__name__}: {error}); convert the "
            "network again"
        ) from error


@contextlib.contextmanager
def _checked_source(request: ConversionRequest) -> Iterator[pathlib.Path]:
    """Yields what may be loaded: the file itself, or a checked copy of what Keras reads."""
    if request.source.is_dir() and not request.trusted:
        from export.conversion.foreign_operators import checked_saved_model  # noqa: PLC0415

        with checked_saved_model(request.source) as checked:
            yield checked
        return
    if request.source.suffix == ".keras" and request.python_file is None:
        with scratch_folder("keras3") as folder:
            yield checked_keras3_file(request.source, folder=folder)
        return
    yield request.source


def _finish(
    request: ConversionRequest,
    made: pathlib.Path,
    *,
    folder: pathlib.Path,
    worker: Worker | None,
) -> ConvertedFile:
    editor = Editor(read_model_bytes(made), name=str(made))
    _check_input(request, editor)
    steps = to_channels_last(editor)
    if replaced := pad_pools_with_zero(editor):
        steps.append(f"{replaced} max pools behind a ReLU are padded with 0, not minus infinity")
    known = worker is not None and worker.takes_pixels
    expected, stated = _normalization(request, editor, steps=steps, takes_pixels=known)
    preprocessing = expected
    if not takes_camera_bytes(expected) and request.fold_normalization:
        preprocessing = Preprocessing.of(expected.channels)
        where = fold_normalization(editor, expected)
        steps.append(
            f"the normalization (mean {_numbers(expected.mean)}, std {_numbers(expected.std)}) is "
            f"computed {where}; the file takes (pixel - 128) / 128, whose bytes are a camera's"
        )
    path = folder / MODEL
    path.write_bytes(editor.to_bytes())
    agreements: list[OutputAgreement] = []
    pictures, words = _pictures(request, path)
    if worker is not None:
        references = worker.run(np.concatenate([stated.normalize(image) for image in pictures]))
        inputs = [preprocessing.normalize(image) for image in pictures]
        agreements = _compare(editor, path, inputs=inputs, references=references, worker=worker)
    if wrong := [output for output in agreements if output.deviates]:
        raise ValueError(
            f"{request.source}: the file does not compute what {request.framework.value} computes "
            f"on {words}: {wrong[0].line()}; at most 0.001 is accepted, nothing was written"
        )
    result = ConvertedFile(
        request.output_dir / MODEL,
        preprocessing,
        steps=tuple(steps),
        outputs=tuple(agreements),
        pictures=words,
        versions=worker.versions if worker else {},
        has_manifest=False,
    )
    return _write(request, path, result=result)


def _check_input(request: ConversionRequest, editor: Editor) -> None:
    if len(editor.graph.inputs) != 1:
        raise ValueError(f"{request.source}: expected one input, got {len(editor.graph.inputs)}")
    tensor = editor.tensor(int(editor.graph.inputs[0]))
    shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
    if tensor.type != 0 or len(shape) != 4:
        raise ValueError(
            f"{request.source}: expected a float32 image input of 4 dimensions, got "
            f"{editor.name(int(editor.graph.inputs[0]))!r} {shape}; integer files need no "
            "conversion, give them to tflite_tools.to_keras"
        )
    check_input_size(shape, f"{request.source}: the input")


def _normalization(
    request: ConversionRequest, editor: Editor, *, steps: list[str], takes_pixels: bool
) -> tuple[Preprocessing, Preprocessing]:
    """Decides what the network expects of pixels; takes its own constants out of the file.

    Returns:
        What the file expects now, and what the framework's network expects of the same pixels.
    """
    channels = int(editor.tensor(int(editor.graph.inputs[0])).shape[3])
    own = own_normalization(editor)
    stated = request.preprocessing
    if stated is not None and stated.channels != channels:
        if len(set(stated.mean)) > 1 or len(set(stated.std)) > 1:
            raise ValueError(
                f"expected a normalization of {channels} channel(s), got {stated.channels} values; "
                "give --mean and --std with one number, or one per channel"
            )
        stated = Preprocessing(stated.mean[:1] * channels, stated.std[:1] * channels)
    pixels = Preprocessing((0.0,) * channels, (1.0,) * channels)
    if takes_pixels or (own is not None and own.takes_pixels):
        text = f" ({own.text()})" if own is not None else ""
        if stated is not None and stated != pixels:
            raise ValueError(
                f"{request.source}: the network normalizes pixels itself{text}; with mean "
                f"{_numbers(stated.mean)} and std {_numbers(stated.std)} they would be normalized "
                "twice; leave --normalization, --mean and --std out"
            )
        stated = pixels
    if stated is None:
        raise ValueError(
            f"{request.source}: what the network expects of pixels is not known, and it does not "
            "normalize them itself; give --normalization=imagenet, zero_to_one, minus_one_to_one "
            "or none, or --mean and --std in units of pixels from 0 to 255"
        )
    if own is None:
        return stated, stated
    expected = own.combined(stated)
    remove_own_normalization(editor, own)
    steps.append(
        f"the network's own normalization ({own.text()}) became the contract of the input: mean "
        f"{_numbers(expected.mean)}, std {_numbers(expected.std)}"
    )
    return expected, stated


def _pictures(request: ConversionRequest, path: pathlib.Path) -> tuple[list[np.ndarray], str]:
    """Returns images of the file's size, uint8 [1, height, width, channels], and what they are."""
    graph = read_graph(path)
    _, height, width, channels = graph.tensors[graph.inputs[0]].shape
    if request.photos is None:
        return built_in_pictures((height, width, channels)), "4 built-in pictures"
    if channels != 3:
        raise ValueError(
            f"--photos are RGB, the network takes {channels} channel(s); leave --photos out"
        )
    found = sorted(p for p in request.photos.rglob("*") if p.suffix.lower() in _ENDINGS)
    if not found:
        raise ValueError(f"{request.photos}: expected images, got none; give a folder with photos")
    found = found[:MOST_PHOTOS]
    images = [place(read_image(photo), (height, width))[0][None] for photo in found]
    return images, f"{len(images)} photos"


def _compare(
    editor: Editor,
    path: pathlib.Path,
    *,
    inputs: list[np.ndarray],
    references: list[np.ndarray],
    worker: Worker,
) -> list[OutputAgreement]:
    """Compares the outputs; brings them into the framework's order, with its names."""
    tensors = [int(index) for index in read_graph(path).outputs]
    values, _ = run_tensors(path, tensors, inputs=inputs)
    found = [np.stack(arrays) for arrays in zip(*values, strict=True)]
    order, agreements = match_outputs(worker.outputs, references, found=found)
    for place_in_file, agreement in zip(order, agreements, strict=True):
        if agreement.channels_first:
            transpose_output(editor, place_in_file)
    editor.graph.outputs = [int(editor.graph.outputs[position]) for position in order]
    taken = {editor.name(index) for index in range(len(editor.graph.tensors))}
    for index, name in zip(editor.graph.outputs, worker.outputs, strict=True):
        if name not in taken:
            editor.tensor(index).name = name.encode()
    path.write_bytes(editor.to_bytes())
    return agreements


def _write(
    request: ConversionRequest, path: pathlib.Path, *, result: ConvertedFile
) -> ConvertedFile:
    """Writes the file, its manifest and the report."""
    content = read_model_bytes(path)
    manifest = _manifest(request, path, result=result)
    result = dataclasses.replace(result, has_manifest=manifest is not None)
    request.output_dir.mkdir(parents=True, exist_ok=True)
    stale = manifest_path(result.path)
    stale.unlink(missing_ok=True)
    atomic_file.write_bytes(result.path, content)
    if manifest is not None:
        manifest.write(stale)
    report = {
        "source": request.source.name,
        "framework": request.framework.value,
        "versions": result.versions,
        "steps": result.steps,
        "mean": result.preprocessing.mean,
        "std": result.preprocessing.std,
        "compared_on": result.pictures if result.outputs else None,
        "outputs": [
            {
                "name": output.name,
                "shape": output.shape,
                "largest_difference": output.largest_difference,
                "range": output.value_range,
                "share_of_range": output.deviation,
                "equal_classes": output.equal_classes,
            }
            for output in result.outputs
        ],
    }
    atomic_file.write_text(request.output_dir / REPORT, json.dumps(report, indent=2) + "\n")
    return result


def _manifest(
    request: ConversionRequest, path: pathlib.Path, *, result: ConvertedFile
) -> Manifest | None:
    """Returns the manifest; None, with a warning, where no output is a segmentation."""
    graph = read_graph(path)
    image = graph.tensors[graph.inputs[0]]
    try:
        form = output_form(path, graph, size=(image.shape[1], image.shape[2]))
    except ValueError as error:
        logging.warning(
            "no manifest: %s; give --mean and --std to later commands",
            str(error).partition(": ")[2],
        )
        return None
    output = graph.tensors[graph.outputs[form.position]]
    others = [graph.tensors[index] for index in graph.outputs if index != output.index]
    if not request.labels and (lists := [other for other in others if len(other.shape) == 3]):
        logging.warning(
            "no manifest: beside %r the network gives the list %r %s, as of boxes, so the channels "
            "need not be classes; if they are, give --labels",
            output.name,
            lists[0].name,
            list(lists[0].shape),
        )
        return None
    count = class_count(graph, form.num_classes, output=output.index)
    labels = request.labels or tuple(f"class_{index}" for index in range(count or 0))
    if count is not None and len(labels) != count:
        raise ValueError(f"--labels: expected {count} names, got {len(labels)}")
    if not labels:
        logging.warning("no manifest: the number of classes is not known; give --labels")
        return None
    low = form.shape[1:3] != image.shape[1:3]
    heads = (Head.LOGITS_LOW if low else Head.LOGITS, Head.ARGMAX_LOW if low else Head.ARGMAX)
    content = read_model_bytes(path)
    return Manifest(
        variant=Variant.FLOAT32.value,
        head=heads[form.classes_output].value,
        height=image.shape[1],
        width=image.shape[2],
        preprocessing=result.preprocessing,
        label_set=LabelSet.from_names(labels),
        input_dtype="float32",
        output_dtype=str(output.dtype),
        input_quantization=None,
        output_quantization=None,
        calibration=None,
        source=f"{request.framework.value}: {request.source.name}",
        versions=versions() | result.versions,
        sha256=sha256_of(content),
        size_bytes=len(content),
    )
