r"""An unequal pair of opposing groups: the floor of the valley moves, and what oscillates about it is c and u.

If the opposing feature has the sign s = ±1 with probabilities $(1\pm\delta)/2$, the expected loss is
$$L = \tfrac12(\|\beta\| - c\,b_\parallel)^2 + \tfrac12 c^2 b_\perp^2 + \tfrac12\alpha(c u - m)^2
  + \tfrac p2 g_0^2(1-\delta^2),\qquad m = \delta g_0/a = \delta\gamma\sqrt{d_2},$$
with $a = \sqrt{\alpha/p}$ the feature's projection and $g_0 = \gamma|1^\top x_o|$ the target's offset. Derived from the
expectation and re-proved in ``toymodels.derivations.imbalance``. Time is ``lr * step``.
"""

import numpy as np
from numpy.typing import ArrayLike

from toymodels.flow import limit_c2
from toymodels.model import ReducedState
from toymodels.validation import finite, positive

__all__ = [
    "floor_curvature",
    "floor_drift",
    "floor_group_losses",
    "floor_shift",
    "imbalanced_limit_c2",
    "imbalanced_limit_sharpness",
    "imbalanced_loss",
    "imbalanced_step",
]


def _share(delta: ArrayLike) -> np.ndarray:
    share = finite("delta", delta)
    if (np.abs(share) > 1).any():
        bad = share[np.abs(share) > 1].flat[0]
        raise ValueError(f"delta must lie in [-1, 1], got {bad:g}; pass the mean of the sign s")
    return share


def floor_shift(delta: ArrayLike, gamma: ArrayLike, d2: ArrayLike) -> np.ndarray:
    r"""$m = \delta\gamma\sqrt{d_2}$, the value of $c\,u$ on the floor of the valley (derived; α and p drop out).

    Args:
        delta: $\delta = E[s \mid x_o \ne 0]$ in [−1, 1].
        gamma: Target offset γ.
        d2: Coordinates of the opposing feature, > 0. All shapes broadcast.
    Raises:
        ValueError: If an argument is out of its range.
    """
    return _share(delta) * finite("gamma", gamma) * np.sqrt(positive("d2", d2))


