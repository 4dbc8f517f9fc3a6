r"""The reduced map at the edge of stability: when a growing oscillation peaks.

With $y = \eta S - 2$ and the amplitude x along the top eigenvector,

$$x \leftarrow -(1 + y)\,x, \qquad y \leftarrow y + \eta^2 (A - \tfrac12 B x^2)$$

(approximated: constant A, B and direction; third order in x). The two-layer form of self-stabilisation.

References: Damian, Nichani & Lee (2023), arXiv 2209.15594.
"""

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["ReducedForecast", "iterate_reduced_map"]


@dataclass(frozen=True)
class ReducedForecast:
    """Trajectory of the reduced map up to its first peak.

    Args:
        amplitude: |x| at steps 0, 1, ..., the peak included, shape (n,).
        excess: y = ηS − 2 at the same steps, shape (n,).
        peak: Steps from the start to the first peak of |x|; None if there is none within the horizon.
    """

    amplitude: np.ndarray
    excess: np.ndarray
    peak: int | None


def iterate_reduced_map(
    amplitude: float, excess: float, lr: float, progressive: float, restoring: float, horizon: int
) -> ReducedForecast:
    r"""Iterate the reduced map from onset until |x| first falls after having grown.

    Args:
        amplitude: |x| at the start, > 0.
        excess: y = ηS − 2 at the start.
        lr: Step size η.
        progressive: A, sharpness gained per unit of gradient-flow time.
        restoring: B ≥ 0.
        horizon: Most steps to iterate.
    Raises:
        ValueError: If ``amplitude`` is not positive.
    """
    if not amplitude > 0:
        raise ValueError(
            f"amplitude must be positive, got {amplitude}; measure it over a window, or pass the rounding floor"
        )
    x, y = amplitude, excess
    xs, ys = [x], [y]
    grown = False
    for n in range(1, horizon + 1):
        # once the excess has turned negative the oscillation shrinks: the map's overshoot below
        # y = -2, where its cubic truncation would diverge, lies beyond the peak
        if grown and y < 0:
            return ReducedForecast(np.array(xs), np.array(ys), n - 1)
        grown = grown or y > 0
        x, y = abs(1 + y) * x, y + lr**2 * (progressive - restoring * x**2 / 2)
        if not math.isfinite(x):
            break
        xs.append(x)
        ys.append(y)
    return ReducedForecast(np.array(xs), np.array(ys), None)
