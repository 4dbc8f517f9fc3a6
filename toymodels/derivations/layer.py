"""The α-layer: the full flow in its clock, the matched start of the outer flow, and the least sharpness."""

from typing import Any

import numpy as np
import sympy as sp

from toymodels.derivations.registry import Check, Derivation, Step
from toymodels.symbolic import two_layer

__all__ = ["ROWS"]

C, B, P, U = two_layer().weights
BETA, ALPHA = two_layer().parameters
TAU, CO, X, Y, V, Z = sp.symbols("tau c_o x y v z", positive=True)
EXP = sp.exp(TAU)
Z_OF_TAU = sp.exp(-2 * ALPHA * TAU)


def _per_clock(quantity: sp.Expr) -> sp.Expr:
    """Derivative in the clock along the generated flow: d/dtau = (1/c^2) d/dt; the clock itself has rate 1."""
    return two_layer().along_flow(quantity) / C**2 + sp.diff(quantity, TAU)


def _clock_residuals() -> tuple[Any, ...]:
    return (
        sp.expand(_per_clock(B * EXP) - BETA * EXP / C),
        sp.expand(_per_clock(P * EXP)),
        sp.expand(_per_clock(U * sp.exp(ALPHA * TAU))),
        sp.expand(_per_clock(C**2 - B**2 - P**2 - U**2)),
    )


def _shift_residuals() -> tuple[Any, ...]:
    """D and the time's excess have the frozen differences as derivatives in tau, and die with z."""
    held = BETA / (ALPHA * CO) * sp.log((1 + sp.sqrt(1 + X * Z)) / 2)
    excess = sp.log(1 + X * Z) / (2 * ALPHA * CO**2)
    rate = -2 * ALPHA * Z  # dz/dtau

    def frozen(power: Any) -> Any:  # 1/c^k with c^2 = c_o^2 + u^2, minus the same without u
        return (CO**2 * (1 + X * Z)) ** (-sp.Rational(power, 2)) - CO ** (-power)

    first = sp.diff(held, Z) * rate - BETA * frozen(1)
    second = sp.diff(excess, Z) * rate - frozen(2)
    root = sp.Symbol("s", positive=True)  # sqrt(1 + x z)
    first = sp.together(first.subs(X, (root**2 - 1) / Z))
    return sp.simplify(first), sp.simplify(second), held.subs(Z, 0), excess.subs(Z, 0)


def _inner_residuals() -> tuple[Any, ...]:
    """In the layer dz/dt = -2 alpha c^2 z with c^2 = c_o^2 (1 + x z): z explicit in the time."""
    t = sp.Symbol("t", nonnegative=True)
    gone = sp.exp(-2 * ALPHA * CO**2 * t)
    z = gone / (1 + X - X * gone)
    return sp.simplify(sp.diff(z, t) + 2 * ALPHA * CO**2 * (1 + X * z) * z), sp.simplify(z.subs(t, 0) - 1)


def _bound_residuals() -> tuple[Any, ...]:
    """The mixed derivatives, integrals and the largest slope on which the error bound rests."""
    a, s = sp.symbols("a s", positive=True)
    slope = sp.diff(sp.log((1 + sp.sqrt(1 + Y)) / 2), Y)
    return (
        sp.diff((Y + V) ** sp.Rational(-1, 2), Y, V) - sp.Rational(3, 4) * (Y + V) ** sp.Rational(-5, 2),
        sp.diff(1 / (Y + V), Y, V) - 2 / (Y + V) ** 3,
        sp.integrate(TAU * sp.exp(-a * TAU), (TAU, 0, sp.oo)) - 1 / a**2,
        sp.simplify(sp.Rational(1, 4) - slope.subs(Y, s**2 - 1) - (s - 1) * (s + 2) / (4 * s * (s + 1))),
    )


def _minimum_residuals() -> tuple[Any, ...]:
    drift = B * (BETA - C * B) - C * P**2
    sharpness = ALPHA * C**2 + 4 * ALPHA * U**2
    rate = two_layer().along_flow(sharpness) - 2 * ALPHA * C * (drift - 5 * ALPHA * C * U**2)
    scaled = two_layer().hessian.subs(U, sp.sqrt(V / ALPHA))  # alpha u^2 = v stays of order 1 at the minimum
    value = ALPHA * C**2 + 4 * V
    determinant = (scaled - value * sp.eye(4)).det(method="berkowitz")
    return sp.expand(rate), sp.Poly(sp.expand(determinant), ALPHA).coeff_monomial(ALPHA**3)


# ---- numerical oracles: a tight solve of the generated flow in its clock, dense eigenvalues -------------------------

CASES = (((0.8, 0.2, 0.5, 0.3), 1.3), ((0.6, -0.1, 0.6, 0.1), 2.0), ((0.8, 0.1, 0.7, 0.2), 0.5))
ALPHAS = (30.0, 100.0, 1000.0)


def solve_in_clock(start: tuple, beta: float, alpha: float, clock: np.ndarray) -> np.ndarray:
    """Rows c, b_par, b_perp, u, t of the full generated flow at these clocks, DOP853 to rtol 1e-12."""
    from scipy.integrate import solve_ivp

    arguments = (*two_layer().weights, *two_layer().parameters)
    flow: Any = sp.lambdify(arguments, two_layer().flow.T.tolist()[0], "math")

    def rate(_: float, y: np.ndarray) -> list[float]:
        return [*(v / y[0] ** 2 for v in flow(*y[:4], beta, alpha)), 1 / y[0] ** 2]

    options: Any = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-15, "t_eval": clock}
    return solve_ivp(rate, (0.0, clock[-1]), [*start, 0.0], **options).y


