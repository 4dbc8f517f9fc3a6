"""SGD along the opposing direction: the batch step from the loss of one example, its moments, its stability."""

from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from toymodels.derivations.registry import Check, Derivation, Step
from toymodels.noise import critical_sgd_lr, mean_square_factor, sgd_group_losses, sgd_variance
from toymodels.symbolic import SymbolicModel, two_layer

__all__ = ["ROWS"]

C, B_PAR, B_PERP, U = two_layer().weights
BETA, ALPHA = two_layer().parameters
LR, SHARE, BATCH, N = sp.symbols("eta p B n", positive=True)
A, G0, R2, TAU, XI = sp.symbols("a g_0 r_2 tau xi", positive=True)
X1, X2, SIGN, E, Z, DUAL = sp.symbols("x_1 x_2 s_i e z t", real=True)
S = LR * ALPHA * C**2
NU = (1 - SHARE) / (SHARE * BATCH)
K = S / (SHARE * BATCH)


@cache
def _example() -> SymbolicModel:
    r"""Loss of one example: core coordinates $x_1$ (along β), $x_2$ (along $b_\perp$), opposing sign in {-1, 0, 1}."""
    error = C * (B_PAR * X1 + B_PERP * X2) + C * A * SIGN * U - BETA * X1 - G0 * SIGN**2
    return SymbolicModel(two_layer().weights, (BETA, A, G0, X1, X2, SIGN), error**2 / 2)


def _core_residual() -> sp.Expr:
    return C * (B_PAR * X1 + B_PERP * X2) - BETA * X1


def _over_core(expression: Any) -> Any:
    """Mean over the core coordinates (mean 0, variance 1, uncorrelated) of a polynomial of degree 2 in them."""
    poly = sp.Poly(sp.expand(expression), X1, X2)
    return sum(coefficient for powers, coefficient in poly.terms() if powers in ((0, 0), (2, 0), (0, 2)))


def _step_residual() -> list[sp.Expr]:
    """-dl/du of each sort of example minus m(-c^2 a^2 u + c a s (g0 - e)), m = s^2."""
    gradient: Any = _example().gradient[3]
    form = SIGN**2 * (-(C**2) * A**2 * U) + C * A * SIGN * (G0 * SIGN**2 - _core_residual())
    return [sp.expand((-gradient - form).subs(SIGN, sign)) for sign in (-1, 0, 1)]


def _mean_step_residual() -> sp.Expr:
    """Mean over examples of the generated per-example gradient minus the gradient of the reduced loss (all four)."""
    weights = {-1: SHARE / 2, 0: 1 - SHARE, 1: SHARE / 2}
    gradient: Any = _example().gradient
    mean = [sum(w * _over_core(g.subs(SIGN, s)) for s, w in weights.items()) for g in gradient]
    return sp.expand(sp.Matrix(mean).subs(A, sp.sqrt(ALPHA / SHARE)) - two_layer().gradient)


def _core_variance_residual() -> sp.Expr:
    return sp.expand(_over_core(_core_residual() ** 2) - (BETA - C * B_PAR) ** 2 - C**2 * B_PERP**2)


def _transform() -> Any:
    r"""E z^m e^{t v} of one example to order 4 in t: v = m s (g0 - e) has odd moments 0, E v^2 = p τ, E v^4 = p ξ."""
    return 1 - SHARE + SHARE * Z * (1 + TAU * DUAL**2 / 2 + XI * DUAL**4 / 24)


def _kick_residual() -> list[sp.Expr]:
    """Moments 1, 2, 3 of an outlier's s(g0 - e), E e = 0 and E e^2 = r2 put in by hand (odd ones need the sign alone)."""

    def both(k: int) -> sp.Expr:
        return sp.expand(sum((sign * (G0 - E)) ** k for sign in (1, -1)) / 2)

    second = both(2).coeff(E, 0) + both(2).coeff(E, 2) * R2
    return [both(1), second - G0**2 - R2, both(3)]


def _gaussian_residual() -> sp.Expr:
    """E (g0 - e)^4 for a Gaussian e of variance r2."""
    density = sp.exp(-(E**2) / (2 * R2)) / sp.sqrt(2 * sp.pi * R2)
    mean = sp.integrate(sp.expand((G0 - E) ** 4) * density, (E, -sp.oo, sp.oo))
    return mean - (G0**4 + 6 * G0**2 * R2 + 3 * R2**2)


