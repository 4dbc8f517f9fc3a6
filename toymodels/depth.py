r"""Depth and several opposing directions: where the flow of the deep linear model ends, and which signal comes first.

Model (``symbolic.deep_linear``): $D-1$ scalars and one vector,
$L=\tfrac12\sum_j\kappa_j(c_1\cdots c_{D-1}w_j-\beta_j)^2$, with $b_\parallel$ the component of $w$ along the target
(κ = 1, target $\|\beta\|$) and opposing components (κ = α, target 0) that have died. Gradient flow conserves every
difference of squares, so its end is the root of one scalar equation. Derived and re-proved in
``toymodels.derivations.depth``. Time is ``lr * step``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from toymodels.edge import exit_time
from toymodels.flow import onset_time
from toymodels.validation import count, finite, positive

__all__ = [
    "DepthLimit",
    "SignalOrder",
    "balanced_limit_sharpness",
    "depth_limit",
    "depth_limit_sharpness",
    "first_order_curvature",
    "signal_order",
]

ITERATIONS = 200  # Newton's method is monotone here and needs about ten


@dataclass(frozen=True)
class DepthLimit:
    r"""End of gradient flow.

    Args:
        c2: $c_i^2$ of every scalar, shape (..., D - 1).
        b2: $b_\parallel^2$, shape (...).
    """

    c2: np.ndarray
    b2: np.ndarray

    @property
    def product2(self) -> np.ndarray:
        r"""$\prod_i c_i^2$: the curvature along a direction of variance κ is κ times this; shape (...)."""
        return np.prod(self.c2, axis=-1)


def _squares(c0: ArrayLike, b0: ArrayLike, beta: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (..., D) with b last, the least in magnitude, and β, all checked."""
    scalars, b, norm = finite("c0", c0), finite("b0", b0), positive("beta", beta)
    if scalars.ndim < 1:
        raise ValueError("c0 must have shape (..., D - 1), got a number; pass [c0] for depth 2")
    shape = np.broadcast_shapes(scalars.shape[:-1], b.shape, norm.shape)
    scalars = np.broadcast_to(scalars, (*shape, scalars.shape[-1]))
    weights = np.abs(np.concatenate([scalars, np.broadcast_to(b, shape)[..., None]], axis=-1))
    return weights, weights.min(axis=-1, keepdims=True), np.broadcast_to(norm, shape)


def depth_limit(c0: ArrayLike, b0: ArrayLike, beta: ArrayLike) -> DepthLimit:
    r"""Squares of the weights where gradient flow has fitted the target (derived; exact root).

    The flow conserves $c_i^2 - c_j^2$ and $c_i^2 - b_\parallel^2$, so every square is the least one, y, plus its
    initial excess $e_i \ge 0$, and
    $$\prod_{i=1}^{D}(y + e_i) = \|\beta\|^2 .$$
    In $z = \log y$ the logarithm of this is convex with slopes between 1 and D: Newton's method from the upper bound
    $y = \|\beta\|^{2/D}$ decreases monotonically to the only root.

    Args:
        c0: Scalars $c_1(0), \dots, c_{D-1}(0)$, shape (..., D - 1); D - 1 = 0 is plain linear regression.
        b0: $b_\parallel(0)$, shape (...).
        beta: $\|\beta\| > 0$, shape (...).
    Returns:
        The limit, dimensionless. It presumes that the flow ends at a minimum and not at the saddle in the origin.
    Raises:
        ValueError: If a value is not finite, ``beta`` is not positive, or ``c0`` is a number.
    """
    weights, least, norm = _squares(c0, b0, beta)
    excess = (weights - least) * (weights + least)
    depth, target = weights.shape[-1], 2 * np.log(norm)
    z = target / depth
    for _ in range(ITERATIONS):
        squares = np.exp(z)[..., None] + excess
        step = (np.log(squares).sum(-1) - target) / (np.exp(z)[..., None] / squares).sum(-1)
        z = z - step
        if (np.abs(step) <= 4 * np.finfo(float).eps * (1 + np.abs(target))).all():
            break
    squares = np.exp(z)[..., None] + excess
    return DepthLimit(squares[..., :-1], squares[..., -1])


