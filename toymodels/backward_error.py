r"""Where gradient descent ends, to first order in its step: the invariant of the flow drifts, by a closed form.

With u = $b_\perp$ = 0 one step multiplies $K = c^2 - b_\parallel^2$ by exactly $1 - \eta^2 r^2$ and
$q = (c + b_\parallel)^2$ by exactly $(1 + \eta r)^2$. So K never changes sign while $\eta|r| < 1$, it shrinks, and
$$\log\frac{K_\infty}{K_0} = -\eta\int_0^\infty r^2 dt + O(\eta^2),\qquad
  \int r^2 dt = \Big[\tfrac{\|\beta\|}{2}\log q - \tfrac q8 - \tfrac{K^2}{8q}\Big]_{q_0}^{q_+}$$
Derived and re-proved in ``toymodels.derivations.descent_flow``, with a bound of the error.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from toymodels.validation import finite, positive

__all__ = ["DescentLimit", "descent_limit"]


@dataclass(frozen=True)
class DescentLimit:
    r"""End of gradient descent below the edge.

    Args:
        invariant: $K_\infty$ to first order in η.
        c2: $c_\infty^2 = (K_\infty + \sqrt{K_\infty^2 + 4\|\beta\|^2})/2$ with it.
        log_error: Bound of the error of $\log|K_\infty|$, of order $\eta^2$; ``inf`` where η is too coarse for one.
    """

    invariant: np.ndarray
    c2: np.ndarray
    log_error: np.ndarray


def descent_limit(c0: ArrayLike, b0: ArrayLike, beta: ArrayLike, lr: ArrayLike) -> DescentLimit:
    r"""Invariant and second layer at the end of gradient descent that stays below the edge (bounded).

    The bound: with $x = \eta r_0$, $I = \int r^2 dt$, $L = \log(q_+/q_0)$, $w = K_0^2 L / (2 q_0)$,
    $S = \sum \eta r_n^2$ and $\Lambda = |\log K_\infty/K_0| \le \eta S/(1 - x^2)$,
    $$|\log(K_\infty/K_0) + \eta I| \le \eta\Big[x r_0 + \tfrac x2 S + w\Lambda + \frac{x^2 S}{2(1 - x^2)}\Big],\qquad
      S \le \frac{I + x r_0}{1 - x/2 - \eta w/(1 - x^2)}$$
    (left-endpoint rule on a decreasing r; $\log(1 + x)$ and $\log(1 - x^2)$ against their first terms; K in r).

    Args:
        c0: $c(0)$, shape (...).
        b0: $b_\parallel(0)$, shape (...), with $c_0 b_0 \le \|\beta\|$ and $c_0 + b_0 \neq 0$: then q grows, r falls.
        beta: $\|\beta\| > 0$.
        lr: Step size η > 0. The bound is finite only if r cannot overshoot 0 either:
            $\eta\sqrt{K_0^2 + 4m^2} + \eta^2 m r_0 \le 1$, $m = \max(\|\beta\|, |c_0 b_0|)$.
    Raises:
        ValueError: If a parameter is out of that domain.
    """
    c0, b0, beta, lr = finite("c0", c0), finite("b0", b0), positive("beta", beta), positive("lr", lr)
    r0 = beta - c0 * b0
    if (r0 < 0).any():
        raise ValueError(f"c0 * b0 must be <= beta, got beta - c0 * b0 = {r0.min():g}; start below the signal")
    if (c0 + b0 == 0).any():
        raise ValueError("c0 + b0 must not be 0, got 0; that line ends in the saddle c = 0, move the start")
    invariant = (c0 - b0) * (c0 + b0)
    q0, end = (c0 + b0) ** 2, 2 * beta + np.hypot(invariant, 2 * beta)
    long = np.log(end / q0)
    area = beta / 2 * long - (end - q0) / 8 + invariant**2 * (end - q0) / (8 * q0 * end)
    area = np.maximum(area, 0.0)
    after = invariant * np.exp(-lr * area)
    rate = np.hypot(after, 2 * beta)
    larger = (np.abs(after) + rate) / 2
    x, weight = lr * r0, invariant**2 * long / (2 * q0)
    with np.errstate(divide="ignore", invalid="ignore"):
        room = 1 - x / 2 - lr * weight / (1 - x**2)
        total = (area + x * r0) / room
        drift = lr * total / (1 - x**2)
        error = lr * (x * r0 + x / 2 * total + weight * drift + x**2 * total / (2 * (1 - x**2)))
    most = np.maximum(beta, np.abs(c0 * b0))
    steady = lr * np.hypot(invariant, 2 * most) + lr**2 * most * r0 <= 1
    c2 = np.where(after >= 0, larger, beta**2 / larger)
    return DescentLimit(after, c2, np.where((x < 1) & (room > 0) & steady, error, np.inf))
