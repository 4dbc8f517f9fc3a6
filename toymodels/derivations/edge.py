"""The edge of stability: entry-exit in dilogarithms, its sum over steps, and the first integral with its peak."""

from itertools import pairwise
from typing import Any

import numpy as np
import sympy as sp

from toymodels.derivations.registry import Check, Derivation, Step
from toymodels.symbolic import two_layer

__all__ = ["ROWS"]

C, B, P, U = two_layer().weights
BETA, ALPHA = two_layer().parameters
LR, T, R, Y = sp.symbols("eta t R Y", positive=True)
UPPER, M, H = sp.symbols("q_plus m h", positive=True)  # q+, sqrt(C1), sqrt(C1 - K)
X, PHI = sp.symbols("x varphi", positive=True)
SOLVED: Any = {U: 0, P: 0}


def _decay_residual() -> Any:
    """Y = (q+ - q)/(q - q-) falls like e^{-Rt} along the generated flow; R^2 = K^2 + 4 beta^2 put in by division."""
    q = (C + B) ** 2
    y = (2 * BETA + R - q) / (q - 2 * BETA + R)
    numerator = sp.fraction(sp.together(two_layer().along_flow(y).subs(SOLVED) + R * y))[0]
    return sp.rem(sp.expand(numerator), R**2 - (C**2 - B**2) ** 2 - 4 * BETA**2, R)


def _factor_residual() -> sp.Expr:
    """1 - s minus the product of its factors, with K = C1 - h^2 and q- = -K^2/q+."""
    k = M**2 - H**2
    lower = -(k**2) / UPPER

    def gap(q: sp.Expr) -> sp.Expr:
        return 1 - (q + k) ** 2 / (4 * q * M**2)

    zeros = [(rho - lower) / (UPPER - rho) for rho in ((M + H) ** 2, (M - H) ** 2)]
    stated = gap(UPPER) * (1 - zeros[0] * Y) * (1 - zeros[1] * Y) / ((1 + Y) * (1 + lower / UPPER * Y))
    return sp.cancel(sp.together(gap((UPPER + lower * Y) / (1 + Y)) - stated))


def _dilogarithm_residual() -> sp.Expr:
    """d/dt of t log k + sum of +-Li2(a e^{-Rt})/R, minus log k + sum of +-log(1 - a e^{-Rt})."""
    k, *a = sp.symbols("k a_1:5", positive=True)
    signs = (1, 1, -1, -1)
    y = [ai * sp.exp(-R * T) for ai in a]
    stated = T * sp.log(k) + sum(s * sp.polylog(2, yi) for s, yi in zip(signs, y, strict=True)) / R
    integrand = sp.log(k) + sum(s * sp.log(1 - yi) for s, yi in zip(signs, y, strict=True))
    return sp.expand(sp.expand_func(sp.diff(stated, T)) - integrand)


def _euler_maclaurin_residual() -> sp.Expr:
    """On e^{xn} the sum is (e^{xN} - 1)/(e^x - 1), the stated terms (e^{xN} - 1)(1/x - 1/2 + x/12 - x^3/720)."""
    return sp.series(1 / (sp.exp(X) - 1) - (1 / X - sp.Rational(1, 2) + X / 12 - X**3 / 720), X, 0, 5).removeO()


def _stirling(z: sp.Expr) -> sp.Expr:
    return (z - sp.Rational(1, 2)) * sp.log(z) - z + sp.log(2 * sp.pi) / 2 + 1 / (12 * z) - 1 / (360 * z**3)


def _stirling_residual() -> Any:
    """sympy's own asymptotic series of log Gamma, minus the terms used."""
    z = sp.Symbol("z", positive=True)
    infinity: Any = sp.oo
    series = sp.series(sp.loggamma(z), z, infinity, 4).removeO()
    return sp.expand(sp.expand_log(series, force=True) - _stirling(z))


def _crossing_residual() -> sp.Expr:
    """log of the product of |n - n*| over n < N, without its sine, minus integral, end terms and log 2 pi."""
    n, m = sp.symbols("n m", positive=True)  # n* and N - n*
    summed = sp.log(n) + _stirling(n) + _stirling(m)  # log Gamma(n* + 1) + log Gamma(N - n*)
    integral = n * sp.log(n) - n + m * sp.log(m) - m
    ends = (sp.log(n) - sp.log(m)) / 2 + (1 / m + 1 / n) / 12 - (2 / m**3 + 2 / n**3) / 720
    return sp.expand(summed - integral - ends - sp.log(2 * sp.pi), log=True)


