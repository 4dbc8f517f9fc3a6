"""What a phase diagram shows: light to import, since the command line reads its options from it."""

from dataclasses import dataclass

import numpy as np

from toymodels.model import ReducedState
from toymodels.optimizers import make_optimizer
from toymodels.validation import positive

__all__ = ["PhaseConfig"]


@dataclass(frozen=True)
class PhaseConfig:
    r"""What the diagram shows.

    Args:
        lr_alpha_min, lr_alpha_max: Range of ηα, linear, > 0: the step size in units of 1/α, so that boundaries
            which depend on the curvature alone are vertical.
        lrs: Number of step sizes for each α, ≥ 2.
        alpha_min, alpha_max: Range of α, logarithmic, > 0.
        alphas: Number of variances, ≥ 2.
        steps: Updates of each run.
        beta: $\|\beta\|$ > 0.
        c, b_par, b_perp, u: Start of every run.
        optimizer: Name of an optimizer, with its default hyperparameters.
    Raises:
        ValueError: If a value is out of range.
    """

    lr_alpha_min: float = 1.0
    lr_alpha_max: float = 7.0
    lrs: int = 1200
    alpha_min: float = 3.0
    alpha_max: float = 1000.0
    alphas: int = 800
    steps: int = 10_000
    beta: float = 1.0
    c: float = 0.55
    b_par: float = 0.05
    b_perp: float = 0.1
    u: float = 1e-3
    optimizer: str = "gd"

    def __post_init__(self):
        for name in ("lr_alpha", "alpha"):
            lo, hi = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            positive(f"{name}_min", lo)
            if not (np.isfinite(hi) and hi > lo):
                raise ValueError(f"{name}_max must be finite and above {name}_min = {lo:g}, got {hi:g}")
        for name in ("lrs", "alphas"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be >= 2, got {getattr(self, name)}; pass a number of grid lines")
        if self.steps < 1:
            raise ValueError(f"steps must be >= 1, got {self.steps}; pass steps >= 1")
        positive("beta", self.beta)
        make_optimizer(self.optimizer)
        ReducedState(self.c, self.b_par, self.b_perp, self.u)

    @property
    def lr_alpha(self) -> np.ndarray:
        """ηα, shape (lrs,)."""
        return np.linspace(self.lr_alpha_min, self.lr_alpha_max, self.lrs)

    @property
    def alpha(self) -> np.ndarray:
        """Variances, shape (alphas,)."""
        return np.geomspace(self.alpha_min, self.alpha_max, self.alphas)
