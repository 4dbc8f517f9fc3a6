"""Runs of a preset that are simulated: the two-layer linear model under any optimizer, or its gradient flow."""

from dataclasses import dataclass, field, fields
from typing import Any

import xarray as xr

from toymodels import ReducedState, simulate
from toymodels.optimizers import OPTIMIZERS

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
        if self.optimizer != "flow" and self.optimizer not in OPTIMIZERS:
            known = ", ".join(("flow", *OPTIMIZERS))
            raise ValueError(f"optimizer must be one of {known}, got {self.optimizer!r}; choose one of them")
        if self.optimizer_options and self.optimizer == "flow":
            raise ValueError(f"optimizer_options must be empty for flow, got {self.optimizer_options}; remove them")

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> "SimulationPlan":
        """The plan with the given options.

        Raises:
            ValueError: If one is unknown or out of range.
        """
        names = [f.name for f in fields(cls)]
        unknown = sorted(set(options) - set(names))
        if unknown:
            raise ValueError(f"options must be among {', '.join(names)}; got {', '.join(unknown)}; remove it")
        return cls(**options)

    @property
    def state(self) -> ReducedState:
        """Weights at the start."""
        return ReducedState(self.c, self.b_par, self.b_perp, self.u)

    def run(self) -> xr.Dataset:
        """Simulate; the dataset of ``toymodels.simulate`` with every step."""
        from toymodels.symbolic import two_layer

        rule: Any = OPTIMIZERS[self.optimizer](**self.optimizer_options) if self.optimizer_options else self.optimizer
        weights = {"beta": self.beta, "alpha": self.alpha}
        return simulate(two_layer(), rule, self.lr, self.steps, start=self.state, parameters=weights).squeeze(drop=True)
