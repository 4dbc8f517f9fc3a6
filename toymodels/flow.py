r"""Exact gradient flow while u is negligible, for every $b_\perp$ and every K (closed form).

In the clock $\tau = \int c^2 dt$ put $B = b_\parallel e^\tau$, $Y = c e^\tau$, $\sigma = e^{2\tau}$. The invariant
$K = c^2 - b_\parallel^2 - b_\perp^2$ makes the equations linear with constant coefficients:
$$\dot B = \|\beta\| Y,\qquad \dot Y = K Y + \|\beta\| B,\qquad \dot\sigma = 2Y^2$$
with modes $\lambda_\pm = (K \pm R)/2$, $R = \sqrt{K^2 + 4\|\beta\|^2}$. With $b_\perp = 0$ the quantity
$q = (c + b_\parallel)^2$ obeys a logistic law, the special case in which the onset time is explicit. Derived and
re-proved in ``toymodels.derivations.exact_flow`` and ``core``. Time is ``lr * step``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import exprel

from toymodels.validation import finite, not_negative, positive

__all__ = ["FlowState", "limit_c2", "limit_sharpness", "max_stable_lr", "onset_time", "predict_flow"]

MOST_ITERATIONS = 200  # bisection alone halves a bracket to one unit in the last place within 64 + doublings


@dataclass(frozen=True)
class FlowState:
    r"""The flow at some times.

    Args:
        c: Second-layer weight.
        b_par: $b_\parallel$.
        clock: $\tau = \int_0^t c^2 dt$; then $u = u_0 e^{-\alpha\tau}$ and $b_\perp = b_{\perp 0} e^{-\tau}$ exactly.
        b_perp: $b_\perp$ as it acts on c in this solution.
    """

    c: np.ndarray
    b_par: np.ndarray
    clock: np.ndarray
    b_perp: np.ndarray | float = 0.0

    def decayed(self, u0: ArrayLike, b_perp0: ArrayLike, alpha: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        r"""$\log|u|$ and $b_\perp$ at these times (derived; exact where a u or ``b_perp0`` left out does not act).

        $$\log|u| = \log|u_0| - \alpha\tau,\qquad b_\perp = b_{\perp 0} e^{-\tau}$$

        Args:
            u0: $u(0)$, shape (...); its logarithm is returned because u itself underflows, −inf where u0 = 0.
            b_perp0: $b_\perp(0)$, shape (...).
            alpha: Opposing variance α > 0.
        Raises:
            ValueError: If a value is not finite or ``alpha`` is not positive.
        """
        u0, b_perp0, alpha = finite("u0", u0), finite("b_perp0", b_perp0), positive("alpha", alpha)
        with np.errstate(divide="ignore"):
            log_u0 = np.log(np.abs(u0))
        return log_u0 - alpha * self.clock, b_perp0 * np.exp(-self.clock)


@dataclass(frozen=True)
class _Modes:
    r"""The linear system: $Y = a_1 e^{\lambda_+ t} + a_2 e^{\lambda_- t}$ and the same in B."""

    invariant: np.ndarray
    rate: np.ndarray
    upper: np.ndarray
    lower: np.ndarray
    a1: np.ndarray
    a2: np.ndarray


def _rates(
    c0: np.ndarray, b0: np.ndarray, beta: np.ndarray, p0: np.ndarray, u0: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """K, R, lambda+ and lambda-, the last two without cancellation."""
    invariant = (c0 - b0) * (c0 + b0) - p0**2 - u0**2
    rate = np.hypot(invariant, 2 * beta)
    larger = (np.abs(invariant) + rate) / 2
    smaller = beta / larger * beta
    positive_k = invariant >= 0
    return invariant, rate, np.where(positive_k, larger, smaller), -np.where(positive_k, smaller, larger)


def _modes(c0: np.ndarray, b0: np.ndarray, beta: np.ndarray, p0: np.ndarray) -> _Modes:
    """Amplitudes (lambda+ c0 + beta b0)/R and (-lambda- c0 - beta b0)/R; a difference goes by its conjugate."""
    invariant, rate, upper, lower = _rates(c0, b0, beta, p0, np.zeros(()))
    square = beta**2 * (c0 - b0) * (c0 + b0)
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.where(
            c0 * b0 < 0, (invariant * upper * c0**2 + square) / (upper * c0 - beta * b0), upper * c0 + beta * b0
        )
        second = np.where(
            c0 * b0 > 0, (square - invariant * upper * b0**2) / (beta * c0 + upper * b0), beta * c0 - upper * b0
        )
    return _Modes(invariant, rate, upper, lower, first / rate, second * beta / (upper * rate))


def predict_flow(
    c0: ArrayLike, b0: ArrayLike, beta: ArrayLike, b_perp0: ArrayLike = 0.0
) -> Callable[[ArrayLike], FlowState]:
    r"""The exact solution as a function of time (derived; error below 1e-9 against a tight solve).

    $$Y = a_1 e^{\lambda_+ t} + a_2 e^{\lambda_- t},\quad
      B = \|\beta\|\Big(\frac{a_1}{\lambda_+} e^{\lambda_+ t} + \frac{a_2}{\lambda_-} e^{\lambda_- t}\Big),\quad
      a_1 = \frac{\lambda_+ c_0 + \|\beta\| b_0}{R},\; a_2 = c_0 - a_1$$
    $$\sigma = 1 + a_1^2\frac{e^{2\lambda_+ t} - 1}{\lambda_+} + a_2^2\frac{e^{2\lambda_- t} - 1}{\lambda_-}
      + 4a_1a_2\frac{e^{Kt} - 1}{K},\qquad
      c = \frac{Y}{\sqrt\sigma},\; b_\parallel = \frac{B}{\sqrt\sigma},\; b_\perp = \frac{b_{\perp 0}}{\sqrt\sigma},\;
      \tau = \tfrac12\log\sigma$$

    Args:
        c0: $c(0)$, shape (...), of any sign.
        b0: $b_\parallel(0)$, shape (...).
        beta: $\|\beta\| > 0$, shape (...).
        b_perp0: $\|b_\perp(0)\| \ge 0$, shape (...).
    Returns:
        ``predict_fn(t)`` with t ≥ 0 of a shape that broadcasts with the parameters.
    Raises:
        ValueError: If a value is not finite, ``beta`` is not positive, or ``b_perp0`` is negative.
    References: rows ``exact-linear-flow`` and ``riccati`` of ``toymodels.derivations.exact_flow``.
    """
    c0, b0, beta = finite("c0", c0), finite("b0", b0), positive("beta", beta)
    p0 = not_negative("b_perp0", b_perp0)
    m = _modes(c0, b0, beta, p0)
    with np.errstate(divide="ignore"):
        log_a1 = np.log(np.abs(m.a1))

    def predict(t: ArrayLike) -> FlowState:
        t = finite("t", t)
        early = m.upper * t < 1
        # late, everything is divided by the growing mode (or by 1 while that mode is the smaller)
        scale = np.where(early, 0.0, np.maximum(m.upper * t + log_a1, 0.0))
        shrink = np.exp(-scale)
        with np.errstate(over="ignore", invalid="ignore"):
            grown = np.where(early, m.a1 * np.exp(np.minimum(m.upper * t, 1.0)), 0.0)
            grown = np.where(early, grown, np.sign(m.a1) * np.exp(np.minimum(m.upper * t + log_a1, 0.0)))
        decayed = m.a2 * np.exp(m.lower * t) * shrink
        kept = m.a1 * shrink
        first = np.where(early, kept**2 * np.expm1(2 * np.minimum(m.upper * t, 1.0)), grown**2 - kept**2) / m.upper
        second = (m.a2 * shrink) ** 2 * np.expm1(2 * m.lower * t) / m.lower
        # the mixed term counts from whichever end of (0, t) it is larger at
        mixed = np.where(m.invariant > 0, grown * decayed, kept * m.a2 * shrink)
        # twice the integral of Y^2: below 0 only by rounding
        excess = np.maximum(first + second + 4 * mixed * t * exprel(-np.abs(m.invariant) * t), 0.0)
        clock = np.where(early, np.log1p(excess) / 2, scale + np.log(shrink**2 + excess) / 2)
        root = np.sqrt(shrink**2 + excess)
        b_par = beta * (grown / m.upper + decayed / m.lower) / root
        return FlowState((grown + decayed) / root, b_par, clock, p0 * np.exp(-clock))

    return predict


def limit_c2(
    c0: ArrayLike, b0: ArrayLike, beta: ArrayLike, b_perp0: ArrayLike = 0.0, u0: ArrayLike = 0.0
) -> np.ndarray:
    r"""Squared second-layer weight at the end of the flow (derived; exact with u and $b_\perp$, which die out).

    $$c_\infty^2 = \tfrac12 (K + \sqrt{K^2 + 4\|\beta\|^2}),\qquad K = c_0^2 - b_0^2 - b_{\perp 0}^2 - u_0^2$$

    The starts that end in the saddle c = 0 instead (for u = $b_\perp$ = 0 those with $c_0 + b_0 = 0$) have measure 0.

    Args:
        c0: $c(0)$, shape (...).
        b0: $b_\parallel(0)$, shape (...).
        beta: $\|\beta\| > 0$, shape (...).
        b_perp0: $\|b_\perp(0)\| \ge 0$, shape (...).
        u0: $u(0)$, shape (...).
    Returns:
        Shape (...), dimensionless.
    Raises:
        ValueError: If a value is not finite, ``beta`` is not positive, or ``b_perp0`` is negative.
    """
    c0, b0, beta = finite("c0", c0), finite("b0", b0), positive("beta", beta)
    return _rates(c0, b0, beta, not_negative("b_perp0", b_perp0), finite("u0", u0))[2]


def limit_sharpness(
    c0: ArrayLike,
    b0: ArrayLike,
    beta: ArrayLike,
    alpha: ArrayLike,
    b_perp0: ArrayLike = 0.0,
    u0: ArrayLike = 0.0,
) -> np.ndarray:
    r"""Sharpness at the end of the flow (derived; exact with u and $b_\perp$).

    $$S_\infty = \max(\alpha c_\infty^2,\; \sqrt{K^2 + 4\|\beta\|^2})$$

    Args:
        c0, b0, beta, b_perp0, u0: As in :func:`limit_c2`.
        alpha: Opposing variance α > 0, shape (...).
    Returns:
        Shape (...), in 1 / time.
    Raises:
        ValueError: If a value is not finite, ``beta`` or ``alpha`` is not positive, or ``b_perp0`` is negative.
    """
    c0, b0, beta = finite("c0", c0), finite("b0", b0), positive("beta", beta)
    _, rate, upper, _ = _rates(c0, b0, beta, not_negative("b_perp0", b_perp0), finite("u0", u0))
    return np.maximum(positive("alpha", alpha) * upper, rate)


def max_stable_lr(
    c0: ArrayLike,
    b0: ArrayLike,
    beta: ArrayLike,
    alpha: ArrayLike,
    b_perp0: ArrayLike = 0.0,
    u0: ArrayLike = 0.0,
) -> np.ndarray:
    r"""$\eta^* = 2/S_\infty$: above it gradient descent must reach the edge of stability (derived)."""
    return 2 / limit_sharpness(c0, b0, beta, alpha, b_perp0, u0)


def onset_time(
    c0: ArrayLike,
    b0: ArrayLike,
    beta: ArrayLike,
    alpha: ArrayLike,
    lr: ArrayLike,
    b_perp0: ArrayLike = 0.0,
) -> np.ndarray:
    r"""Time at which the opposing curvature first reaches the edge of stability (derived).

    Solves $\alpha c(t)^2 = 2/\eta$, i.e. $Y^2 = C\sigma$ with $C = 2/(\eta\alpha)$, on the exact flow. That is a sum
    of four exponentials whose outer coefficients are positive if $C < \lambda_+$: by Descartes' rule it has two roots,
    one of them before 0, so the crossing is unique; if $C \ge \lambda_+$ there is none. With $b_\perp = 0$ it is
    $$t^* = \frac1R \log\frac{(q^* - q_-)(q_+ - q_0)}{(q_+ - q^*)(q_0 - q_-)},\quad q^* = (\sqrt C + \sqrt{C-K})^2$$
    (for c0 and c0 + b0 of one sign), else a safeguarded Newton iteration on the closed form, to rounding.

    Args:
        c0: $c(0)$, shape (...).
        b0: $b_\parallel(0)$.
        beta: $\|\beta\| > 0$.
        alpha: Opposing variance α > 0.
        lr: Step size η > 0.
        b_perp0: $\|b_\perp(0)\| \ge 0$.
    Returns:
        $t^*$ = lr * step, shape (...): ``inf`` where the limit stays below the edge, 0 where the start is beyond.
    Raises:
        ValueError: If a parameter is out of range.
    """
    alpha, lr = positive("alpha", alpha), positive("lr", lr)
    c0, b0, beta = finite("c0", c0), finite("b0", b0), positive("beta", beta)
    p0 = not_negative("b_perp0", b_perp0)
    c0, b0, beta, p0, level = np.broadcast_arrays(c0, b0, beta, p0, 2 / (alpha * lr))
    invariant, rate, end, _ = _rates(c0, b0, beta, p0, np.zeros(()))
    reachable = (end > level) & ~((p0 == 0) & (c0 + b0 == 0))  # that line ends in the saddle c = 0
    beyond = c0**2 >= level
    crossing = reachable & ~beyond
    explicit = crossing & (p0 == 0) & (c0 * (c0 + b0) > 0)
    time = np.where(beyond, 0.0, np.inf)
    time[explicit] = _logistic_onset(*(a[explicit] for a in (c0, b0, beta, invariant, rate, level)))
    rest = crossing & ~explicit
    if rest.any():
        time[rest] = _onset_root(*(a[rest] for a in (c0, b0, beta, p0, rate, level)))
    return time


def _logistic_onset(c0, b0, beta, invariant, rate, level) -> np.ndarray:
    upper = 2 * beta + rate
    lower = -(invariant**2) / upper  # 2 beta - rate without the cancellation
    q0, q = (c0 + b0) ** 2, (np.sqrt(level) + np.sqrt(np.maximum(level - invariant, 0.0))) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (q - lower) * (upper - q0) / ((upper - q) * (q0 - lower))
        # within rounding of the limit (q* = q+) the edge is met at no finite time, within rounding of the start at 0
        ratio = np.where(q >= upper, np.inf, np.maximum(ratio, 1.0))
        return np.log(ratio) / rate


def _onset_root(c0, b0, beta, p0, rate, level) -> np.ndarray:
    """The one sign change of c^2 - level, bracketed by doubling and closed in by Newton, else by bisection."""
    predict = predict_flow(c0, b0, beta, p0)
    low, high = np.zeros_like(level), 1 / rate
    for _ in range(64):
        short = predict(high).c ** 2 < level
        if not short.any():
            break
        low, high = np.where(short, high, low), np.where(short, 2 * high, high)
    never = predict(high).c ** 2 < level  # within rounding of the limit
    t = (low + high) / 2
    for _ in range(MOST_ITERATIONS):
        at = predict(t)
        value = at.c**2 - level
        slope = 2 * at.c * (at.b_par * (beta - at.c * at.b_par) - at.c * at.b_perp**2)
        low, high = np.where(value < 0, t, low), np.where(value < 0, high, t)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = t - value / slope
        inside = (newton > low) & (newton < high)
        following = np.where(inside, newton, (low + high) / 2)
        if (np.abs(following - t) <= 2 * np.finfo(float).eps * t).all():
            break
        t = following
    return np.where(never, np.inf, t)
