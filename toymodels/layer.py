r"""The α-layer of gradient flow: u acts on c only for a clock of order 1/α; matched with the exact flow after it.

In the clock τ the full flow is one equation: $u = u_0e^{-\alpha\tau}$, $b_\perp = b_{\perp0}e^{-\tau}$,
$$\frac{dB}{d\tau} = \frac{\|\beta\|e^\tau}{c},\qquad \frac{dt}{d\tau} = \frac1{c^2},\qquad
  c^2 = K + b_\parallel^2 + b_\perp^2 + u^2,\quad B = b_\parallel e^\tau$$
with K of the full start. With $c_o^2 = c_0^2 - u_0^2$, $x = u_0^2/c_o^2$, $z = e^{-2\alpha\tau}$ the composite is the
exact flow without u, started from $b_0 + \delta B$ on the same K, plus what the layer still holds:
$$B = B_{out}(\tau) + D(z),\; D = \frac{\|\beta\|}{\alpha c_o}\log\frac{1 + \sqrt{1 + xz}}2,\; \delta B = -D(1);\qquad
  t = t_{out}(\tau) - \frac{1}{2\alpha c_o^2}\log\frac{1 + x}{1 + xz}$$
It holds the start exactly, and errs by $O(\alpha^{-2})$ with the bound of :func:`layer_error`. Derived and re-proved
in ``toymodels.derivations.layer``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from toymodels.flow import limit_c2, predict_flow
from toymodels.model import ReducedState
from toymodels.sharpness import arrow_sharpness
from toymodels.validation import positive

__all__ = [
    "LayeredState",
    "SharpnessMinimum",
    "descent_layer",
    "layer_error",
    "layer_minimum_clock",
    "outer_parametrised",
    "predict_layered_flow",
    "sharpness_minimum",
]

SAMPLES = 257  # of the outer flow, for the extremes that the error bound needs
GOLDEN = (np.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class LayeredState:
    """The full flow at some times: weights, log|u| and the clock, each of the shape of the times.

    At equal clock u and b_perp are exact and b_par, c err by O(1/alpha^2); at equal time, inside the layer, where c
    moves at the rate alpha, c errs by O(1/alpha).
    """

    time: np.ndarray
    c: np.ndarray
    b_par: np.ndarray
    b_perp: np.ndarray
    log_u: np.ndarray
    clock: np.ndarray

    @property
    def state(self) -> ReducedState:
        """The weights with u itself (0 where it underflows); its sign does not matter."""
        with np.errstate(under="ignore"):
            return ReducedState(self.c, self.b_par, self.b_perp, np.exp(self.log_u))


class _Composite:
    """Start, layer constants and outer flow; ``at`` evaluates everything at a time of the outer flow."""

    def __init__(self, state: ReducedState, beta: ArrayLike, alpha: ArrayLike):
        self.beta, self.alpha = positive("beta", beta), positive("alpha", alpha)
        if (self.alpha <= 1).any():
            raise ValueError(f"alpha must be > 1, got {self.alpha.min():g}; the layer needs u to die before b_perp")
        self.c0, self.b0, self.p0, self.u0 = state.as_array()
        if not (np.abs(self.c0) > np.abs(self.u0)).all():
            gap = (np.abs(self.c0) - np.abs(self.u0)).min()
            raise ValueError(f"c must exceed u in size, got |c| - |u| = {gap:g}; start with a smaller u")
        self.c_outer = np.sqrt((self.c0 - self.u0) * (self.c0 + self.u0)) * np.sign(self.c0)
        self.x = (self.u0 / self.c_outer) ** 2
        self.shift = -self.held(np.ones(()))
        b1 = self.b0 + self.shift
        square = self.c_outer**2 + self.shift * (self.b0 + b1)
        if (square <= 0).any():
            bad = np.broadcast_to(self.alpha, square.shape)[square <= 0].min()
            raise ValueError(f"alpha must be large enough for the layer to leave c its sign, got {bad:g}; raise alpha")
        self.start = ReducedState(np.sqrt(square) * np.sign(self.c0), b1, self.p0)
        self.outer = predict_flow(self.start.c, b1, self.beta, self.p0)

    def held(self, z: np.ndarray) -> np.ndarray:
        """D(z), without cancellation at small xz: (1 + sqrt(1 + y))/2 = 1 + y/(2 (1 + sqrt(1 + y)))."""
        y = self.x * z
        return self.beta / (self.alpha * self.c_outer) * np.log1p(y / (2 * (1 + np.sqrt(1 + y))))

    def at(self, outer_time: np.ndarray) -> LayeredState:
        """The composite where the outer flow has this time."""
        out = self.outer(outer_time)
        z = np.exp(-2 * self.alpha * out.clock)
        b = out.b_par + self.held(z) * np.exp(-out.clock)
        square = out.c**2 + (b - out.b_par) * (b + out.b_par) + self.u0**2 * z
        with np.errstate(divide="ignore"):
            log_u = np.log(np.abs(self.u0)) - self.alpha * out.clock
        time = outer_time - np.log1p(self.x * (1 - z) / (1 + self.x * z)) / (2 * self.alpha * self.c_outer**2)
        c = np.where(out.c < 0, -1.0, 1.0) * np.sqrt(np.maximum(square, 0.0))
        return LayeredState(time, c, b, out.b_perp + np.zeros_like(c), log_u, out.clock)

    def outer_time(self, t: np.ndarray) -> np.ndarray:
        """The outer time of a time, by Newton on the composite's own relation from its explicit frozen form."""
        scale = 2 * self.alpha * self.c_outer**2
        guess = t + np.log1p(-self.x * np.expm1(-scale * t)) / scale
        for _ in range(50):
            out = self.outer(guess)
            z = np.exp(-2 * self.alpha * out.clock)
            gap = guess - np.log1p(self.x * (1 - z) / (1 + self.x * z)) / scale - t
            slope = 1 - self.x * z / (1 + self.x * z) * out.c**2 / self.c_outer**2
            move = gap / np.maximum(slope, 0.1 / (1 + self.x))
            guess = np.maximum(guess - move, 0.0)
            if (np.abs(move) <= 4 * np.finfo(float).eps * guess).all():
                break
        return guess


