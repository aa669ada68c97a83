"""Folder and record of a cell: its settings, its progress, its times.

cell.json               the record, replaced as a whole
run/                    run folder of deeplab_tf.train
run/tflite/             files of export.to_tflite
evaluation/             metrics.json and the confusion matrices of every image
train.log, export.log, evaluate.log
"""

import dataclasses
import enum
import json
import pathlib
import shutil
from typing import Any

from deeplab_tf import atomic_file, bounded_file
from study.plan import CELL_PREFIX, Cell, Study
from study.stage import Stage


class CellState(enum.Enum):
    """Progress of a cell."""

    WAITING = "waiting"
    """Not started yet."""
    RUNNING = "running"
    """A stage is running; a killed study leaves this state, too."""
    STOPPED = "stopped"
    """Stopped by Ctrl-C; the same command resumes."""
    FAILED = "failed"
    """A stage ended with an error; the same command tries it again."""
    DONE = "done"
    """All stages have succeeded."""


@dataclasses.dataclass
class StageRecord:
    """The record of one stage of a cell.

    Attributes:
        settings: everything that its result depends on, without paths of this study.
        command: as it was run last.
        seconds: wall time so far, over all starts.
        starts: how often it was started.
        threads: processor threads of the last start.
        done: whether it has succeeded.
    """

    settings: dict
    command: list[str]
    seconds: float = 0.0
    starts: int = 0
    threads: int = 0
    done: bool = False


