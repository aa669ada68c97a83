"""Compresses a network until a finished file meets its budgets, or says which it misses.

    float network -> costs and losses of all options -> integer program -> channels removed
                  -> kernels fitted again -> int8 file -> measured -> corrected budgets, again

Predictions are added up from single layers and options; the file is measured as a whole. Each
further attempt corrects the budgets by what the last one measured.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping

import numpy as np
from absl import logging

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.labels import IGNORE_LABEL
from deeplab_tf.data.preprocessing import place, place_label
from deeplab_tf.graph.fold_batch_norm import fold_batch_norms
from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.graph.network import HIDDEN_LINEAR, NetworkGraph
from deeplab_tf.metrics import confusion
from deeplab_tf.models.config import ImportedConfig
from deeplab_tf.pruning.channel_groups import ChannelMap, find_channels, layer_name
from deeplab_tf.pruning.reconstruction import reconstruct
from deeplab_tf.pruning.removal import remove_channels, with_biases
from deeplab_tf.quantization.ptq.post_training import PostTraining
from deeplab_tf.runs.config import DataConfig, TrainingConfig
from deeplab_tf.runs.folder import Phase, RunFolder
from deeplab_tf.weights.npz import save_weights
from export.compression import network_costs
from export.compression.budgets import MIOU, Budgets, Measured, excess
from export.compression.losses import (
    ChannelLosses,
    Importance,
    Photos,
    measure_channel_losses,
    measure_format_losses,
)
from export.compression.network_costs import MS, NetworkCosts, measure_costs
from export.compression.number_format import NumberFormat
from export.compression.solver import (
    LOSS,
    ChannelOption,
    Choice,
    FormatOption,
    Problem,
    solve,
)
from export.conversion.calibration import choose_samples
from export.conversion.pipeline import ExportPlan, export_files
from export.conversion.source import RunSource, Source
from export.conversion.variants import Head, Variant, plan_files
from export.experiments.experiment_run import ExperimentRun
from tflite_tools.contract import read_contract
from tflite_tools.download_size import download_bytes
from tflite_tools.evaluation.evaluation import EvaluationOptions, default_processes, evaluate
from tflite_tools.runtime.latency import measure_latency
from tflite_tools.to_keras.convert import unfold_batch_norm

UNCOMPRESSED, FILES, ATTEMPTS = "uncompressed", "tflite", "attempts"
"""Folders of the result."""
_CLOSE = 0.96
"""An attempt whose fullest budget is used to this part is not improved further."""
_FIRST_LOSS = 0.03
"""Squared error of the logits, as a part of their sum of squares, that --max_loss starts with."""
_PARETO = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3)


@dataclasses.dataclass(frozen=True)
class CompressionPlan:
    """What to compress, and how far.

    Attributes:
        run: the network and its data set.
        calibration: list that ranges are calibrated and kernels fitted on.
        held_out: other images, which options and files are judged on.
        output_dir: where the compressed run goes.
        budgets: what it may take.
        head: of the files.
        formats: number formats of layers, beside int8.
        importance: which channels go first.
        calibration_images: how many.
        loss_images: how many held-out images every option is measured on.
        attempts: files to make at most.
        batch_norm: put batch norms into the written network, which float training needs.
        num_threads: of the interpreter that is timed.
        latency_repeats: timed invokes of each file.
        profile: times of the uncompressed file on another device, or None.
        seed: of the choice of images.
    """

    run: ExperimentRun
    calibration: SegmentationDataset
    held_out: SegmentationDataset
    output_dir: pathlib.Path
    budgets: Budgets
    head: Head = Head.LOGITS
    formats: tuple[NumberFormat, ...] = ()
    importance: Importance = Importance.RECONSTRUCTION
    calibration_images: int = 24
    loss_images: int = 6
    attempts: int = 3
    batch_norm: bool = True
    num_threads: int = 1
    latency_repeats: int = 30
    profile: pathlib.Path | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One finished file.

    Attributes:
        choice: options that the integer program chose.
        measured: of the file.
        base: of the uncompressed file, timed in the same run.
        excess: {budget: measured value as a part of it}.
        weights: numbers in all kernels and constants.
    """

    choice: Choice
    measured: Measured
    base: Measured
    excess: dict[str, float]
    weights: int

    @property
    def meets(self) -> bool:
        """Whether all budgets are met."""
        return max(self.excess.values()) <= 1


