r"""Cross-entropy counterpart of the two-layer model: two opposing groups under the logistic loss.

Labels y = ±1 alike. With probability 1 − p an example has the core feature x = m y (margin m) and no opposing one; with
probability p it has $x_o = s\,\sqrt{\alpha/(p d_2)}\,1$, s = ±1, y s = +1 with probability (1 + ρ)/2, and core feature
μ y (μ = 0: the background hides the core). Network $f = c(bx + b_o^\top x_o)$, loss log(1 + exp(−y f)). With
$w = c\,a\,u$, $a = \sqrt{\alpha/p}$, $\ell(z) = \log(1 + e^{-z})$:
$$L = (1-p)\,\ell(mcb) + p\left[\tfrac{1+\rho}2\ell(\mu cb + w) + \tfrac{1-\rho}2\ell(\mu cb - w)\right]$$
Derived in ``toymodels.derivations.logistic``. Balanced: c = b, which the flow keeps at u = 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expi, expit

from toymodels.validation import finite, positive

__all__ = [
    "PeriodTwo",
    "logistic_critical_c2",
    "logistic_curvature",
    "logistic_edge",
    "logistic_flow",
    "logistic_onset_time",
    "logistic_peak_curvature",
    "logistic_period_two",
    "logistic_sharpness",
]


class PeriodTwo(NamedTuple):
    r"""The orbit of period 2 along the opposing direction at frozen c, in $w = c\,a\,u$; arrays of one shape.

    Args:
        high: Larger end of the orbit.
        low: Smaller end; equal to ``high``, the valley's floor $2\,\mathrm{artanh}\,\rho$, where there is no orbit.
        multiplier: Factor by which two steps multiply a small deviation; the orbit attracts while it is in (−1, 1).
    """

    high: np.ndarray
    low: np.ndarray
    multiplier: np.ndarray


def _inside(name: str, value: ArrayLike) -> np.ndarray:
    array = finite(name, value)
    if not (np.abs(array) < 1).all():
        raise ValueError(f"{name} must lie in (-1, 1), got {array[np.abs(array) >= 1].flat[0]:g}; pass a correlation")
    return array


def _share(p: ArrayLike) -> np.ndarray:
    array = finite("p", p)
    if not ((array > 0) & (array < 1)).all():
        bad = array[~((array > 0) & (array < 1))].flat[0]
        raise ValueError(
            f"p must lie in (0, 1), got {bad:g}; pass a share of the examples, with some left for the core"
        )
    return array


def logistic_curvature(c: ArrayLike, alpha: ArrayLike, w: ArrayLike = 0.0) -> np.ndarray:
    r"""Curvature along the opposing direction (derived; μ = 0, any ρ).

    $$\frac{\partial^2 L}{\partial u^2} = \frac{\alpha c^2}{4}\,\mathrm{sech}^2\frac w2$$

    A quarter of the squared loss's at w = 0, smaller on both sides: an oscillation limits itself.

    Args:
        c: Second-layer weight, shape (...).
        alpha: Opposing variance α > 0.
        w: $c\,a\,u$, output on an outlier.
    Returns:
        Shape (...), in 1 / time.
    Raises:
        ValueError: If a value is not finite or ``alpha`` not positive.
    """
    half = np.exp(-np.abs(finite("w", w)))
    return positive("alpha", alpha) * finite("c", c) ** 2 * half / (1 + half) ** 2


def logistic_critical_c2(alpha: ArrayLike, lr: ArrayLike, rho: ArrayLike = 0.0) -> np.ndarray:
    r"""$c^2$ above which gradient descent oscillates across the valley (derived): $\frac{8}{\eta\alpha(1-\rho^2)}$.

    From $\frac{\alpha c^2}4(1-\rho^2) = 2/\eta$ at the floor $\tanh(w/2) = \rho$;
    for ρ = 0 four times the squared loss's.

    Args:
        alpha: α > 0, shape (...).
        lr: Step size η > 0.
        rho: Correlation of label and sign, in (−1, 1).
    Raises:
        ValueError: If an argument is out of its range.
    """
    rho = _inside("rho", rho)
    return 8 / (positive("lr", lr) * positive("alpha", alpha) * (1 - rho) * (1 + rho))


def logistic_sharpness(c: ArrayLike, alpha: ArrayLike, margin: ArrayLike, p: ArrayLike) -> np.ndarray:
    r"""Largest Hessian eigenvalue on the balanced line c = b at u = 0, ρ = μ = 0 (derived).

    With $z = m c^2$, $\sigma$ the logistic function, the three eigenvalues are
    $\frac{\alpha c^2}4$, $(1-p)m(2z\sigma(z)\sigma(-z) - \sigma(-z))$ and $(1-p)m\sigma(-z)$.

    Args:
        c: c = b, shape (...).
        alpha, margin: α, m > 0.
        p: Share of outliers, in (0, 1).
    Returns:
        Shape (...), in 1 / time.
    Raises:
        ValueError: If an argument is out of its range.
    """
    c, alpha, margin, p = finite("c", c), positive("alpha", alpha), positive("margin", margin), _share(p)
    z = margin * c**2
    core = (1 - p) * margin * expit(-z)
    return np.maximum(alpha * c**2 / 4, np.maximum(core * (2 * z * expit(z) - 1), core))


def _clock(z: np.ndarray) -> np.ndarray:
    r"""$F(z) = \log z + \mathrm{Ei}(z)$, with $F' = (1 + e^z)/z$."""
    return np.log(z) + expi(z)


