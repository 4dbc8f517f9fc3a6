r"""Gradient descent as a perturbation of the exact flow: its path in closed form and sums, without iterating its map.

With $\Pi_n = \prod_{m<n}(1 - \eta c_m^2)$, $B_n = b_{\parallel n}/\Pi_n$, $Y_n = c_n/\Pi_n$, $\sigma_n = \Pi_n^{-2}$,
$h_n = \eta/(1 - \eta c_n^2)$ gradient descent is, exactly,
$$B_{n+1} = B_n + h_n\|\beta\| Y_n,\qquad Y_{n+1} = Y_n + h_n(\kappa_n Y_n + \|\beta\| B_n),\qquad
  \sigma_{n+1} = \sigma_n + h_n\frac{2 - \eta c_n^2}{1 - \eta c_n^2}\,Y_n^2,\qquad b_{\perp n} = b_{\perp 0}\Pi_n$$
with $\kappa_n = K_n - (\alpha - 1)u_n^2$ and $K_{n+1} - K_n = \eta^2(g_c^2 - g_\parallel^2 - g_\perp^2 - g_u^2)$, g the
gradient: Euler's method on the linear system of the exact flow, with a step $h_n$ and an invariant that drift at order
$\eta$. Frozen at $\kappa = K_0$ its modes grow by $1 + h_n\lambda_\pm$; the drift enters by Duhamel's sum. Where a
coefficient needs the path, the path of one order less is put in; order 0 is the flow. All identities are re-proved
in ``toymodels.derivations.descent_flow``. An order costs a dozen cumulative sums over the steps: no step waits for
the one before, but the work grows with their number as a simulation's does.
"""

from dataclasses import dataclass

import numpy as np

from toymodels.flow import predict_flow
from toymodels.model import ReducedState

__all__ = ["DescentPath", "descent_path"]

LONGEST = 100.0  # R lr steps of one expansion: e^{4 * 100} still is far from overflow
SHARE = 0.05  # u acts on c at most by this share of the drift once it grows: beyond, the spike has begun


@dataclass(frozen=True)
class DescentPath:
    r"""Gradient descent at steps 0, 1, ..., n by perturbation theory.

    Args:
        c, b_par, b_perp: Weights, shape (n + 1,).
        log_u: $\log|u|$, by $\log|u_n| = \log|u_0| + \sum_{m<n}\log|1 - s_m|$.
        residual: $r = \|\beta\| - c b_\parallel$, to relative accuracy at any magnitude.
        stability: $s = \eta\alpha c^2$.
        lower_order: s of the order before the last.
        change: Largest relative change of s up to each step between the last two orders: an estimate of the error
            of the order before the last, hence a cautious one of the last; ``inf`` for order 0.
    """

    c: np.ndarray
    b_par: np.ndarray
    b_perp: np.ndarray
    log_u: np.ndarray
    residual: np.ndarray
    stability: np.ndarray
    lower_order: np.ndarray
    change: np.ndarray

    def at(self, n: int) -> tuple[ReducedState, float, float]:
        """State without u, log|u| and residual at step n."""
        state = ReducedState(float(self.c[n]), float(self.b_par[n]), abs(float(self.b_perp[n])))
        return state, float(self.log_u[n]), float(self.residual[n])


def _sums(terms: np.ndarray) -> np.ndarray:
    """0 and the partial sums before each step, along the last axis."""
    return np.concatenate([[0.0], np.cumsum(terms[:-1])])


def most_steps(state: ReducedState, beta: float, lr: float) -> int:
    """Steps that one expansion from ``state`` covers without overflow."""
    rate = np.hypot((state.c - state.b_par) * (state.c + state.b_par) - state.b_perp**2, 2 * beta)
    return max(1, int(LONGEST / (lr * rate)))