def _product_residual() -> Any:
    """Gamma(n*+1) Gamma(N-n*) / (Gamma(theta) Gamma(1-theta)) against the product, N = 5, n* = 2 + theta."""
    theta = sp.Symbol("theta", positive=True)
    product: Any = sp.prod([2 + theta - n for n in range(3)]) * sp.prod([n - 2 - theta for n in (3, 4)])
    gammas = sp.gamma(3 + theta) * sp.gamma(3 - theta) / (sp.gamma(theta) * sp.gamma(1 - theta))
    return sp.expand(sp.gammasimp(gammas) - product)


def _reflection_residual() -> Any:
    """1/(Gamma(theta) Gamma(1-theta)) times 2 pi, from Stirling's constants, is 2 sin(pi theta)."""
    theta = sp.Symbol("theta", positive=True)
    return sp.simplify(2 * sp.pi / sp.gammasimp(sp.gamma(theta) * sp.gamma(1 - theta)) - 2 * sp.sin(sp.pi * theta))


def _variation_residuals() -> list[Any]:
    """The pieces of the bound: derivatives of log(1 - e^{x + i phi}) and the two integrals over all x."""
    third = sp.diff(sp.log(1 - sp.exp(X)), X, 3) + sp.exp(X) * (1 + sp.exp(X)) / (1 - sp.exp(X)) ** 3
    smooth = sp.exp(X / 2) * 2 * sp.sinh(X / 2) - (sp.exp(X) - 1)
    w = sp.Symbol("w")
    fourth = sp.diff(sp.log(sp.sinh(w)), w, 4) / 16 + (4 / sp.sinh(w) ** 2 + 6 / sp.sinh(w) ** 4) / 16
    modulus = sp.sinh(X) ** 2 * sp.cos(PHI) ** 2 + sp.cosh(X) ** 2 * sp.sin(PHI) ** 2
    half = (sp.cosh(2 * X) - sp.cos(2 * PHI)) / 2
    kernel = 1 / (sp.cosh(X) - sp.cos(PHI))
    primitive = 2 / sp.sin(PHI) * sp.atan(sp.tanh(X / 2) / sp.tan(PHI / 2))
    one = 2 * (sp.pi - PHI) / sp.sin(PHI)
    two = (2 + one * sp.cos(PHI)) / sp.sin(PHI) ** 2
    e = sp.Symbol("e", positive=True)
    rational: Any = {sp.tanh(X / 2): (e - 1) / (e + 1), sp.cosh(X): (e + 1 / e) / 2, sp.tan(PHI / 2): sp.Symbol("g")}
    g = rational[sp.tan(PHI / 2)]
    trig: Any = {sp.sin(PHI): 2 * g / (1 + g**2), sp.cos(PHI): (1 - g**2) / (1 + g**2)}
    slope = (sp.diff(primitive, X) - kernel).subs(rational).subs(trig)
    return [
        sp.simplify(third),
        sp.simplify(smooth.rewrite(sp.exp)),
        sp.simplify(fourth.rewrite(sp.exp)),
        sp.expand(sp.expand_trig(half - modulus).subs(sp.cosh(X) ** 2, 1 + sp.sinh(X) ** 2)).subs(
            sp.sin(PHI) ** 2, 1 - sp.cos(PHI) ** 2
        ),
        sp.cancel(slope),
        sp.simplify(two + sp.diff(one, PHI) / sp.sin(PHI)),
    ]


def _rate_residuals() -> list[Any]:
    """One GD step multiplies u by 1 - s; the flow moves log c^2 at 2 (b_par r/c - alpha u^2), times eta per step."""
    s = LR * ALPHA * C**2
    drift = B * (BETA - C * B) / C
    return [
        sp.expand(two_layer().gd_map(LR)[3] - (1 - s) * U),
        sp.expand(two_layer().along_flow(sp.log(C**2)).subs(P, 0) - 2 * (drift - ALPHA * U**2)),
    ]


S, D, W = sp.symbols("s D w", real=True)


