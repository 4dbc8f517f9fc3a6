"""Gradient flow with b_perp, solved: linear in the clock's scale; its Riccati form, its limit, its onset, and K = 0."""

from typing import Any

import numpy as np
import sympy as sp

from toymodels.derivations.registry import Check, Derivation, Step
from toymodels.symbolic import two_layer

__all__ = ["ROWS"]

C, B, P, U = two_layer().weights
BETA, ALPHA = two_layer().parameters
T = sp.Symbol("t", nonnegative=True)
SIGMA, L, M, LEVEL, P0 = sp.symbols("sigma l m C p_0", positive=True)  # lambda+ = l, lambda- = -m
A1, A2, C0, B0, PHI0 = sp.symbols("a_1 a_2 c_0 b_0 phi_0", real=True)
ROOT = sp.sqrt(SIGMA)
INVARIANT = C**2 - B**2 - P**2
BY_MODES = {"K": L - M, "beta": sp.sqrt(L * M)}


def _rate(quantity: sp.Expr) -> sp.Expr:
    """Time derivative along the generated flow with u = 0, where sigma = e^{2 tau} has the rate 2 c^2 sigma."""
    return (two_layer().along_flow(quantity) + 2 * C**2 * SIGMA * sp.diff(quantity, SIGMA)).subs(U, 0)


def _opposing_residual() -> sp.Expr:
    kept = sp.log(U) + ALPHA * sp.log(SIGMA) / 2  # log of u sigma^{alpha/2}
    return two_layer().along_flow(kept) + 2 * C**2 * SIGMA * sp.diff(kept, SIGMA)


def _solution() -> tuple[Any, Any, Any]:
    up, down = sp.exp(L * T), sp.exp(-M * T)
    y = A1 * up + A2 * down
    b = BY_MODES["beta"] * (A1 / L * up - A2 / M * down)
    mixed = (sp.exp((L - M) * T) - 1) / (L - M)
    sigma = 1 + A1**2 * (up**2 - 1) / L - A2**2 * (down**2 - 1) / M + 4 * A1 * A2 * mixed
    return y, b, sigma


def _solution_residuals() -> tuple[sp.Expr, ...]:
    y, b, sigma = _solution()
    beta, k = BY_MODES["beta"], BY_MODES["K"]
    return (
        sp.expand(sp.diff(b, T) - beta * y),
        sp.expand(sp.diff(y, T) - k * y - beta * b),
        sp.simplify(sp.expand(sp.diff(sigma, T) - 2 * y**2)),
    )


def _start_residuals() -> tuple[sp.Expr, ...]:
    first = (L * C0 + BY_MODES["beta"] * B0) / (L + M)
    values = {T: 0, A1: first, A2: C0 - first}
    y, b, sigma = (part.subs(values) for part in _solution())
    return sp.simplify(y - C0), sp.simplify(b - B0), sp.simplify(sigma - 1)


def _riccati_solution_residual() -> sp.Expr:
    """v = (v+ + v- w)/(1 + w) with w = w0 e^{-Rt}, v+ = lambda+/beta = sqrt(l/m), v- = -sqrt(m/l)."""
    w = sp.Symbol("w_0", real=True) * sp.exp(-(L + M) * T)
    v = (sp.sqrt(L / M) - sp.sqrt(M / L) * w) / (1 + w)
    beta, k = BY_MODES["beta"], BY_MODES["K"]
    return sp.simplify(sp.diff(v, T) - beta - k * v + beta * v**2)


def _onset_residual() -> sp.Expr:
    y, _, sigma = _solution()
    constant = LEVEL * (A1**2 / L - A2**2 / M + 4 * A1 * A2 / (L - M) - 1)
    stated = (
        A1**2 * (1 - LEVEL / L) * sp.exp(2 * L * T)
        + A2**2 * (1 + LEVEL / M) * sp.exp(-2 * M * T)
        + 2 * A1 * A2 * (1 - 2 * LEVEL / (L - M)) * sp.exp((L - M) * T)
        + constant
    )
    return sp.simplify(sp.expand(y**2 - LEVEL * sigma - stated))