def descent_path(
    state: ReducedState,
    beta: float,
    alpha: float,
    lr: float,
    steps: int,
    *,
    log_u: float,
    residual: float | None = None,
    order: int = 2,
) -> DescentPath:
    r"""Path of gradient descent from ``state``, of error $O((\eta + u_0^2)^{k+1})$ at fixed time (order k; measured).

    Args:
        state: Start, floats; its u is not read.
        beta: $\|\beta\|$.
        alpha: Opposing variance α.
        lr: Step size η; $\eta c^2 < 1$ along the path.
        steps: Last step; at most ``most_steps`` of them.
        log_u: $\log|u|$ at the start.
        residual: $\|\beta\| - c b_\parallel$ at the start if it is known better than that difference.
        order: How often the path is put back, ≥ 0; 0 is the flow itself, without u and without its drift.
    """
    c0, b0, p0 = (float(v) for v in (state.c, state.b_par, state.b_perp))
    n = np.arange(steps + 1)
    with np.errstate(all="ignore"):  # outside its domain the expansion may overflow: the change is then inf or NaN
        start_u2 = np.exp(min(2 * log_u, 700.0))
        invariant = (c0 - b0) * (c0 + b0) - p0**2 - start_u2
        rate = np.hypot(invariant, 2 * beta)
        larger = (abs(invariant) + rate) / 2
        up, down = (larger, -(beta**2) / larger) if invariant >= 0 else (beta**2 / larger, -larger)
        a1, a2 = (up * c0 + beta * b0) / rate, (-down * c0 - beta * b0) / rate
        r0 = beta - c0 * b0 if residual is None else residual
        flow = predict_flow(c0, b0, beta, p0)(lr * n)
        c, b, p, root = flow.c, flow.b_par, flow.b_perp * np.ones(steps + 1), np.exp(flow.clock)
        r, s = beta - c * b, lr * alpha * c**2
        before, change = s, np.full(steps + 1, np.inf)
        for _ in range(order):
            u2 = np.exp(np.minimum(2 * (log_u + _sums(np.log(np.abs(1 - s)))), 700.0))
            most = SHARE * np.abs(b * r / c) / alpha
            # once it had died down and the edge is passed: a spike of this order may begin before that of the next
            grows = (np.maximum.accumulate(s) > 2) & np.logical_or.accumulate(u2 < most)
            u2 = np.where(grows, np.minimum(u2, most), u2)
            drift = b * r - c * p**2 - alpha * c * u2
            gained = drift**2 - (c * r) ** 2 - c**4 * p**2 - (alpha * c**2) ** 2 * u2
            extra = _sums(lr**2 * gained) - (alpha - 1) * u2  # kappa_n - K_0
            share = lr * c**2
            h = lr / (1 - share)
            grown, decayed = _sums(np.log1p(h * up)), _sums(np.log1p(h * down))
            push = h * extra * c * root
            y1 = np.exp(grown) * (a1 + up / rate * _sums(push * np.exp(-grown) / (1 + h * up)))
            y2 = np.exp(decayed) * (a2 - down / rate * _sums(push * np.exp(-decayed) / (1 + h * down)))
            y = y1 + y2
            root = np.sqrt(1 + _sums(y**2 * h * (2 - share) / (1 - share)))
            c, b, p = y / root, beta * (y1 / up + y2 / down) / root, p0 / root
            # r by its own recursion: a difference beta - c b would leave no digits once r is small
            keep = 1 - lr * (c**2 + b**2) - lr**2 * c * drift
            product = np.concatenate([[1.0], np.cumprod(np.sign(keep[:-1]))]) * np.exp(_sums(np.log(np.abs(keep))))
            r = product * (r0 + _sums(lr * b * c * (p**2 + alpha * u2) / (product * keep)))
            before, s = s, lr * alpha * c**2
            change = np.maximum.accumulate(np.abs(s / before - 1))
        logs = log_u + _sums(np.log(np.abs(1 - s)))
    return DescentPath(c, b, p, logs, r, s, before, np.where(np.isnan(change), np.inf, change))
