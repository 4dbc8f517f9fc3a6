"""What measures see of a run: its record, its configuration, and the run itself."""

import functools
from dataclasses import dataclass

import numpy as np
import xarray as xr

from analysis.oscillation import onset_step
from nets.config import TrainConfig
from nets.recorded_losses import all_losses
from nets.run import Run

from .simulated import SimulationPlan

__all__ = ["Outcome"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A run of a preset that was carried out.

    Args:
        name: Folder of the run within its repetition.
        history: Record of a trained run, or dataset of a simulated one; dimension step.
        run: The trained run.
        simulation: What was simulated instead.
    """

    name: str
    history: xr.Dataset
    run: Run | None = None
    simulation: SimulationPlan | None = None

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
        """An array of the record along the steps, float64; shape (steps, ...)."""
        return self.history[name].transpose("step", ...).values.astype(np.float64)

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

    @functools.cached_property
    def losses(self) -> np.ndarray:
        """Losses of the examples, shape (steps, n), from the first step on.

        Raises:
            ValueError: If the record does not hold them all.
        """
        return all_losses(self.config, self.history, "be measured")[self.first_step :].astype(np.float64)

    @functools.cached_property
    def onset(self) -> int | None:
        """First step whose sharpness reaches its critical value from below."""
        return onset_step(self.sharpness, 2.0 / self.critical)