@dataclasses.dataclass(frozen=True)
class Compression:
    """A finished compression.

    Attributes:
        attempts: all files that were made, in order.
        chosen: index of the one that was kept.
        channels: of the uncompressed network.
        costs: of the uncompressed network.
        losses: of all channel options.
        problem: all options.
        pareto: predicted (part of the time, loss) of the best networks for several times.
        weights: numbers in all kernels and constants of the uncompressed network.
    """

    attempts: list[Attempt]
    chosen: int
    channels: ChannelMap
    costs: NetworkCosts
    losses: ChannelLosses
    problem: Problem
    pareto: list[tuple[float, float]]
    weights: int


@dataclasses.dataclass(frozen=True)
class _Network:
    """The float network that is compressed, with batch norms folded."""

    description: NetworkGraph
    arrays: dict[str, np.ndarray]
    channels: ChannelMap
    calibration: Photos
    held_out: Photos


def compress(plan: CompressionPlan) -> Compression:
    """Compresses a network and writes a run folder with its files.

    Args:
        plan: what to compress.

    Raises:
        ValueError: the network has no channels that can be removed, or no choice of them meets the
            budgets even by prediction.
        RuntimeError: a file is refused by the gate.
    """
    network = _read(plan)
    shutil.rmtree(plan.output_dir / ATTEMPTS, ignore_errors=True)  # of an interrupted command
    base_file = _export(
        plan, plan.run.source, variants=[Variant.INT8], folder=plan.output_dir / UNCOMPRESSED
    )
    base_miou = _miou(plan, base_file)
    times = (
        network_costs.profile_file(base_file, plan.num_threads)
        if plan.profile is None
        else network_costs.read_profile(plan.profile)
    )
    costs = measure_costs(
        network.description,
        network.arrays,
        channels=network.channels,
        uncompressed=base_file,
        formats=plan.formats,
        times=times,
        here=plan.profile is None,
        num_threads=plan.num_threads,
    )
    losses = measure_channel_losses(
        network.description,
        network.arrays,
        channels=network.channels,
        calibration=network.calibration,
        held_out=network.held_out,
        importance=plan.importance,
        alignment=plan.run.source.logits_alignment,
    )
    problem = _problem(plan, network, costs=costs, losses=losses)
    attempts = _attempts(plan, network, problem=problem, losses=losses, base=(base_file, base_miou))
    chosen = _best(attempts, objective=_objective(plan.budgets))
    _keep(plan.output_dir, chosen)
    whole = sum(value.size for value in network.arrays.values())
    return Compression(
        attempts,
        chosen,
        channels=network.channels,
        costs=costs,
        losses=losses,
        problem=problem,
        pareto=_pareto(problem),
        weights=whole,
    )


def _read(plan: CompressionPlan) -> _Network:
    height, width = plan.run.input_size(plan.calibration)
    model = plan.run.source.float_model(height, width)
    folding = fold_batch_norms(*graph_from_keras(model))
    description, arrays = with_biases(folding.description, folding.arrays)
    channels = find_channels(description, arrays)
    if not channels.groups:
        reasons = ", ".join(f"{name}: {why}" for name, why in list(channels.fixed.items())[:3])
        raise ValueError(f"the network has no channels that can be removed ({reasons})")
    chosen = choose_samples(plan.calibration, plan.calibration_images, seed=plan.seed)
    judged = choose_samples(
        plan.held_out, min(plan.loss_images, len(plan.held_out)), seed=plan.seed
    )
    return _Network(
        description,
        arrays,
        channels,
        calibration=_photos(plan, plan.calibration, chosen),
        held_out=_photos(plan, plan.held_out, judged),
    )


