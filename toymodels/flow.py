r"""Exact gradient flow of the solved phase ($u$ and $b_\perp$ negligible in the equations of $c$, $b_\parallel$).

With $K = c^2 - b_\parallel^2$, $R = \sqrt{K^2 + 4\|\beta\|^2}$, $q_\pm = 2\|\beta\| \pm R$ the quantity
$q = (c + b_\parallel)^2$ obeys the logistic law $\dot q = -\tfrac12 (q - q_+)(q - q_-)$. Derived and re-proved
in ``toymodels.derivations.core``. Time is ``lr * step``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from toymodels.validation import finite, positive

__all__ = ["FlowState", "limit_c2", "limit_sharpness", "max_stable_lr", "onset_time", "predict_flow"]


@dataclass(frozen=True)
class FlowState:
    r"""The flow at some times.

    Args:
        c: Second-layer weight.
        b_par: $b_\parallel$.
        clock: $\tau = \int_0^t c^2 dt$; then $u = u_0 e^{-\alpha\tau}$ and $b_\perp = b_{\perp 0} e^{-\tau}$ exactly.
    """

    c: np.ndarray
    b_par: np.ndarray
    clock: np.ndarray

    def decayed(self, u0: ArrayLike, b_perp0: ArrayLike, alpha: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        r"""$\log|u|$ and $b_\perp$ at these times (derived; exact where both are too small to act on c).

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


def _constants(c0: ArrayLike, b0: ArrayLike, beta: ArrayLike):
    c0, b0, beta = finite("c0", c0), finite("b0", b0), positive("beta", beta)
    invariant = (c0 - b0) * (c0 + b0)
    rate = np.hypot(invariant, 2 * beta)
    upper = 2 * beta + rate
    lower = -(invariant**2) / upper  # 2 beta - rate without the cancellation
    return c0, b0, beta, invariant, rate, upper, lower


def _log(ratio: np.ndarray, excess: np.ndarray) -> np.ndarray:
    """Logarithm of a positive ``ratio`` = 1 + ``excess``, from whichever of the two has the digits."""
    return np.where(np.abs(excess) < 0.5, np.log1p(np.clip(excess, -0.5, 0.5)), np.log(ratio))


def predict_flow(c0: ArrayLike, b0: ArrayLike, beta: ArrayLike) -> Callable[[ArrayLike], FlowState]:
    r"""The exact solution as a function of time (derived; error below 1e-9 against a tight solve).

    $$q(t) = \frac{q_+ (q_0 - q_-) + q_- (q_+ - q_0) e^{-Rt}}{(q_0 - q_-) + (q_+ - q_0) e^{-Rt}},\quad
      c = \tfrac12(\sqrt q + K/\sqrt q),\; b_\parallel = \tfrac12(\sqrt q - K/\sqrt q)$$
    $$\tau(t) = \tfrac12\left[(R + K)t - 2\log\frac{q - q_-}{q_0 - q_-} + \log\frac{q}{q_0}\right]$$

    Args:
        c0: $c(0)$, shape (...).
        b0: $b_\parallel(0)$, shape (...); $c_0 + b_0 \neq 0$.
        beta: $\|\beta\| > 0$, shape (...).
    Returns:
        ``predict_fn(t)`` with t ≥ 0 of a shape that broadcasts with the parameters.
    Raises:
        ValueError: If a value is not finite, ``beta`` is not positive, or $c_0 + b_0 = 0$.
    """
    c0, b0, beta, invariant, rate, upper, lower = _constants(c0, b0, beta)
    if (c0 + b0 == 0).any():
        raise ValueError("c0 + b0 must not be 0, got 0; the closed form starts off that line, move the start")
    sign = np.sign(c0 + b0)
    q0 = (c0 + b0) ** 2
    above, below = q0 - lower, upper - q0  # their sum is 2R
    end = _limit_c2(invariant, rate, beta)

    def predict(t: ArrayLike) -> FlowState:
        t = finite("t", t)
        decay = np.exp(-rate * t)
        mixed = above + below * decay
        q = (upper * above + lower * below * decay) / mixed
        root = np.sqrt(q)
        gone = -np.expm1(-rate * t)
        # (q0 - q_-)/(q - q_-) = mixed/2R and q/q0, each with its distance from 1 free of cancellation
        clock = end * t + _log(mixed / (2 * rate), -below * gone / (2 * rate))
        clock = clock + _log(q / q0, above * below * gone / (mixed * q0)) / 2
        return FlowState(sign * (root + invariant / root) / 2, sign * (root - invariant / root) / 2, clock)

    return predict