@dataclasses.dataclass
class CellRecord:
    """The content of `cell.json`.

    Attributes:
        name: of the cell.
        choice: {axis: value} of the cell.
        state: its progress.
        failure: last line of the log of the stage that failed, or "".
        stages: {stage: record} of the stages that were started.
    """

    name: str
    choice: dict[str, str]
    state: CellState = CellState.WAITING
    failure: str = ""
    stages: dict[Stage, StageRecord] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the record as plain values."""
        return {
            "name": self.name,
            "choice": self.choice,
            "state": self.state.value,
            "failure": self.failure,
            "stages": {stage.value: vars(record) for stage, record in self.stages.items()},
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "CellRecord":
        """Builds a record from the values of `to_json`."""
        stages = {Stage(name): StageRecord(**part) for name, part in values["stages"].items()}
        state = CellState(values["state"])
        return cls(values["name"], values["choice"], state, values["failure"], stages)


@dataclasses.dataclass(frozen=True)
class CellFolder:
    """Paths of one cell.

    Attributes:
        path: its folder.
    """

    path: pathlib.Path

    @property
    def run(self) -> pathlib.Path:
        """The run folder of the training."""
        return self.path / "run"

    @property
    def evaluation(self) -> pathlib.Path:
        """The folder of the scores."""
        return self.path / "evaluation"

    def log(self, stage: Stage) -> pathlib.Path:
        """Returns the log file of a stage."""
        return self.path / f"{stage.value}.log"

    def product(self, stage: Stage) -> pathlib.Path:
        """Returns the file or folder that exists after a stage has succeeded."""
        return {
            Stage.TRAIN: self.run / "float.npz",
            Stage.EXPORT: self.run / "tflite",
            Stage.EVALUATE: self.evaluation / "metrics.json",
        }[stage]

    def read(self, cell: Cell) -> CellRecord:
        """Reads the record of a cell.

        Args:
            cell: the cell.

        Returns:
            the stored record, or a new one.

        Raises:
            ValueError: `cell.json` is not a record.
        """
        path = self.path / "cell.json"
        if not path.is_file():
            return CellRecord(cell.name, cell.choice)
        with bounded_file.read_as(path, "the record of a cell; delete it"):
            return CellRecord.from_json(bounded_file.read_json(path))

    def write(self, record: CellRecord) -> None:
        """Writes `cell.json`."""
        text = json.dumps(record.to_json(), indent=1) + "\n"
        atomic_file.write_text(self.path / "cell.json", text)

    def is_done(self, record: CellRecord, stage: Stage) -> bool:
        """Returns whether a stage has succeeded and its product still exists."""
        known = record.stages.get(stage)
        return known is not None and known.done and self.product(stage).exists()

    def discard(self, record: CellRecord, first: Stage) -> None:
        """Deletes the products of a stage and of those after it.

        Args:
            record: of the cell; it is updated and written.
            first: the first stage to delete.
        """
        later = list(Stage)[list(Stage).index(first) :]
        folders = {
            Stage.TRAIN: self.run,
            Stage.EXPORT: self.run / "tflite",
            Stage.EVALUATE: self.evaluation,
        }
        for stage in later:
            record.stages.pop(stage, None)
            shutil.rmtree(folders[stage], ignore_errors=True)
            self.log(stage).unlink(missing_ok=True)
        record.state, record.failure = CellState.WAITING, ""
        self.write(record)


@dataclasses.dataclass(frozen=True)
class StudyFolder:
    """Paths of a study and the settings of its cells.

    Attributes:
        path: folder of the study.
        study: the plan.
    """

    path: pathlib.Path
    study: Study

    def cell(self, name: str) -> CellFolder:
        """Returns the folder of a cell."""
        return CellFolder(self.path / "cells" / name)

    def settings(self, cell: Cell, stage: Stage) -> dict[str, Any]:
        """Collects everything that the result of a stage depends on, without paths of this study.

        A training that learns from another cell depends on that cell's settings, too.

        Args:
            cell: the cell.
            stage: the stage.

        Returns:
            {flag: value}, and the settings of teachers.
        """
        if stage is Stage.EXPORT:
            return {"heads": "logits"} | self.study.export | {"variants": list(cell.variants)}
        if stage is Stage.EVALUATE:
            return dict(self.study.evaluate)
        if not cell.needs:
            return dict(cell.train)
        cells = {other.name: other for other in self.study.cells}
        teachers = {name: self.settings(cells[name], Stage.TRAIN) for name in cell.needs}
        return cell.train | {"learns_from": teachers}

    def flags(self, cell: Cell, stage: Stage, *, processes: int) -> dict[str, Any]:
        """Collects the flags of a stage's command.

        Args:
            cell: the cell.
            stage: the stage.
            processes: interpreters that the evaluation may run in parallel.

        Returns:
            {flag: value}.
        """
        folder = self.cell(cell.name)
        paths: dict[str, Any] = {"run_dir": folder.run}
        if stage is Stage.TRAIN:
            return paths | {name: self._located(value) for name, value in cell.train.items()}
        if stage is Stage.EXPORT:  # files of a stopped export are replaced
            return paths | {"overwrite": True} | self.settings(cell, stage)
        more = {"output_dir": folder.evaluation, "processes": processes}
        return paths | more | self.settings(cell, stage)

    def _located(self, value: Any) -> Any:
        """Replaces the name of a cell by its run folder."""
        if isinstance(value, str) and value.startswith(CELL_PREFIX):
            return self.cell(value.removeprefix(CELL_PREFIX)).run
        return value

    def prepare(self, overwrite: bool) -> None:
        """Checks every cell against its record before anything runs.

        Args:
            overwrite: delete results of other settings.

        Raises:
            FileExistsError: a cell was run with other settings.
        """
        changes = {cell.name: self._changed(cell) for cell in self.study.cells}
        for name, change in changes.items():
            if change and not overwrite:
                raise FileExistsError(
                    f"{self.cell(name).path} was run with other settings ({change[1]}); give "
                    "--overwrite to run it again, or another --output_dir"
                )
        for cell in self.study.cells:
            if change := changes[cell.name]:
                folder = self.cell(cell.name)
                folder.discard(folder.read(cell), change[0])

    def _changed(self, cell: Cell) -> tuple[Stage, str] | None:
        """Finds the first stage whose product was made with other settings, and the differences."""
        folder = self.cell(cell.name)
        record = folder.read(cell)
        for stage, known in record.stages.items():
            made = folder.is_done(record, stage) or (stage is Stage.TRAIN and folder.run.exists())
            current = json.loads(json.dumps(self.settings(cell, stage)))
            if made and known.settings != current:
                return stage, _difference(known.settings, current)
        return None


def _difference(old: dict, new: dict) -> str:
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return "; ".join(f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in keys)
