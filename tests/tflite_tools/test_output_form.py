"""What is read as scores, as one score, as a class map; and what is no segmentation."""

import dataclasses
import pathlib

import numpy as np
import pytest

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.dataset import Subset
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import open_dataset
from tests.paths import CAMVID
from tflite_tools.contract import read_contract
from tflite_tools.evaluation.evaluation import EvaluationOptions, evaluate
from tflite_tools.flatbuffer.graph import Graph, Operator, Quantization, Tensor
from tflite_tools.output_form import output_form
from tflite_tools.runtime.output_reader import OutputReader

SIZE = (96, 192)


def graph_of(*outputs, kind="CONV_2D"):
    """A graph with outputs (shape, type, scale or None); the last operator before each is given."""
    tensors, operators = [], []
    for index, (shape, type_name, scale) in enumerate(outputs):
        quantization = None
        if scale is not None:
            quantization = Quantization(
                np.array([scale], np.float32), np.array([-128]), quantized_dimension=0
            )
        tensors.append(
            Tensor(
                index,
                f"output {index}",
                shape=shape,
                shape_signature=shape,
                dtype=np.dtype(type_name.lower()),
                type_name=type_name,
                quantization=quantization,
                data=None,
            )
        )
        operators.append(Operator(index, kind, inputs=(), outputs=(index,), options=None))
    return Graph(
        pathlib.Path("x.tflite"),
        tuple(tensors),
        operators=tuple(operators),
        inputs=(0,),
        outputs=tuple(range(len(outputs))),
        size_bytes=0,
    )


def form_of(*outputs, kind="CONV_2D"):
    return output_form(pathlib.Path("x.tflite"), graph_of(*outputs, kind=kind), size=SIZE)


@pytest.mark.parametrize(
    ("shape", "logical", "classes"),
    [
        ((1, 96, 192, 5), (1, 96, 192, 5), 5),
        ((1, 24, 48, 5), (1, 24, 48, 5), 5),
        ((1, 96 * 192, 5), (1, 96, 192, 5), 5),
        ((1, 24 * 48, 5), (1, 24, 48, 5), 5),
        ((1, 96, 192, 1), (1, 96, 192, 1), 2),
        ((1, 96, 192), (1, 96, 192, 1), 2),
        ((1, 96 * 192), (1, 96, 192, 1), 2),
        ((1, 96 * 192, 1), (1, 96, 192, 1), 2),
    ],
)
@pytest.mark.parametrize(("type_name", "scale"), [("FLOAT32", None), ("INT8", 0.1)])
def test_scores(shape, logical, classes, type_name, scale):
    found = form_of((shape, type_name, scale))
    assert (found.shape, found.num_classes, found.classes_output) == (logical, classes, False)
    assert (found.threshold is None) == (classes != 2)


@pytest.mark.parametrize("shape", [(1, 96, 192), (96, 192), (1, 96, 192, 1), (1, 48, 96)])
@pytest.mark.parametrize("type_name", ["UINT8", "INT32", "INT64"])
def test_class_maps_are_integers_without_a_scale(shape, type_name):
    found = form_of((shape, type_name, None))
    assert (found.shape, found.num_classes, found.classes_output) == (shape, None, True)
    assert found.threshold is None


@pytest.mark.parametrize(
    "shape",
    [(1, 37, 192), (1, 5, 756), (1, 2016, 18), (1, 1001), (1, 2), (2, 96, 192, 5), (1, 18, 32)],
)
def test_boxes_and_classifiers_are_no_segmentation(shape):
    with pytest.raises(ValueError, match=r"expected scores .* got 'output 0': FLOAT32"):
        form_of((shape, "FLOAT32", None))


def test_thresholds_of_one_score():
    """0.5 of a probability and 0 of a logit; stored value = real / scale + zero point."""
    shape = (1, 96, 192, 1)
    assert form_of((shape, "FLOAT32", None)).threshold == 0
    assert form_of((shape, "FLOAT32", None), kind="LOGISTIC").threshold == 0.5
    assert form_of((shape, "INT8", 1 / 256), kind="LOGISTIC").threshold == 0.5 * 256 - 128
    assert form_of((shape, "INT8", 0.1)).threshold == -128