def _first_integral_residuals() -> list[Any]:
    """G' and G(2) of the stated G, and the conservation along w' = log(s-1), s' = 2 eta s (D - alpha e^{2w})."""
    x = sp.Symbol("x", positive=True)
    g = sp.log(x) ** 2 / 2 + sp.polylog(2, 1 / x) - sp.pi**2 / 12
    slope = sp.expand_func(sp.diff(g, x)) - sp.log(x - 1) / x
    at_two = sp.expand_func(g.subs(x, 2))
    w_rate, s_rate = sp.log(S - 1), 2 * LR * S * (D - ALPHA * sp.exp(2 * W))
    potential = 2 * LR * (D * W - ALPHA * sp.exp(2 * W) / 2)
    change = sp.log(S - 1) / S * s_rate - sp.diff(potential, W) * w_rate
    # x = 1 + 1/y turns log(1 - 1/x) and log(x - 1) into sums of log y and log(1 + y), real for x > 1
    slope = sp.expand_log(sp.simplify(slope.subs(x, 1 + 1 / X)), force=True)
    return [slope, sp.expand(at_two), sp.expand(change)]


def _peak_residuals() -> list[Any]:
    """The invariant in v = alpha u^2/D, and the defining equation of W at -v."""
    v, g, d, a = sp.symbols("v g D alpha", positive=True)
    w = sp.log(d * v / a) / 2
    invariant = g - 2 * LR * (d * w - a * sp.exp(2 * w) / 2)
    stated = LR * d * (v - sp.log(v) + g / (LR * d) - sp.log(d / a))
    return [
        sp.expand(sp.expand_log(sp.expand(invariant - stated), force=True)),
        sp.simplify(-v * sp.exp(-v) + sp.exp(-(v - sp.log(v)))),
    ]


CASES = {  # c0, b0, beta, alpha, lr, time
    "K > 0": (0.3, 0.05, 1.0, 50.0, 0.06, 6.0),
    "K < 0": (0.3, 0.5, 1.0, 50.0, 0.06, 6.0),
    "K = 0": (0.5, 0.5, 1.0, 20.0, 0.11, 6.6),
    "s > 1 throughout": (1.0, 0.1, 1.3, 50.0, 0.03, 6.0),
    "s = 1 twice": (0.75, -0.5, 1.0, 40.0, 0.05, 8.0),
}


def _flow_c(c0: float, b0: float, beta: float, t: Any) -> np.ndarray:
    """c at increasing times > 0 from a tight solve of the generated flow."""
    from toymodels.model import ReducedState
    from toymodels.simulation import simulate_flow

    return simulate_flow(ReducedState(c0, b0), beta, 1.0, [0.0, *t], rtol=1e-12)[0, 1:]


def _quadrature(c0: float, b0: float, beta: float, alpha: float, lr: float, end: float) -> float:
    """Integral of log|1 - s| by Gauss-Legendre on pieces cut at s = 1, nodes crowded at both ends of each."""
    from scipy.optimize import brentq

    grid = np.linspace(0, end, 200)
    gaps = lr * alpha * np.append(c0, _flow_c(c0, b0, beta, grid[1:])) ** 2 - 1

    def gap(t: float) -> float:
        return float(lr * alpha * (_flow_c(c0, b0, beta, (t,))[0] if t > 0 else c0) ** 2 - 1)

    where = np.flatnonzero(gaps[1:] * gaps[:-1] < 0)
    cuts: list[Any] = [0.0, *(brentq(gap, grid[i], grid[i + 1], xtol=1e-13) for i in where), end]
    nodes, weights = np.polynomial.legendre.leggauss(80)
    # t = a + (b - a) z^3 (10 - 15 z + 6 z^2): the logarithm at an end becomes z^2 log z
    z, weights = (nodes + 1) / 2, weights / 2
    share, slope = z**3 * (10 - 15 * z + 6 * z**2), 30 * z**2 * (1 - z) ** 2
    total = 0.0
    for a, b in pairwise(cuts):
        s = lr * alpha * _flow_c(c0, b0, beta, a + (b - a) * share) ** 2
        total += float((b - a) * (weights * slope * np.log(np.abs(1 - s))).sum())
    return total


def _integral_error() -> tuple[float, float]:
    from toymodels.edge import stability_integral

    return max(abs(float(stability_integral(*case)) - _quadrature(*case)) for case in CASES.values()), 1e-8