def _k_zero() -> tuple[Any, Any, Any]:
    phi = PHI0 + BETA * T
    sigma = 1 + P0**2 * T + P0**2 * (sp.sinh(2 * phi) - sp.sinh(2 * PHI0)) / (2 * BETA)
    return P0 * sp.cosh(phi), P0 * sp.sinh(phi), sigma


def _k_zero_residuals() -> tuple[sp.Expr, ...]:
    y, b, sigma = _k_zero()
    return (
        sp.diff(b, T) - BETA * y,
        sp.diff(y, T) - BETA * b,
        (y**2 - b**2 - P0**2).rewrite(sp.exp).expand(),
        (sp.diff(sigma, T) - 2 * y**2).rewrite(sp.exp).expand(),
    )


def _limit_residuals() -> tuple[sp.Expr, ...]:
    """The flow stands still at c b = beta, u = b_perp = 0 with c^2 = l, where K = l - m and beta^2 = l m."""
    end: dict[Any, Any] = {U: 0, P: 0, C: sp.sqrt(L), B: sp.sqrt(M), BETA: sp.sqrt(L * M)}
    lam = sp.Symbol("lambda")
    polynomial = (lam * sp.eye(4) - two_layer().hessian.subs(end)).det(method="berkowitz")
    at_rest = tuple(sp.simplify(rate) for rate in two_layer().flow.subs(end))
    factors = (lam - ALPHA * L) * (lam - L) * lam * (lam - L - M)
    return (*at_rest, sp.expand(polynomial - factors), sp.simplify((C**2 - B**2).subs(end) - BY_MODES["K"]))


# ---- numerical oracles: tight solves of the generated equations, dense eigenvalues ---------------------------------

STARTS = ((1.0, 0.1, 0.6), (0.3, -0.4, 0.5), (0.5, 1.2, 0.8), (0.2, 0.1, 0.7), (-0.6, 0.9, 0.3), (0.5, -0.5, 0.4))
ON_ZERO = (0.5, -0.3, 0.4)  # c0^2 = b0^2 + p0^2: K = 0


def _flow(start: tuple[float, float, float], beta: float, t: np.ndarray, u0: float = 0.0, alpha: float = 50.0):
    from toymodels.model import ReducedState
    from toymodels.simulation import simulate_flow

    return simulate_flow(ReducedState(*start, u0), beta, alpha, t, rtol=1e-12)


def flow_error() -> tuple[float, float]:
    """The local tolerance 1e-12 times a few hundred solver steps, with a margin of ten: 1e-9."""
    from toymodels.flow import predict_flow

    t, worst = np.linspace(0, 12, 30), 0.0
    for start in (*STARTS, ON_ZERO):
        exact, solved = predict_flow(start[0], start[1], 1.3, start[2])(t), _flow(start, 1.3, t)
        worst = max(worst, *(float(np.abs(a - b).max()) for a, b in zip(_weights(exact), solved[:3], strict=True)))
    return worst, 1e-9


def _weights(state: Any) -> tuple[Any, Any, Any]:
    return state.c, state.b_par, state.b_perp


def riccati_error() -> tuple[float, float]:
    """c/b_par of the numerical flow, in angle so that b_par = 0 is no exception."""
    t, worst, beta = np.linspace(0, 8, 30), 0.0, 1.3
    for c0, b0, p0 in STARTS:
        k = c0**2 - b0**2 - p0**2
        rate = np.hypot(k, 2 * beta)
        high, low = (k + rate) / (2 * beta), (k - rate) / (2 * beta)
        decay = np.exp(-rate * t)
        top = high * (c0 - low * b0) + low * (high * b0 - c0) * decay
        bottom = (c0 - low * b0) + (high * b0 - c0) * decay
        c, b, _, _ = _flow((c0, b0, p0), beta, t)
        cross = (top * b - bottom * c) / np.hypot(top, bottom) / np.hypot(c, b)
        worst = max(worst, float(np.abs(cross).max()))
    return worst, 1e-9


