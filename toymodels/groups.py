r"""Losses of the two opposing groups along gradient descent and gradient flow, and when they show an oscillation.

With $w = c\,a\,u$, $a = \sqrt{\alpha/p}$: $\ell_\pm = \tfrac12 r_2 + \tfrac12(\pm w - g_0)^2$, with
$r_2 = r^2 + c^2 b_\perp^2$. The groups are linear in w, the total is quadratic.
Derived in ``toymodels.derivations.groups``.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from toymodels.flow import predict_flow
from toymodels.model import ReducedState, TwoLayerLinear
from toymodels.validation import finite, positive

__all__ = ["GroupSeries", "group_lead", "group_loss_flow", "group_loss_series", "rise_amplitudes"]


class GroupSeries(NamedTuple):
    r"""Losses over time, arrays of one shape, in units of the loss.

    Args:
        plus: $\ell_+$, mean over the outliers of sign +1.
        minus: $\ell_-$.
        difference: $\ell_+ - \ell_- = -2 g_0 w$, without the cancellation of the subtraction.
        total: Mean over all examples, $\tfrac12 r_2 + \tfrac p2 (w^2 + g_0^2)$.
    """

    plus: np.ndarray
    minus: np.ndarray
    difference: np.ndarray
    total: np.ndarray


def _series(model: TwoLayerLinear, c: np.ndarray, b_par: np.ndarray, b_perp: np.ndarray, u: np.ndarray) -> GroupSeries:
    offset, w = model.offset, c * model.projection * u
    core = ((model.beta - c * b_par) ** 2 + (c * b_perp) ** 2) / 2
    plus, minus = core + (w - offset) ** 2 / 2, core + (w + offset) ** 2 / 2
    return GroupSeries(plus, minus, -2 * offset * w, core + model.p * (w**2 + offset**2) / 2)


def _shrunk(start: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """``start`` times the running product of ``factor`` (one shorter) along the last axis, by sign and logarithm."""
    with np.errstate(divide="ignore", over="ignore"):
        log = np.log(np.abs(start))[..., None] + np.cumsum(np.log(np.abs(factor)), axis=-1)
        size = np.exp(log)
    rest = np.sign(start)[..., None] * np.cumprod(np.sign(factor), axis=-1) * size
    first = np.broadcast_to(start[..., None], (*rest.shape[:-1], 1))
    return np.concatenate([first, rest], axis=-1)


def group_loss_series(
    model: TwoLayerLinear, c: ArrayLike, b_par: ArrayLike, lr: ArrayLike, u0: ArrayLike, b_perp0: ArrayLike = 0.0
) -> GroupSeries:
    r"""Group losses of gradient descent over steps, given the path of c and $b_\parallel$ (derived, exact).

    $$u_n = u_0\prod_{k<n}(1-\eta\alpha c_k^2),\quad b_{\perp n} = b_{\perp 0}\prod_{k<n}(1-\eta c_k^2),\quad
      \ell_{+,n}-\ell_{-,n} = -2 g_0 a c_n u_n$$

    A constant path is the oscillation at frozen c: $u_n = (1-s)^n u_0$. The products are taken in logarithms, so that
    u survives below the least float in between; where it overflows the losses are ``inf``.

    Args:
        model: Supplies β, α, p, γ, d2.
        c: Second-layer weight at step 0, 1, ..., shape (..., steps + 1).
        b_par: $b_\parallel$ at the same steps.
        lr: Step size η > 0, shape (...).
        u0: Start of u, shape (...).
        b_perp0: Start of $\|b_\perp\|$, ≥ 0, shape (...).
    Returns:
        :class:`GroupSeries` of shape (..., steps + 1).
    Raises:
        ValueError: If a value is not finite or out of range, or ``c`` has no axis of steps.
    References: derivation ``group-difference-step``.
    """
    c, b_par, lr, u0 = finite("c", c), finite("b_par", b_par), positive("lr", lr), finite("u0", u0)
    perp = np.asarray(ReducedState(0.0, 0.0, b_perp0).b_perp, float)  # refuses a negative norm
    if c.ndim == 0:
        raise ValueError("c must have an axis of steps, got a number; pass shape (..., steps + 1)")
    c, b_par = np.broadcast_arrays(c, b_par)
    clock = lr[..., None] * c[..., :-1] ** 2
    with np.errstate(over="ignore", invalid="ignore"):
        u = _shrunk(np.broadcast_to(u0, clock.shape[:-1]), 1 - model.alpha * clock)
        return _series(model, c, b_par, np.abs(_shrunk(np.broadcast_to(perp, clock.shape[:-1]), 1 - clock)), u)


def group_loss_flow(model: TwoLayerLinear, state: ReducedState) -> Callable[[ArrayLike], GroupSeries]:
    r"""Group losses along gradient flow as a function of time (approximated to first order in u, exact in $b_\perp$).

    $u = u_0 e^{-\alpha\tau}$ is exact; c, $b_\parallel$, $b_\perp$ and the clock τ come from the closed form for u = 0,
    off by $O(u_0^2)$: the flow of the others is even in u (proved in ``group-flow``). The difference is exact to first
    order in $u_0$.

    Args:
        model: Supplies β, α, p, γ, d2.
        state: Start, entries of shape (...).
    Returns:
        ``predict_fn(t)``, t ≥ 0 in units of lr * step, broadcasting with the state; gives :class:`GroupSeries`.
    Raises:
        ValueError: If a value is not finite.
    """
    c0, b0, perp0, u0 = state.as_array()
    predict = predict_flow(c0, b0, model.beta, perp0)

    def predict_groups(t: ArrayLike) -> GroupSeries:
        path = predict(t)
        return _series(model, path.c, path.b_par, np.asarray(path.b_perp), u0 * np.exp(-model.alpha * path.clock))

    return predict_groups


def _drive(s: ArrayLike, g0: ArrayLike, p: ArrayLike, core_drop: ArrayLike) -> tuple[np.ndarray, ...]:
    share = positive("p", p)
    if (share > 1).any():
        raise ValueError(f"p must lie in (0, 1], got {share.max():g}; pass a share of the examples")
    return positive("s", s), np.abs(finite("g0", g0)), share, positive("core_drop", core_drop)


def rise_amplitudes(s: ArrayLike, g0: ArrayLike, p: ArrayLike, core_drop: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    r"""Amplitudes $|w| = |c\,a\,u|$ at which a group's loss, and the total loss, rise in one step (derived).

    While the core lowers the loss of every group by δ, the step $w \to (1-s)w$ at frozen c changes them by
    $$\Delta\ell = -\delta + s g_0|w| + \tfrac12 s(s-2)w^2 \text{ (the group that loses)},\quad
      \Delta L = -\delta + \tfrac p2 s(s-2)w^2$$
    so the group rises from $w_g = 2\delta/(s g_0 + \sqrt{s^2g_0^2 + 2\delta s(s-2)})$ on, the total from
    $w_t = \sqrt{2\delta/(p s(s-2))}$ on: linear against quadratic, $w_g \approx \delta/(s g_0) \ll w_t$ for small δ.

    Args:
        s: Normalised curvature $\eta\alpha c^2 > 0$, shape (...); the edge is 2.
        g0: Offset of an outlier's target, any sign.
        p: Share of outliers, in (0, 1].
        core_drop: δ > 0, fall of $\tfrac12 r_2$ in the step.
    Returns:
        $w_g$ and $w_t$, shape (...); ``inf`` where no amplitude makes the loss rise ($w_t$: s ≤ 2). For s < 2 the group
        rises between $w_g$ and the other root only.
    Raises:
        ValueError: If an argument is out of its range.
    References: derivation ``group-rise``.
    """
    s, g0, share, drop = _drive(s, g0, p, core_drop)
    with np.errstate(divide="ignore", invalid="ignore"):
        root = (s * g0) ** 2 + 2 * drop * s * (s - 2)
        base = s * g0 + np.sqrt(np.maximum(root, 0.0))
        group = np.where((root >= 0) & (base > 0), 2 * drop / base, np.inf)
        total = np.where(s > 2, np.sqrt(2 * drop / (share * s * np.maximum(s - 2, 0.0))), np.inf)
    return group, total


def group_lead(s: ArrayLike, g0: ArrayLike, p: ArrayLike, core_drop: ArrayLike) -> np.ndarray:
    r"""Steps by which the oscillation shows in the group losses before it raises the total loss (derived, frozen c).

    $$n = \frac{\log(w_t/w_g)}{\log(s-1)}$$ with the amplitudes of :func:`rise_amplitudes`: $|w|$ grows by s − 1 a step.

    Args:
        s, g0, p, core_drop: As in :func:`rise_amplitudes`, with s > 2.
    Returns:
        Shape (...), real, ≥ 0; round up for whole steps.
    Raises:
        ValueError: If an argument is out of its range.
    """
    if not (finite("s", s) > 2).all():
        raise ValueError(f"s must be > 2, got {np.min(s):g}; below the edge the oscillation does not grow")
    group, total = rise_amplitudes(s, g0, p, core_drop)
    return np.log(total / group) / np.log1p(np.asarray(s, float) - 2)