def _from_clock(value: np.ndarray) -> np.ndarray:
    """z with F(z) = value: Newton in log z, where F is convex, from above."""
    late = np.maximum(value, np.e)
    log = np.log(late)
    start = np.where(value < np.e, (np.minimum(value, np.e) - np.euler_gamma) / 2, np.log(log + np.log(log) + 0.7))
    for _ in range(60):
        z = np.exp(start)
        step = (_clock(z) - value) / (1 + np.exp(z))
        start = start - step
        if (np.abs(step) <= 1e-15 * (1 + np.abs(start))).all():
            break
    return np.exp(start)


def logistic_flow(c0: ArrayLike, margin: ArrayLike, p: ArrayLike) -> Callable[[ArrayLike], np.ndarray]:
    r"""Second-layer weight c along gradient flow from the balanced start c = b, u = 0, ρ = μ = 0 (derived).

    $z = m c^2$ obeys $\dot z = 2(1-p)m\,z\,\sigma(-z)$, so
    $$\log z + \mathrm{Ei}(z)\,\Big|_{z_0}^{z} = 2(1-p)\,m\,t$$
    inverted by Newton's method. There is no limit: $z \sim \log t$, and the curvature $\alpha c^2/4$ grows for ever.

    Args:
        c0: c(0) = b(0) > 0, shape (...).
        margin: Margin m > 0 of the separable core.
        p: Share of outliers, in (0, 1).
    Returns:
        ``predict_fn(t)`` with 0 ≤ t < 1e300, time = lr * step; gives c(t), relative error about 1e-15.
    Raises:
        ValueError: If an argument is out of its range.
    References: derivation ``logistic-flow``.
    """
    c0, margin, p = positive("c0", c0), positive("margin", margin), _share(p)
    start = margin * c0**2
    if (start > 600).any():
        raise ValueError(f"margin * c0**2 must be <= 600, got {start.max():g}; beyond it float64 cannot hold the time")
    first = _clock(start)

    def predict(t: ArrayLike) -> np.ndarray:
        t = finite("t", t)
        if ((t < 0) | (t >= 1e300)).any():
            raise ValueError(f"t must lie in [0, 1e300), got {t[(t < 0) | (t >= 1e300)].flat[0]:g}; pass a time >= 0")
        return np.sqrt(np.maximum(_from_clock(first + 2 * (1 - p) * margin * t), start) / margin)

    return predict