def _photos(plan: CompressionPlan, samples: SegmentationDataset, indices: list[int]) -> Photos:
    size = plan.run.input_size(plan.calibration)
    normalize = plan.run.config.data.preprocessing.normalize
    return Photos(
        [normalize(place(samples.image(index), size)[0][None]) for index in indices],
        [place_label(samples.label(index), size, fill=IGNORE_LABEL) for index in indices],
    )


def _export(
    plan: CompressionPlan,
    source: Source,
    *,
    variants: list[Variant],
    folder: pathlib.Path,
    formats: Mapping[NumberFormat, tuple[str, ...]] | None = None,
) -> pathlib.Path:
    """Makes files of a network; returns the last one."""
    height, width = plan.run.input_size(plan.calibration)
    formats = formats or {}
    steps = PostTraining(
        keep_float=formats.get(NumberFormat.FLOAT32, ()), int16=formats.get(NumberFormat.INT16, ())
    )
    files, _ = plan_files(variants, [plan.head])
    results = export_files(
        source,
        ExportPlan(
            output_dir=folder,
            height=height,
            width=width,
            files=files,
            preprocessing=plan.run.config.data.preprocessing,
            label_set=plan.run.folder.read_labels(),
            calibration_dataset=plan.calibration,
            calibration_images=plan.calibration_images,
            calibration_seed=plan.seed,
            overwrite=True,
            post_training=None if steps == PostTraining() else steps,
        ),
    )
    for result in results:
        if result.path is None:
            raise RuntimeError(f"{result.spec.file_name}: {result.failure}")
    return folder / files[-1].file_name


def _miou(plan: CompressionPlan, path: pathlib.Path) -> float:
    """Returns the mIoU of a file on the held-out images."""
    options = EvaluationOptions(processes=default_processes(), latency_repeats=0)
    (result,) = evaluate([read_contract(path)], plan.held_out, options=options)
    if result.matrix is None:
        raise RuntimeError(f"{path} has no score: {result.failure}")
    return confusion.mean_iou(result.matrix)[0]


def _problem(
    plan: CompressionPlan, network: _Network, *, costs: NetworkCosts, losses: ChannelLosses
) -> Problem:
    groups = {}
    for group in network.channels.groups:
        count = len(group.channels)
        options = [ChannelOption(count, 1.0, 0.0)]
        options += [
            ChannelOption(
                option.selection.kept, share=option.selection.kept / count, loss=option.loss
            )
            for option in losses.options[group.name]
        ]
        groups[group.name] = options
    layers: dict[str, list[FormatOption]] = {}
    if plan.formats:
        rounded = measure_format_losses(
            network.description,
            network.arrays,
            calibration=network.calibration,
            held_out=network.held_out,
            formats=plan.formats,
        )
        extra = {row.name: row.extra for row in costs.layers}
        for name, found in rounded.items():
            known = extra.get(name, {})
            layers[name] = [
                FormatOption(number.value, loss, known.get(number.value, {}))
                for number, loss in found.items()
                if number is NumberFormat.INT8 or number.value in known
            ]
    return Problem(groups, layers, costs.polynomials)


def _objective(budgets: Budgets) -> str:
    """Returns what is made small: the loss, or the time where only the loss is limited."""
    only_loss = dataclasses.replace(budgets, max_loss=0.5) == Budgets(max_loss=0.5)
    return MS if only_loss else LOSS


