"""Branches of periodic orbits followed along the step size, and the period-doubling cascade of the balanced line."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from toymodels.orbits import balanced_line, generated_map, periodic_orbit
from toymodels.symbolic import SymbolicModel
from toymodels.validation import count as whole
from toymodels.validation import positive

__all__ = ["follow_orbit", "period_doublings"]


def follow_orbit(
    model: SymbolicModel,
    period: int,
    lr: ArrayLike,
    *,
    start: Mapping[str, Any],
    parameters: Mapping[str, Any],
) -> xr.Dataset:
    """A branch of periodic orbits along the step size, stable or not, by Newton from one to the next (numerical).

    The guess at each step size is the orbit at the one before, drawn on in a straight line where there are two.
    A branch that ends (folds, or merges into one of shorter period) shows as ``converged`` or ``prime`` False.

    Args:
        model: Symbolic model.
        period: Length, ≥ 1.
        lr: Step sizes η > 0 in the order to follow, shape (n,).
        start: Guess for the first orbit's first point, by weight: numbers.
        parameters: Model parameters by name: numbers.
    Returns:
        As :func:`toymodels.orbits.periodic_orbit`, along ``lr``.
    Raises:
        ValueError: If an argument is out of range.
    """
    rates = np.atleast_1d(positive("lr", lr))
    if rates.ndim != 1:
        raise ValueError(f"lr must have one dimension, got shape {rates.shape}; pass the step sizes in order")
    names, found, points = [w.name for w in model.weights], [], []
    guess = np.array([float(start[n]) for n in names])
    for i, rate in enumerate(rates):
        if i >= 2 and rates[i - 1] != rates[i - 2]:
            guess = points[-1] + (points[-1] - points[-2]) * (rate - rates[i - 1]) / (rates[i - 1] - rates[i - 2])
        elif i == 1:
            guess = points[-1]
        here = dict(zip(names, guess, strict=True))
        orbit = periodic_orbit(model, period, float(rate), start=here, parameters=parameters).isel(run=0)
        # the phase nearest to where the branch was: a large step may have landed on another point of the same orbit
        nearest = int(np.argmin(np.abs(orbit.orbit.values - (points[-1] if points else guess)).max(1)))
        orbit["orbit"] = orbit.orbit.roll(phase=-nearest, roll_coords=False)
        points.append(orbit.orbit.values[0])
        found.append(orbit)
    return xr.concat(found, dim="lr").assign_coords(lr=rates)


def period_doublings(count: int) -> dict[str, np.ndarray]:
    r"""The period-doubling cascade on the balanced line, in $g=\eta\|\beta\|$ (numerical, from the generated map).

    Args:
        count: How many doublings, 2 to 8: period $1, 2, 4, \dots$ loses stability at ``flip[0], flip[1], ...``.
    Returns:
        ``superstable`` (count + 1,): where the critical point has period $2^k$; ``flip`` (count,): where the multiplier
        of period $2^k$ is −1; ``ratio``: successive differences of ``flip`` over the next, → Feigenbaum's 4.669.
    Raises:
        ValueError: If ``count`` is out of range.
    """
    count = whole("count", count, 2)
    if count > 8:
        raise ValueError(f"count must be at most 8 (float64 resolves no more), got {count}; pass 8")
    step, jacobian = generated_map(balanced_line())

    def critical(g: float) -> np.ndarray:
        return np.array([[np.sqrt((1 + g) / 3)]])  # where the slope 1 + g - 3 x^2 is 0, at lr = 1

    def returned(g: float, period: int) -> float:
        x = first = critical(g)
        for _ in range(period):
            x = step(x, [g, 1.0])
        return float((x - first)[0, 0])

    superstable, gap = [0.5, 3 / np.sqrt(2) - 1], 4.669
    for k in range(2, count + 1):
        guess = superstable[-1] + (superstable[-1] - superstable[-2]) / gap
        reach = 0.3 * (guess - superstable[-1])
        superstable.append(_root(lambda g, n=2**k: returned(g, n), guess - reach, guess + reach))
    flips = []
    for k in range(count):
        period, here = 2**k, critical(superstable[k])
        at = superstable[k]

        def multiplier(g: float, period: int = period, here: np.ndarray = here, at: float = at) -> float:
            x = here
            for value in np.linspace(at, g, 9)[1:]:  # the cycle, followed from where the critical point lies on it
                for _ in range(12):
                    y, slope = x, 1.0
                    for _ in range(period):
                        slope *= float(jacobian(y, [value, 1.0])[0, 0, 0])
                        y = step(y, [value, 1.0])
                    x = x - (y - x) / (slope - 1)
            slope, y = 1.0, x
            for _ in range(period):
                slope *= float(jacobian(y, [g, 1.0])[0, 0, 0])
                y = step(y, [g, 1.0])
            return slope + 1

        flips.append(_root(multiplier, superstable[k], superstable[k + 1]))
    flip = np.array(flips)
    steps = np.diff(flip)
    return {"superstable": np.array(superstable), "flip": flip, "ratio": steps[:-1] / steps[1:]}


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    found: Any = brentq(function, low, high, xtol=1e-15, rtol=4 * np.finfo(float).eps)
    return float(found)
