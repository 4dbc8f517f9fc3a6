"""What measures see of a run: its record, its configuration, and the run itself."""

import functools
from pathlib import Path

import numpy as np
import xarray as xr

from analysis.oscillation import onset_step
from nets.config import TrainConfig
from nets.recorded_losses import all_losses
from nets.run import Run

from .simulated import SimulationPlan

__all__ = ["Outcome"]


class Outcome:
    """A run of a preset that was carried out; what a measure asks for is read when it is asked for.

    Args:
        name: Folder of the run within its repetition.
        history: Record of a trained run, or dataset of a simulated one; dimension step. None: that of the run.
        run: The trained run.
        simulation: What was simulated instead.
        directory: Where the trained run lies, in place of ``run``.
    """

    def __init__(
        self,
        name: str,
        history: xr.Dataset | None = None,
        run: Run | None = None,
        simulation: SimulationPlan | None = None,
        directory: Path | None = None,
    ) -> None:
        self.name, self.simulation = name, simulation
        self._given, self._run, self._directory = history, run, directory

    def closed(self) -> "Outcome":
        """The same with nothing read yet; the memory of what was is free once this one is gone."""
        return Outcome(self.name, self._given, self._run, self.simulation, self._directory)

    @functools.cached_property
    def run(self) -> Run | None:
        """The trained run; None where it was simulated."""
        return self._run if self._directory is None else Run.open(self._directory)

    @functools.cached_property
    def history(self) -> xr.Dataset:
        """The whole record; `series` reads one array of it."""
        return self.trained.history() if self._given is None else self._given

    @property
    def config(self) -> TrainConfig:
        """Configuration of a trained run.

        Raises:
            ValueError: If it was simulated.
        """
        return self.trained.config

    @property
    def trained(self) -> Run:
        """The trained run.

        Raises:
            ValueError: If it was simulated.
        """
        if self.run is None:
            raise ValueError(f"this measure is of trained runs, {self.name} is simulated; choose another measure")
        return self.run

    @property
    def critical(self) -> float:
        """Critical sharpness of the optimizer.

        Raises:
            ValueError: If it has no constant one.
        """
        value = self.config.critical_sharpness
        if value is None:
            raise ValueError(f"this measure needs a constant critical sharpness, {self.name} has none; choose another")
        return value

    @property
    def diverged(self) -> bool:
        """Whether a value stopped being finite."""
        if self.run is None:
            return bool(self.history["status"] == 2)
        return self.run.status.status == "diverged"

    def series(self, name: str) -> np.ndarray:
        """An array of the record along the steps, float64; shape (steps, ...).

        Raises:
            ValueError: If the record has none of that name.
        """
        record = self._with(name)
        if name not in record:
            raise ValueError(f"this measure needs {name} in the record, {self.name} has none; add the observer of it")
        return record[name].transpose("step", ...).values.astype(np.float64)

    def _with(self, name: str) -> xr.Dataset:
        """The record, or of one that is not read yet only this array."""
        if self._given is not None or "history" in vars(self):
            return self.history
        return self.trained.history([name])

    def observed(self, name: str) -> np.ndarray:
        """The rows of an array that were filled, shape (observations, ...); see `series`."""
        values = self.series(name)
        return values[np.isfinite(values.reshape(len(values), -1)).all(axis=1)]

    @functools.cached_property
    def first_step(self) -> int:
        """Step of the first row that was computed: 0, or that of the fork."""
        return 0 if self.run is None else self.run.first_step

    @functools.cached_property
    def loss(self) -> np.ndarray:
        """Training loss, shape (steps,); NaN before the first step."""
        return self.series("loss")

    @functools.cached_property
    def sharpness(self) -> np.ndarray:
        """Largest Hessian eigenvalue, shape (steps,); NaN where it was not measured."""
        return self.series("sharpness")

    @property
    def last_sharpness(self) -> float:
        """The last one that was measured."""
        return float(self.sharpness[np.isfinite(self.sharpness)][-1])

    @functools.cached_property
    def losses(self) -> np.ndarray:
        """Losses of the examples, shape (steps, n), from the first step on.

        Raises:
            ValueError: If the record does not hold them all.
        """
        return all_losses(self.config, self._with("example_loss"), "be measured")[self.first_step :].astype(np.float64)

    @functools.cached_property
    def onset(self) -> int | None:
        """First step whose sharpness reaches its critical value from below."""
        return onset_step(self.sharpness, 2.0 / self.critical)
