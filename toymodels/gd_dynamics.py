r"""Fixed points, two-cycles and the boundary of divergence of gradient descent on the two-layer model, in closed form.

Throughout $g = \eta\|\beta\|$ and $r = \|\beta\| - c b_\parallel$; stability means that every multiplier (eigenvalue of
the map's Jacobian, over one period) has modulus below 1. All formulas are derived and re-proved from the generated
map in ``toymodels.derivations.gd_dynamics``; what holds for other models is found numerically in ``orbits``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from toymodels.validation import finite, positive

__all__ = [
    "BALANCED_LANDMARKS",
    "TwoCycle",
    "balanced_cycle",
    "boundary_exponents",
    "boundary_level",
    "catapult_level",
    "flattest_minimum",
    "minimum_multipliers",
    "mirror_cycle",
    "opposing_cycle",
    "origin_multipliers",
    "stable_arc",
]

#: what happens on the balanced line $c = b_\parallel$ at which value of $g = \eta\|\beta\|$ (derived)
BALANCED_LANDMARKS = {
    "fixed point superstable": 0.5,
    "flip to the two-cycle": 1.0,
    "two-cycle superstable": 3 / np.sqrt(2) - 1,
    "flip to the four-cycle": np.sqrt(5) - 1,
    "both signs merge": 1.5 * np.sqrt(3) - 1,
    "every orbit escapes": 2.0,
}


@dataclass(frozen=True)
class TwoCycle:
    """A period-two orbit: weights at its two phases, NaN where there is none.

    Args:
        c: Second-layer weight, shape (2, ...).
        b_par: First-layer weight along the signal, shape (2, ...).
        b_perp: First-layer weight across the signal, shape (2, ...).
        u: Weight on the opposing feature, shape (2, ...).
    """

    c: np.ndarray
    b_par: np.ndarray
    b_perp: np.ndarray
    u: np.ndarray

    def as_array(self) -> np.ndarray:
        """Shape (4, 2, ...): weights in the model's order, then the phase."""
        return np.stack([self.c, self.b_par, self.b_perp, self.u])


def _broadcast(**values: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(v, float) for v in np.broadcast_arrays(*values.values())]