def _limit_c2(invariant: np.ndarray, rate: np.ndarray, beta: np.ndarray) -> np.ndarray:
    # for K < 0 the sum (R + K)/2 cancels: 2 beta^2 / (R - K) is the same number
    return np.where(invariant >= 0, (invariant + rate) / 2, 2 * beta**2 / (rate - np.minimum(invariant, 0.0)))


def limit_c2(c0: ArrayLike, b0: ArrayLike, beta: ArrayLike) -> np.ndarray:
    r"""Squared second-layer weight at the end of the flow (derived).

    $$c_\infty^2 = \tfrac12 (K + \sqrt{K^2 + 4\|\beta\|^2})$$

    Args:
        c0: $c(0)$, shape (...).
        b0: $b_\parallel(0)$, shape (...).
        beta: $\|\beta\| > 0$, shape (...).
    Returns:
        Shape (...), dimensionless.
    Raises:
        ValueError: If a value is not finite, or ``beta`` is not positive.
    """
    _, _, beta, invariant, rate, _, _ = _constants(c0, b0, beta)
    return _limit_c2(invariant, rate, beta)


def limit_sharpness(c0: ArrayLike, b0: ArrayLike, beta: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    r"""Sharpness at the end of the flow (derived).

    $$S_\infty = \max(\alpha c_\infty^2,\; \sqrt{K^2 + 4\|\beta\|^2})$$

    Args:
        c0, b0, beta: As in :func:`limit_c2`.
        alpha: Opposing variance α > 0, shape (...).
    Returns:
        Shape (...), in 1 / time.
    Raises:
        ValueError: If a value is not finite, or ``beta`` or ``alpha`` is not positive.
    """
    rate = _constants(c0, b0, beta)[4]
    return np.maximum(positive("alpha", alpha) * limit_c2(c0, b0, beta), rate)


def max_stable_lr(c0: ArrayLike, b0: ArrayLike, beta: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    r"""$\eta^* = 2/S_\infty$: above it gradient descent must reach the edge of stability (derived)."""
    return 2 / limit_sharpness(c0, b0, beta, alpha)


def onset_time(c0: ArrayLike, b0: ArrayLike, beta: ArrayLike, alpha: ArrayLike, lr: ArrayLike) -> np.ndarray:
    r"""Time at which the opposing curvature first reaches the edge of stability (derived).

    Solves $\alpha c(t)^2 = 2/\eta$ on the exact flow. With $C = 2/(\eta\alpha)$, $q^* = (\sqrt C + \sqrt{C-K})^2$:
    $$t^* = \frac1R \log\frac{(q^* - q_-)(q_+ - q_0)}{(q_+ - q^*)(q_0 - q_-)}$$

    Args:
        c0: $c(0)$, shape (...); c0 and c0 + b0 of one sign.
        b0: $b_\parallel(0)$.
        beta: $\|\beta\| > 0$.
        alpha: Opposing variance α > 0.
        lr: Step size η > 0.
    Returns:
        $t^*$ = lr * step, shape (...): ``inf`` where the limit stays below the edge, 0 where the start is beyond.
    Raises:
        ValueError: If a parameter is out of range, or c0 and c0 + b0 differ in sign.
    """
    alpha, lr = positive("alpha", alpha), positive("lr", lr)
    c0, b0, beta, invariant, rate, upper, lower = _constants(c0, b0, beta)
    if not (c0 * (c0 + b0) > 0).all():
        raise ValueError("c0 and c0 + b0 must have one sign, got two; start where the layers do not disagree")
    level = 2 / (alpha * lr)
    shape = np.broadcast_shapes(*(np.shape(a) for a in (c0, b0, beta, level)))
    reachable = limit_c2(c0, b0, beta) > level
    beyond = c0**2 >= level
    crossing = reachable & ~beyond
    q = np.where(crossing, (np.sqrt(level) + np.sqrt(np.maximum(level - invariant, 0.0))) ** 2, 0.0)
    q0 = (c0 + b0) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (q - lower) * (upper - q0) / ((upper - q) * (q0 - lower))
        # within rounding of the limit (q* = q+) the edge is met at no finite time, within rounding of the start at 0
        ratio = np.where(q >= upper, np.inf, np.maximum(ratio, 1.0))
        time = np.log(np.where(crossing, ratio, 1.0)) / rate
    return np.broadcast_to(np.where(beyond, 0.0, np.where(crossing, time, np.inf)), shape).copy()