def onset_error() -> tuple[float, float]:
    """Event time of the numerical flow by root finding, with b_perp of either size and K of either sign."""
    from scipy.optimize import brentq

    from toymodels.flow import limit_c2, onset_time

    worst, beta, alpha = 0.0, 1.3, 50.0
    for start in (*STARTS, ON_ZERO):
        level = 0.5 * (start[0] ** 2 + float(limit_c2(start[0], start[1], beta, start[2])))

        def above(t: float, start: tuple = start, level: float = level) -> float:
            return float(_flow(start, beta, np.array([0.0, t]))[0, -1] ** 2 - level)

        found = float(onset_time(start[0], start[1], beta, alpha, 2 / (alpha * level), start[2]))
        if not above(0.9 * found) < 0 < above(1.1 * found):
            return np.inf, 1e-9
        root: Any = brentq(above, 0.9 * found, 1.1 * found, xtol=1e-12)
        worst = max(worst, abs(found - float(root)))
    return worst, 1e-9


def k_zero_error() -> tuple[float, float]:
    """The implicit form of the onset at the event time of the numerical flow."""
    from scipy.optimize import brentq

    (c0, b0, p0), beta, level = ON_ZERO, 1.3, 0.9
    root: Any = brentq(
        lambda t: float(_flow(ON_ZERO, beta, np.array([0.0, t]))[0, -1] ** 2 - level), 0.1, 9, xtol=1e-12
    )
    angle0 = np.arcsinh(b0 / p0)
    angle = angle0 + beta * float(root)
    sigma = 1 + p0**2 * float(root) + p0**2 * (np.sinh(2 * angle) - np.sinh(2 * angle0)) / (2 * beta)
    return abs(p0**2 * np.cosh(angle) ** 2 / sigma - level) + abs(p0 * np.cosh(angle0) - c0), 1e-9


def limit_error() -> tuple[float, float]:
    """End of the numerical flow with u and b_perp in it, and the dense eigenvalues there."""
    from toymodels.flow import limit_c2, limit_sharpness

    worst, beta = 0.0, 1.3
    arguments = (*two_layer().weights, *two_layer().parameters)
    hessian: Any = sp.lambdify(arguments, two_layer().hessian, "numpy")
    for c0, b0, p0 in STARTS:
        for alpha in (0.5, 50.0):
            c, b, p, u = _flow((c0, b0, p0), beta, np.array([0.0, 60.0]), u0=0.2, alpha=alpha)[:, -1]
            top = np.linalg.eigvalsh(hessian(c, b, p, u, beta, alpha))[-1]
            worst = max(worst, abs(float(limit_sharpness(c0, b0, beta, alpha, p0, 0.2)) / top - 1))
            worst = max(worst, abs(float(limit_c2(c0, b0, beta, p0, 0.2)) / c**2 - 1))
    return float(worst), 1e-9