def predict_layered_flow(state: ReducedState, beta: ArrayLike, alpha: ArrayLike) -> Callable[[ArrayLike], LayeredState]:
    r"""The full gradient flow as a function of time, u included (bounded: error of order $\alpha^{-2}$).

    Args:
        state: Start with |c| > |u|, shape (...).
        beta: $\|\beta\| > 0$.
        alpha: Opposing variance α > 1.
    Returns:
        ``predict_fn(t)``, t ≥ 0, of a shape that broadcasts with the parameters.
    Raises:
        ValueError: If a parameter is out of range, or u takes all of c.
    """
    composite = _Composite(state, beta, alpha)

    def predict(t: ArrayLike) -> LayeredState:
        time = np.asarray(t, dtype=np.float64)
        if not (np.isfinite(time) & (time >= 0)).all():
            raise ValueError("t must be >= 0 and finite, got another value; pass times from 0 on")
        return composite.at(composite.outer_time(time + np.zeros_like(composite.x)))

    return predict


def outer_parametrised(state: ReducedState, beta: ArrayLike, alpha: ArrayLike, outer_time: ArrayLike) -> LayeredState:
    """The composite where the outer flow has these times: explicit, clock and time among its entries.

    Args:
        state, beta, alpha: As in :func:`predict_layered_flow`.
        outer_time: Times ≥ 0 of the flow without u that the composite rests on.
    """
    return _Composite(state, beta, alpha).at(np.asarray(outer_time, dtype=np.float64))