def logistic_onset_time(c0: ArrayLike, alpha: ArrayLike, lr: ArrayLike, margin: ArrayLike, p: ArrayLike) -> np.ndarray:
    r"""Time at which $\alpha c^2/4$ reaches $2/\eta$ on the balanced flow (derived).

    $$t^* = \frac{F(8m/(\eta\alpha)) - F(m c_0^2)}{2(1-p)m},\quad F(z) = \log z + \mathrm{Ei}(z)$$

    Every step size meets the edge, at a time exponential in $8m/(\eta\alpha)$.

    Args:
        c0: c(0) = b(0) > 0, shape (...).
        alpha, lr, margin, p: α, η, m > 0; p in (0, 1).
    Returns:
        $t^*$ = lr * step, shape (...); 0 where the start is beyond the edge, ``inf`` where it overflows float64.
    Raises:
        ValueError: If an argument is out of its range.
    References: derivation ``logistic-onset``.
    """
    c0, margin, p = positive("c0", c0), positive("margin", margin), _share(p)
    start, edge = np.broadcast_arrays(margin * c0**2, margin * logistic_critical_c2(alpha, lr))
    beyond = start >= edge
    top = np.where(beyond, start, edge)
    with np.errstate(over="ignore", invalid="ignore"):
        end = _clock(top)
        far = np.where(np.isinf(end), np.inf, end - _clock(start))
    # close by, the difference of two F cancels: Gauss-Legendre on F' (pole at 0 five half-widths away: error 1e-23)
    near = (top < 1.5 * start) & (top - start < 1)
    node, weight = np.polynomial.legendre.leggauss(12)
    half = np.where(near, top - start, 0.0)[..., None] / 2
    z = start[..., None] + half * (1 + node)
    with np.errstate(over="ignore"):
        area = (half * weight * (1 + np.exp(z)) / z).sum(-1)
    return np.where(beyond, 0.0, np.where(near, area, far)) / (2 * (1 - p) * margin)


def logistic_period_two(s: ArrayLike, rho: ArrayLike = 0.0) -> PeriodTwo:
    r"""The orbit of period 2 of gradient descent along the opposing direction at frozen c (derived).

    The step is $w \leftarrow w - 2s(\tanh\frac w2 - \rho)$, $s = \eta\alpha c^2/4$. Its ends $\bar w \pm d$ satisfy
    $$\sqrt{1 + \rho^2 s^2 h^2} + \cosh d = s\,h,\quad h = \frac{\sinh d}d,\quad \sinh\bar w = \rho s h,$$
    for ρ = 0: $w = s\tanh\frac w2$, that is $u = \tfrac\eta2\,\partial L/\partial u$. There is exactly one for
    $s(1-\rho^2) > 2$, none below; for ρ = 0 it attracts at every s > 2, else it
    flips again: its multiplier tends to $1 - 4|\rho|(1-|\rho|)s$.

    Args:
        s: $\eta\alpha c^2/4 > 0$, shape (...).
        rho: ρ in (−1, 1).
    Returns:
        :class:`PeriodTwo` of shape (...).
    Raises:
        ValueError: If an argument is out of its range.
    References: derivation ``logistic-period-two``.
    """
    s, rho = np.broadcast_arrays(positive("s", s), _inside("rho", rho))

    def scaled(d: np.ndarray) -> np.ndarray:  # h e^{-d}
        safe = np.where(d > 0, d, 1.0)
        return np.where(d > 0, -np.expm1(-2 * safe) / (2 * safe), 1.0)

    low, high = np.zeros(s.shape), s * (1 - np.abs(rho))
    for _ in range(80):
        d = (low + high) / 2
        h = scaled(d)
        inside = s * h - (1 + np.exp(-2 * d)) / 2 - np.sqrt(np.exp(-2 * d) + (rho * s * h) ** 2) > 0
        low, high = np.where(inside, d, low), np.where(inside, high, d)
    exists = s * (1 - rho) * (1 + rho) > 2
    d = np.where(exists, (low + high) / 2, 0.0)
    h = scaled(d)
    # arsinh(ρ s h): by the logarithm of its argument, which e^d overflows for large d
    log = np.log(np.where(rho == 0, 1.0, np.abs(rho))) + np.log(s * h) + d
    middle = np.sign(rho) * np.where(log < 20, np.arcsinh(np.exp(np.minimum(log, 20.0))), log + np.log(2))
    middle = np.where(exists, middle, 2 * np.arctanh(rho))
    ends = middle + d, middle - d
    slopes = [1 - 4 * s * expit(w) * expit(-w) for w in ends]
    return PeriodTwo(*ends, slopes[0] * slopes[1])