def test_the_mask_is_found_among_boxes():
    boxes, masks = ((1, 37, 192), "FLOAT32", None), ((1, 24, 48, 32), "FLOAT32", None)
    found = form_of(boxes, masks)
    assert (found.position, found.shape) == (1, (1, 24, 48, 32))
    with pytest.raises(ValueError, match=r"'output 0': FLOAT32 .*'output 1': FLOAT32"):
        form_of(boxes, boxes)


def test_one_score_becomes_a_mask_of_two_classes():
    values = np.array([[-3.0, 0.0, 0.2], [5.0, -0.1, 0.0]], np.float32)
    reader = OutputReader(2, 3, output_shape=(1, 2, 3, 1), classes=False, threshold=0.0)
    for stored in (values[None, ..., None], values[None], values.reshape(1, 6)):
        mask = reader.on_canvas(stored)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, [[0, 0, 1], [1, 0, 0]])
    # Resized first, then compared: between 1 and -1 the border is in the middle.
    reader = OutputReader(
        1,
        3,
        output_shape=(1, 1, 2, 1),
        classes=False,
        alignment=Alignment.ALIGN_CORNERS,
        threshold=-0.5,
    )
    np.testing.assert_array_equal(reader.on_canvas(np.array([[[[1.0], [-1.0]]]])), [[1, 1, 0]])


def test_flat_scores_are_read_row_by_row():
    scores = np.random.default_rng(0).normal(size=(1, 4, 6, 3)).astype(np.float32)
    reader = OutputReader(4, 6, output_shape=(1, 4, 6, 3), classes=False)
    np.testing.assert_array_equal(reader.on_canvas(scores.reshape(1, 24, 3)), scores[0].argmax(-1))


def test_flat_file_scores_as_the_picture_that_it_is(shared_dir):
    contract = read_contract(shared_dir / "models" / "user_networks" / "flat_output.tflite")
    assert not contract.classes_output
    assert contract.output_shape[1:3] == (contract.height, contract.width)
    assert contract.num_classes == contract.output_shape[3] > 1


def test_masks_beside_boxes_are_read(shared_dir):
    contract = read_contract(shared_dir / "models" / "user_networks" / "detection_and_masks.tflite")
    assert contract.output_position > 0
    assert any("outputs; " in warning for warning in contract.warnings)


def test_selfie_segmentation_is_scored_on_people(shared_dir):
    """MediaPipe's own file: one probability a pixel. VOC's person against everything else."""
    path = shared_dir / "models" / "third_party" / "mp_selfie_segmentation.tflite"
    contract = read_contract(path, Preprocessing((0.0,) * 3, (255.0,) * 3))  # its model card
    assert (contract.num_classes, contract.threshold) == (2, 0.5)
    dataset = open_dataset("voc", shared_dir / "data" / "voc_animals", split="val")
    person = dataset.label_set.names.index("person")
    table = np.zeros(256, np.int16)
    table[person], table[255] = 1, 255
    binary = dataclasses.replace(
        dataset, label_set=LabelSet.from_names(["background", "person"]), id_table=table
    )
    options = EvaluationOptions(processes=1, latency_repeats=0)
    (result,) = evaluate([contract], Subset(binary, (76,), split="people"), options=options)
    assert not result.failure
    matrix = result.matrix
    iou = matrix[1, 1] / (matrix[1].sum() + matrix[:, 1].sum() - matrix[1, 1])
    assert iou > 0.9  # 0.937; on photos with large animals it takes those for people, too


def test_our_own_files_are_read_as_before():
    contract = read_contract(CAMVID / "int8.tflite")
    assert (contract.num_classes, contract.threshold, contract.output_position) == (11, None, 0)


def test_an_output_is_chosen_by_name_or_number():
    graph = graph_of(
        ((1, 96, 192, 5), "FLOAT32", None),
        ((1, 96, 192, 7), "FLOAT32", None),
        ((1, 10, 4), "FLOAT32", None),
    )
    path = pathlib.Path("x.tflite")
    assert output_form(path, graph, size=SIZE).num_classes == 5
    assert output_form(path, graph, size=SIZE, output="1").num_classes == 7
    assert output_form(path, graph, size=SIZE, output="output 1").position == 1
    with pytest.raises(ValueError, match=r"name or number of an output .*'output 2'.*, got '3'"):
        output_form(path, graph, size=SIZE, output="3")
    with pytest.raises(ValueError, match=r"expected scores .* got 'output 2'"):
        output_form(path, graph, size=SIZE, output="2")