def _attempts(
    plan: CompressionPlan,
    network: _Network,
    *,
    problem: Problem,
    losses: ChannelLosses,
    base: tuple[pathlib.Path, float],
) -> list[Attempt]:
    """Makes files until one uses its budgets well, or the number of attempts is reached."""
    objective = _objective(plan.budgets)
    predicted = {name: cost.at({}) for name, cost in problem.costs.items()}
    base_ms = _base_ms(plan, base[0], predicted=predicted[MS])
    corrections: dict[str, float] = {}
    loss_limit = _FIRST_LOSS * losses.signal
    attempts: list[Attempt] = []
    for number in range(plan.attempts):
        # In units of the prediction, whose whole differs from the measured whole.
        scales = {MS: predicted[MS] / base_ms}
        limits = {
            name: limit * scales.get(name, 1.0) * corrections.get(name, 1.0)
            for name, limit in plan.budgets.limits(_only_ms(base_ms)).items()
        }
        if objective == MS:
            limits[LOSS] = loss_limit
        choice = solve(problem, limits, objective=objective)
        if choice is None and attempts:
            break
        if choice is None:
            raise ValueError(_impossible(problem, limits))
        attempt = _make(plan, network, choice, losses=losses, base=base, number=number)
        attempts.append(attempt)
        logging.info("attempt %d: %s", number + 1, _excess_text(attempt))
        if _CLOSE <= max(attempt.excess.values()) <= 1:
            break
        for name, part in attempt.excess.items():
            if name == MIOU:
                loss_limit *= float(np.clip(1 / max(part, 1e-3), 0.25, 4.0))
            else:
                step = float(np.clip(1 / part, 0.5, 1.5))
                corrections[name] = corrections.get(name, 1.0) * step * (0.99 if part > 1 else 1)
    return attempts


def _only_ms(ms: float) -> Measured:
    return Measured(ms, size_bytes=0, download_bytes=0, miou=0.0)


def _excess_text(attempt: Attempt) -> str:
    parts = (f"{name} {100 * part:.1f} %" for name, part in attempt.excess.items())
    return f"{', '.join(parts)} of the budget, mIoU {100 * attempt.measured.miou:.2f} %"


def _impossible(problem: Problem, limits: dict[str, float]) -> str:
    words = []
    for name, limit in limits.items():
        if name == LOSS:
            continue
        cost = problem.costs[name]
        least = cost.at({group: options[-1].share for group, options in problem.groups.items()})
        words.append(
            f"{name}: at least {100 * least / cost.at({}):.0f} % of the uncompressed file's, "
        )
        words.append(f"budget {100 * limit / cost.at({}):.0f} %; ")
    return (
        "no choice of channels meets the budgets ("
        + "".join(words).rstrip("; ")
        + "); give a larger budget, a smaller --size or another network"
    )


def _make(
    plan: CompressionPlan,
    network: _Network,
    choice: Choice,
    *,
    losses: ChannelLosses,
    base: tuple[pathlib.Path, float],
    number: int,
) -> Attempt:
    """Removes the channels of a choice, fits the kernels, writes a run and its files, measures."""
    removed = [
        channel
        for name, option in choice.groups.items()
        for found in losses.options[name]
        if found.selection.kept == option.kept
        for channel in found.selection.removed
    ]
    original = network.description, network.arrays
    small = remove_channels(*original, channels=network.channels, removed=removed)
    if removed:
        arrays = reconstruct(
            original,
            small,
            channels=network.channels,
            removed=removed,
            images=network.calibration.images,
        )
        small = small[0], arrays
    weights = sum(value.size for value in small[1].values())
    names = {
        number_format: tuple(
            _written_name(name, small[0], batch_norm=plan.batch_norm)
            for name, option in choice.layers.items()
            if option.name == number_format.value
        )
        for number_format in plan.formats
    }
    folder = plan.output_dir / ATTEMPTS / str(number + 1)
    if plan.batch_norm:
        small = unfold_batch_norm(*small, batches=network.calibration.images)
    write_run(plan.run, small, folder=folder)
    path = _export(
        plan,
        RunSource(RunFolder(folder)),
        variants=[Variant.FLOAT32, Variant.INT8],
        folder=folder / FILES,
        formats=names,
    )
    measured, base_measured = _measure(plan, path, base=base, choice=choice)
    return Attempt(
        choice,
        measured,
        base_measured,
        excess=excess(measured, base_measured, budgets=plan.budgets),
        weights=weights,
    )


def _written_name(name: str, description: NetworkGraph, *, batch_norm: bool) -> str:
    """Returns the name of a layer's kernel in the written network (`insert_batch_norms`)."""
    nodes = {layer_name(node.name): node.name for node in reversed(description.nodes)}
    last = [node.name for node in description.nodes if node.kind in ("conv2d", "dense")][-1]
    node = nodes[name]
    return f"{node.removesuffix(HIDDEN_LINEAR)}_conv" if batch_norm and node != last else node


