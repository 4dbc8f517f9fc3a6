r"""The edge of stability in closed form: delayed growth by dilogarithms, and the first peak by Lambert's W.

On the exact logistic flow of ``toymodels.flow``, with $R = \sqrt{K^2 + 4\|\beta\|^2}$, $Y = e^{-Rt}/A$,
$A = (q_0 - q_-)/(q_+ - q_0)$ and $s = \eta\alpha c^2$,
$$1 - s = (1 - s_\infty)\frac{(1 - \xi_1 Y)(1 - \xi_2 Y)}{(1 + Y)(1 + \tfrac{q_-}{q_+}Y)},\qquad
  \xi_i = \frac{\rho_i - q_-}{q_+ - \rho_i},\quad \rho_{1,2} = (\sqrt{C_1} \pm \sqrt{C_1 - K})^2,\;
  C_1 = \frac1{\eta\alpha},$$
so every factor integrates to a dilogarithm in t. Derived and re-proved in ``toymodels.derivations.edge``.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import spence

from toymodels.flow import limit_c2, onset_time, predict_flow
from toymodels.validation import finite, positive

__all__ = [
    "SummedGrowth",
    "exit_time",
    "first_integral",
    "growth",
    "growth_rate",
    "peak_log_u",
    "stability_integral",
    "summed_growth",
]

ITERATIONS = 100  # Newton's method is monotone where it is used here and needs about ten


def dilogarithm(x: ArrayLike) -> np.ndarray:
    r"""Real part of $\mathrm{Li}_2(x)$, $-\int_0^x \log(1 - y)\,dy/y$, for real or complex x (scipy.special.spence)."""
    z = np.asarray(x, dtype=np.complex128)
    return np.real(np.where(np.abs(z) < 1e-9, z, spence(1 - z)))  # Li2(x) = x + x^2/4 + ...: 1 - x would lose x


@dataclass(frozen=True)
class _Factors:
    """The four factors of 1 - s at a time: log|1 - s_inf| and the numbers xi Y."""

    log_end: np.ndarray
    above: tuple[np.ndarray, np.ndarray]  # zeros of 1 - s, complex
    below: tuple[np.ndarray, np.ndarray]  # poles, real and <= 0 or >= 0 but never at 1 on the path
    rate: np.ndarray


def _factors(c0, b0, beta, alpha, lr, t) -> _Factors:
    c0, b0, beta = finite("c0", c0), finite("b0", b0), positive("beta", beta)
    invariant = (c0 - b0) * (c0 + b0)
    rate = np.hypot(invariant, 2 * beta)
    upper = 2 * beta + rate
    lower = -(invariant**2) / upper
    q0 = (c0 + b0) ** 2
    y = (upper - q0) * np.exp(-rate * t) / (q0 - lower)
    first = 1 / (lr * alpha)
    half = np.sqrt((first - invariant).astype(np.complex128))
    big = (np.sqrt(first) + half) ** 2
    small = invariant**2 / big  # (sqrt(C1) - half)^2 without the cancellation; the conjugate where half is imaginary
    # 1 - s_inf = -(q+ - rho1)(q+ - rho2)/(4 C1 q+), from the same difference as xi_1: near s_inf = 1 the two cancel.
    # Where that difference rounds to 0 its rounding error stands for it: 1 - s stays finite.
    far = upper - big
    far = np.where(far == 0, np.finfo(float).eps * upper, far)
    log_end = np.log(np.abs(far)) + np.log(np.abs(upper - small)) - np.log(4 * first * upper)
    return _Factors(
        log_end, ((big - lower) / far * y, (small - lower) / (upper - small) * y), (-y, -lower / upper * y), rate
    )


def _checked(c0, b0, beta, alpha, lr, t):
    alpha, lr, t = positive("alpha", alpha), positive("lr", lr), finite("t", t)
    if (t < 0).any():
        raise ValueError(f"t must be >= 0, got {t[t < 0].flat[0]:g}; pass a time after the start")
    if (finite("c0", c0) + finite("b0", b0) == 0).any():
        raise ValueError("c0 + b0 must not be 0, got 0; the closed form starts off that line, move the start")
    return alpha, lr, t


def stability_integral(
    c0: ArrayLike, b0: ArrayLike, beta: ArrayLike, alpha: ArrayLike, lr: ArrayLike, t: ArrayLike
) -> np.ndarray:
    r"""$\int_0^t \log|1 - \eta\alpha c(t')^2|\,dt'$ on the exact flow (derived), through s = 1, K of either sign.

    $$t\log|1 - s_\infty| + \frac1R\Big[\mathrm{Re}\,\mathrm{Li}_2(\xi_1Y) + \mathrm{Re}\,\mathrm{Li}_2(\xi_2Y)
      - \mathrm{Li}_2(-Y) - \mathrm{Li}_2\big(-\tfrac{q_-}{q_+}Y\big)\Big]_{Y(0)}^{Y(t)}$$

    Args:
        c0: $c(0)$; c0 + b0 not 0.
        b0: $b_\parallel(0)$.
        beta: $\|\beta\| > 0$.
        alpha: Variance α > 0 of the direction.
        lr: Step size η > 0.
        t: Time lr * step ≥ 0. All shapes broadcast.
    Returns:
        Shape (...), in time; finite also where the limit of s is 1 (and log of the rounding error where s stays at 1).
    Raises:
        ValueError: If an argument is out of its range.
    """
    alpha, lr, t = _checked(c0, b0, beta, alpha, lr, t)
    now, start = _factors(c0, b0, beta, alpha, lr, t), _factors(c0, b0, beta, alpha, lr, 0.0)

    def total(f: _Factors) -> np.ndarray:
        (a, b), (c, d) = f.above, f.below
        return dilogarithm(a) + dilogarithm(b) - dilogarithm(c) - dilogarithm(d)

    return t * now.log_end + (total(now) - total(start)) / now.rate


def growth(c0: ArrayLike, b0: ArrayLike, beta: ArrayLike, alpha: ArrayLike, lr: ArrayLike, t: ArrayLike) -> np.ndarray:
    r"""$\log|u(t)/u(0)|$ to leading order, $\frac1\eta\int_0^t\log|1 - s|\,dt'$ (approximated: the sum as an integral).

    The next terms and their bound: :func:`summed_growth`. Arguments, shapes and errors: :func:`stability_integral`.
    """
    return stability_integral(c0, b0, beta, alpha, lr, t) / positive("lr", lr)


def growth_rate(
    c0: ArrayLike, b0: ArrayLike, beta: ArrayLike, alpha: ArrayLike, lr: ArrayLike, t: ArrayLike
) -> np.ndarray:
    r"""$\log|1 - \eta\alpha c(t)^2|$, growth of log|u| per step on the exact flow (derived); −inf where s = 1."""
    alpha, lr, t = _checked(c0, b0, beta, alpha, lr, t)
    with np.errstate(divide="ignore"):
        return np.log(np.abs(1 - lr * alpha * predict_flow(c0, b0, beta)(t).c ** 2))


def exit_time(
    c0: ArrayLike,
    b0: ArrayLike,
    beta: ArrayLike,
    alpha: ArrayLike,
    lr: ArrayLike,
    log_gain: ArrayLike = 0.0,
) -> np.ndarray:
    r"""Entry–exit: the time after onset at which the growth has come back to ``log_gain`` (derived, leading order).

    Solves $\frac1\eta\int_0^t\log|1 - s|\,dt' = g$ for t past the onset, where the left side is convex and increasing
    (s > 2 rises to its limit): Newton's method, after one step from the middle of that rise, decreases monotonically
    to the only root. The integral differs from the sum over steps by the terms of :func:`summed_growth`.

    Args:
        c0, b0, beta, alpha, lr: As :func:`toymodels.flow.onset_time`.
        log_gain: $g = \log|u/u_0|$ at exit; 0 is the return to the initial magnitude.
    Returns:
        Time lr * step, shape (...): ``inf`` where the edge is never reached, 0 where the start is beyond it, the onset
        itself where |u| has not shrunk below ``log_gain`` by then.
    Raises:
        ValueError: As :func:`toymodels.flow.onset_time`.
    """
    gain = finite("log_gain", log_gain)
    onset = onset_time(c0, b0, beta, alpha, lr)
    shape = np.broadcast_shapes(onset.shape, gain.shape)
    parts = np.broadcast_arrays(*(np.asarray(a, float) for a in (c0, b0, beta, alpha, lr)), onset, gain)
    found = parts[5].copy()
    late = np.isfinite(found) & (found > 0)
    if late.any():
        found[late] = _exit(*(a[late] for a in parts))
    return found.reshape(shape)


def _exit(c0, b0, beta, alpha, lr, onset, gain) -> np.ndarray:
    level, end = 2 / (lr * alpha), limit_c2(c0, b0, beta)
    # from s midway between 2 and its limit; lr' puts the edge there
    middle = onset_time(c0, b0, beta, alpha, 2 / (alpha * (level + end) / 2))
    t = np.where(np.isfinite(middle), np.maximum(middle, onset), onset)
    start = growth(c0, b0, beta, alpha, lr, onset) - gain
    for _ in range(ITERATIONS):
        rate = growth_rate(c0, b0, beta, alpha, lr, t) / lr
        with np.errstate(divide="ignore", invalid="ignore"):
            after = t - (growth(c0, b0, beta, alpha, lr, t) - gain) / rate
        after = np.where(rate > 0, np.maximum(after, onset), np.inf)  # s_inf within rounding of 2: no growth
        done = ~(np.abs(after - t) > 1e-14 * (onset + t))
        t = np.where(done, t, after)
        if done.all() or not np.isfinite(t[~done]).any():
            break
    return np.where(start >= 0, onset, t)


@dataclass(frozen=True)
class SummedGrowth:
    r"""Sum of $\log|1 - s_n|$ over steps.

    Args:
        value: The sum, shape (...).
        bound: Bound on its error in exact arithmetic, derived, shape (...).
        rounding: Estimate of its rounding error: 64 eps times the size of what is added.
        integral: The leading term, $\frac1\eta\int\log|1 - s|\,dt$.
        crossing: The term $\sum\log|2\sin\pi n^*|$ over the points $n^*$ within at which s = 1.
    """

    value: np.ndarray
    bound: np.ndarray
    rounding: np.ndarray
    integral: np.ndarray
    crossing: np.ndarray


def _third(y: np.ndarray) -> np.ndarray:
    """(y d/dy)^3 log(1 - y), up to its sign."""
    return y * (1 + y) / (1 - y) ** 3


def _variation(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Total variation of ``_third`` between two reals on one side of 0 and of 1; its extrema solve y^2 + 4y + 1 = 0."""
    low, high = np.minimum(start, end), np.maximum(start, end)
    stops = [low, *(np.clip(-2 + sign * np.sqrt(3.0), low, high) for sign in (-1, 1)), high]
    return np.sum([np.abs(_third(b) - _third(a)) for a, b in pairwise(stops)], axis=0)


def _conjugates(y: np.ndarray) -> np.ndarray:
    r"""Bound on the variation for a pair of complex factors, over all times: $J_1 + 3J_2$ of the angle φ of y.

    $J_m = \int dx/(\cosh x - \cos\varphi)^m$; the fourth derivative is at most $\tfrac1{16}(8/(\cdot) + 24/(\cdot)^2)$.
    """
    angle = np.abs(np.angle(y))
    sine = np.maximum(np.sin(angle), np.finfo(float).tiny ** 0.25)
    one = 2 * (np.pi - angle) / sine
    return one + 3 * (2 + one * np.cos(angle)) / sine**2


CROSSING = (
    4 * 0.01325
)  # variation of (d/dx)^3 log(sinh(x/2)/(x/2)): its extremum 0.013245, up and down on either side of 0


def summed_growth(
    c0: ArrayLike, b0: ArrayLike, beta: ArrayLike, alpha: ArrayLike, lr: ArrayLike, steps: ArrayLike
) -> SummedGrowth:
    r"""$\sum_{n<N}\log|1 - s(\eta n)|$ on the exact flow, by Euler–Maclaurin with its bound (derived).

    With $f(n) = \log|1 - s(\eta n)|$, and for every $n^* \in (0, N)$ at which s = 1,
    $$\sum_{n=0}^{N-1} f = \int_0^N f\,dn + \frac{f(0) - f(N)}2 + \frac{f'(N) - f'(0)}{12}
      - \frac{f'''(N) - f'''(0)}{720} + \sum_{n^*}\log|2\sin\pi n^*| + \epsilon .$$
    The last sum is what the logarithmic singularity leaves behind (Stirling on both sides of it). With
    $\kappa = R\eta$, $|\epsilon| \le \frac{\kappa^3}{720}V + \frac1{1260}\sum_{n^*}(n^{*-5} + (N-n^*)^{-5})$, V the
    total variation of the third derivative of the four logarithms, each without its singularity.

    The sum is that of the flow sampled at every step. Gradient descent departs from the flow by O(η), which shifts
    $n^*$ by O(1): for a simulated run the crossing term is of the right size but of no known value.

    Args:
        c0, b0, beta, alpha, lr: As in :func:`stability_integral`.
        steps: Number of steps N ≥ 1.
    Returns:
        The sum in its parts, each of shape (...), dimensionless; −inf where a sampled step has s = 1 exactly.
    Raises:
        ValueError: If an argument is out of its range.
    """
    count = positive("steps", steps)
    if (count != np.round(count)).any():
        raise ValueError(f"steps must be whole, got {count[count != np.round(count)].flat[0]:g}; pass an integer >= 1")
    lr = positive("lr", lr)
    integral = growth(c0, b0, beta, alpha, lr, lr * count)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        start, end = (_factors(c0, b0, beta, positive("alpha", alpha), lr, t) for t in (0.0, lr * count))
        kappa = start.rate * lr
        paired = np.abs(np.imag(start.above[0])) > 0
        variation = np.zeros(np.broadcast_shapes(integral.shape))
        value, crossing, ends = integral, np.zeros_like(variation), np.zeros_like(variation)
        size = count * np.abs(start.log_end)
        for sign, first, last in (
            *((1, y0, y) for y0, y in zip(start.above, end.above, strict=True)),
            *((-1, y0, y) for y0, y in zip(start.below, end.below, strict=True)),
        ):
            value = value + sign * (np.log(np.abs(1 - first)) - np.log(np.abs(1 - last))) / 2
            value = value + sign * kappa * np.real(last / (1 - last) - first / (1 - first)) / 12
            value = value - sign * kappa**3 * np.real(_third(last) - _third(first)) / 720
            size = size + (np.abs(dilogarithm(first)) + np.abs(dilogarithm(last))) / kappa
            size = size + np.abs(first / (1 - first)) + np.abs(last / (1 - last))
            crosses = ~(paired & (sign > 0)) & (np.real(first) > 1) & (np.real(last) < 1)
            at = np.where(crosses, np.log(np.maximum(np.real(first), 1.0)) / kappa, np.nan)
            crossing = crossing + np.where(crosses, np.log(np.abs(2 * np.sin(np.pi * (at - np.round(at))))), 0.0)
            size = size + np.where(crosses, np.pi * at / np.abs(np.sin(np.pi * at)), 0.0)
            ends = ends + np.where(crosses, at**-5.0 + (count - at) ** -5.0, 0.0)
            own = np.where(crosses, CROSSING, _variation(np.real(first), np.real(last)))
            variation = variation + np.where(paired & (sign > 0), _conjugates(first) / 2, own)
        bound = kappa**3 * variation / 720 + ends / 1260
        return SummedGrowth(value + crossing, bound, 64 * np.finfo(float).eps * size, integral, crossing)


SERIES = 40  # terms of the expansion about s = 2; at |s - 2| < 0.4 the rest is below 0.4^40


def first_integral(s: ArrayLike) -> np.ndarray:
    r"""The function G of the first integral near onset (derived).

    $$G(s) = \int_2^s\frac{\log(x-1)}x dx = \tfrac12\log^2 s + \mathrm{Li}_2(1/s) - \tfrac{\pi^2}{12}$$
    Near its double zero at s = 2 it is summed from the Taylor series of the integrand: no cancellation.

    Args:
        s: Stability number $\eta\alpha c^2 > 1$, shape (...).
    Returns:
        Shape (...), ≥ 0, dimensionless.
    Raises:
        ValueError: If an entry is not above 1.
    """
    s = positive("s", s)
    if (s <= 1).any():
        raise ValueError(f"s must be above 1, got {s[s <= 1].flat[0]:g}; the sign of u alternates only there")
    y = s - 2
    near = np.abs(y) < 0.4
    k = np.arange(1, SERIES)
    logs, halves = (-1.0) ** (k + 1) / k, (-0.5) ** np.arange(SERIES) / 2
    coefficients = np.convolve(np.append(0.0, logs), halves)[:SERIES]  # of log(1 + y) / (2 + y)
    series = np.polynomial.polynomial.polyval(
        np.where(near, y, 0.0), np.append(0, coefficients / np.arange(1, SERIES + 1))
    )
    return np.where(near, series, np.log(s) ** 2 / 2 + dilogarithm(1 / s) - np.pi**2 / 12)


def peak_log_u(log_u0: ArrayLike, s0: ArrayLike, drift: ArrayLike, alpha: ArrayLike, lr: ArrayLike) -> np.ndarray:
    r"""log|u| at the peak of the spike in the reduced system with constant drift (derived; see its limits).

    Near onset $w' = \log(s-1)$, $(\log c^2)' = 2\eta(D - \alpha e^{2w})$, $w = \log|u|$, conserve
    $G(s) - 2\eta(Dw - \tfrac12\alpha e^{2w})$. With $v = \alpha u^2/D$ that is $v - \log v + G(s)/(\eta D)$, and the
    peak, at s = 2, is
    $$\alpha u^2 = -D\,W_{-1}(-e^{-\ell}),\qquad \ell = v_0 - \log v_0 + G(s_0)/(\eta D) .$$
    $e^{-\ell}$ underflows for ordinary delays: $v - \log v = \ell$ is solved by Newton's method from the upper bound
    $v < 1 + \sqrt{2x} + x$, $x = \ell - 1$, from which it decreases monotonically.

    Limits: D constant and the steps of a spike taken as continuous. D moves over the delay, and at s well above 2 a
    spike lasts a few steps: on simulated descent |u| came out at 0.84 to 4.1 of the true peak from the values at onset,
    and at 0.44 to 0.83 from those where the spike begins (5th to 95th percentile, measured by
    ``benchmarks/toy_limits.py``). Iterate the map where more is needed.

    Args:
        log_u0: log|u| at a point of the orbit, shape (...); a logarithm because u itself underflows.
        s0: $\eta\alpha c^2 > 1$ there.
        drift: $D = b_\parallel r/c > 0$.
        alpha: Opposing variance α > 0.
        lr: Step size η > 0.
    Returns:
        log|u| at the peak, shape (...).
    Raises:
        ValueError: If an argument is out of its range.
    """
    drift, alpha, lr = positive("drift", drift), positive("alpha", alpha), positive("lr", lr)
    log_v = np.log(alpha / drift) + 2 * finite("log_u0", log_u0)
    if (log_v > 700).any():
        raise ValueError(f"log_u0 must leave alpha u^2 finite, got {np.max(log_u0):g}; pass log|u| near onset")
    # v - 1 - log v without cancellation at v = 1
    distance = np.where(np.abs(log_v) < 1e-2, log_v**2 * _exp_rest(log_v), np.expm1(log_v) - log_v)
    distance = distance + first_integral(s0) / (lr * drift)
    x = np.sqrt(2 * distance) + distance  # v - 1
    for _ in range(ITERATIONS):
        with np.errstate(invalid="ignore", divide="ignore"):
            step = np.where(x > 0, (x - np.log1p(x) - distance) * (1 + x) / x, 0.0)
        x = np.maximum(x - step, 0.0)
        if (np.abs(step) <= 1e-15 * x).all():
            break
    return (np.log(drift / alpha) + np.log1p(x)) / 2


def _exp_rest(z: np.ndarray) -> np.ndarray:
    """(e^z - 1 - z)/z^2 for small z."""
    z = np.clip(z, -1e-2, 1e-2)
    return 1 / 2 + z / 6 + z**2 / 24 + z**3 / 120 + z**4 / 720 + z**5 / 5040 + z**6 / 40320
