r"""SGD along the opposing direction, with c and the core weights frozen: multiplicative and additive noise.

With $w = c\,a\,u$ ($a = \sqrt{\alpha/p}$), $\lambda = \alpha c^2$, $s = \eta\lambda$, a batch of B examples, N of them
outliers, acts as $w \leftarrow (1 - kN)\,w + k\,T$, $k = s/(pB)$, $T = \sum_{i \le N} s_i (g_0 - e_i)$: $s_i = \pm1$ is
the outlier's sign, $g_0 = \gamma|1^\top x_o|$ its offset, $e_i = (c\,b - \beta)^\top x_i$ its core residual, variance
$r_2 = r^2 + c^2 b_\perp^2$. Derived in ``toymodels.derivations.noise``.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from toymodels.validation import finite, positive

__all__ = ["GroupLossMoments", "critical_sgd_lr", "mean_square_factor", "sgd_group_losses", "sgd_variance"]


class GroupLossMoments(NamedTuple):
    r"""Stationary moments of the two group losses $\ell_\pm$ at the batch noise; arrays of one shape.

    Args:
        mean: $E\ell_+ = E\ell_-$; ``inf`` where the mean square grows.
        variance: $\mathrm{Var}\,\ell_+ = \mathrm{Var}\,\ell_-$; ``inf`` where $E w^4$ grows, which happens first.
        covariance: $\mathrm{Cov}(\ell_+, \ell_-)$; NaN where the variance is ``inf``.
    """

    mean: np.ndarray
    variance: np.ndarray
    covariance: np.ndarray


def _least(name: str, value: ArrayLike, least: float) -> np.ndarray:
    array = finite(name, value)
    if not (array >= least).all():
        raise ValueError(f"{name} must be >= {least:g}, got {array.min():g}; pass {name} >= {least:g}")
    return array


def _share(p: ArrayLike) -> np.ndarray:
    array = finite("p", p)
    if not ((array > 0) & (array <= 1)).all():
        bad = array[~((array > 0) & (array <= 1))].flat[0]
        raise ValueError(f"p must lie in (0, 1], got {bad:g}; pass a share of the examples")
    return array


def _batch(batch: ArrayLike) -> np.ndarray:
    array = _least("batch", batch, 1)
    if not (array == np.floor(array)).all():
        bad = array[array != np.floor(array)].flat[0]
        raise ValueError(f"batch must be a whole number, got {bad:g}; pass a number of examples")
    return array


def _population_factor(batch: np.ndarray, population: ArrayLike) -> np.ndarray:
    """(n - B)/(n - 1); 1 for an infinite population, that is for batches drawn with replacement."""
    n = np.asarray(population, dtype=np.float64)
    if np.isnan(n).any() or not (n >= 2).all() or not (n >= batch).all():
        raise ValueError(
            f"population must be >= 2 and >= batch, got {np.min(n):g} for batch {np.max(batch):g}; "
            "pass the number of examples, or inf for batches drawn with replacement"
        )
    return (1 - batch / n) / (1 - 1 / n)


def _excess(batch: ArrayLike, p: ArrayLike, population: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Batch, population factor f and relative variance $\nu = f(1-p)/(pB)$ of the batch curvature."""
    size, share = _batch(batch), _share(p)
    factor = _population_factor(size, population)
    return size, factor, factor * (1 - share) / (share * size)


def mean_square_factor(
    lr: ArrayLike, curvature: ArrayLike, batch: ArrayLike, p: ArrayLike, population: ArrayLike = np.inf
) -> np.ndarray:
    r"""Factor by which one SGD step multiplies $E u^2$, noise apart (derived).

    $$E(1 - \eta\alpha_B c^2)^2 = (1 - s)^2 + \nu s^2,\quad
      \nu = \frac{1-p}{pB}\,\frac{n-B}{n-1},\; s = \eta\lambda$$

    Args:
        lr: Step size η > 0, shape (...).
        curvature: $\lambda = \alpha c^2 > 0$ of the whole data along the opposing direction, in 1 / time.
        batch: Examples per batch B, a whole number ≥ 1.
        p: Share of outliers, in (0, 1].
        population: n, of which each batch is a fresh sample without replacement; ``inf``: drawn with replacement.
    Returns:
        Shape (...), ≥ 0; below 1 the step is stable in mean square.
    Raises:
        ValueError: If an argument is out of its range.
    References: derivation ``sgd-stability``.
    """
    s = positive("lr", lr) * positive("curvature", curvature)
    return (1 - s) ** 2 + _excess(batch, p, population)[2] * s**2


def critical_sgd_lr(curvature: ArrayLike, batch: ArrayLike, p: ArrayLike, population: ArrayLike = np.inf) -> np.ndarray:
    r"""Step size above which $E u^2$ grows under SGD (derived).

    $$\eta^* = \frac{2}{\lambda(1+\nu)},\quad\nu = \frac{1-p}{pB}\,\frac{n-B}{n-1}$$

    It is $2/\lambda$ for B → ∞ or B = n, and $2p/\lambda$ for B = 1. Arguments and errors: :func:`mean_square_factor`.

    Returns:
        Time per step, shape (...).
    """
    return 2 / (positive("curvature", curvature) * (1 + _excess(batch, p, population)[2]))