def minimum_multipliers(c: ArrayLike, lr: ArrayLike, beta: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    r"""Multipliers of gradient descent at the minimum $c\,b_\parallel = \|\beta\|$, $u = b_\perp = 0$ (derived).

    $$1,\quad 1-\eta(b_\parallel^2+c^2),\quad 1-\eta c^2,\quad 1-\eta\alpha c^2$$

    along the curve of minima, across it in the plane $(c, b_\parallel)$, along $b_\perp$, along u.

    Args:
        c: Second-layer weight of the minimum, not 0, shape (...).
        lr: Step size η > 0.
        beta: $\|\beta\|$ > 0.
        alpha: Opposing variance α > 0.
    Returns:
        Shape (4, ...), in the order above.
    Raises:
        ValueError: If an argument is out of its range.
    """
    c, eta, beta, alpha = _broadcast(
        c=finite("c", c), lr=positive("lr", lr), beta=positive("beta", beta), alpha=positive("alpha", alpha)
    )
    if (c == 0).any():
        raise ValueError("c must not be 0 at a minimum (c b_par = beta > 0), got 0; pass c != 0")
    return np.stack([np.ones_like(c), 1 - eta * ((beta / c) ** 2 + c**2), 1 - eta * c**2, 1 - eta * alpha * c**2])


def origin_multipliers(b_perp: ArrayLike, u: ArrayLike, lr: ArrayLike, beta: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    r"""Multipliers at $c = b_\parallel = 0$, any $b_\perp$ and u: the only fixed points that are not minima (derived).

    $1 + \tfrac\eta2\big(-m \pm \sqrt{m^2+4\|\beta\|^2}\big)$ with $m = b_\perp^2+\alpha u^2$, and 1 twice; the first is
    above 1, so these points are never stable.

    Args:
        b_perp, u: Where, shape (...).
        lr: Step size η > 0.
        beta: $\|\beta\|$ > 0.
        alpha: Opposing variance α > 0.
    Returns:
        Shape (4, ...): the + root, the − root, 1, 1.
    Raises:
        ValueError: If an argument is out of its range.
    """
    p, u, eta, beta, alpha = _broadcast(
        b_perp=finite("b_perp", b_perp),
        u=finite("u", u),
        lr=positive("lr", lr),
        beta=positive("beta", beta),
        alpha=positive("alpha", alpha),
    )
    m = p**2 + alpha * u**2
    total = m + np.hypot(m, 2 * beta)  # -m + hypot = 4 beta^2 / total, without cancellation
    return np.stack([1 + 2 * eta * beta**2 / total, 1 - eta * total / 2, np.ones_like(m), np.ones_like(m)])


def flattest_minimum(beta: ArrayLike, alpha: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    r"""The minimum of least sharpness, and that sharpness (derived).

    On $c\,b_\parallel=\|\beta\|$ the sharpness is $\max(\alpha c^2,\, c^2+\|\beta\|^2/c^2)$, least at

    $$c^2 = \|\beta\|,\; S = 2\|\beta\| \quad(\alpha\le2);\qquad
      c^2 = \frac{\|\beta\|}{\sqrt{\alpha-1}},\; S = \frac{\alpha\|\beta\|}{\sqrt{\alpha-1}}\quad(\alpha>2)$$

    No minimum is stable for a step above $2/S$.

    Args:
        beta: $\|\beta\|$ > 0.
        alpha: Opposing variance α > 0.
    Returns:
        c² and the sharpness (1/time), shape (...) each.
    Raises:
        ValueError: If an argument is not positive.
    """
    beta, alpha = _broadcast(beta=positive("beta", beta), alpha=positive("alpha", alpha))
    root = np.sqrt(np.maximum(alpha, 2.0) - 1)
    return beta / root, np.maximum(alpha, 2.0) * beta / root


def stable_arc(lr: ArrayLike, beta: ArrayLike, alpha: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    r"""The arc of stable minima, as an open interval of c² (derived).

    Sharpness below 2/η:
    $$\frac{1-\sqrt{1-g^2}}\eta < c^2 < \min\Big(\frac{1+\sqrt{1-g^2}}\eta,\; \frac{2}{\eta\alpha}\Big),
      \qquad g=\eta\|\beta\|$$

    Not empty if and only if η is below 2 over the sharpness of :func:`flattest_minimum`.

    Args:
        lr: Step size η > 0.
        beta: $\|\beta\|$ > 0.
        alpha: Opposing variance α > 0.
    Returns:
        Ends (low, high) of c², shape (...) each; NaN where no minimum is stable.
    Raises:
        ValueError: If an argument is not positive.
    """
    eta, beta, alpha = _broadcast(lr=positive("lr", lr), beta=positive("beta", beta), alpha=positive("alpha", alpha))
    g = eta * beta
    root = np.sqrt(np.where(g < 1, (1 - g) * (1 + g), np.nan))
    low = eta * beta**2 / (1 + root)  # (1 - root)/eta without cancellation
    high = np.minimum((1 + root) / eta, 2 / (eta * alpha))
    empty = ~(low < high)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def balanced_cycle(lr: ArrayLike, beta: ArrayLike, alpha: ArrayLike) -> tuple[TwoCycle, np.ndarray]:
    r"""The two-cycle on the balanced line $c=b_\parallel=x$, born at g = 1 where the flattest minimum flips (derived).

    $$x_0x_1 = \frac1\eta,\quad (x_0+x_1)^2 = \frac{g+3}\eta,\quad (x_0-x_1)^2 = \frac{g-1}\eta$$

    Multipliers over its period: $9-2(1+g)^2$ along the line, $3-2g$ across it in the plane, $1-g$ along $b_\perp$,
    $1-\alpha(1+g)+\alpha^2$ along u. Stable if and only if $1<g<\sqrt5-1$, $\alpha<1+g$ and the last exceeds −1.

    Args:
        lr: Step size η > 0.
        beta: $\|\beta\|$ > 0.
        alpha: Opposing variance α > 0.
    Returns:
        The cycle, and its multipliers in the order above, shape (4, ...); NaN where $g \le 1$.
    Raises:
        ValueError: If an argument is not positive.
    """
    eta, beta, alpha = _broadcast(lr=positive("lr", lr), beta=positive("beta", beta), alpha=positive("alpha", alpha))
    g = np.where(eta * beta > 1, eta * beta, np.nan)
    upper = (np.sqrt(g + 3) + np.sqrt(g - 1)) / (2 * np.sqrt(eta))
    x = np.stack([upper, 1 / (eta * upper)])
    nothing = np.where(np.isnan(x), np.nan, 0.0)
    along_u = 1 - alpha * (1 + g - alpha)
    return TwoCycle(x, x, nothing, nothing), np.stack([9 - 2 * (1 + g) ** 2, 3 - 2 * g, 1 - g, along_u])


def opposing_cycle(lr: ArrayLike, beta: ArrayLike, alpha: ArrayLike) -> TwoCycle:
    r"""The only two-cycle with c of one sign in which the opposing weight u takes part (derived).

    With $P = 1/(c_0c_1)$, the one root of $\dfrac{\|\beta\|^2P^3}{\alpha-1} + P = \eta\alpha$:

    $$\frac1{c_0^2}+\frac1{c_1^2}=\eta\alpha,\qquad u_1 = -\frac{c_0^2}{c_1^2}u_0,\qquad
      \alpha u_0^2 = \frac{\kappa^2}{\eta^2c_0^4}\Big(\frac1{c_0}-\frac1{c_1}\Big)^2\frac{P-\eta}{\eta\alpha-P},\quad
      \kappa=\frac{\|\beta\|}{\alpha-1}$$

    and $r_0 = \tfrac{\kappa}{\eta c_0}(\tfrac1{c_0}-\tfrac1{c_1})$, $r_1 = -\tfrac{c_0}{c_1}r_0$. It exists for
    $2\sqrt{\alpha-1}/\alpha < \eta\|\beta\| < \alpha-1$ and α > 2: it is born where the flattest minimum loses its
    stability and ends in the balanced two-cycle. Up to the signs of (c, b) and of u it is unique. On it the two
    opposing groups exchange their losses at every step, for ever: it attracts for α from 2 to about 2.21, for part of
    its range up to about 2.40, and for no larger α (measured, on a grid of multipliers).

    Args:
        lr: Step size η > 0.
        beta: $\|\beta\|$ > 0.
        alpha: Opposing variance α > 0.
    Returns:
        The cycle with c, u₀ > 0 and $c_0 < c_1$; NaN where there is none. Its multipliers:
        ``orbits.cycle_multipliers``.
    Raises:
        ValueError: If an argument is not positive.
    """
    eta, beta, alpha = _broadcast(lr=positive("lr", lr), beta=positive("beta", beta), alpha=positive("alpha", alpha))
    least = 2 * np.sqrt(np.maximum(alpha - 1, 0)) / alpha
    there = (alpha > 2) & (eta * beta > least) & (eta * beta < alpha - 1)
    eta, beta, alpha = (np.where(there, v, np.nan) for v in (eta, beta, alpha))
    slope = (alpha - 1) / beta**2  # P^3 + slope P = slope eta alpha
    product = 2 * np.sqrt(slope / 3) * np.sinh(np.arcsinh(1.5 * eta * alpha * np.sqrt(3 / slope)) / 3)
    total = np.sqrt(eta * alpha + 2 * product)
    gap = np.sqrt(np.maximum(product * (product**2 / slope - 1), 0.0))  # eta alpha - 2 P, from the cubic
    first = (total + gap) / 2  # 1/c_0
    second = product / first  # 1/c_1
    kappa = beta / (alpha - 1)
    r0 = kappa * gap * first / eta
    r1 = -kappa * gap * second / eta
    square = (first**2 * kappa * gap / eta) ** 2 * (product - eta) / (alpha * (eta * alpha - product))
    u0 = np.sqrt(np.maximum(square, 0.0))
    c = np.stack([1 / first, 1 / second])
    b = np.stack([(beta - r0) * first, (beta - r1) * second])
    return TwoCycle(c, b, np.where(np.isnan(c), np.nan, 0.0), np.stack([u0, -((second / first) ** 2) * u0]))


def mirror_cycle(lr: ArrayLike, beta: ArrayLike, alpha: ArrayLike) -> TwoCycle:
    r"""The two-cycle with u in which every weight changes sign (derived).

    $$\eta\alpha c^2 = 2,\qquad b_\parallel = -\frac{\|\beta\|}{(\alpha-1)c},\qquad
      \alpha u^2 = \frac2\eta - \frac{\eta\alpha^2\|\beta\|^2}{2(\alpha-1)^2}$$

    It exists for $\eta\|\beta\| < 2|\alpha-1|/\alpha$, α ≠ 1. At β → 0 it lies on the boundary of divergence,
    $\eta\alpha(c^2+u^2)=4$ (:func:`catapult_level`). Its largest multiplier is 9 there and larger elsewhere
    (measured, on a grid): it is never stable.

    Args:
        lr: Step size η > 0.
        beta: $\|\beta\|$ > 0.
        alpha: Opposing variance α > 0.
    Returns:
        The cycle with c, u > 0 at its first phase; NaN where there is none.
    Raises:
        ValueError: If an argument is not positive.
    """
    eta, beta, alpha = _broadcast(lr=positive("lr", lr), beta=positive("beta", beta), alpha=positive("alpha", alpha))
    excess = alpha - 1
    there = eta * beta * alpha < 2 * np.abs(excess)
    eta, beta, alpha, excess = (np.where(there, v, np.nan) for v in (eta, beta, alpha, excess))
    c = np.sqrt(2 / (eta * alpha))
    share = eta * beta * alpha / (2 * excess)
    u = np.sqrt(2 / (eta * alpha) * (1 - share) * (1 + share))
    b = -beta / (excess * c)
    nothing = np.where(np.isnan(c), np.nan, 0.0)
    return TwoCycle(*(np.stack([w, -w]) for w in (c, b, nothing, u)))


def boundary_level(c: ArrayLike, b_par: ArrayLike, b_perp: ArrayLike, lr: ArrayLike, beta: ArrayLike) -> np.ndarray:
    r"""$Q = \eta(c^2+b_\parallel^2+b_\perp^2) + g(g-\eta c b_\parallel)$: for u = 0, $Q<4$ is never left (derived).

    One step takes $4-Q$ to $(4-Q)(1-ge+e^2+f^2)$ with $e = \eta r$, $f=\eta c b_\perp$, and the factor is positive for
    $g = \eta\|\beta\| < 2$. So the ellipsoid Q = 4 is invariant: starts inside stay inside, those outside stay out.
    That almost all of those outside diverge is measured (``benchmarks/toy_limits.py``). Critical step and smooth
    boundary of this problem: Liang & Montúfar (2025), arXiv 2509.25351.

    Args:
        c, b_par, b_perp: Weights, shape (...).
        lr: Step size η > 0, with η‖β‖ < 2.
        beta: $\|\beta\|$ > 0.
    Returns:
        Q, without unit, shape (...).
    Raises:
        ValueError: If an argument is out of its range.
    """
    c, b, p, eta, beta = _broadcast(
        c=finite("c", c),
        b_par=finite("b_par", b_par),
        b_perp=finite("b_perp", b_perp),
        lr=positive("lr", lr),
        beta=positive("beta", beta),
    )
    g = _bounded_product(eta, beta)
    return eta * (c**2 + b**2 + p**2) + g * (g - eta * c * b)


def _bounded_product(eta: np.ndarray, beta: np.ndarray) -> np.ndarray:
    g = eta * beta
    if (g >= 2).any():
        raise ValueError(f"lr must be below 2/beta, got lr * beta = {g.max():g}; pass a smaller lr")
    return g


def catapult_level(c: ArrayLike, u: ArrayLike, lr: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    r"""$q = \eta\alpha(c^2+u^2)$: below 4 the opposing direction alone catapults and converges, above 4 it diverges
    (derived).

    For $L=\tfrac12\alpha c^2u^2$ the pair q, $z=\eta\alpha cu$ is closed: $z' = z(1-q+z^2)$,
    $q' = q-z^2(4-q)$. From q < 4, q falls and the limit has sharpness at most 2/η; from q > 4 it rises without
    bound (but for starts that hit z = 0 exactly). The same two lines as Lewkowycz et al. (2020), arXiv 2003.02218.

    Args:
        c: Second-layer weight, shape (...).
        u: Weight on the opposing feature, shape (...).
        lr: Step size η > 0.
        alpha: Opposing variance α > 0.
    Returns:
        q, without unit, shape (...).
    Raises:
        ValueError: If an argument is out of its range.
    """
    c, u, eta, alpha = _broadcast(
        c=finite("c", c), u=finite("u", u), lr=positive("lr", lr), alpha=positive("alpha", alpha)
    )
    return eta * alpha * (c**2 + u**2)


def boundary_exponents(lr: ArrayLike, beta: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    r"""Lyapunov exponents of the boundary of divergence Q = 4 with $u = b_\perp = 0$ (derived).

    On it $e=\eta r = 2\cos\theta$ obeys $\theta \mapsto 3\theta$ up to sign (Chebyshev's cubic): exponent log 3,
    whatever $g<2$. Across it the exponent is the mean of $\log(1-ge+e^2)$,

    $$2\log\rho,\qquad \rho+\frac1\rho = \sqrt{\tfrac54-\tfrac g2}+\sqrt{\tfrac54+\tfrac g2}$$

    positive for g < 2 (the boundary repels; at g → 0, twice the logarithm of the golden ratio), 0 at g = 2.

    Args:
        lr: Step size η > 0, with η‖β‖ < 2.
        beta: $\|\beta\|$ > 0.
    Returns:
        Exponents along and across, 1/step, shape (...) each.
    Raises:
        ValueError: If an argument is out of its range.
    """
    eta, beta = _broadcast(lr=positive("lr", lr), beta=positive("beta", beta))
    g = _bounded_product(eta, beta)
    # log rho = arccosh(half the sum); sinh^2 of it, without cancellation near g = 2
    square = (2 - g) * (2 + g) / (4 * (np.sqrt(6.25 - g**2) + 1.5))
    return np.full(g.shape, np.log(3.0)), 2 * np.arcsinh(np.sqrt(square))
