"""Runs of a preset that are simulated: the two-layer linear model under any optimizer, or its gradient flow."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

import xarray as xr

from toymodels import ReducedState, simulate
from toymodels.optimizers import OPTIMIZERS
from toymodels.validation import count, positive

__all__ = ["SimulationPlan"]


@dataclass(frozen=True)
class SimulationPlan:
    r"""One simulation of the two-layer linear model (``toymodels.simulate``).

    Args:
        optimizer: A name of ``toymodels.optimizers.OPTIMIZERS``, or "flow".
        optimizer_options: Its hyperparameters.
        lr: Step size η; time = lr * step.
        steps: Updates.
        c, b_par, b_perp, u: Weights at the start.
        beta: Norm of the target's coefficients.
        alpha: Variance of the opposing feature.
    """

    optimizer: str = "gd"
    optimizer_options: dict[str, float] = field(default_factory=dict)
    lr: float = 0.01
    steps: int = 2000
    c: float = 0.55
    b_par: float = 0.05
    b_perp: float = 0.1
    u: float = 1e-3
    beta: float = 1.0
    alpha: float = 100.0

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, str) or self.optimizer not in ("flow", *OPTIMIZERS):
            known = ", ".join(("flow", *OPTIMIZERS))
            raise ValueError(f"optimizer must be one of {known}, got {self.optimizer!r}; choose one of them")
        own = [] if self.optimizer == "flow" else [f.name for f in fields(OPTIMIZERS[self.optimizer])]
        given = self.optimizer_options
        if not isinstance(given, dict) or set(given) - set(own):
            raise ValueError(
                f"optimizer_options of {self.optimizer} must be a table of {', '.join(own) or 'nothing'}, got "
                f"{given!r}; correct it"
            )
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.type == "float" or f.type is float}
        for name, value in {**numbers, **given}.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}; pass e.g. 0.1")
        count("steps", self.steps)
        for name in ("lr", "beta", "alpha"):
            positive(name, getattr(self, name))
        if self.optimizer != "flow":
            self.rule.hyperparameters()

    @property
    def state(self) -> ReducedState:
        """Weights at the start."""
        return ReducedState(self.c, self.b_par, self.b_perp, self.u)

    @property
    def rule(self) -> Any:
        """The optimizer, or "flow"."""
        return "flow" if self.optimizer == "flow" else OPTIMIZERS[self.optimizer](**self.optimizer_options)

    def run(self) -> xr.Dataset:
        """Simulate; the dataset of ``toymodels.simulate`` with every step."""
        from toymodels.symbolic import two_layer

        weights = {"beta": self.beta, "alpha": self.alpha}
        data = simulate(two_layer(), self.rule, self.lr, self.steps, start=self.state, parameters=weights)
        return data.squeeze(drop=True)
