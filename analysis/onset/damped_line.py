r"""A line whose slope decays: local linear trend with damping, an ARIMA(1, 1, 0) of block means."""

import math
from typing import final

import numpy as np

from .method import Lead, OnsetMethod
from .point import OnsetPoint
from .polynomial import WINDOW, polynomial_lead

__all__ = ["DampedLine"]

BLOCKS = 8  # of the late rise; means of blocks, since one-step differences are mostly noise of the eigen-solver


@final
class DampedLine(OnsetMethod):
    r"""Increments of the sharpness shrink by a constant factor φ ≤ 1 per block (naive baseline, fitted to the past).

    With the increments $D_k$ of block means, $\varphi = \sum D_k D_{k+1} / \sum D_k^2$ cut to [0, 1]. The last value
    lies half a block after the last mean; k blocks after it the sharpness has grown by
    $D\,\varphi^{3/2}(1 - \varphi^k)/(1 - \varphi)$, D the last increment. With fewer than 8 values:
    the line of ``Line``.
    """

    name = "damped line"
    assumptions = ("the rate of sharpening decays geometrically, or stays",)

    def lead(self, point: OnsetPoint) -> Lead:
        """Where the damped line crosses; not reached where it levels off before."""
        steps, values = point.rise(WINDOW)
        if len(steps) < BLOCKS:
            return Lead(polynomial_lead(point, 1))
        size = len(steps) // BLOCKS
        steps, values = steps[-size * BLOCKS :], values[-size * BLOCKS :]
        block = float(np.ptp(steps)) / (size * BLOCKS - 1) * size
        means = values.reshape(BLOCKS, size).mean(1)
        grown = np.diff(means)
        power = float(grown[:-1] @ grown[:-1])
        if power == 0 or grown[-1] <= 0:
            return Lead(None)
        factor = min(max(float(grown[:-1] @ grown[1:]) / power, 0.0), 1.0)
        missing = (point.critical - float(values[-1])) / float(grown[-1])
        if factor == 1.0:
            return Lead(missing * block)
        left = 1 - missing * (1 - factor) / factor**1.5 if factor > 0 else 0.0
        return Lead(math.log(left) / math.log(factor) * block if left > 0 else None)