def _exit_error() -> tuple[float, float]:
    """The growth by quadrature from the start to the exit, against the growth that was asked for."""
    from toymodels.edge import exit_time

    worst = 0.0
    for name, gain in (("K > 0", 0.0), ("K < 0", -2.0), ("s = 1 twice", 0.0)):
        case = CASES[name][:5]
        worst = max(worst, abs(_quadrature(*case, float(exit_time(*case, gain))) / case[4] - gain))
    return worst, 1e-8 / 0.05  # the integral's bound, divided by the least lr of these cases


def _sum_error() -> tuple[float, float]:
    """Error of the sum as a share of its derived bound plus the rounding of a direct sum."""
    from toymodels.edge import summed_growth
    from toymodels.flow import predict_flow

    worst = 0.0
    for c0, b0, beta, alpha, lr, end in CASES.values():
        for coarse in (1, 4):  # the same s(t) at coarser steps, where the terms and the bound are large
            rate, variance = coarse * lr, alpha / coarse
            steps = round(end / rate)
            s = rate * variance * predict_flow(c0, b0, beta)(rate * np.arange(steps)).c ** 2
            terms = np.log(np.abs(1 - s))
            got = summed_growth(c0, b0, beta, variance, rate, steps)
            rounding = 256 * np.finfo(float).eps * float(np.abs(terms).sum())
            worst = max(worst, abs(float(got.value) - float(terms.sum())) / (float(got.bound) + rounding))
    return worst, 1.0


def _g_error() -> tuple[float, float]:
    from scipy.integrate import quad

    from toymodels.edge import first_integral

    worst = 0.0
    for s in (1.001, 1.3, 1.7, 1.99999, 2.0001, 2.39, 2.41, 3.0, 9.0):
        area: Any = quad(lambda x: np.log(x - 1) / x, 2, s, epsabs=0, epsrel=1e-12)[0]
        worst = max(worst, abs(float(first_integral(s)) / area - 1))
    return worst, 1e-11


def _peak_error() -> tuple[float, float]:
    """log|u| where an ODE solve of the reduced system passes s = 2 from above."""
    from scipy.integrate import solve_ivp

    from toymodels.edge import peak_log_u

    worst = 0.0
    starts = ((-40.0, 2.0, 0.2, 50.0, 0.05), (-400.0, 2.0, 0.2, 50.0, 0.05), (-2.0, 1.5, 0.4, 9.0, 0.1))
    for log_u, s0, drift, alpha, lr in starts:

        def rates(_: float, y: Any, drift: float = drift, alpha: float = alpha, lr: float = lr) -> list[float]:
            s = 1 + np.exp(y[1])  # solved in log(s - 1), which is its own rate of log|u|
            return [y[1], 2 * lr * s / (s - 1) * (drift - alpha * np.exp(2 * y[0]))]

        def peak(_: float, y: Any) -> float:
            return y[1]

        peak.direction, peak.terminal = -1, True  # pyright: ignore[reportFunctionMemberAccess]
        with np.errstate(all="ignore"):  # a trial step far beyond the peak overflows and is rejected
            found: Any = solve_ivp(
                rates, (0, 2000), [log_u, np.log(s0 - 1)], "DOP853", events=peak, rtol=1e-12, atol=1e-12
            )
        worst = max(worst, abs(found.y_events[0][0][0] - float(peak_log_u(log_u, s0, drift, alpha, lr))))
    return worst, 1e-8