def layer_error(state: ReducedState, beta: ArrayLike, alpha: ArrayLike, t: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    r"""Bounds, at equal clock up to outer time t, of the composite's errors in B and in the time (derived).

    With m² a lower bound of c² and of $c_{out}^2$, $\bar b$ one above $|b_\parallel|$, b₋ one above
    $-b_\parallel \mathrm{sgn}\,c$,
    $M = 2(\bar b(\|\beta\|/m + \bar b) + b_{\perp0}^2) \ge |dc_{out}^2/d\tau|$, $Y = |c_{out}^2(0) - c_o^2|$,
    $a = 2\alpha - 1$:
    $$|e_B| \le \|\beta\|\Big[\frac{3u_0^2}{4m^5}\Big(\frac M{a^2} + \frac Ya\Big) + \frac{u_0^2}{2m^3a^2}
      + \frac{\bar b\|\beta\|x}{8m^3\alpha^2c_o}\Big]e^{\|\beta\| b_-\tau/m^3},\quad
      |e_t| \le \frac{2u_0^2}{m^6}\Big(\frac M{a^2} + \frac Ya\Big)
      + \frac{2\bar b}{m^4}\Big(\frac{\|\beta\|x}{8\alpha^2c_o} + |e_B|\,\tau\Big)$$
    ``inf`` where $|e_B|$ would exceed $|\delta B|$, on which the bounds of b rest. Extremes of the outer flow are taken
    on 257 samples.

    Args:
        state, beta, alpha: As in :func:`predict_layered_flow`.
        t: End of the window, in time of the outer flow.
    Returns:
        Bound of $|B - B_{composite}|$ and of $|t - t_{composite}|$.
    """
    bounds = _bounds(_Composite(state, beta, alpha), np.asarray(t, dtype=np.float64))
    return bounds.in_b, bounds.in_time


@dataclass(frozen=True)
class _Bounds:
    """Error bounds of B and t, with the bounds of c from below and above and of |b_par| that they rest on."""

    in_b: np.ndarray
    in_time: np.ndarray
    least: np.ndarray
    most: np.ndarray
    top: np.ndarray


def _bounds(f: _Composite, t: np.ndarray) -> _Bounds:
    share = np.linspace(0, 1, SAMPLES).reshape((-1,) + (1,) * np.ndim(f.x + t))
    out = f.outer(share * t)
    slack = 2 * np.abs(f.shift)
    top = np.abs(out.b_par).max(0) + slack
    negative = np.maximum(slack - (out.b_par * np.sign(f.c0)).min(0), 0.0)  # where a larger |b| makes B' larger
    least = np.minimum((out.c**2).min(0), f.c_outer**2) - 2 * top * slack
    most = np.sqrt((out.c**2).max(0) + 2 * top * slack + f.u0**2)
    with np.errstate(over="ignore", invalid="ignore"):  # no lower bound of c: NaN, which is not sound
        m = np.sqrt(np.where(least > 0, least, np.nan))
        c, a = np.abs(f.c_outer), 2 * f.alpha - 1
        steep = 2 * (top * (f.beta / m + top) + f.p0**2)
        offset = np.abs(f.shift * (2 * f.b0 + f.shift))
        moved = steep / a**2 + offset / a
        pull = f.beta * f.x / (8 * f.alpha**2 * c)  # bounds the integral of D
        clock = out.clock[-1]
        inner = 3 * f.u0**2 / (4 * m**5) * moved + f.u0**2 / (2 * m**3 * a**2) + top / m**3 * pull
        error = f.beta * inner * np.exp(f.beta * negative * clock / m**3)
        in_time = 2 * f.u0**2 / m**6 * moved + 2 * top / m**4 * (pull + error * clock)
        sound = error <= np.abs(f.shift)
    return _Bounds(np.where(sound, error, np.inf), np.where(sound, in_time, np.inf), m, most, top)


@dataclass(frozen=True)
class SharpnessMinimum:
    """Least sharpness of the flow before progressive sharpening.

    Args:
        time: Its time; ``inf`` where c falls to its limit for ever (then ``sharpness`` is the limit).
        sharpness: Its value, in 1 / time.
        error: Bound of the value's error over the searched window; ``inf`` where none is derived.
    """

    time: np.ndarray
    sharpness: np.ndarray
    error: np.ndarray


def sharpness_minimum(state: ReducedState, beta: ArrayLike, alpha: ArrayLike) -> SharpnessMinimum:
    r"""Time and value of the least sharpness of the flow before progressive sharpening (bounded).

    To leading order $S = \alpha c^2 + 4\alpha u^2$, so $\dot S = 2\alpha c(A - 5\alpha cu^2)$, $A = b_\parallel r -
    cb_\perp^2$: if A > 0 after the layer, S is least at the clock
    $$\tau_m = \frac{1}{2\alpha}\log\frac{5\alpha c_ou_0^2}{A_0}$$
    (at the start if that is negative); if A < 0, near the outer flow's own minimum, A = 0. Around either the
    composite's sharpness, its largest eigenvalue with u, is minimised by golden section. At equal clock u and
    $b_\perp$ are exact, so Weyl's inequality turns the bound of B into one of S: $|\Delta S| \le \|\Delta H\|_F$.

    Args:
        state, beta, alpha: As in :func:`predict_layered_flow`.
    Raises:
        ValueError: As there.
    """
    f = _Composite(state, beta, alpha)
    zero = np.zeros(np.broadcast_shapes(np.shape(f.x), np.shape(f.alpha), np.shape(f.beta)))
    drift = (f.start.b_par * (f.beta - f.start.c * f.start.b_par) - f.start.c * f.p0**2) * np.sign(f.c0)
    early = layer_minimum_clock(f.c_outer, f.u0, drift, f.alpha)
    # past the layer's minimum by two e-folds of u; past the outer one by as much again
    high = np.where(drift > 0, (early + 1 / f.alpha) / f.c_outer**2 * 2, 2 * _outer_turn(f) + 1 / f.alpha)
    never = ~np.isfinite(high)
    window = np.where(never, 0.0, high) + zero
    low, high = zero.copy(), window
    for _ in range(80):
        step = GOLDEN * (high - low)
        left, right = high - step, low + step
        less = _sharpness(f, left) <= _sharpness(f, right)
        low, high = np.where(less, low, left), np.where(less, right, high)
    best = (low + high) / 2
    best = np.where(_sharpness(f, zero) <= _sharpness(f, best), 0.0, best)
    end = f.alpha * limit_c2(f.c0, f.b0, f.beta, f.p0, f.u0)
    bound = _bounds(f, window)
    error = _eigenvalue_error(f, bound)
    return SharpnessMinimum(
        np.where(never, np.inf, f.at(best).time),
        np.where(never, end, _sharpness(f, best)),
        np.where(never | ~np.isfinite(error), np.inf, error),
    )


def layer_minimum_clock(c_outer: ArrayLike, u0: ArrayLike, drift: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    r"""Clock $\tau_m = \log(5\alpha c_o u_0^2/A_0)/(2\alpha)$ at which $\alpha c^2 + 4\alpha u^2$ is least.

    Args:
        c_outer: $|c_o|$, shape (...).
        u0: Opposing weight at the start.
        drift: $A_0 = b_\parallel r - cb_\perp^2$ after the layer; 0 is returned where it is not positive.
        alpha: Opposing variance α > 0.
    """
    c, u, a, alpha = np.abs(c_outer), np.asarray(u0, float), np.asarray(drift, float), positive("alpha", alpha)
    with np.errstate(divide="ignore"):
        clock = np.log(5 * alpha * c * u**2 / np.where(a > 0, a, np.inf)) / (2 * alpha)
    return np.maximum(clock, 0.0)


def _eigenvalue_error(f: _Composite, bound: _Bounds) -> np.ndarray:
    """Frobenius norm of the change of the Hessian when b_par is off by the bound and c^2 by 2 |b| times it."""
    in_b = bound.in_b
    with np.errstate(invalid="ignore"):
        in_square = 2 * bound.top * in_b
        in_c = in_square / (2 * bound.least)
        diagonal = in_square**2 * (3 + f.alpha**2)  # b^2, c^2, c^2 and alpha c^2
        along = 2 * (bound.most * in_b + bound.top * in_c)
        return np.sqrt(diagonal + 2 * (along**2 + (2 * f.p0 * in_c) ** 2 + (2 * f.alpha * f.u0 * in_c) ** 2))


def _sharpness(f: _Composite, outer_time: np.ndarray) -> np.ndarray:
    return arrow_sharpness(f.at(outer_time).state, f.beta, f.alpha)


def _outer_turn(f: _Composite) -> np.ndarray:
    """Outer time at which c c' turns from negative to positive; inf if it never does."""

    def falls(t: np.ndarray) -> np.ndarray:
        out = f.outer(t)
        return out.c * (out.b_par * (f.beta - out.c * out.b_par) - out.c * out.b_perp**2) < 0

    low = np.zeros_like(f.x + f.alpha + f.beta)
    high = low + 1 / (2 * f.beta)
    for _ in range(12):
        low, high = np.where(falls(high), high, low), np.where(falls(high), 2 * high, high)
    never = falls(high)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = np.where(falls(middle), middle, low), np.where(falls(middle), high, middle)
    return np.where(never, np.inf, high)


def descent_layer(c0: ArrayLike, u0: ArrayLike, stability: ArrayLike) -> np.ndarray:
    r"""What u takes from c under gradient descent until it has died (derived, c frozen: first order in $u^2/c^2$).

    $$\sum_n \eta\alpha cu_n^2 = \frac{u_0^2}{c(2 - s)},\qquad s = \eta\alpha c^2$$

    Args:
        c0: Second-layer weight, not 0, shape (...).
        u0: Opposing weight at the start, shape (...).
        stability: s in (0, 2).
    Raises:
        ValueError: If a value is out of range.
    """
    c, u, s = np.asarray(c0, float), np.asarray(u0, float), positive("stability", stability)
    if (s >= 2).any():
        raise ValueError(f"stability must be < 2, got {s.max():g}; above the edge u does not die")
    if (c == 0).any():
        raise ValueError("c0 must not be 0, got 0; pass the second-layer weight")
    return u**2 / (c * (2 - s))