def floor_group_losses(delta: ArrayLike, offset: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    r"""Losses of the groups s = +1 and s = −1 on the floor, $\tfrac12 g_0^2(1\mp\delta)^2$ (derived).

    The larger group has the lower loss. Their mean with weights $(1\pm\delta)/2$ is
    $\tfrac12 g_0^2(1-\delta^2)$, which no weight removes.

    Args:
        delta: As in :func:`floor_shift`.
        offset: $g_0 = \gamma|1^\top x_o|$.
    Raises:
        ValueError: If an argument is out of its range.
    """
    share, size = _share(delta), finite("offset", offset) ** 2 / 2
    return size * (1 - share) ** 2, size * (1 + share) ** 2


def imbalanced_loss(state: ReducedState, beta: ArrayLike, alpha: ArrayLike, shift: ArrayLike) -> np.ndarray:
    r"""$\tfrac12 r^2 + \tfrac12 c^2b_\perp^2 + \tfrac12\alpha(cu - m)^2$, the loss without its constant (derived).

    Args:
        state: Weights.
        beta: $\|\beta\| > 0$.
        alpha: Opposing variance α > 0.
        shift: $m$ of :func:`floor_shift`.
    Raises:
        ValueError: If an argument is out of its range.
    """
    c, b, p, u = state.as_array()
    beta, alpha, shift = positive("beta", beta), positive("alpha", alpha), finite("shift", shift)
    return ((beta - c * b) ** 2 + (c * p) ** 2 + alpha * (c * u - shift) ** 2) / 2


def imbalanced_step(
    state: ReducedState, beta: ArrayLike, alpha: ArrayLike, shift: ArrayLike, lr: ArrayLike
) -> np.ndarray:
    r"""One step of gradient descent (derived); with $e = u - m/c$ the deviation from the floor and s = ηαc²,

    $$u' - m/c = (1 - s)\,e,\qquad c' = c + \eta\,(b_\parallel r - c\,b_\perp^2 - \alpha m e - \alpha c e^2) .$$
    At the old c the deviation grows as for a balanced pair; new is the kick $-\eta\alpha m e$: c itself oscillates, to
    first order in the amplitude, and moves the floor. The error v = cu − m therefore obeys
    $$v' = \big(1 - \eta\alpha(c^2 + u^2)\big)v + \eta f u - \eta^2\alpha c f v + \eta^2\alpha^2 c u v^2,\qquad
      f = b_\parallel r - c\,b_\perp^2,$$
    and the edge is met at $\alpha(c^2 + m^2/c^2) = 2/\eta$ (:func:`floor_curvature`), before αc² gets there.

    Args:
        state, beta, alpha, shift: As in :func:`imbalanced_loss`.
        lr: Step size η > 0.
    Returns:
        c, b_par, b_perp (signed), u after the step, shape (4, ...).
    Raises:
        ValueError: If an argument is out of its range.
    """
    c, b, p, u = state.as_array()
    beta, alpha, lr = positive("beta", beta), positive("alpha", alpha), positive("lr", lr)
    r, gap = beta - c * b, c * u - finite("shift", shift)
    c_moved = c + lr * (b * r - c * p**2 - alpha * u * gap)
    return np.stack(np.broadcast_arrays(c_moved, b + lr * c * r, (1 - lr * c**2) * p, u - lr * alpha * c * gap))


def floor_curvature(c: ArrayLike, alpha: ArrayLike, shift: ArrayLike) -> np.ndarray:
    r"""Curvature across the floor, $\alpha(c^2 + m^2/c^2)$ (derived), where r and $b_\perp$ have died.

    Along u alone it is αc² for every imbalance; the steepest way across also moves c. It is the eigenvalue of
    $\nabla(cu)\nabla(cu)^\top\alpha$ on the floor, least at $c^2 = |m|$; the coupling to $b_\parallel$ adds the rest of
    :func:`imbalanced_limit_sharpness`.

    Args:
        c: Second-layer weight, not 0.
        alpha: Opposing variance α > 0.
        shift: $m$ of :func:`floor_shift`. All shapes broadcast.
    Returns:
        Shape (...), in 1 / time; 2/lr is the edge.
    Raises:
        ValueError: If an argument is out of its range, or c = 0.
    """
    c = _not_zero(c)
    return positive("alpha", alpha) * (c**2 + (finite("shift", shift) / c) ** 2)


def _not_zero(c: ArrayLike) -> np.ndarray:
    c = finite("c", c)
    if (c == 0).any():
        raise ValueError("c must not be 0, got 0; the floor u = m/c is at infinity there")
    return c


def floor_drift(
    c: ArrayLike, b_par: ArrayLike, beta: ArrayLike, shift: ArrayLike, b_perp: ArrayLike = 0.0
) -> np.ndarray:
    r"""Rate of c while u follows the floor, to leading order in 1/α (derived with a bound):

    $$\dot c = \frac{b_\parallel r - c\,b_\perp^2}{1 + m^2/c^4} .$$
    The floor moves as c does, u = m/c, and the lag of u behind it drags on c.

    Args:
        c: Second-layer weight, not 0.
        b_par: $b_\parallel$.
        beta: $\|\beta\| > 0$.
        shift: $m$ of :func:`floor_shift`.
        b_perp: $b_\perp$. All shapes broadcast.
    Raises:
        ValueError: If an argument is out of its range, or c = 0, where the floor is at infinity.
    """
    c, b, beta = _not_zero(c), finite("b_par", b_par), positive("beta", beta)
    # c^4/(c^4 + m^2) without the overflow of m^2/c^4
    return (b * (beta - c * b) - c * finite("b_perp", b_perp) ** 2) / np.hypot(1.0, finite("shift", shift) / c**2) ** 2


def imbalanced_limit_c2(
    c0: ArrayLike,
    b0: ArrayLike,
    beta: ArrayLike,
    shift: ArrayLike,
    b_perp0: ArrayLike = 0.0,
    u0: ArrayLike = 0.0,
) -> np.ndarray:
    r"""Squared second-layer weight at the end of gradient flow (derived; exact).

    $$c_\infty^2 = \tfrac12\Big(K + \sqrt{K^2 + 4(\|\beta\|^2 + m^2)}\Big),\qquad
      K = c_0^2 - b_0^2 - b_{\perp0}^2 - u_0^2$$

    Args:
        c0, b0, b_perp0, u0: Start.
        beta: $\|\beta\| > 0$.
        shift: $m$ of :func:`floor_shift`. All shapes broadcast.
    Raises:
        ValueError: If an argument is out of its range.
    """
    # the balanced limit with the floor's offset as one more component of the target
    return limit_c2(c0, b0, np.hypot(positive("beta", beta), finite("shift", shift)), b_perp0, u0)


def imbalanced_limit_sharpness(
    c0: ArrayLike,
    b0: ArrayLike,
    beta: ArrayLike,
    alpha: ArrayLike,
    shift: ArrayLike,
    b_perp0: ArrayLike = 0.0,
    u0: ArrayLike = 0.0,
) -> np.ndarray:
    r"""Sharpness at the end of gradient flow (derived; exact).

    There $b_\parallel = \|\beta\|/c$, u = m/c, both errors are 0, and the Hessian is the sum of two squares; its
    largest eigenvalue is that of their Gram matrix,
    $$S_\infty = \lambda_{\max}\begin{pmatrix} b_\parallel^2 + c^2 & \sqrt\alpha\,b_\parallel u \\
      \sqrt\alpha\,b_\parallel u & \alpha(c^2 + u^2)\end{pmatrix} \ge \alpha(c^2 + u^2) .$$
    The curvature along u is αc² as for a balanced pair; the slope of the floor couples it to c.

    Args:
        c0, b0, beta, shift, b_perp0, u0: As in :func:`imbalanced_limit_c2`.
        alpha: Opposing variance α > 0.
    Returns:
        Shape (...), in 1 / time.
    Raises:
        ValueError: If an argument is out of its range.
    """
    c2 = imbalanced_limit_c2(c0, b0, beta, shift, b_perp0, u0)
    alpha = positive("alpha", alpha)
    b2, u2 = positive("beta", beta) ** 2 / c2, finite("shift", shift) ** 2 / c2
    first, second = b2 + c2, alpha * (c2 + u2)
    return (first + second + np.hypot(first - second, 2 * np.sqrt(alpha * b2 * u2))) / 2