ON_SOLVED = ("gradient flow with u = 0 and b_perp = 0 in the equations of c and b_par",)
NEAR_ONSET = ("b_perp = 0", "D = b_par r/c constant", "steps taken as continuous")
STABILISATION = "derived here; two-layer form of self-stabilisation, Damian, Nichani & Lee (2023), arXiv 2209.15594"
ROWS = (
    Derivation(
        "entry-exit",
        "Delayed growth of the oscillation, in closed form",
        r"\int_0^t\log|1-\eta\alpha c^2|\,dt' = t\log|1-s_\infty| + \frac1R\Big[\mathrm{Re}\,\mathrm{Li}_2(\xi_1Y)"
        r"+\mathrm{Re}\,\mathrm{Li}_2(\xi_2Y)-\mathrm{Li}_2(-Y)-\mathrm{Li}_2\big(-\tfrac{q_-}{q_+}Y\big)\Big]_{Y(0)}^{Y(t)},"
        r"\quad Y=\frac{q_+-q}{q-q_-},\; \xi_i=\frac{\rho_i-q_-}{q_+-\rho_i},\;"
        r"\rho_{1,2}=(\sqrt{C_1}\pm\sqrt{C_1-K})^2,\; C_1=\frac1{\eta\alpha}",
        ON_SOLVED,
        "c0 + b0 != 0; K of either sign; through s = 1",
        "proved",
        (
            Step("dY/dt = -RY along the generated flow", _decay_residual),
            Step("q+ q- = -K^2", lambda: sp.expand((2 * BETA + R) * (2 * BETA - R) + R**2 - 4 * BETA**2)),
            Step(
                "c^2 = (q + K)^2/(4q) with q = (c + b_par)^2",
                lambda: sp.cancel(C**2 - ((C + B) ** 2 + C**2 - B**2) ** 2 / (4 * (C + B) ** 2)),
            ),
            Step("1 - s is the stated ratio of quadratics in Y", _factor_residual),
            Step("the derivative of the dilogarithms is the sum of the logarithms", _dilogarithm_residual),
        ),
        (
            Check("quadrature on the numerical flow, cut at s = 1, in units of time", _integral_error),
            Check("quadrature from the start to the exit gives the growth asked for", _exit_error),
        ),
        numeric="toymodels.edge:stability_integral",
    ),
    Derivation(
        "entry-exit-sum",
        "From the integral to the sum over steps",
        r"\sum_{n=0}^{N-1}f(n) = \int_0^N f\,dn+\frac{f(0)-f(N)}2+\frac{f'(N)-f'(0)}{12}-\frac{f'''(N)-f'''(0)}{720}"
        r"+\sum_{n^*}\log|2\sin\pi n^*|+\epsilon,\quad f=\log|1-s_n|,"
        r"\quad|\epsilon|\le\frac{(R\eta)^3V}{720}+\frac1{1260}\sum_{n^*}\big(n^{*-5}+(N-n^*)^{-5}\big)",
        (*ON_SOLVED, "the flow sampled at every step, which gradient descent follows up to O(lr)"),
        "c0 + b0 != 0; n* are the points in (0, N) at which s = 1",
        "bounded",
        (
            Step("the coefficients of Euler-Maclaurin, on exponentials", _euler_maclaurin_residual),
            Step("the product of |n - n*| in Gamma functions", _product_residual),
            Step("Stirling's series", _stirling_residual),
            Step(
                "sum of log|n - n*| minus its Euler-Maclaurin terms: log 2 pi minus two log Gamma", _crossing_residual
            ),
            Step("which is log(2 sin(pi theta))", _reflection_residual),
            Step("the derivatives and integrals of the bound", _variation_residuals),
        ),
        (Check("share of the bound used, against direct sums at fine and coarse steps", _sum_error),),
        numeric="toymodels.edge:summed_growth",
    ),
    Derivation(
        "onset-first-integral",
        "First integral near onset",
        r"w'=\log(s-1),\;(\log c^2)'=2\eta(D-\alpha e^{2w})\;\Rightarrow\; G(s)-2\eta\big(Dw-\tfrac12\alpha e^{2w}\big)"
        r"=\mathrm{const},\quad G(s)=\tfrac12\log^2s+\mathrm{Li}_2(1/s)-\tfrac{\pi^2}{12},\quad w=\log|u|",
        NEAR_ONSET,
        "s > 1",
        "proved",
        (
            Step("the two rates, from the GD map and the flow", _rate_residuals),
            Step("G' = log(s-1)/s, G(2) = 0, and the conservation", _first_integral_residuals),
        ),
        (Check("G against quadrature, relative", _g_error),),
        numeric="toymodels.edge:first_integral",
        source=STABILISATION,
    ),
    Derivation(
        "spike-peak",
        "Peak of the first spike",
        r"\alpha u_{\max}^2=-D\,W_{-1}\big(-e^{-\ell}\big),\quad \ell=v_0-\log v_0+\frac{G(s_0)}{\eta D},\; v=\frac{\alpha u^2}D",
        NEAR_ONSET,
        "s0 > 1; exact for the reduced system; |u| of gradient descent only within a factor of about 2, from where the spike begins",
        "proved",
        (Step("the first integral in v, and the equation of W", _peak_residuals),),
        (Check("ODE solve of the reduced system, error of log|u|", _peak_error),),
        numeric="toymodels.edge:peak_log_u",
        source=STABILISATION,
    ),
)
