"""What a forecast of the onset may use: a run's record up to a step, and its weights up to that step."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from analysis.flows import Linearisable

__all__ = ["OnsetPoint"]


@dataclass(frozen=True)
class OnsetPoint:
    r"""A run at step n, before its onset. It cannot hold anything later.

    Args:
        sharpness: Record of the steps 0..n, shape (n + 1,); NaN where it was not measured, but not at n.
        critical: Sharpness to be reached, 2/η for gradient descent.
        lr: Gradient-flow time of a step: η for gradient descent. This and the rest: for methods that go on from the
            weights.
        operator: The loss, e.g. ``LossCurvature``.
        weights: Flat weights θ_m by step m ≤ n, as far as they were kept.
        vector: Top Hessian eigenvector at n, where the search for later ones begins; None: a random one.
    Raises:
        ValueError: If the last value is missing or at the critical one already, or weights are of a later step.
    """

    sharpness: np.ndarray
    critical: float
    lr: float | None = None
    operator: Linearisable | None = None
    weights: Mapping[int, Tensor] = field(default_factory=dict)
    vector: Tensor | None = None

    def __post_init__(self):
        s = np.asarray(self.sharpness, dtype=np.float64)
        if s.ndim != 1 or s.size == 0 or not (np.isfinite(s[-1]) and s[-1] > 0):
            raise ValueError(
                f"sharpness must be a record that ends in a positive value, got {s[-3:]}; cut it where it was measured"
            )
        if not s[-1] < self.critical:
            raise ValueError(
                f"the onset must lie ahead, got sharpness {s[-1]:g} of {self.critical:g} at step {s.size - 1}; "
                "forecast from an earlier step"
            )
        if any(step > s.size - 1 for step in self.weights):
            raise ValueError(f"weights must be of steps 0..{s.size - 1}, got {max(self.weights)}; leave out the future")
        object.__setattr__(self, "sharpness", s)

    @classmethod
    def at(
        cls,
        step: int,
        sharpness: np.ndarray,
        critical: float,
        lr: float | None = None,
        operator: Linearisable | None = None,
        weights: Mapping[int, Tensor] | None = None,
        vector: Tensor | None = None,
    ) -> "OnsetPoint":
        """A recorded run as it was known at a step: what came later is cut off.

        Raises:
            ValueError: If the record does not hold the step.
        """
        if not 0 <= step < len(sharpness):
            raise ValueError(f"step must lie in the record, 0..{len(sharpness) - 1}, got {step}; pass a recorded one")
        known = {m: w for m, w in (weights or {}).items() if m <= step}
        return cls(np.asarray(sharpness)[: step + 1], critical, lr, operator, known, vector)

    @property
    def step(self) -> int:
        """n."""
        return len(self.sharpness) - 1

    @property
    def share(self) -> float:
        """Share of the critical sharpness reached at n, in (0, 1)."""
        return float(self.sharpness[-1]) / self.critical

    def rise(self, share: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Measured steps and values of the last ``share`` of the steps since the least sharpness.

        Training begins with a fall of the sharpness, which says nothing about its later rise.
        """
        steps = np.flatnonzero(np.isfinite(self.sharpness))
        values = self.sharpness[steps]
        least = steps[len(values) - 1 - int(np.argmin(values[::-1]))]
        kept = steps >= self.step - share * (self.step - least)
        return steps[kept], values[kept]

    def reached(self, level: float) -> int | None:
        """First step of the rise at which the sharpness is ``level`` or more; None: it starts there, or never is."""
        steps, values = self.rise()
        above = np.flatnonzero(values >= level)
        return int(steps[above[0]]) if above.size and above[0] > 0 else None

    def earlier(self, step: int, critical: float) -> "OnsetPoint":
        """The same run as it was known at an earlier step, towards another critical value."""
        return self.at(step, self.sharpness, critical, self.lr, self.operator, self.weights, self.vector)
