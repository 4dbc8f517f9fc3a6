r"""The two-layer model's sharpness, $S = \alpha c^2$ on its exact gradient flow, fitted to the rise so far."""

from typing import final

import numpy as np
from scipy.optimize import least_squares

from toymodels.flow import onset_time, predict_flow

from .method import Lead, OnsetMethod
from .point import OnsetPoint
from .polynomial import WINDOW, polynomial_lead

__all__ = ["Logistic"]

RATES = np.geomspace(0.05, 30.0, 24)  # first guesses of R, per length of the fitted window
BOUND = 12.0  # of the logarithms of the fitted parameters
EVALUATIONS = 60
FEWEST = 6  # values to fit to


@final
class Logistic(OnsetMethod):
    r"""The closed form of the two-layer linear model with opposing features (coefficients fitted to the past).

    $q = (c + b_\parallel)^2$ obeys a logistic law and $S = \alpha c^2$; the onset is the closed-form time of
    ``toymodels.onset_time``. First guess: K = 0, where $1/S = 1/S_\infty + a e^{-Rt}$ is linear but for R. Then least
    squares on S. A misfit at the last value is taken to stay: the level is moved by it. With fewer than 6 values:
    the line of ``Line``.

    Args:
        balanced: Keep K = 0 (three coefficients: α, β, c at the window's start); else K is fitted too.
    References: Rosenfeld & Risteski (2024); closed form derived in ``toymodels.derivations``.
    """

    name = "logistic"
    assumptions = (
        "the sharpness is that of the two-layer model: αc² on gradient flow, u and b_perp gone",
        "the misfit at the last step stays",
    )

    def __init__(self, balanced: bool = True) -> None:
        self.balanced = balanced

    def lead(self, point: OnsetPoint) -> Lead:
        """Where the fitted closed form crosses; not reached where its limit is below."""
        steps, values = point.rise(WINDOW)
        if len(steps) < FEWEST:
            return Lead(polynomial_lead(point, 1))
        if not values[-1] > values[0]:
            return Lead(None)
        scale = float(np.ptp(steps))
        t, y = (steps - steps[0]) / scale, values / point.critical
        first = _guess(t, y)
        if not self.balanced:
            first = np.append(first, 0.0)

        def path(x: np.ndarray) -> np.ndarray:
            c0, beta, alpha, b0 = _model(x)
            return alpha * predict_flow(c0, b0, beta)(t).c ** 2

        # the scale of the window's values, so that tolerances mean the same in every run
        found = least_squares(
            lambda x: (path(x) - y) / y[-1], first, bounds=(-BOUND, BOUND), x_scale=0.3, max_nfev=EVALUATIONS,
            xtol=1e-10, ftol=1e-10, gtol=1e-12,
        ).x  # fmt: skip
        c0, beta, alpha, b0 = _model(found)
        level = 1.0 - float(y[-1] - path(found)[-1])
        time = float(onset_time(c0, b0, beta, alpha, 2.0 / level))
        return Lead(time * scale - float(steps[-1] - steps[0]) if np.isfinite(time) else None)


def _model(x: np.ndarray) -> tuple[float, float, float, float]:
    """c0, β, α and b0 from log S(0), log R/2, log S∞/S(0) at K = 0, and log b0/c0."""
    start, beta, limit = np.exp(x[:3])
    alpha = start * (1 + limit) / beta
    c0 = float(np.sqrt(start / alpha))
    return c0, float(beta), float(alpha), c0 * (float(np.exp(x[3])) if len(x) > 3 else 1.0)


def _guess(t: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Best balanced logistic over a grid of rates, 1/S weighted as S."""
    best, chosen = np.inf, (float(y[0]), 1.0, 10.0)
    for rate in RATES:
        design = np.stack([np.ones_like(t), np.exp(-rate * t)], 1)
        level, size = np.linalg.lstsq(design * y[:, None], np.ones_like(y), rcond=None)[0]
        if size <= 0 or level + size <= 0:
            continue
        floor = max(float(level), 1e-3 * float(size))
        misfit = float(np.sum((1 / (floor + size * design[:, 1]) - y) ** 2))
        if misfit < best:
            best, chosen = misfit, (1 / (floor + float(size)), rate / 2, float(size) / floor)
    return np.clip(np.log(chosen), -BOUND + 1, BOUND - 1)