def logistic_edge(
    b: ArrayLike, alpha: ArrayLike, lr: ArrayLike, margin: ArrayLike, p: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    r"""Where gradient descent rests at the edge: c and the amplitude of w, for the b reached (derived, b held).

    The oscillation $u \to -u$ pushes c down as hard as the core pulls it up. With $s = \eta\alpha c^2/4$, $z = mcb$:
    $$s = \frac{w}{\tanh(w/2)},\qquad \frac p2\,w\tanh\frac w2 = (1-p)\,z\,\sigma(-z)$$
    has one solution for every b, always with s > 2. As b grows w dies out and s falls to 2: no spike, the sharpness
    ends at 2/η from above. In full descent b drifts ever more slowly; there this is an adiabatic approximation (its
    lag is measured in the tests, not bounded).

    Args:
        b: First-layer core weight b > 0, shape (...).
        alpha, lr, margin, p: α, η, m > 0; p in (0, 1).
    Returns:
        c > 0 and w > 0, shape (...).
    Raises:
        ValueError: If an argument is out of its range.
    References: derivation ``logistic-edge``.
    """
    b, edge = positive("b", b), logistic_critical_c2(alpha, lr)
    margin, p = positive("margin", margin), _share(p)
    b, edge, margin, p = np.broadcast_arrays(b, edge, margin, p)

    def second_layer(w: np.ndarray) -> np.ndarray:
        return np.sqrt(edge * w / (2 * np.tanh(w / 2)))

    # z sigma(-z) < 0.2785 bounds w from above; log w by bisection, the ratio of the sides rises with w throughout
    low, high = np.full(b.shape, -700.0), np.log(2 + 2 * (1 - p) / p)
    for _ in range(72):
        mid = (low + high) / 2
        w = np.exp(mid)
        z = margin * second_layer(w) * b
        # logarithms: both sides underflow for large z
        pull = np.log((1 - p) * z) - np.logaddexp(0.0, z)
        small = np.log(p / 2 * np.tanh(w / 2)) + mid < pull
        low, high = np.where(small, mid, low), np.where(small, high, mid)
    w = np.exp((low + high) / 2)
    return second_layer(w), np.where(low <= -700, 0.0, w)  # below the least float


def logistic_peak_curvature(alpha: ArrayLike, margin: ArrayLike) -> np.ndarray:
    r"""Largest opposing curvature along the flow where outliers share the core feature, μ > 0 (derived).

    On the balanced line at u = 0, ρ = 0 the curvature is $\alpha q\,\sigma(\mu q)\sigma(-\mu q)$, $q = c^2$: it rises,
    peaks at $\mu q = x^*$, $x^*\tanh(x^*/2) = 1$ ($x^* \approx 1.5434$), and falls to 0:
    $$S_{\max} = \frac\alpha\mu\,\frac{x^{*2}-1}{4x^*}$$
    Step sizes below $2/S_{\max}$ never meet the edge along it, unlike for μ = 0.

    Args:
        alpha: α > 0, shape (...).
        margin: μ > 0, the outliers' own margin.
    Returns:
        Shape (...), in 1 / time; reached only from starts $\mu c_0^2 \le x^*$.
    Raises:
        ValueError: If an argument is not positive.
    """
    x = 1.5
    for _ in range(6):  # Newton; quadratic from a start good to 3 %
        t = np.tanh(x / 2)
        x -= (x * t - 1) / (t + x * (1 - t * t) / 2)
    return positive("alpha", alpha) / positive("margin", margin) * (x * x - 1) / (4 * x)
