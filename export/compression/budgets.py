"""Budgets of a compression, and what a finished file measured."""

import dataclasses

from export.compression.network_costs import BYTES, DOWNLOAD, MS

MIOU = "miou_loss"
"""Name of the accuracy budget among the measured values."""


@dataclasses.dataclass(frozen=True)
class Budgets:
    """What a compressed file may take; None where there is no limit.

    Attributes:
        time: part of the uncompressed int8 file's time.
        milliseconds: of one invoke on this machine, or on the device whose profile is given.
        megabytes: of the file, 10^6 bytes.
        download_megabytes: of the deflated file.
        max_loss: mIoU below that of the uncompressed int8 file, fraction, on held-out images.
    """

    time: float | None = None
    milliseconds: float | None = None
    megabytes: float | None = None
    download_megabytes: float | None = None
    max_loss: float | None = None

    def __post_init__(self) -> None:
        values = dataclasses.asdict(self)
        if all(value is None for value in values.values()):
            raise ValueError(
                "expected a budget, got none; give --time, --milliseconds, --megabytes, "
                "--download_megabytes or --max_loss"
            )
        for name, value in values.items():
            if value is not None and not value > 0:
                raise ValueError(f"--{name} must be positive; got {value:g}")
        for name in ("time", "max_loss"):
            if (value := values[name]) is not None and value >= 1:
                raise ValueError(f"--{name}: expected a fraction below 1, got {value:g}")
        if self.time is not None and self.milliseconds is not None:
            raise ValueError("--time and --milliseconds exclude each other; give one")

    def limits(self, base: "Measured") -> dict[str, float]:
        """Returns {resource: largest value}, without the accuracy.

        Args:
            base: what the uncompressed file measured.
        """
        found = {
            MS: self.milliseconds if self.time is None else self.time * base.ms,
            BYTES: None if self.megabytes is None else 1e6 * self.megabytes,
            DOWNLOAD: None if self.download_megabytes is None else 1e6 * self.download_megabytes,
        }
        return {name: value for name, value in found.items() if value is not None}

    def loss_limit(self) -> dict[str, float]:
        """Returns {`MIOU`: largest loss}; empty without one."""
        return {} if self.max_loss is None else {MIOU: self.max_loss}


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a file measured.

    Attributes:
        ms: fastest invoke in a run in turn with the uncompressed file, or, with a profile of
            another device, predicted.
        size_bytes: of the file.
        download_bytes: of the deflated file.
        miou: on the held-out images, fraction.
    """

    ms: float
    size_bytes: int
    download_bytes: int
    miou: float

    def value(self, name: str, base: "Measured") -> float:
        """Returns a measured value by the name of its budget.

        Args:
            name: a resource or `MIOU`.
            base: the uncompressed file.
        """
        if name == MIOU:
            return base.miou - self.miou
        return {MS: self.ms, BYTES: self.size_bytes, DOWNLOAD: self.download_bytes}[name]


def excess(measured: Measured, base: Measured, *, budgets: Budgets) -> dict[str, float]:
    """Returns {budget: measured value as a part of it}; above 1 it is missed.

    Args:
        measured: the compressed file.
        base: the uncompressed one, timed in the same run.
        budgets: of the compression.
    """
    limits = budgets.limits(base) | budgets.loss_limit()
    return {name: measured.value(name, base) / limit for name, limit in limits.items()}
