r"""Stabilised explicit steps of gradient flow, for cheap rehearsals: Runge-Kutta-Chebyshev of order 2 (RKC2).

s gradients cover a step of length $\beta/\lambda_{max}$ with $\beta \approx \tfrac23(s^2 - 1)$, where s steps of
gradient descent cover 2s. No error control and no product with the Hessian, unlike ``GradientFlow``: for an error of
some percent.

References: Sommeijer, Shampine & Verwer (1998), J. Comput. Appl. Math. 88, 315.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from toymodels.validation import count

__all__ = ["chebyshev_step", "stable_length"]

DAMPING = 2 / 13


def _polynomials(stages: int) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """w0, and T_j, T_j', T_j'' there, j = 0..s."""
    w = 1 + DAMPING / stages**2
    t, d, e = (np.zeros(stages + 1) for _ in range(3))
    t[:2], d[1] = (1.0, w), 1.0
    for j in range(2, stages + 1):
        t[j] = 2 * w * t[j - 1] - t[j - 2]
        d[j] = 2 * t[j - 1] + 2 * w * d[j - 1] - d[j - 2]
        e[j] = 4 * d[j - 1] + 2 * w * e[j - 1] - e[j - 2]
    return w, t, d, e


def stable_length(stages: int) -> float:
    r"""β: a step h is stable while $h\lambda \le \beta$ for every eigenvalue λ ≥ 0 (derived; sharp for even s).

    $\beta = (w_0 + 1)\,T_s''(w_0)/T_s'(w_0)$, where the argument of the damped Chebyshev polynomial reaches −1.
    """
    w, _, d, e = _polynomials(count("stages", stages, 2))
    return float((w + 1) * e[-1] / d[-1])


def chebyshev_step(
    gradient: Callable[[Tensor], Tensor], point: Tensor, first: Tensor, length: float, stages: int
) -> Tensor:
    r"""θ after the time ``length`` of $\dot\theta = -\nabla L$; error $O(h^3)$; s − 1 gradients besides ``first``.

    Args:
        gradient: ∇L, shape (P,) to (P,).
        point: θ.
        first: ∇L(θ).
        length: h > 0; stable up to ``stable_length(stages)`` / λ_max.
        stages: s ≥ 2.
    """
    w, t, d, e = _polynomials(count("stages", stages, 2))
    b = np.empty(stages + 1)
    b[2:] = e[2:] / d[2:] ** 2
    b[:2] = b[2]
    slope = d[-1] / e[-1]  # w1
    before, now = point, point - float(b[1] * slope * length) * first
    for j in range(2, stages + 1):
        mu, nu, tilde = 2 * b[j] * w / b[j - 1], -b[j] / b[j - 2], 2 * b[j] * slope / b[j - 1]
        held = (1 - b[j - 1] * t[j - 1]) * tilde
        following = (
            float(1 - mu - nu) * point
            + float(mu) * now
            + float(nu) * before
            - float(tilde * length) * gradient(now)
            + float(held * length) * first
        )
        before, now = now, following
    return now