NO_U = ("u = 0 in the equation of c", "gradient flow")
EVERY = "every start, b_perp of any size, K of either sign or 0 (its limit in the mixed term)"
ROWS = (
    Derivation(
        "exact-linear-flow",
        "Gradient flow with b_perp is linear in the clock's scale",
        r"\sigma=e^{2\tau},\; B=b_\parallel\sqrt\sigma,\; Y=c\sqrt\sigma:\quad \dot B=\|\beta\|Y,\quad \dot Y=KY+\|\beta\|B,\quad"
        r" \dot\sigma=2Y^2,\quad b_\perp=b_{\perp0}/\sqrt\sigma,\quad Y=a_1e^{\lambda_+t}+a_2e^{\lambda_-t},\;"
        r" \lambda_\pm=\tfrac12(K\pm R),\quad \sigma=1+a_1^2\frac{e^{2\lambda_+t}-1}{\lambda_+}"
        r"+a_2^2\frac{e^{2\lambda_-t}-1}{\lambda_-}+4a_1a_2\frac{e^{Kt}-1}{K}",
        NO_U,
        EVERY,
        "proved",
        (
            Step("K is conserved", lambda: _rate(INVARIANT)),
            Step("dB/dt = beta Y", lambda: _rate(B * ROOT) - BETA * C * ROOT),
            Step("dY/dt = K Y + beta B", lambda: _rate(C * ROOT) - INVARIANT * C * ROOT - BETA * B * ROOT),
            Step("b_perp sqrt(sigma) is conserved", lambda: _rate(P * ROOT)),
            Step("u sigma^{alpha/2} is conserved", _opposing_residual),
            Step("the stated Y, B, sigma solve the linear system, K = l - m, beta^2 = l m", _solution_residuals),
            Step("they start at c0, b0 and 1", _start_residuals),
        ),
        (Check("c, b_par, b_perp against LSODA, rtol 1e-12", flow_error),),
        numeric="toymodels.flow:predict_flow",
    ),
    Derivation(
        "riccati",
        "The ratio of the layers obeys a Riccati equation",
        r"v=c/b_\parallel:\quad \dot v=\|\beta\|+Kv-\|\beta\|v^2,\qquad \frac{v-v_+}{v-v_-}=\frac{v_0-v_+}{v_0-v_-}e^{-Rt},\;"
        r" v_\pm=\lambda_\pm/\|\beta\|",
        NO_U,
        EVERY,
        "proved",
        (
            Step("dv/dt along the flow", lambda: _rate(C / B) - BETA - INVARIANT * C / B + BETA * (C / B) ** 2),
            Step("the stated v(t) solves it", _riccati_solution_residual),
        ),
        (Check("sine of the angle to (c, b_par) of the numerical flow, rtol 1e-12", riccati_error),),
        numeric="toymodels.flow:predict_flow",
    ),
    Derivation(
        "k-zero",
        "K = 0 with b_perp: hyperbolic functions, onset implicit",
        r"c=\frac{b_{\perp0}\cosh\varphi}{\sqrt\sigma},\; b_\parallel=\frac{b_{\perp0}\sinh\varphi}{\sqrt\sigma},\;"
        r" \varphi=\varphi_0+\|\beta\|t,\; \sigma=1+b_{\perp0}^2t+\frac{b_{\perp0}^2}{2\|\beta\|}(\sinh2\varphi-\sinh2\varphi_0);"
        r"\quad \text{onset: } b_{\perp0}^2\cosh^2\varphi=C\sigma,\; C=\frac{2}{\eta\alpha}",
        (*NO_U, "c^2 = b_par^2 + b_perp^2"),
        "K = 0, b_perp > 0, c > 0",
        "proved",
        (Step("the stated Y, B, sigma solve the linear system with K = 0 and keep K = 0", _k_zero_residuals),),
        (Check("implicit form at the event time of the numerical flow", k_zero_error),),
        numeric="toymodels.flow:onset_time",
    ),
    Derivation(
        "limit-b-perp",
        "Where the flow ends, with b_perp and u in it",
        r"c_\infty^2=\lambda_+=\tfrac12(K+\sqrt{K^2+4\|\beta\|^2}),\; S_\infty=\max(\alpha c_\infty^2,R),\quad"
        r" K=c_0^2-b_{\parallel0}^2-b_{\perp0}^2-u_0^2",
        ("gradient flow",),
        "every start but those of measure 0 that end in the saddle c = 0",
        "proved",
        (
            Step("K of the full flow is conserved", lambda: two_layer().along_flow(INVARIANT - U**2)),
            Step("c^2 = lambda+, c b_par = beta is at rest; its Hessian has alpha l, l, 0, l + m", _limit_residuals),
        ),
        (Check("end of the full numerical flow, and dense eigenvalues there, relative", limit_error),),
        numeric="toymodels.flow:limit_sharpness",
    ),
    Derivation(
        "onset-b-perp",
        "Onset with b_perp: the one root of four exponentials",
        r"Y^2-C\sigma=a_1^2\Big(1-\frac{C}{\lambda_+}\Big)e^{2\lambda_+t}+2a_1a_2\Big(1-\frac{2C}{K}\Big)e^{Kt}"
        r"+a_2^2\Big(1-\frac{C}{\lambda_-}\Big)e^{2\lambda_-t}+C\Big(\frac{a_1^2}{\lambda_+}+\frac{a_2^2}{\lambda_-}"
        r"+\frac{4a_1a_2}{K}-1\Big)=0",
        (*NO_U, "C < lambda+: the outer coefficients are > 0, so Descartes' rule leaves one root after c0^2 < C"),
        "C = 2/(lr alpha) between c0^2 and the limit",
        "proved",
        (Step("Y^2 - C sigma in exponentials", _onset_residual),),
        (Check("against a root of the numerical flow, rtol 1e-12", onset_error),),
        numeric="toymodels.flow:onset_time",
    ),
)
