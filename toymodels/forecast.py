r"""Onset and spike of gradient descent, forecast from the initial state without simulating the run.

The closed form of the flow gives $c(t)$, hence $s_n = \eta\alpha c(\eta n)^2$. Onset is the first $s_n > 2$. Before
it |u| has shrunk by $\prod|1 - s_n|$; the spike begins only when $\sum\log|1 - s_n|$ has climbed back (delayed
bifurcation, entry–exit) so far that $\alpha u^2$ reaches 5 % of $D = b_\parallel r/c$.
"""

from dataclasses import dataclass

import numpy as np

from toymodels.flow import onset_time, predict_flow
from toymodels.model import ReducedState
from toymodels.simulate import SPIKE_SHARE, simulate_gd
from toymodels.validation import positive

__all__ = ["DescentForecast", "forecast_descent"]

NEGLIGIBLE = 1e-4  # share of the loss below which u and b_perp count as gone


@dataclass(frozen=True)
class DescentForecast:
    """What gradient descent will do.

    Args:
        onset_step: First step above the edge after one below it; None if it is never reached.
        spike_step: First step at which the oscillation is a share of 5 % of the drift; None if not within the horizon.
        layer_steps: Steps of the initial layer that were iterated exactly, until u and b_perp were negligible.
        layer_ended: Whether that layer ended before the edge. If not, the onset was iterated, not forecast, and
            the closed form that the spike rests on neglects a b_perp or u that still acts.
    """

    onset_step: int | None
    spike_step: int | None
    layer_steps: int
    layer_ended: bool


@dataclass(frozen=True)
class _Layer:
    """The last step iterated: state, log|u|, number, whether u and b_perp are gone, whether s > 2 comes next."""

    state: ReducedState
    log_u: float
    steps: int
    ended: bool
    edge: bool


def _layer(state: ReducedState, beta: float, alpha: float, lr: float, most: int) -> _Layer:
    """Iterate the exact map until u and b_perp are negligible, the edge is met from below, or ``most`` steps."""
    tried = min(64, most)
    while True:
        data = simulate_gd(state, beta, alpha, lr, tried).isel(run=0)
        c, b, p, log_u = (data[name].values for name in ("c", "b_par", "b_perp", "log_abs_u"))
        with np.errstate(over="ignore", invalid="ignore"):
            stable = lr * alpha * c**2 <= 2
            gone = (c * p) ** 2 + alpha * (c * np.exp(log_u)) ** 2 <= NEGLIGIBLE * (beta - c * b) ** 2
            gone &= c * (c + b) > 0  # the onset time is stated for layers that agree in sign
        came_below = np.logical_or.accumulate(stable)  # a start beyond the edge falls below it first
        crossed = np.flatnonzero(came_below & ~stable & np.isfinite(c))
        ends = np.flatnonzero(came_below & gone & stable)
        edge = bool(crossed.size) and (not ends.size or crossed[0] < ends[0])
        if edge or ends.size or tried == most or not np.isfinite(c[-1]):
            break
        tried = min(2 * tried, most)  # in doubling stretches, so that little beyond the layer is ever computed
    kept = int(np.flatnonzero(np.isfinite(c))[-1])
    n = int(crossed[0]) - 1 if edge else int(ends[0]) if ends.size else kept
    end = ReducedState(float(c[n]), float(b[n]), float(p[n]))
    return _Layer(end, float(log_u[n]), n, bool(ends.size) and not edge, edge)


def forecast_descent(
    state: ReducedState, beta: float, alpha: float, lr: float, *, horizon: int = 100_000
) -> DescentForecast:
    r"""Forecast onset and spike from the initial state (approximated: c follows the flow, error O(η)).

    The initial layer, in which u and $b_\perp$ still act on c, is iterated exactly until both are below 1e-4 of the
    loss or the edge is reached from below (a start beyond the edge first falls below it); the rest is closed form.

    Args:
        state: Start, floats.
        beta: $\|\beta\|$.
        alpha: Opposing variance α.
        lr: Step size η.
        horizon: Most steps to look ahead.
    Returns:
        The steps, and whether the assumption of the closed form held.
    Raises:
        ValueError: If a parameter is out of range.
    """
    beta, alpha, lr = (float(positive(n, v)) for n, v in (("beta", beta), ("alpha", alpha), ("lr", lr)))
    layer = _layer(state, beta, alpha, lr, min(horizon, 20_000))
    n0, log_u, start = layer.steps, layer.log_u, layer.state
    if not (lr * alpha * start.c**2 <= 2 and start.c * (start.c + start.b_par) > 0):
        # never below the edge, or the layers never agreed within the horizon: no onset from below to forecast
        return DescentForecast(None, None, n0, False)
    time = lr if layer.edge else float(onset_time(start.c, start.b_par, beta, alpha, lr))
    if not np.isfinite(time):
        return DescentForecast(None, None, n0, layer.ended)
    onset = n0 + int(np.ceil(time / lr))
    predict = predict_flow(start.c, start.b_par, beta)
    spike = None
    chunk = max(4096, 2 * (onset - n0))
    done = 0
    while spike is None and n0 + done < horizon:
        steps = np.arange(done, done + chunk)
        path = predict(lr * steps)
        drift = path.b_par * (beta - path.c * path.b_par) / path.c
        with np.errstate(divide="ignore"):
            logs = np.log(np.abs(1 - lr * alpha * path.c**2))
            sums = log_u + np.concatenate([[0.0], np.cumsum(logs)])
            reached = np.log(alpha) + 2 * sums[:-1] >= np.log(SPIKE_SHARE) + np.log(np.maximum(drift, 1e-300))
        hit = np.flatnonzero(reached & (n0 + steps >= onset))
        if hit.size:
            spike = n0 + done + int(hit[0])
        log_u = float(sums[-1])
        done += chunk
    return DescentForecast(onset, spike if spike is not None and spike <= horizon else None, n0, layer.ended)