@cache
def _moment(j: int, k: int) -> Any:
    """E N^j T^k over a batch of B independent examples (k <= 4), from the B-th power of one example's transform."""
    expression: Any = _transform() ** BATCH
    for _ in range(k):
        expression = sp.diff(expression, DUAL)
    expression = expression.subs(DUAL, 0)
    for _ in range(j):
        expression = Z * sp.diff(expression, Z)
    return sp.factor(sp.simplify(expression.subs(Z, 1)))


def _average(expression: sp.Expr) -> Any:
    """E of a polynomial in N and T (symbols ``N``, ``DUAL``)."""
    poly = sp.Poly(sp.expand(expression), N, DUAL)
    return sum(coefficient * _moment(*powers) for powers, coefficient in poly.terms())


def _square_residual() -> sp.Expr:
    return sp.expand(_average((1 - K * N) ** 2) - (1 - S) ** 2 - NU * S**2)


def _critical_residual() -> list[sp.Expr]:
    """E M^2 = 1 at the stated lr, and E M^2 - 1 has just that positive root: it is -s(2 - s(1 + nu))."""
    square = _average((1 - K * N) ** 2)
    at_edge = square.subs(LR, 2 / (ALPHA * C**2 * (1 + NU))) - 1
    return [sp.simplify(at_edge), sp.expand(square - 1 + S * (2 - S * (1 + NU)))]


def _variance_residual() -> list[Any]:
    """u' = Mu + eta c a T/B: E u'^2 - E u^2 at the stated V, for any n, and the cross term E M T = 0."""
    v, v0 = LR * TAU / (BATCH * (2 - S * (1 + NU))), sp.Symbol("v_0")
    square = (1 - S) ** 2 + NU * S**2  # E M^2, the previous row
    noise = (LR * C * A / BATCH) ** 2 * _moment(0, 2)
    noise = noise.subs(A, sp.sqrt(ALPHA / SHARE))

    def at(power: Any) -> Any:
        return v + (v0 - v) * power

    power = sp.Symbol("mu")  # m^n
    return [
        sp.together(square * at(power) + noise - at(power * square)),
        _average((1 - K * N) * DUAL),
        at(sp.Integer(1)) - v0,
    ]


def _fourth_residual() -> list[sp.Expr]:
    """E w'^4 with w' = Mw + kT: odd terms vanish, the others in the stated form."""
    m = 1 - K * N
    stated = K**4 * (_moment(1, 0) * XI + 3 * (_moment(2, 0) - _moment(1, 0)) * TAU**2)
    return [
        _average(m**3 * DUAL),
        _average(m * DUAL**3),
        _average(DUAL),
        _average(DUAL**3),
        sp.simplify(_average(m**2 * DUAL**2) - TAU * _average(N * m**2)),
        sp.simplify(K**4 * _moment(0, 4) - stated),
    ]


def _losses_residual() -> list[sp.Expr]:
    """Group losses from the example's loss: their variance and covariance where odd moments of w vanish."""
    w, m2, m4 = sp.symbols("w m_2 m_4")
    plus, minus = (_over_core(_example().loss.subs(SIGN, s)).subs(U, w / (C * A)) for s in (1, -1))

    def mean(expression: sp.Expr) -> Any:
        moments = {0: 1, 1: 0, 2: m2, 3: 0, 4: m4}
        return sum(coefficient * moments[power] for (power,), coefficient in sp.Poly(sp.expand(expression), w).terms())

    power = sp.expand(_over_core(_core_residual() ** 2))
    return [
        sp.expand(mean(plus) - (power + G0**2 + m2) / 2),
        sp.expand(mean(plus**2) - mean(plus) ** 2 - (m4 - m2**2) / 4 - G0**2 * m2),
        sp.expand(mean(plus * minus) - mean(plus) * mean(minus) - (m4 - m2**2) / 4 + G0**2 * m2),
    ]


def _population_residual() -> list[sp.Expr]:
    """Sampling without replacement: pairs are drawn with chance B(B-1)/(n(n-1)).

    First: mean square of a sum of B values of population sum 0 and mean square τ. Second: E M^2 from the same rule
    for N. Third: covariance of the batch sums of two features, 0 where the second has population sum 0 and they
    multiply to it (m v = v).
    """
    pair = BATCH * (BATCH - 1) / (N * (N - 1))
    sum_v, sum_m = 0, N * SHARE

    def product(sum_a: Any, sum_b: Any, sum_ab: Any) -> Any:
        return BATCH / N * sum_ab + pair * (sum_a * sum_b - sum_ab)

    f = (N - BATCH) / (N - 1)
    count = product(sum_m, sum_m, sum_m)  # m^2 = m
    return [
        sp.simplify(product(sum_v, sum_v, N * TAU) - BATCH * f * TAU),
        sp.simplify(1 - 2 * S + K**2 * count - (1 - S) ** 2 - NU * f * S**2),
        sp.simplify(product(sum_m, sum_v, sum_v)),
    ]