def sgd_variance(
    lr: ArrayLike,
    curvature: ArrayLike,
    batch: ArrayLike,
    p: ArrayLike,
    g0: ArrayLike,
    r2: ArrayLike = 0.0,
    *,
    population: ArrayLike = np.inf,
    step: ArrayLike = np.inf,
    u0: ArrayLike = 0.0,
) -> np.ndarray:
    r"""Mean square of u under SGD with c and b frozen (derived).

    $$E u_n^2 = V + (u_0^2 - V)\,m^n,\quad V = \frac{\eta f (g_0^2 + r_2)}{B\,(2 - s(1+\nu))},\quad
      f = \frac{n-B}{n-1},\quad m = E(1-\eta\alpha_B c^2)^2$$

    V is the stationary variance (the mean is 0); u jitters at any step size, far below the edge too.

    Args:
        lr, curvature, batch, p, population: As in :func:`mean_square_factor`.
        g0: Offset $\gamma|1^\top x_o|$ of an outlier's target, any sign.
        r2: Variance of the core residual, ≥ 0: $r^2 + c^2 b_\perp^2$, ``2 * model.loss`` at u = 0.
        step: Updates made, ≥ 0; ``inf``: stationary.
        u0: Start.
    Returns:
        $E u^2$, shape (...); for ``step`` inf, ``inf`` where the step is not stable in mean square.
    Raises:
        ValueError: If an argument is out of its range.
    References: derivations ``sgd-variance``, ``sgd-finite-population``.
    """
    eta, lam = positive("lr", lr), positive("curvature", curvature)
    size, factor, excess = _excess(batch, p, population)
    power = finite("g0", g0) ** 2 + _least("r2", r2, 0)
    n = np.asarray(step, dtype=np.float64)
    if np.isnan(n).any() or (n < 0).any():
        raise ValueError(f"step must be >= 0, got {np.min(n):g}; pass a number of updates, or inf")
    start = finite("u0", u0) ** 2
    s = eta * lam
    gap = s * (2 - s * (1 + excess))  # 1 - m
    added = eta**2 * lam * factor * power / size  # variance of one step's noise
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        forever = np.where(gap > 0, added / gap, np.where((added == 0) & (start == 0), 0.0, np.inf))
        log_m = np.log1p(-np.minimum(gap, 1.0))  # -inf where m = 0: one step forgets the start
        grown = np.where(n == 0, 1.0, np.exp(n * log_m))
        # (1 - m^n)/(1 - m), n where m = 1
        series = np.where(gap == 0, n, np.where(n == 0, 0.0, -np.expm1(n * log_m)) / gap)
        finite_n = start * grown + added * series
    return np.where(np.isinf(n), forever, finite_n)


def sgd_group_losses(
    lr: ArrayLike, curvature: ArrayLike, batch: ArrayLike, p: ArrayLike, g0: ArrayLike, r2: ArrayLike = 0.0
) -> GroupLossMoments:
    r"""Stationary mean, variance and covariance of the group losses under SGD with replacement (derived, exact).

    $$E\ell_\pm = \tfrac12(r_2 + g_0^2 + m_2),\quad
      \mathrm{Var}\,\ell_\pm = \tfrac14(m_4 - m_2^2) + g_0^2 m_2,\quad
      \mathrm{Cov}(\ell_+,\ell_-) = \tfrac14(m_4 - m_2^2) - g_0^2 m_2$$
    $$m_2 = E w^2 = \frac{\lambda}{p} V,\quad
      m_4 = E w^4 = \frac{6 k^2\tau\,E[N(1-kN)^2]\,m_2 + k^4(E N\,\xi + 3 E[N(N-1)]\,\tau^2)}{1 - E(1-kN)^4}$$
    with $\tau = g_0^2 + r_2$, $\xi = g_0^4 + 6 g_0^2 r_2 + 3 r_2^2$ (Gaussian core) and N binomial (B, p).

    Args:
        lr, curvature, batch, p: As in :func:`mean_square_factor`.
        g0, r2: As in :func:`sgd_variance`.
    Returns:
        :class:`GroupLossMoments` of shape (...), in units of the loss and its square.
    Raises:
        ValueError: If an argument is out of its range.
    References: derivation ``sgd-group-losses``.
    """
    eta, lam, share, size = positive("lr", lr), positive("curvature", curvature), _share(p), _batch(batch)
    g2, r2 = finite("g0", g0) ** 2, _least("r2", r2, 0)
    k = eta * lam / (share * size)
    second = lam / share * sgd_variance(eta, lam, size, share, g0, r2)
    # factorial moments of the binomial, then raw ones: sums of terms >= 0
    f1, f2 = size * share, size * (size - 1) * share**2
    f3 = f2 * (size - 2) * share
    f4 = f3 * (size - 3) * share
    n2, n3, n4 = f2 + f1, f3 + 3 * f2 + f1, f4 + 6 * f3 + 7 * f2 + f1
    gap = k * (4 * f1 - k * (6 * n2 - k * (4 * n3 - k * n4)))  # 1 - E(1 - kN)^4
    power, fourth = g2 + r2, g2**2 + 6 * g2 * r2 + 3 * r2**2
    mixed = f1 - 2 * k * n2 + k**2 * n3
    with np.errstate(divide="ignore", invalid="ignore"):
        w4 = (6 * k**2 * power * mixed * second + k**4 * (f1 * fourth + 3 * f2 * power**2)) / gap
        # m4 >= m2^2; rounding may miss it by one digit where |w| is constant (B = p = s = 1)
        spread = np.where((gap > 0) & np.isfinite(second), np.maximum(w4 - second**2, 0.0) / 4, np.inf)
        spread = np.where(power * np.ones_like(spread) == 0, 0.0, spread)
        shared = g2 * second
        return GroupLossMoments(
            (r2 + g2 + second) / 2,
            spread + shared,
            np.where(np.isinf(spread), np.nan, spread - shared),
        )