def composite_error() -> tuple[float, float]:
    """Errors of B and of the time at equal clock, over three e-folds' log(alpha), as shares of their bounds."""
    from toymodels.layer import layer_error, outer_parametrised
    from toymodels.model import ReducedState

    worst = 0.0
    for start, beta in CASES:
        for alpha in ALPHAS:
            state, window = ReducedState(*start), 3 * np.log(alpha) / alpha
            told = outer_parametrised(state, beta, alpha, np.linspace(0, window, 40))
            seen = solve_in_clock(start, beta, alpha, told.clock)
            in_b, in_time = layer_error(state, beta, alpha, window)
            worst = max(worst, float(np.abs((seen[1] - told.b_par) * np.exp(told.clock)).max() / in_b))
            worst = max(worst, float(np.abs(seen[4] - told.time).max() / in_time))
    return worst, 1.0


def minimum_error() -> tuple[float, float]:
    """Least dense eigenvalue along the tight solve against the forecast, as a share of its bound."""
    from toymodels.layer import outer_parametrised, sharpness_minimum
    from toymodels.model import ReducedState

    arguments = (*two_layer().weights, *two_layer().parameters)
    hessian: Any = sp.lambdify(arguments, two_layer().hessian.tolist(), "numpy")
    worst = 0.0
    for start, beta in CASES:
        for alpha in ALPHAS:
            state = ReducedState(*start)
            told = sharpness_minimum(state, beta, alpha)
            clock = outer_parametrised(state, beta, alpha, np.linspace(0, 2 * told.time, 800)).clock
            c, b, p, u, _ = solve_in_clock(start, beta, alpha, clock)
            h = np.array([[e + np.zeros_like(c) for e in row] for row in hessian(c, b, p, u, beta, alpha)])
            seen = np.linalg.eigvalsh(np.moveaxis(h, 2, 0))[:, -1]
            i = int(seen.argmin())
            # between samples the least value can be lower by what a parabola through its neighbours says
            low, middle, high = seen[i - 1], seen[i], seen[i + 1]
            least = middle - (high - low) ** 2 / (8 * (high - 2 * middle + low))
            worst = max(worst, abs(float(told.sharpness) - least) / float(told.error))
    return worst, 1.0


FLOW = ("gradient flow",)
ROWS = (
    Derivation(
        "layer-clock",
        "The full flow is one equation in its clock",
        r"\frac{dB}{d\tau}=\frac{\|\beta\|e^\tau}{c},\;\frac{dt}{d\tau}=\frac1{c^2},\; c^2=K+b_\parallel^2+b_\perp^2+u^2,\quad"
        r" B=b_\parallel e^\tau,\; u=u_0e^{-\alpha\tau},\; b_\perp=b_{\perp0}e^{-\tau}",
        FLOW,
        "c of one sign",
        "proved",
        (
            Step("B, b_perp e^tau, u e^{alpha tau} and K per unit of clock", _clock_residuals),
            Step("in the layer u^2 = u0^2 g/(1 + x - x g), g = e^{-2 alpha c_o^2 t}", _inner_residuals),
        ),
        (Check("errors of the composite at equal clock, as shares of their bounds", composite_error),),
        numeric="toymodels.layer:predict_layered_flow",
    ),
    Derivation(
        "layer-shift",
        "What the α-layer does to the exact flow after it",
        r"\delta B=-\frac{\|\beta\|}{\alpha c_o}\log\frac{1+\sqrt{1+x}}2,\quad\delta t=-\frac{\log(1+x)}{2\alpha c_o^2},\quad"
        r" x=\frac{u_0^2}{c_o^2},\; c_o^2=c_0^2-u_0^2,\quad\text{at equal clock, on the full }K,\text{ to }O(\alpha^{-2})",
        FLOW,
        "|c0| > |u0|, alpha > 1; the error bound is finite for alpha large enough",
        "bounded",
        (
            Step("D and the time's excess integrate the frozen differences of 1/c and 1/c^2", _shift_residuals),
            Step("mixed derivatives and integrals of the bound; log((1+sqrt(1+y))/2) <= y/4", _bound_residuals),
        ),
        (Check("b_par and time against a tight solve in the clock, alpha 30, 100, 1000", composite_error),),
        numeric="toymodels.layer:layer_error",
    ),
    Derivation(
        "sharpness-minimum",
        "The least sharpness before progressive sharpening",
        r"S=\alpha c^2+4\alpha u^2+O(1):\quad\dot S=2\alpha c(A-5\alpha cu^2),\; A=b_\parallel r-cb_\perp^2;\quad A_0>0:\;"
        r"\tau_m=\frac1{2\alpha}\log\frac{5\alpha c_ou_0^2}{A_0};\quad A_0<0:\; A=0\text{ on the outer flow}",
        (*FLOW, "alpha large; the least value over the window around the leading-order place"),
        "|c0| > |u0|, alpha > 1; error by Weyl's inequality from the layer's",
        "bounded",
        (Step("dS/dt along the flow; the top eigenvalue to leading order in alpha", _minimum_residuals),),
        (Check("dense eigenvalues along a tight solve, alpha 30, 100, 1000", minimum_error),),
        numeric="toymodels.layer:sharpness_minimum",
    ),
)
