"""Projects class maps of range images to LiDAR points, and scores them over points.

A point takes the class of its pixel, which is that of the nearest point there: classes bleed
from an edge onto what lies behind it. The k-nearest-neighbour vote of Milioto et al. 2019
(RangeNet++, section III-D; lidar-bonnetal, KNN.py) corrects most of that.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from deeplab_tf.data.labels import IGNORE_LABEL
from deeplab_tf.data.lidar.range_image import Projection, pixel_labels, range_image
from deeplab_tf.data.preprocessing import place
from deeplab_tf.data.readers.semantic_kitti import LidarDataset
from deeplab_tf.metrics import confusion
from tflite_tools.contract import ModelContract
from tflite_tools.evaluation.evaluation import ModelResult, add_mask_warnings, check_compatibility
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner

CEILING = "labels"
"""Name of the row that scores the labels of the range image themselves."""


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Options of the vote of nearest neighbours; the defaults are those of lidar-bonnetal.

    Attributes:
        count: neighbours that vote.
        window: pixels on each side of the square that is searched; odd.
        sigma: of the Gaussian over the window, pixels.
        cutoff: weighted difference of range in metres, above which a neighbour does not vote.
    """

    count: int = 5
    window: int = 5
    sigma: float = 1.0
    cutoff: float = 1.0

    def __post_init__(self) -> None:
        if self.window < 1 or self.window % 2 == 0 or not 1 <= self.count <= self.window**2:
            raise ValueError(
                f"window must be odd and hold count neighbours; got window {self.window} and count "
                f"{self.count}"
            )
        if self.sigma <= 0 or self.cutoff <= 0:
            raise ValueError(
                f"sigma and cutoff must be positive; got {self.sigma} and {self.cutoff}"
            )

    def offsets(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns row and column of each pixel of the window from its middle, int [window**2]."""
        rows, columns = np.indices((self.window, self.window)).reshape(2, -1)
        return rows - self.window // 2, columns - self.window // 2

    def weights(self) -> np.ndarray:
        """Returns 1 - Gaussian of sum 1, float32 [window**2]: the middle has less weight."""
        rows, columns = self.offsets()
        gaussian = np.exp(-(rows**2 + columns**2) / (2 * self.sigma**2))
        return (1 - gaussian / gaussian.sum()).astype(np.float32)


def classes_of_points(class_map: np.ndarray, projection: Projection) -> np.ndarray:
    """Gives every point the class of its pixel.

    Args:
        class_map: uint8 [height, width].
        projection: of the points.

    Returns:
        uint8 [points]; 255 for points in no pixel.
    """
    return projection.to_points(class_map, IGNORE_LABEL)


def vote(
    class_map: np.ndarray, projection: Projection, *, num_classes: int, options: Neighbours
) -> np.ndarray:
    """Gives every point the class that most of its nearest neighbours' pixels have.

    Neighbours are pixels of a window around the point's own; their distance is the difference
    of range, weighted by `Neighbours.weights`. The middle has the point's own range, so that
    its pixel always votes. Ties of distance go to the first pixel of the window, ties of votes to
    the lowest class. As in KNN.py, except at the image's border: KNN.py reads zeros there (range 0,
    unlabelled); here such a neighbour is infinitely far, and a full turn continues on the other
    side.

    Args:
        class_map: uint8 [height, width]; values from num_classes up do not vote.
        projection: of the points.
        num_classes: of the labels.
        options: of the vote.

    Returns:
        uint8 [points]; the pixel's value for a point without any vote, 255 for points in no pixel.
    """
    result = classes_of_points(class_map, projection)
    placed = np.flatnonzero(projection.placed)
    if not len(placed):
        return result
    pixels, inside = _window(projection, placed, options=options)
    ranges = np.where(
        projection.occupied, projection.ranges[projection.nearest], np.float32(np.inf)
    ).ravel()
    own = projection.ranges[placed, None]
    around = np.where(inside, ranges[pixels], np.float32(np.inf))
    around[:, options.window**2 // 2] = own[:, 0]
    distances = np.abs(around - own) * options.weights()
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : options.count]
    classes = class_map.ravel()[np.take_along_axis(pixels, nearest, 1)]
    near = np.take_along_axis(distances, nearest, 1) <= options.cutoff
    point, _ = np.nonzero(near & (classes < num_classes))
    chosen = classes[near & (classes < num_classes)]
    votes = np.bincount(point * num_classes + chosen, minlength=len(placed) * num_classes)
    votes = votes.reshape(len(placed), num_classes)
    has_votes = votes.any(1)
    result[placed[has_votes]] = votes.argmax(1)[has_votes]
    return result


def _window(
    projection: Projection, placed: np.ndarray, *, options: Neighbours
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the pixels of the window around each point.

    Returns:
        Flat indices, int64 [points, window**2], clipped to the image; and whether each pixel is
        in the image, bool of the same shape.
    """
    height, width = projection.nearest.shape
    rows, columns = (
        centre[placed, None].astype(np.int64) + offset
        for centre, offset in zip(
            (projection.rows, projection.columns), options.offsets(), strict=True
        )
    )
    inside = (rows >= 0) & (rows < height)
    if projection.full_turn:
        columns %= width
    else:
        inside &= (columns >= 0) & (columns < width)
    return rows.clip(0, height - 1) * width + columns.clip(0, width - 1), inside


