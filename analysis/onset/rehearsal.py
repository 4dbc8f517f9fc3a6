r"""Gradient flow from the present weights, in long stable steps, until the sharpness reaches its critical value."""

import math
from typing import final

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from analysis.curvature import top_eigenpair
from analysis.flows.chebyshev import chebyshev_step, stable_length
from analysis.flows.operators import Counted
from toymodels.validation import count

from .method import Lead, OnsetMethod
from .point import OnsetPoint

__all__ = ["Rehearsal"]

PRODUCT = 2.0  # gradients that a Hessian product counts as
MARGIN = 1.1  # the sharpness may pass the critical one by so much within a step
TOLERANCE = 0.1  # relative residual of the eigenpair; the error of its value is of second order in it
PRODUCTS = 16  # most per measurement
BEYOND = 1.2  # of the steps that a straight line needs to the crossing: it is to be passed, not to be missed by little
BACK = 3  # recorded values that the curve through the rehearsed ones begins with
LEVELS = 4  # of one hindcast; the later half of them counts


@final
class Rehearsal(OnsetMethod):
    r"""Below the edge gradient descent follows gradient flow, $t = \eta n$, to first order in η (approximated).

    The flow is stepped by ``analysis.flows.chebyshev`` with at most β/(1.1 · critical sharpness) per step, the
    sharpness measured after each, and the crossing interpolated. One hindcast rehearses from kept weights of an earlier
    step to the present sharpness; without such weights the spread is the default of ``OnsetMethod``. With its
    hindcast it takes more gradients than steps are left (``benchmarks/onset.py``).

    Args:
        stages: s, most gradients per step; more are cheaper per time and coarser.
        budget: Most gradients of one rehearsal; then the onset counts as not reached.
    """

    name = "rehearsal"
    assumptions = ("gradient descent follows gradient flow until the onset", "not reached: within the budget")

    def __init__(self, stages: int = 8, budget: float = 400.0) -> None:
        self.stages, self.budget = count("stages", stages, 2), budget

    def lead(self, point: OnsetPoint) -> Lead:
        """Steps of the rehearsal until the crossing.

        Raises:
            ValueError: If the point has no operator, lr or present weights.
        """
        times, values, cost = self._rehearse(point)
        return Lead(_crossing(times, values, point.critical), cost)

    def hindcasts(self, point: OnsetPoint) -> tuple[list[tuple[float, float | None]], float]:
        """One rehearsal from the earliest weights of the last factor f of the rise, compared at several levels."""
        steps, values = point.rise()
        now = float(values[-1])
        since = point.reached(point.share * now) or int(steps[0])
        measured = set(steps.tolist())
        kept = sorted(m for m in point.weights if since <= m < point.step and m in measured)
        begin = next((m for m in kept if point.sharpness[m] < now), None)
        if begin is None:
            return [], 0.0
        found, path, cost = self._rehearse(point.earlier(begin, now))
        pairs: list[tuple[float, float | None]] = []
        for level in np.geomspace(point.sharpness[begin], now, LEVELS + 1)[1 + LEVELS // 2 :]:
            came = point.reached(min(float(level), now))
            if came is not None and came > begin:
                pairs.append((came - begin, _crossing(found, path, float(level))))
        return pairs, cost

    def _rehearse(self, point: OnsetPoint) -> tuple[np.ndarray, np.ndarray, float]:
        """Times in steps from the point on and sharpness there, recorded ones first; the cost."""
        if point.operator is None or point.lr is None or point.step not in point.weights:
            raise ValueError(
                f"a rehearsal needs operator, lr and the weights of step {point.step}, got weights of "
                f"{sorted(point.weights)[-3:]}; pass them with the point"
            )
        operator, theta, vector = Counted(point.operator), point.weights[point.step], point.vector
        steps, recorded = point.rise()
        longest = stable_length(self.stages) / (MARGIN * point.critical * point.lr)
        back = [int(np.argmin(np.abs(steps - point.step + k * longest / 2))) for k in range(BACK, 0, -1)]
        before = sorted({b for b in back if steps[b] < point.step})
        times = [float(steps[b] - point.step) for b in before] + [0.0]
        values = [float(recorded[b]) for b in before] + [float(recorded[-1])]
        _, gradient, _ = operator.linearise(theta)

        def cost() -> float:
            return operator.gradients + PRODUCT * operator.products

        def slope(where: Tensor) -> Tensor:
            return operator.linearise(where)[1]

        while values[-1] < point.critical and cost() < self.budget:
            length, stages = self._next(times, values, point.critical, point.lr)
            theta = chebyshev_step(slope, theta, gradient, length, stages)
            _, gradient, product = operator.linearise(theta)
            start = torch.zeros_like(theta) if vector is None else vector
            found = top_eigenpair(product, start, tol=TOLERANCE, max_products=PRODUCTS)
            if not math.isfinite(found.value):
                break
            vector = found.vector
            times.append(times[-1] + length / point.lr)
            values.append(found.value)
        return np.array(times), np.array(values), cost()

    def _next(self, times: list[float], values: list[float], critical: float, lr: float) -> tuple[float, int]:
        """Length and stages of the next step: the longest, or a little more than to where a line crosses."""
        unit = 1 / (MARGIN * critical)
        rise = values[-1] - values[-2] if len(values) > 1 else 0.0
        length = stable_length(self.stages) * unit
        if rise > 0:
            length = min(length, BEYOND * (critical - values[-1]) / rise * (times[-1] - times[-2]) * lr)
        fewest = next(s for s in range(2, self.stages + 1) if stable_length(s) * unit >= length or s == self.stages)
        return length, fewest


def _crossing(times: np.ndarray, values: np.ndarray, level: float) -> float | None:
    """First time > 0 at which the curve through the values reaches the level."""
    if not (values[times > 0] >= level).any():
        return None
    roots = PchipInterpolator(times, values).solve(level, extrapolate=False)
    ahead = roots[(roots > 0) & np.isfinite(roots)]
    return float(ahead.min()) if ahead.size else None