def write_run(
    run: ExperimentRun, network: tuple[NetworkGraph, dict[str, np.ndarray]], *, folder: pathlib.Path
) -> None:
    """Writes a network as a run that training, export and evaluation take.

    Args:
        run: the run that it was made from: classes, data set, preprocessing.
        network: the graph and its weights.
        folder: of the new run.
    """
    description, arrays = network
    source = run.config
    height, width, channels = description.input_shape
    config = TrainingConfig(
        ImportedConfig(
            num_classes=source.model.num_classes,
            channels=channels,
            logits_alignment=source.model.logits_alignment,
            description=description,
        ),
        DataConfig(
            run.dataset,
            run.data_dir,
            preprocessing=source.data.preprocessing,
            crop_height=height,
            crop_width=width,
            sensor=source.data.sensor,
        ),
    )
    target = RunFolder(folder)
    save_weights(arrays, target.weights(Phase.FLOAT))
    target.prepare(config, run.folder.read_labels())


def _base_ms(plan: CompressionPlan, path: pathlib.Path, *, predicted: float) -> float:
    if plan.profile is not None:
        return predicted
    return _in_turn(plan, [path])[0]


def _in_turn(plan: CompressionPlan, paths: list[pathlib.Path]) -> list[float]:
    """Returns the fastest invoke of each file, timed in turn on a held-out image."""
    found = measure_latency(
        [read_contract(path) for path in paths],
        plan.held_out.image(0),
        num_threads=plan.num_threads,
        warmup=3,
        repeats=plan.latency_repeats,
    )
    times = []
    for path, latency in zip(paths, found, strict=True):
        if latency is None:
            raise RuntimeError(f"{path} cannot be timed: it fails in the runtime")
        times.append(latency.minimum)
    return times


def _measure(
    plan: CompressionPlan,
    path: pathlib.Path,
    *,
    base: tuple[pathlib.Path, float],
    choice: Choice,
) -> tuple[Measured, Measured]:
    """Measures a file, and the uncompressed file in the same run."""
    files = path, base[0]
    if plan.profile is not None:
        whole = sum(time.ms for time in network_costs.read_profile(plan.profile))
        times = [choice.costs[MS], whole]
    else:
        times = _in_turn(plan, list(files))
    scores = _miou(plan, path), base[1]
    own, other = (
        Measured(ms, file.stat().st_size, download_bytes=download_bytes(file), miou=score)
        for ms, file, score in zip(times, files, scores, strict=True)
    )
    return own, other


def _best(attempts: list[Attempt], *, objective: str) -> int:
    """Returns the index of the best file that meets the budgets, else of the closest to them."""
    meeting = [index for index, attempt in enumerate(attempts) if attempt.meets]
    if not meeting:
        return min(range(len(attempts)), key=lambda i: max(attempts[i].excess.values()))
    if objective == MS:
        return min(meeting, key=lambda i: attempts[i].measured.ms / attempts[i].base.ms)
    return max(meeting, key=lambda i: attempts[i].measured.miou)


def _keep(output_dir: pathlib.Path, chosen: int) -> None:
    """Moves the chosen run to its place; its configuration, which makes it a run, comes last."""
    folder = output_dir / ATTEMPTS / str(chosen + 1)
    shutil.rmtree(output_dir / FILES, ignore_errors=True)
    RunFolder(output_dir).config.unlink(missing_ok=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(output_dir / path.name)
    shutil.rmtree(output_dir / ATTEMPTS)


def _pareto(problem: Problem) -> list[tuple[float, float]]:
    """Returns the predicted (part of the time, loss) of the best choices for several times."""
    whole = problem.costs[MS].at({})
    points = []
    for part in _PARETO:
        choice = solve(problem, {MS: part * whole})
        if choice is None:
            break
        points.append((choice.costs[MS] / whole, choice.costs[LOSS]))
    return points