def benchmark_mean_iou(matrix: np.ndarray) -> float:
    """Computes the mean IoU as SemanticKITTI's np_ioueval.py does: absent classes count as 0.

    Args:
        matrix: int64 [num_classes, num_classes + 1]; row = truth, over labelled points.
    """
    return float(np.nan_to_num(confusion.iou_per_class(matrix)).mean())


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a child process needs to score one scan.

    Attributes:
        image: uint8 [height, width, 5].
        labels: uint8 [points], 255 where ignored.
        projection: of the points.
        num_classes: of the labels.
        neighbours: options of the vote, or None for none.
    """

    image: np.ndarray
    labels: np.ndarray
    projection: Projection
    num_classes: int
    neighbours: Neighbours | None

    def score(self, class_map: np.ndarray) -> list[np.ndarray]:
        """Computes the confusion matrices without and, if there are neighbours, with the vote.

        Args:
            class_map: uint8 [height, width], of the range image.

        Returns:
            int64 [num_classes, num_classes + 1] each.
        """
        predictions = [classes_of_points(class_map, self.projection)]
        if self.neighbours:
            predictions.append(
                vote(
                    class_map,
                    self.projection,
                    num_classes=self.num_classes,
                    options=self.neighbours,
                )
            )
        return [
            confusion.confusion_matrix(self.labels, prediction, num_classes=self.num_classes)
            for prediction in predictions
        ]


def score_scan(runner: ModelRunner, scan: Scan) -> tuple[list[np.ndarray], bool]:
    """Scores one scan; runs in a child process.

    Args:
        runner: of the file.
        scan: the scan.

    Returns:
        Its confusion matrices, and whether its class map has a single class.
    """
    contract = runner.contract
    canvas, placement = place(scan.image, (contract.height, contract.width))
    class_map = placement.restore_label(runner.class_map(canvas))
    return scan.score(class_map), bool((class_map == class_map[0, 0]).all())


@dataclasses.dataclass(frozen=True)
class PointScores:
    """Scores over all scans.

    Attributes:
        files: one result per file, in order, with its matrix over points before the vote.
        matrices: for each file the matrices int64 [num_classes, num_classes + 1] before and, if
            requested, after the vote.
        ceiling: the same for the labels of the range images themselves.
        scans: number of scans.
        outside: int64 [num_classes], labelled points in no pixel; they count as wrong.
    """

    files: list[ModelResult]
    matrices: list[list[np.ndarray]]
    ceiling: list[np.ndarray]
    scans: int
    outside: np.ndarray

    def add_mask_warnings(self, dataset: LidarDataset) -> None:
        """Adds warnings about each file's predictions to its result.

        Args:
            dataset: the scans that were scored.
        """
        for result in self.files:
            if result.matrix is not None:
                seen = result.matrix.copy()
                seen[:, -1] -= self.outside  # not an error of the file
                add_mask_warnings(dataclasses.replace(result, matrix=seen), dataset)


def score_points(
    contracts: list[ModelContract],
    dataset: LidarDataset,
    *,
    processes: int = 2,
    limit: int = 0,
    neighbours: Neighbours | None = None,
) -> PointScores:
    """Scores files over the points of a list of scans.

    Args:
        contracts: the files; their size may differ from the range image's.
        dataset: the scans.
        processes: interpreters that work in parallel.
        limit: scans, or 0 for all.
        neighbours: options of the vote, or None for no vote.

    Raises:
        FileNotFoundError: a scan does not exist.
        ValueError: a scan cannot be read, or the limit is wrong.
    """
    if limit < 0 or processes < 1:
        raise ValueError(
            f"limit must not be negative, processes at least 1; got {limit} and {processes}"
        )
    scores = _empty_scores(
        contracts, dataset, scans=min(limit or len(dataset), len(dataset)), neighbours=neighbours
    )
    for result in scores.files:
        check_compatibility(result, dataset)
    with InterpreterPool(contracts, processes) as pool:
        pool.broken |= {i: file.failure for i, file in enumerate(scores.files) if file.failure}
        tasks = _tasks(scores, dataset, neighbours=neighbours)
        for outcome in pool.run(tqdm(tasks, desc="points", unit=" runs", disable=None)):
            if not outcome.failure:
                matrices, constant = outcome.value
                _add(scores.matrices[outcome.task.model], matrices)
                scores.files[outcome.task.model].constant_images += constant
        for index, failure in pool.broken.items():
            scores.files[index].failure = failure
    scores.add_mask_warnings(dataset)
    return scores


def _empty_scores(
    contracts: list[ModelContract],
    dataset: LidarDataset,
    *,
    scans: int,
    neighbours: Neighbours | None,
) -> PointScores:
    classes = dataset.label_set.num_classes
    *matrices, ceiling = (
        [np.zeros((classes, classes + 1), np.int64) for _ in range(2 if neighbours else 1)]
        for _ in (*contracts, CEILING)
    )
    files = [
        ModelResult(contract, images=scans, matrix=pair[0])
        for contract, pair in zip(contracts, matrices, strict=True)
    ]
    return PointScores(
        files, matrices, ceiling=ceiling, scans=scans, outside=np.zeros(classes, np.int64)
    )


def _tasks(
    scores: PointScores, dataset: LidarDataset, *, neighbours: Neighbours | None
) -> Iterator[Task]:
    """Reads one scan after the other, for all files, and scores its own labels."""
    for number in range(scores.scans):
        points = dataset.points(number)
        labels = dataset.point_labels(number, len(points))
        projection = dataset.projection(points)
        image = range_image(points, projection, sensor=dataset.sensor)
        scan = Scan(
            image,
            labels,
            projection=projection,
            num_classes=dataset.label_set.num_classes,
            neighbours=neighbours,
        )
        _add(scores.ceiling, scan.score(pixel_labels(labels, projection)))
        scores.outside[:] += np.bincount(labels[~projection.placed], minlength=256)[
            : scan.num_classes
        ]
        for index, file in enumerate(scores.files):
            if not file.failure:
                yield Task(index, score_scan, arguments=(scan,))


def _add(totals: list[np.ndarray], parts: list[np.ndarray]) -> None:
    for total, part in zip(totals, parts, strict=True):
        total += part
