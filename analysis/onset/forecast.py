"""A forecast of a step, with its intervals: one object for every method."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["LEVELS", "StepForecast"]

LEVELS = tuple(k / 20 for k in range(1, 20))  # 0.05 ... 0.95: the ends of the 50 % and the 90 % interval among them


@dataclass(frozen=True)
class StepForecast:
    """The step at which something is expected, as quantiles.

    Args:
        made_at: Step n whose state and record, and nothing later, were used.
        quantiles: Steps at ``LEVELS``, not decreasing, all > n; inf: not within the horizon.
        horizon: Most steps looked ahead from n.
        method: Its name.
        assumptions: What it takes for granted, the origin of its intervals included.
        gradients: Cost, in gradients of the loss over all examples; a Hessian product counts as two.
        never: Probability that it is not reached within the horizon.
        residuals: Number of past errors that the intervals come from.
    Raises:
        ValueError: If the quantiles are out of order, not later than n, or ``never`` is no probability.
    """

    made_at: int
    quantiles: tuple[float, ...]
    horizon: int
    method: str
    assumptions: tuple[str, ...]
    gradients: float
    never: float
    residuals: int

    def __post_init__(self):
        q = self.quantiles
        if len(q) != len(LEVELS) or not all(a <= b for a, b in itertools.pairwise(q)):
            raise ValueError(f"quantiles must be {len(LEVELS)} steps that do not decrease, got {q}; sort them")
        if not q[0] > self.made_at:
            raise ValueError(f"quantiles must lie after step {self.made_at}, got {q[0]}; forecast the future")
        if not 0 <= self.never <= 1:
            raise ValueError(f"never must be a probability, got {self.never}; pass a number in [0, 1]")

    @property
    def median(self) -> float | None:
        """The step with even odds; None: it is more likely not reached within the horizon."""
        middle = self.quantiles[len(LEVELS) // 2]
        return middle if math.isfinite(middle) else None

    def interval(self, level: float) -> tuple[float, float]:
        """Central interval, e.g. of 0.5 or 0.9; an infinite end: not within the horizon.

        Raises:
            ValueError: If its ends are not among ``LEVELS``.
        """
        ends = [np.flatnonzero(np.isclose(LEVELS, p)) for p in ((1 - level) / 2, (1 + level) / 2)]
        if not all(e.size for e in ends) or level <= 0:
            raise ValueError(f"level must be one of 0.1, 0.2, ..., 0.9, got {level}; pass e.g. 0.9")
        return self.quantiles[int(ends[0][0])], self.quantiles[int(ends[1][0])]

    @property
    def censored(self) -> np.ndarray:
        """The quantiles with "not within the horizon" put at its end: what can be scored against a censored outcome."""
        return np.minimum(self.quantiles, self.made_at + self.horizon)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; "not within the horizon" is null."""

        def plain(step: float | None) -> float | None:
            return step if step is not None and math.isfinite(step) else None

        return {
            "made_at_step": self.made_at,
            "method": self.method,
            "median": self.median,
            "interval_50": [plain(q) for q in self.interval(0.5)],
            "interval_90": [plain(q) for q in self.interval(0.9)],
            "levels": list(LEVELS),
            "quantiles": [plain(q) for q in self.quantiles],
            "never": self.never,
            "horizon": self.horizon,
            "assumptions": list(self.assumptions),
            "gradients": self.gradients,
            "residuals": self.residuals,
        }
