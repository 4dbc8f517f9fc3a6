r"""Onset, spike and first peak of gradient descent, forecast from the initial state without simulating the run.

The path of c is the exact flow corrected to second order in the step (``toymodels.descent_path``), hence
$s_n = \eta\alpha c_n^2$. Onset is the first $s_n > 2$. Before it |u| has shrunk by $\prod|1 - s_n|$; the spike begins
only when $\sum\log|1 - s_n|$ has climbed back (delayed bifurcation, entry–exit) so far that $\alpha u^2$ reaches 5 %
of $D = b_\parallel r/c$. From there to the first peak of |u| the exact map is iterated: the reduced map of the spike.
"""

from dataclasses import dataclass, replace

import numpy as np

from toymodels.descent_path import DescentPath, descent_path, most_steps
from toymodels.flow import onset_time
from toymodels.kernels import BLOWN
from toymodels.model import ReducedState
from toymodels.orbits import generated_map
from toymodels.simulation import SPIKE_SHARE, simulate_gd
from toymodels.symbolic import two_layer
from toymodels.validation import count, positive

__all__ = ["DescentForecast", "forecast_descent", "onset_and_spike"]

LARGEST_CHANGE = 0.01  # of s between orders one and two, up to the spike; above, the expansion is not trusted
LARGEST_SHIFT = 0.05  # of the onset between orders one and two, as a share of the steps to it
RESOLVED = 1e-13  # least residual / beta that float64 keeps to a part in a thousand; below, D of a run is rounding
WEAK = 0.1  # u^2 / (c^2 (2 - s)), the share of c that u still takes, below which a thrown start is taken over
LONGEST = 2**17  # steps of one array


@dataclass(frozen=True)
class DescentForecast:
    """What gradient descent will do.

    Args:
        onset_step: First step above the edge after one below it; None if it is never reached.
        spike_step: First step at which the oscillation is a share of 5 % of the drift; None if not within the horizon.
        peak_step: Step of the first peak of |u| after that; None if not within the horizon.
        peak_log_u: log|u| there; NaN if there is none.
        thrown_steps: Steps iterated at the start because it lies beyond the edge; 0 for a start below it.
        change: Largest relative change of s between the last two orders of the expansion, up to the spike.
        closed_form: Whether onset and spike come from the closed form alone, its change is at most 1 %, the onset moved
            by at most 5 % between the last two orders, u had died down before it, and the drift at the spike is
            above rounding (else float64 runs reach the 5 % by chance).
    """

    onset_step: int | None
    spike_step: int | None
    peak_step: int | None
    peak_log_u: float
    thrown_steps: int
    change: float
    closed_form: bool


NOTHING = DescentForecast(None, None, None, float("nan"), 0, 0.0, False)


@dataclass(frozen=True)
class _Start:
    """Where the closed form sets in: state, log|u|, step number, and whether the next step is beyond the edge."""

    state: ReducedState
    log_u: float
    step: int
    edge: bool


def _thrown(state: ReducedState, beta: float, alpha: float, lr: float, horizon: int) -> _Start | None:
    """Iterate the exact map from beyond the edge until c is below it and u is weak, or the edge is met anew."""
    tried = min(64, horizon)
    while True:
        data = simulate_gd(state, beta, alpha, lr, tried).isel(run=0)
        c, b, p, log_u = (data[name].values for name in ("c", "b_par", "b_perp", "log_abs_u"))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            s = lr * alpha * c**2
            came_below = np.logical_or.accumulate(s <= 2)
            weak = np.flatnonzero((s < 2) & (np.exp(2 * log_u) <= WEAK * c**2 * (2 - s)))
            crossed = np.flatnonzero(came_below & (s > 2) & np.isfinite(c))
        edge = bool(crossed.size) and (not weak.size or crossed[0] < weak[0])
        if edge or weak.size:
            n = int(crossed[0]) - 1 if edge else int(weak[0])
            return _Start(ReducedState(float(c[n]), float(b[n]), abs(float(p[n]))), float(log_u[n]), n, edge)
        if tried == horizon or not np.isfinite(c[-1]):
            return None
        tried = min(2 * tried, horizon)


def onset_and_spike(path: DescentPath, alpha: float, since: int | None) -> tuple[int | None, int | None]:
    """Onset and spike on a stretch of a path, counted from its start; ``since`` is the onset if it came before."""
    onset = since
    if onset is None:
        above = np.flatnonzero(path.stability > 2)
        if not above.size:
            return None, None
        onset = int(above[0])
    n = np.arange(max(onset, 0), len(path.c))
    with np.errstate(divide="ignore", invalid="ignore"):
        drift = path.b_par[n] * path.residual[n] / path.c[n]
        # not above 0: the comparison alpha u^2 >= 0.05 D holds at once, as in the simulator
        log_drift = np.where(drift > 0, np.log(SPIKE_SHARE * np.abs(drift) / alpha), -np.inf)
        hit = np.flatnonzero((2 * path.log_u[n] >= log_drift) & (path.c[n] != 0) & np.isfinite(path.log_u[n]))
    return onset, (int(n[hit[0]]) if hit.size else None)


