r"""The sharpness of the two-layer model: explicit on the solved phase, and in general from the arrow Hessian."""

import numpy as np
from numpy.typing import ArrayLike

from toymodels.flow import FlowState
from toymodels.model import ReducedState

__all__ = ["arrow_sharpness", "solved_sharpness"]


def solved_sharpness(state: FlowState | ReducedState, beta: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    r"""Explicit sharpness where $u = b_\perp = 0$ (derived, exact there).

    $$S = \max\left(\alpha c^2,\; \tfrac12\left[b_\parallel^2 + c^2
      + \sqrt{(c^2 - b_\parallel^2)^2 + 4(2cb_\parallel - \|\beta\|)^2}\right]\right)$$
    """
    c, b = np.asarray(state.c, float), np.asarray(state.b_par, float)
    ordinary = (b**2 + c**2 + np.hypot(c**2 - b**2, 2 * (2 * c * b - np.asarray(beta, float)))) / 2
    return np.maximum(np.asarray(alpha, float) * c**2, ordinary)


def arrow_sharpness(state: ReducedState, beta: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    r"""Largest algebraic eigenvalue of the 4×4 Hessian at any state, shape (...) (exact, numerical eigenvalues).

    The Hessian is an arrow: diagonal $(b_\parallel^2 + b_\perp^2 + \alpha u^2, c^2, c^2, \alpha c^2)$, first row
    $2cb_\parallel - \|\beta\|, 2cb_\perp, 2\alpha cu$; generated in ``toymodels.symbolic``.
    """
    c, b, p, u = state.as_array()
    beta, alpha = np.broadcast_arrays(np.asarray(beta, float), np.asarray(alpha, float))
    shape = np.broadcast_shapes(c.shape, beta.shape)
    h = np.zeros((*shape, 4, 4))
    h[..., 0, 0] = b**2 + p**2 + alpha * u**2
    h[..., 1, 1] = h[..., 2, 2] = c**2
    h[..., 3, 3] = alpha * c**2
    for j, entry in ((1, 2 * c * b - beta), (2, 2 * c * p), (3, 2 * alpha * c * u)):
        h[..., 0, j] = h[..., j, 0] = entry
    return np.linalg.eigvalsh(h)[..., -1]