# numerical oracles ---------------------------------------------------------------------------------------------------


def outlier_counts(batch: int, p: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All (n+, n-) of a batch drawn with replacement and their multinomial probabilities."""
    from scipy.stats import multinomial

    pairs = np.array([(i, j) for i in range(batch + 1) for j in range(batch + 1 - i)])
    rest = batch - pairs.sum(1)
    law = multinomial(batch, [p / 2, p / 2, 1 - p])
    return pairs[:, 0], pairs[:, 1], law.pmf(np.column_stack([pairs, rest]))


def finite_counts(batch: int, n: int, outliers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for a sample without replacement from n examples of which ``outliers``/2 have each sign."""
    from scipy.stats import multivariate_hypergeom

    pairs = np.array([(i, j) for i in range(batch + 1) for j in range(batch + 1 - i)])
    rest = batch - pairs.sum(1)
    law = multivariate_hypergeom([outliers // 2, outliers // 2, n - outliers], batch)
    return pairs[:, 0], pairs[:, 1], law.pmf(np.column_stack([pairs, rest]))


def enumerated_moments(counts: Any, a: float, c: float, lr: float, batch: int, g0: float, r2: float) -> np.ndarray:
    """E w, ..., E w^4 at rest by solving w' = Aw + ξ for its moments, (n+, n-) enumerated, core noise by Gauss-Hermite."""
    from math import comb

    plus, minus, chance = counts
    node, weight = np.polynomial.hermite_e.hermegauss(6)  # exact to degree 11
    weight = weight / weight.sum()
    n = (plus + minus)[:, None]
    gain = 1 - lr * c**2 * a**2 * n / batch
    kick = lr * (c * a) ** 2 / batch * (g0 * (plus - minus)[:, None] + np.sqrt(n * r2) * node)
    joint = chance[:, None] * weight
    matrix, constant = np.zeros((4, 4)), np.zeros(4)
    for k in range(1, 5):
        constant[k - 1] = (joint * kick**k).sum()
        for j in range(1, k + 1):
            matrix[k - 1, j - 1] = comb(k, j) * (joint * gain**j * kick ** (k - j)).sum()
    return np.linalg.solve(np.eye(4) - matrix, constant)


def sampled_sgd(
    lr: float, c: float, p: float, batch: int, steps: int, lanes: int, seed: int
) -> tuple[np.ndarray, dict]:
    """u of each lane after SGD on the un-reduced example losses (vectors b_o, x, x_o), c and b frozen, start 0."""
    rng, d1, d2, alpha, gamma = np.random.default_rng(seed), 2, 3, 9.0, 0.2
    beta, b = np.array([1.0, 0.4]), np.array([0.5, 0.9])
    size = np.sqrt(alpha / (p * d2))
    b_o = np.zeros((lanes, d2))
    for _ in range(steps):
        x = rng.normal(size=(lanes, batch, d1))
        sign = np.where(rng.random((lanes, batch)) < p, rng.choice([-1.0, 1.0], (lanes, batch)), 0.0)
        x_o = sign[..., None] * (size * np.ones(d2))
        target = x @ beta + gamma * np.abs(x_o.sum(-1))
        output = c * (x @ b + (x_o * b_o[:, None]).sum(-1))
        b_o -= lr * c * ((output - target)[..., None] * x_o).mean(1)
    r2 = float(((c * b - beta) ** 2).sum())
    return b_o.sum(1) / np.sqrt(d2), {"g0": gamma * size * d2, "r2": r2, "curvature": alpha * c**2}


CASES = ((0.8, 0.02, 1, 0.3), (1.1, 0.05, 4, 0.2), (0.6, 0.1, 9, 0.5), (0.5, 0.2, 3, 1.0))  # c, lr, B, p; alpha 9


def _frozen_step_error() -> tuple[float, float]:
    """One sampled step of the vector form from 0 has the variance of the stated noise: 5 standard errors."""
    u, model = sampled_sgd(0.05, 1.1, 0.2, 4, 1, 20000, 1)
    stated = sgd_variance(0.05, model["curvature"], 4, 0.2, model["g0"], model["r2"], step=1)
    return abs(float((u**2).mean() - stated)) / float((u**2).std() / np.sqrt(u.size)), 5.0


def _edge_error() -> tuple[float, float]:
    """Root in lr of the enumerated E(1 - lr c^2 a^2 N/B)^2 = 1."""
    from scipy.optimize import brentq

    worst = 0.0
    for c, _, batch, p in CASES:
        plus, minus, chance = outlier_counts(batch, p)
        hessian = c**2 * 9.0 / p * (plus + minus) / batch
        stated = float(critical_sgd_lr(9.0 * c**2, batch, p))
        root: Any = brentq(
            lambda lr, h=hessian, q=chance: q @ (1 - lr * h) ** 2 - 1, 0.5 * stated, 2 * stated, xtol=1e-17
        )
        worst = max(worst, abs(float(root) / stated - 1))
        square = float(chance @ (1 - 0.7 * stated * hessian) ** 2)
        worst = max(worst, abs(float(mean_square_factor(0.7 * stated, 9.0 * c**2, batch, p)) - square))
    return worst, 1e-12


def _enumerated_error() -> tuple[float, float]:
    """Mean square of u, and mean, variance and covariance of the group losses, against the enumerated recursion."""
    g0, r2, worst = 1.3, 0.7, 0.0
    for c, lr, batch, p in CASES:
        a, lam = np.sqrt(9.0 / p), 9.0 * c**2
        lr = min(lr, 0.5 * float(critical_sgd_lr(lam, batch, p)))
        w1, w2, w3, w4 = enumerated_moments(outlier_counts(batch, p), a, c, lr, batch, g0, r2)
        square, cross = (w4 - w2**2) / 4, g0 * (w3 - w1 * w2)
        got = sgd_group_losses(lr, lam, batch, p, g0, r2)
        want = (
            (r2 + w2 - 2 * g0 * w1 + g0**2) / 2,
            square - cross + g0**2 * (w2 - w1**2),
            square - g0**2 * (w2 - w1**2),
        )
        pairs = [(float(x), y) for x, y in zip(got, want, strict=True)]
        pairs.append((float(sgd_variance(lr, lam, batch, p, g0, r2)), w2 / (c * a) ** 2))
        worst = max(worst, *(abs(x - y) / max(abs(y), w2) for x, y in pairs))
    return worst, 1e-11


def _sampled_error() -> tuple[float, float]:
    """Sampled lanes, standard errors of the sample: the mean and the mean square."""
    u, model = sampled_sgd(0.03, 0.9, 0.3, 6, 40, 3000, 2)
    args = (0.03, model["curvature"], 6, 0.3, model["g0"], model["r2"])
    stated = float(sgd_variance(*args, step=40))
    error = abs(u.mean()) / (u.std() / np.sqrt(u.size))
    return float(max(error, abs((u**2).mean() - stated) / ((u**2).std() / np.sqrt(u.size)))), 5.0


def _finite_error() -> tuple[float, float]:
    """V without replacement against the enumerated hypergeometric recursion (residual-free core)."""
    worst = 0.0
    for n, outliers, batch in ((12, 4, 5), (20, 10, 19), (8, 8, 3), (10, 2, 10)):
        p, lam, c = outliers / n, 5.0, 1.0
        lr = 0.4 * float(critical_sgd_lr(lam, batch, p, n))
        w2 = enumerated_moments(finite_counts(batch, n, outliers), np.sqrt(lam / p), c, lr, batch, 1.1, 0.0)[1]
        worst = max(worst, abs(float(sgd_variance(lr, lam, batch, p, 1.1, population=n)) * lam / p - w2))
    return worst, 1e-11


FROZEN = ("c and b frozen at their values", "core features of mean 0 and covariance I, independent of the signs")
DRAWN = "batches of B drawn independently with replacement"
ROWS = (
    Derivation(
        "sgd-step",
        "One SGD step along the opposing direction",
        r"u \leftarrow (1-\eta\alpha_B c^2)u + \frac{\eta c a}{B}\Big(g_0(n_+-n_-) - \sum_{i\le N}s_ie_i\Big),"
        r"\quad \alpha_B = \frac{\alpha N}{pB},\; N = n_++n_-,\quad E\,e^2 = r_2 = r^2 + c^2b_\perp^2",
        (*FROZEN, DRAWN),
        "all parameters; batch whole, p in (0, 1]",
        "proved",
        (
            Step("-dl/du of an example of either sign, and of one without the feature", _step_residual),
            Step(
                "its mean over examples is the gradient of the reduced loss, so E alpha_B = alpha", _mean_step_residual
            ),
            Step("variance of the core residual", _core_variance_residual),
        ),
        (Check("variance of one sampled step of the vector form, in standard errors", _frozen_step_error),),
        numeric="toymodels.noise:sgd_variance",
    ),
    Derivation(
        "sgd-stability",
        "Mean-square stability of SGD",
        r"E(1-\eta\alpha_Bc^2)^2 = (1-s)^2+\nu s^2 < 1 \iff \eta < \frac{2}{\alpha c^2(1+\nu)},\quad \nu = \frac{1-p}{pB},\; s = \eta\alpha c^2",
        (*FROZEN, DRAWN),
        "B >= 1, p in (0, 1]; 2/(alpha c^2) for B -> infinity, 2p/(alpha c^2) for B = 1",
        "proved",
        (
            Step("E M^2 from the generating function of the number of outliers", _square_residual),
            Step("E M^2 - 1 = -s(2 - s(1 + nu)), 0 at the stated lr", _critical_residual),
        ),
        (Check("root of E M^2 = 1 with (n+, n-) enumerated, relative", _edge_error),),
        numeric="toymodels.noise:critical_sgd_lr",
    ),
    Derivation(
        "sgd-variance",
        "Jitter of SGD along the opposing direction",
        r"E u_n^2 = V + (u_0^2-V)\,m^n,\quad V = \frac{\eta(g_0^2+r_2)}{B(2-s(1+\nu))},\quad m = (1-s)^2+\nu s^2",
        (*FROZEN, DRAWN),
        "V for lr below the edge of sgd-stability, E u_n^2 for any lr",
        "proved",
        (
            Step("moments of one outlier's kick: E v = E v^3 = 0, E v^2 = g0^2 + r2 = tau", _kick_residual),
            Step("E u^2 one step on is the stated one; gain and kick are uncorrelated; n = 0", _variance_residual),
        ),
        (Check("sampled lanes of un-reduced SGD: mean and mean square, in standard errors", _sampled_error),),
        numeric="toymodels.noise:sgd_variance",
    ),
    Derivation(
        "sgd-group-losses",
        "Mean, variance and covariance of the group losses under SGD",
        r"E\ell_\pm = \tfrac12(r_2+g_0^2+m_2),\; \mathrm{Var}\,\ell_\pm = \tfrac14(m_4-m_2^2)+g_0^2m_2,\;"
        r"\mathrm{Cov} = \tfrac14(m_4-m_2^2)-g_0^2m_2,\quad m_2 = \frac{\alpha c^2V}{p},\;"
        r"m_4 = \frac{6k^2\tau E[N(1-kN)^2]m_2+k^4(EN\,\xi+3E[N(N-1)]\tau^2)}{1-E(1-kN)^4},"
        r"\; k=\frac{s}{pB},\;\tau=g_0^2+r_2,\;\xi=g_0^4+6g_0^2r_2+3r_2^2",
        (*FROZEN, DRAWN, "Gaussian core", "stationary u"),
        "variance where E(1-kN)^4 < 1, mean where E(1-kN)^2 < 1",
        "proved",
        (
            Step("fourth moment xi of one outlier's kick", _gaussian_residual),
            Step("E w^4 one step on: odd terms vanish, even ones as stated", _fourth_residual),
            Step("moments of the losses of the two signs", _losses_residual),
        ),
        (Check("moments up to 4 of the enumerated recursion, relative", _enumerated_error),),
        numeric="toymodels.noise:sgd_group_losses",
    ),
    Derivation(
        "sgd-finite-population",
        "SGD without replacement from n examples",
        r"V = \frac{\eta f(g_0^2+r_2)}{B(2-s(1+f\nu))},\quad \eta^* = \frac{2}{\alpha c^2(1+f\nu)},\quad f = \frac{n-B}{n-1}",
        (
            "c and b frozen",
            "each step draws a fresh batch without replacement from the same n examples",
            "both signs equally many and sum of s_i(g0 - e_i) over the outliers 0; r2, g0^2 + r2 their means over the outliers",
        ),
        "B <= n; at B = n gradient descent: V = 0, lr* = 2/(alpha c^2)",
        "proved",
        (Step("second moments of N and of the kick from pair probabilities; no correlation", _population_residual),),
        (Check("enumerated hypergeometric recursion", _finite_error),),
        numeric="toymodels.noise:sgd_variance",
    ),
)