def _peak(
    state: ReducedState, log_u: float, beta: float, alpha: float, lr: float, most: int
) -> tuple[int | None, float]:
    """Steps until |u| first falls, by the exact map, and log|u| before that."""
    step, _ = generated_map(two_layer())
    w = np.array([state.c, state.b_par, state.b_perp, np.exp(log_u)])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for n in range(most):
            if lr * alpha * w[0] ** 2 < 2:
                return n, float(np.log(np.abs(w[3])))
            w = step(w, (beta, alpha, lr))
            if not (np.abs(w) < BLOWN).all():
                break
    return None, float("nan")


def _length(state: ReducedState, beta: float, alpha: float, lr: float) -> int:
    """Steps of the first stretch: four times the flow's time to the edge, or what it takes to come to rest."""
    time = float(onset_time(state.c, state.b_par, beta, alpha, lr, state.b_perp))
    most = min(most_steps(state, beta, lr), LONGEST)
    return most if not np.isfinite(time) else min(most, max(64, int(4 * time / lr)))


def forecast_descent(
    state: ReducedState, beta: float, alpha: float, lr: float, *, horizon: int = 100_000, order: int = 2
) -> DescentForecast:
    r"""Forecast onset, spike and first peak from the initial state (approximated: error of c of order $\eta^{k+1}$).

    Domain: a start below the edge, $\eta\alpha c_0^2 \le 2$, with any $b_\perp$ and a u that takes a small share of c.
    Outside, ``closed_form`` is False: a start beyond the edge is first thrown below it, and those steps are iterated
    with the exact map; a coarse step or a large u shows as a ``change`` above 1 %.

    Args:
        state: Start, floats.
        beta: $\|\beta\|$.
        alpha: Opposing variance α.
        lr: Step size η.
        horizon: Most steps to look ahead.
        order: Order k ≥ 1 of the expansion around the flow.
    Returns:
        The steps, the height of the peak, and whether the closed form held.
    Raises:
        ValueError: If a parameter is out of range.
    """
    beta, alpha, lr = (float(positive(n, v)) for n, v in (("beta", beta), ("alpha", alpha), ("lr", lr)))
    horizon, order = count("horizon", horizon), count("order", order)
    c, b, p, u = (float(v) for v in state.as_array())
    start = _Start(ReducedState(c, b, p), float(np.log(abs(u))) if u else -np.inf, 0, False)
    if lr * alpha * c**2 > 2:
        thrown = _thrown(state, beta, alpha, lr, min(horizon, 20_000))
        if thrown is None:
            return replace(NOTHING, thrown_steps=min(horizon, 20_000))
        start = thrown
    return _from_below(start, beta, alpha, lr, horizon, order)


def _from_below(start: _Start, beta: float, alpha: float, lr: float, horizon: int, order: int) -> DescentForecast:
    at, log_u, residual, done = start.state, start.log_u, None, start.step
    onset = done + 1 if start.edge else None
    steps, change, steady = _length(at, beta, alpha, lr), 0.0, start.step == 0
    while done < horizon:
        steps = min(steps, horizon - done, most_steps(at, beta, lr), LONGEST)
        path = descent_path(at, beta, alpha, lr, steps, log_u=log_u, residual=residual, order=order)
        known = onset is not None
        found, spike = onset_and_spike(path, alpha, None if onset is None else onset - done)
        onset = None if found is None else done + found
        if onset is not None and not known:
            earlier = np.flatnonzero(path.lower_order > 2)
            steady &= bool(earlier.size) and abs(done + int(earlier[0]) - onset) <= LARGEST_SHIFT * onset
        change = max(change, float(path.change[spike if spike is not None else -1]))
        trusted = steady and change <= LARGEST_CHANGE
        told = DescentForecast(onset, None, None, float("nan"), start.step, change, trusted)
        if spike is not None and np.isfinite(change):
            state, log_at, r = path.at(spike)
            told = replace(told, closed_form=trusted and spike != found and r > RESOLVED * beta)
            more, height = _peak(state, log_at, beta, alpha, lr, horizon - done - spike)
            peak = None if more is None else done + spike + more
            return replace(told, spike_step=done + spike, peak_step=peak, peak_log_u=height)
        if not np.isfinite(change):
            return told
        at_rest = abs(path.residual[-1]) + abs(path.c[-1] * path.b_perp[-1]) < 1e-12 * beta
        if onset is None and at_rest:
            return told
        at, log_u, residual = path.at(steps)
        done, steps = done + steps, 2 * steps
    return told if done else NOTHING