def depth_limit_sharpness(c0: ArrayLike, b0: ArrayLike, beta: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    r"""Sharpness at the end of the flow, any depth and any imbalance of the layers (derived).

    $$S_\infty = \max\Big(\alpha\prod_i c_i^2,\; \|\beta\|^2\big(b_\parallel^{-2} + \sum_i c_i^{-2}\big)\Big)$$
    The first is the opposing direction; the second, on the layers and $b_\parallel$, is what remains without one
    ($\sqrt{K^2 + 4\|\beta\|^2}$ for D = 2) and contains the $\prod c_i^2$ of directions of variance 1.

    Args:
        c0, b0, beta: As in :func:`depth_limit`.
        alpha: Opposing variance α > 0, shape (...).
    Returns:
        Shape (...), in 1 / time. Other directions of variance κ add κ ∏c², no more.
    Raises:
        ValueError: As :func:`depth_limit`, or if ``alpha`` is not positive.
    """
    limit, norm = depth_limit(c0, b0, beta), positive("beta", beta)
    fitted = norm**2 * (1 / limit.b2 + (1 / limit.c2).sum(-1))
    return np.maximum(positive("alpha", alpha) * limit.product2, fitted)


def balanced_limit_sharpness(depth: int, beta: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    r"""Sharpness at the end of the flow from balanced layers (derived).

    $$S_\infty = \max(\alpha, D)\, \|\beta\|^{2(D-1)/D}$$
    D = 1 gives max(α, 1), the sharpness of every state: no sharpening.

    Args:
        depth: Number of layers D ≥ 1.
        beta: $\|\beta\| > 0$, shape (...).
        alpha: Opposing variance α > 0, shape (...); the opposing direction leads where α ≥ D.
    Returns:
        Shape (...), in 1 / time.
    Raises:
        ValueError: If an argument is out of its range.
    """
    layers = count("depth", depth)
    beta, alpha = positive("beta", beta), positive("alpha", alpha)
    return np.maximum(alpha, layers) * beta ** (2 * (layers - 1) / layers)


def first_order_curvature(
    c0: ArrayLike, b0: ArrayLike, beta: ArrayLike, alpha: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    r"""Limit of the opposing curvature to first order in the offsets of the layers, with its bound (approximated).

    With $Y = \|\beta\|^{2/D}$, $\delta_i$ the conserved offset of a square from the mean of all D, $t = \delta_b/Y$:
    $$\alpha\textstyle\prod c_i^2 \approx \alpha\|\beta\|^{2(D-1)/D}(1 - t),\qquad
      |\text{relative error}| \le \max\Big(\frac{t^2}{1+t},\; \frac{e^h - 1}{(1+t)^2}\Big),\quad
      h = \frac{\sum_i\delta_i^2}{2DY^2(1-\mu)^2},\; \mu = \max_i\frac{-\delta_i}{Y}$$
    relative to the balanced value. A ``b`` that starts above the mean lowers the curvature.

    Args:
        c0, b0, beta: As in :func:`depth_limit`.
        alpha: Opposing variance α > 0, shape (...).
    Returns:
        The curvature and the bound of its error, both shape (...), in 1 / time; the bound is ``inf`` where μ ≥ 1.
    Raises:
        ValueError: As :func:`depth_limit_sharpness`.
    """
    weights, _, norm = _squares(c0, b0, beta)
    alpha, depth = positive("alpha", alpha), weights.shape[-1]
    y = norm ** (2 / depth)
    squares = weights**2
    offset = (squares - squares.mean(-1, keepdims=True)) / y[..., None]
    t, mu = offset[..., -1], -offset.min(-1)
    inside = mu < 1
    spread = (offset**2).sum(-1) / (2 * depth * np.where(inside, 1 - mu, 1.0) ** 2)
    with np.errstate(over="ignore"):
        error = np.maximum(t**2 / np.where(inside, 1 + t, 1.0), np.expm1(spread) / np.where(inside, 1 + t, 1.0) ** 2)
    balanced = alpha * (norm / np.sqrt(y)) ** 2
    return balanced * (1 - t), np.where(inside, balanced * error, np.inf)


@dataclass(frozen=True)
class SignalOrder:
    """When each opposing direction reaches the edge, and when its oscillation has grown back.

    Args:
        onset: Onset times, shape (m,); ``inf`` where the edge is never reached.
        exit: Entry-exit times, shape (m,).
        onset_order: Indices by onset, earliest first (descending α), without those that have none.
        exit_order: Indices by exit, earliest first, without those that have none; can differ from ``onset_order``.
    """

    onset: np.ndarray
    exit: np.ndarray
    onset_order: np.ndarray
    exit_order: np.ndarray


def signal_order(
    c0: float, b0: float, beta: float, alphas: ArrayLike, lr: float, log_gains: ArrayLike = 0.0
) -> SignalOrder:
    r"""Onset and entry–exit time of every opposing direction on the solved phase (derived).

    $w_j = w_{j0}e^{-\alpha_j\tau}$ under the flow and the curvature along j is $\alpha_j c^2$: each direction follows
    :func:`~toymodels.flow.onset_time` with its own α, so onsets come in descending α. The order in which the
    oscillations reach a magnitude that matters also depends on where they start, through ``log_gains``, and can differ
    (measured: with equal gains it did not in 2,156 random two-layer flows, ``benchmarks/toy_limits.py``). Directions
    act on c only once grown: the times of the later ones presume that the first has not yet spiked.

    Args:
        c0: $c(0)$; c0 + b0 not 0.
        b0: $b_\parallel(0)$.
        beta: $\|\beta\| > 0$.
        alphas: Variances of the opposing directions, each > 0, shape (m,).
        lr: Step size η > 0.
        log_gains: Growth $\log|w_j(t)/w_{j0}|$ that counts as grown back, shape (m,) or a number.
    Returns:
        Times (lr * step) and orders; directions that tie keep the order in which they were passed.
    Raises:
        ValueError: As :func:`~toymodels.flow.onset_time`; if ``alphas`` is not one-dimensional.
    """
    variances = positive("alphas", alphas)
    if variances.ndim != 1:
        raise ValueError(f"alphas must have shape (m,), got {variances.shape}; pass one variance per direction")
    onset = onset_time(c0, b0, beta, variances, lr)
    leave = exit_time(c0, b0, beta, variances, lr, log_gains)
    if leave.shape != variances.shape:
        raise ValueError(
            f"log_gains must be a number or of shape {variances.shape}, got {np.shape(log_gains)}; match it"
        )
    orders = [np.argsort(t, kind="stable")[: int(np.isfinite(t).sum())] for t in (onset, leave)]
    return SignalOrder(onset, leave, *orders)
