r"""The sharpness of the two-layer model: explicit on the solved phase, and in general from the arrow Hessian."""

import numpy as np
from numpy.typing import ArrayLike

from toymodels.flow import FlowState
from toymodels.model import ReducedState
from toymodels.validation import positive

__all__ = ["arrow_sharpness", "solved_sharpness"]

MOST_ITERATIONS = 100  # Newton below needs about 10; the cap only bounds a loop that has stopped improving


def solved_sharpness(state: FlowState | ReducedState, beta: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    r"""Explicit sharpness where $u = b_\perp = 0$ (derived, exact there).

    $$S = \max\left(\alpha c^2,\; \tfrac12\left[b_\parallel^2 + c^2
      + \sqrt{(c^2 - b_\parallel^2)^2 + 4(2cb_\parallel - \|\beta\|)^2}\right]\right)$$

    Args:
        state: ``c`` and ``b_par``, shape (...); its other entries are not read.
        beta: $\|\beta\| > 0$, shape (...).
        alpha: Opposing variance α > 0, shape (...).
    Returns:
        Shape (...), in 1 / time.
    Raises:
        ValueError: If ``beta`` or ``alpha`` is not positive.
    """
    beta, alpha = positive("beta", beta), positive("alpha", alpha)
    c, b = np.asarray(state.c, float), np.asarray(state.b_par, float)
    ordinary = (b**2 + c**2 + np.hypot(c**2 - b**2, 2 * (2 * c * b - beta))) / 2
    return np.maximum(alpha * c**2, ordinary)


def _above_pole(a: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Larger eigenvalue of [[a, z], [z, 0]], without cancellation."""
    half = a / 2
    root = np.hypot(half, z)
    with np.errstate(divide="ignore", invalid="ignore"):
        small = z / (root - half) * z
    return np.where(half >= 0, half + root, np.where(z == 0, 0.0, small))


def arrow_sharpness(state: ReducedState, beta: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    r"""Largest algebraic eigenvalue of the 4×4 Hessian at any state (exact to rounding, by the secular equation).

    The Hessian is an arrow: corner $a = b_\parallel^2 + b_\perp^2 + \alpha u^2$, diagonal $c^2, c^2, \alpha c^2$,
    first row $2cb_\parallel - \|\beta\|, 2cb_\perp, 2\alpha cu$. Its largest eigenvalue is the largest root of
    $$g(\lambda) = \lambda - a - \frac{(2cb_\parallel - \|\beta\|)^2 + 4c^2b_\perp^2}{\lambda - c^2}
      - \frac{4\alpha^2c^2u^2}{\lambda - \alpha c^2}$$
    or a pole whose coupling is 0. Right of both poles g is increasing and concave, so Newton's method from a lower
    bound climbs to the root and cannot pass it; the bound is the larger eigenvalue of either 2×2 block (interlacing).

    Args:
        state: Shape (...).
        beta: $\|\beta\| > 0$, shape (...).
        alpha: Opposing variance α > 0, shape (...).
    Returns:
        Shape (...), in 1 / time.
    Raises:
        ValueError: If ``beta`` or ``alpha`` is not positive.
    References: ``toymodels.derivations.core``, rows ``secular`` and ``sharpness``.
    """
    beta, alpha = positive("beta", beta), positive("alpha", alpha)
    c, b, p, u, beta, alpha = np.broadcast_arrays(*state.as_array(), beta, alpha)
    plain, opposing = np.hypot(2 * c * b - beta, 2 * c * p), 2 * alpha * c * u
    swap = alpha >= 1  # which pole is the upper one
    top, low = np.where(swap, opposing, plain), np.where(swap, plain, opposing)
    pole = np.where(swap, alpha, 1.0) * c**2
    gap = np.abs(alpha - 1) * c**2  # lower pole = pole - gap
    a = b**2 + p**2 + alpha * u**2 - pole  # everything below is measured from the upper pole
    x = np.maximum(_above_pole(a, np.abs(top)), _above_pole(a + gap, np.abs(low)) - gap)
    for _ in range(MOST_ITERATIONS):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            pull = np.where(top == 0, 0.0, top / x * top)
            drag = np.where(low == 0, 0.0, low / (x + gap) * low)
            slope = 1 + np.where(top == 0, 0.0, pull / x) + np.where(low == 0, 0.0, drag / (x + gap))
            move = -(x - a - pull - drag) / slope
        move = np.where(np.isfinite(move), np.maximum(move, 0.0), 0.0)
        x = x + move
        if (move <= 2 * np.finfo(float).eps * np.abs(x)).all():
            break
    return pole + np.maximum(x, 0.0)
