"""Gradient descent as Euler's method on the linear system of the exact flow, and what its step changes."""

from typing import Any

import numpy as np
import sympy as sp

from toymodels.derivations.registry import Check, Derivation, Step
from toymodels.symbolic import two_layer

__all__ = ["ROWS"]

C, B, P, U = two_layer().weights
BETA, ALPHA = two_layer().parameters
LR, PI, Q, H, S = sp.symbols("eta Pi q h s", positive=True)
K, X = sp.symbols("K x", real=True)
N = sp.Symbol("N", integer=True, nonnegative=True)
SHRINK = 1 - LR * C**2
STEP_H = LR / SHRINK
R = BETA - C * B
KAPPA = C**2 - B**2 - P**2 - ALPHA * U**2


def _next() -> dict[sp.Symbol, Any]:
    return dict(zip((C, B, P, U), two_layer().gd_map(LR).flat(), strict=True))


def _linear_residuals() -> tuple[Any, ...]:
    after, later = _next(), PI * SHRINK
    return (
        sp.together(after[B] / later - B / PI - STEP_H * BETA * C / PI),
        sp.together(after[C] / later - C / PI - STEP_H * (KAPPA * C + BETA * B) / PI),
        sp.together(1 / later**2 - 1 / PI**2 - STEP_H * (2 - LR * C**2) / SHRINK * (C / PI) ** 2),
        sp.together(after[P] / later - P / PI),
    )


def _form(c: Any, b: Any, p: Any, u: Any) -> Any:
    return c**2 - b**2 - p**2 - u**2


def _invariant_residual() -> Any:
    after = _next()
    change = _form(after[C], after[B], after[P], after[U]) - _form(C, B, P, U)
    return sp.expand(change - LR**2 * _form(*two_layer().gradient))


def _solved_residuals() -> tuple[Any, ...]:
    after = {w: sp.sympify(v).subs({U: 0, P: 0}) for w, v in _next().items()}
    return (
        sp.expand(after[C] ** 2 - after[B] ** 2 - (C**2 - B**2) * (1 - LR**2 * R**2)),
        sp.expand((after[C] + after[B]) ** 2 - (C + B) ** 2 * (1 + LR * R) ** 2),
    )


def _residual_residual() -> Any:
    after = _next()
    drift = B * R - C * P**2 - ALPHA * C * U**2
    stated = R * (1 - LR * (C**2 + B**2) - LR**2 * C * drift) + LR * B * C * (P**2 + ALPHA * U**2)
    return sp.expand(BETA - after[C] * after[B] - stated)


def _duhamel_residuals() -> tuple[Any, ...]:
    """Amplitudes y1, y2 stepped by 1 + h lambda and pushed by h delta Y lambda/R make the exact step, K = l - m."""
    l, m = sp.symbols("l m", positive=True)
    y1, y2, delta = sp.symbols("y_1 y_2 delta", real=True)
    beta = sp.sqrt(l * m)
    y, b = y1 + y2, beta * (y1 / l - y2 / m)
    push = H * delta * y / (l + m)
    z1, z2 = (1 + H * l) * y1 + l * push, (1 - H * m) * y2 + m * push
    return (
        sp.simplify(z1 + z2 - y - H * ((l - m + delta) * y + beta * b)),
        sp.simplify(beta * (z1 / l - z2 / m) - b - H * beta * y),
    )


def _area_residuals() -> tuple[Any, ...]:
    """d/dq of the antiderivative is r^2 dt/dq with dq/dt = 2 r q (generated flow), r = beta - (q - K^2/q)/4."""
    antiderivative = BETA / 2 * sp.log(Q) - Q / 8 - K**2 / (8 * Q)
    r = BETA - (Q - K**2 / Q) / 4
    flow = two_layer().flow.subs({U: 0, P: 0})
    return (
        sp.expand(2 * (C + B) * (flow[0] + flow[1]) - 2 * R * (C + B) ** 2),
        sp.together(R - r.subs({Q: (C + B) ** 2, K: C**2 - B**2})),
        sp.expand(sp.diff(antiderivative, Q) - r / (2 * Q)),
    )


def _layer_residual() -> tuple[Any, ...]:
    """Partial sums of lr alpha c u0^2 (1 - s)^{2n}, lr alpha = s/c^2: the increment, and the start."""
    total = U**2 / (C * (2 - S)) * (1 - (1 - S) ** (2 * N))
    taken: Any = two_layer().gradient[0, 0]
    term = sp.expand(taken).coeff(ALPHA) * ALPHA * LR  # what u takes from c in one step
    term = term.subs(ALPHA, S / (LR * C**2)).subs(U, U * (1 - S) ** N)
    return sp.simplify(sp.expand(total.subs(N, N + 1) - total - term)), total.subs(N, 0)


# ---- numerical oracles: the simulator's loop ----------------------------------------------------------------------

CASES = (((0.6, 0.2, 0.5, 0.03), 1.3, 20.0), ((0.5, 0.9, 0.0, 0.02), 1.3, 20.0), ((0.9, -0.2, 0.7, 0.1), 2.0, 60.0))


def _path_error(case: tuple, lr: float, time: float, order: int) -> float:
    from toymodels.descent_path import descent_path
    from toymodels.model import ReducedState
    from toymodels.simulation import simulate_gd

    start, beta, alpha = case
    steps = round(time / lr)
    state = ReducedState(*start)
    run = simulate_gd(state, beta, alpha, lr, steps).isel(run=0)
    log_u = float(np.log(start[3])) if start[3] else -np.inf
    path = descent_path(state, beta, alpha, lr, steps, log_u=log_u, order=order)
    pairs = ((path.c, run.c), (path.b_par, run.b_par), (path.b_perp, run.b_perp))
    return max(float(np.abs(a - b.values).max()) for a, b in pairs)


def identity_error() -> tuple[float, float]:
    """Put back until it stands still the path must be the run: every identity enters. 200 steps of rounding."""
    errors = [_path_error(case, 0.01, 2.0, 14) for case in CASES]
    return max(errors), 200 * 16 * np.finfo(float).eps


def order_error() -> tuple[float, float]:
    """Distance of the fitted order from k + 1, u0 = 0, in lr from 0.01 down to 0.00125; the fit's own curvature."""
    worst = 0.0
    for start, beta, alpha in CASES:
        lrs = 0.01 / 2.0 ** np.arange(4)
        for order in (1, 2):
            errors = [_path_error(((*start[:3], 0.0), beta, alpha), lr, 2.0, order) for lr in lrs]
            worst = max(worst, order + 1 - float(np.polyfit(np.log(lrs), np.log(errors), 1)[0]))
    return worst, 0.1  # the next order adds at most lr x (rate ~ 5) = 5 % to the largest error of the fit


def limit_error() -> tuple[float, float]:
    """log K at the end of simulated runs against the closed form, as a share of its bound."""
    from toymodels.backward_error import descent_limit
    from toymodels.model import ReducedState
    from toymodels.simulation import simulate_gd

    worst = 0.0
    for c0, b0, beta in ((0.6, 0.2, 1.3), (0.3, 1.0, 1.3), (1.4, 0.1, 2.0), (0.5, -0.3, 3.0)):
        for lr in (0.04, 0.01, 0.0025):
            run = simulate_gd(ReducedState(c0, b0), beta, 1.0, lr, round(30 / lr), stride=round(30 / lr))
            k = float(run.c[0, -1] ** 2 - run.b_par[0, -1] ** 2)
            told = descent_limit(c0, b0, beta, lr)
            worst = max(worst, abs(float(np.log(k / told.invariant))) / float(told.log_error))
    return worst, 1.0


def layer_error() -> tuple[float, float]:
    """Loss of c to u in simulated runs with and without it; relative, as a share of twice its first order in u^2/c^2."""
    from toymodels.layer import descent_layer
    from toymodels.model import ReducedState
    from toymodels.simulation import simulate_gd

    worst, c0, u0, alpha = 0.0, 0.8, 0.01, 1e7
    for s in (0.3, 0.9, 1.4, 1.8):
        lr = s / (alpha * c0**2)
        runs = [simulate_gd(ReducedState(c0, 0.1, 0.2, u), 1.0, alpha, lr, 400).c[0, -1] for u in (u0, 0.0)]
        seen, told = float(runs[1] - runs[0]), float(descent_layer(c0, u0, s))
        # c falls by told: 1/c grows, s falls by 2 s told/c and with it the sum; all relative
        bound = 2 * told / c0 * (1 + 2 * s / (2 - s))
        worst = max(worst, abs(seen / told - 1) / bound)
    return worst, 1.0


GD = ("full-batch gradient descent",)
ROWS = (
    Derivation(
        "descent-linear",
        "Gradient descent is Euler's method on the linear system",
        r"\Pi_n=\prod_{m<n}(1-\eta c_m^2),\; B=b_\parallel/\Pi,\; Y=c/\Pi,\; \sigma=\Pi^{-2},\; h=\frac{\eta}{1-\eta c^2}:\quad"
        r" B'=B+h\|\beta\|Y,\quad Y'=Y+h(\kappa Y+\|\beta\|B),\quad \sigma'=\sigma+h\frac{2-\eta c^2}{1-\eta c^2}Y^2,\quad"
        r" b_\perp=b_{\perp0}\Pi,\quad \kappa=c^2-b_\parallel^2-b_\perp^2-\alpha u^2",
        GD,
        "lr c^2 < 1 along the run",
        "proved",
        (
            Step("B, Y, sigma and b_perp/Pi after one generated step", _linear_residuals),
            Step("the modes lambda+- are stepped by 1 + h lambda, the drift of kappa pushes them", _duhamel_residuals),
        ),
        (Check("the sums, put back until they stand still, against the compiled run", identity_error),),
        numeric="toymodels.descent_path:descent_path",
    ),
    Derivation(
        "descent-invariant",
        "What one step does to the invariant",
        r"K_{n+1}-K_n=\eta^2(g_c^2-g_\parallel^2-g_\perp^2-g_u^2),\quad g=\nabla L;\qquad u=b_\perp=0:\quad"
        r" K_{n+1}=(1-\eta^2r_n^2)K_n,\quad q_{n+1}=(1+\eta r_n)^2q_n,\; q=(c+b_\parallel)^2",
        GD,
        "all parameters; with eta |r| < 1, K keeps its sign and shrinks",
        "proved",
        (
            Step("K after one generated step", _invariant_residual),
            Step("K and q after one generated step with u = b_perp = 0", _solved_residuals),
        ),
        (Check("the sums, put back until they stand still, against the compiled run", identity_error),),
        numeric="toymodels.descent_path:descent_path",
    ),
    Derivation(
        "descent-residual",
        "The residual by its own recursion",
        r"r'=r\big(1-\eta(c^2+b_\parallel^2)-\eta^2cA\big)+\eta b_\parallel c(b_\perp^2+\alpha u^2),\quad"
        r" A=b_\parallel r-cb_\perp^2-\alpha cu^2",
        GD,
        "all parameters",
        "proved",
        (Step("beta - c b_par after one generated step", _residual_residual),),
        (Check("the sums, put back until they stand still, against the compiled run", identity_error),),
        numeric="toymodels.descent_path:descent_path",
    ),
    Derivation(
        "descent-path",
        "Path of gradient descent to order k + 1 in the step, without iterating its map",
        r"y^\pm_n=\prod_{m<n}(1+h_m\lambda_\pm)\Big[a_\pm\pm\frac{\lambda_\pm}{R}\sum_{m<n}"
        r"\frac{h_m(\kappa_m-K_0)Y_m}{\prod_{j\le m}(1+h_j\lambda_\pm)}\Big],\quad Y=y^++y^-,\quad c=Y/\sqrt\sigma,\quad"
        r" \text{coefficients from the path of order } k-1,\text{ order 0 the flow}",
        (*GD, "u0^2/c0^2 of the order of the step at most"),
        "s0 = lr alpha c0^2 < 2; lr c^2 < 1; R lr n <= 100 for one expansion",
        "measured",  # the order is a fit: no constant of the contraction is derived
        (Step("the push and the growth of both modes make the exact step", _duhamel_residuals),),
        (Check("shortfall of the fitted order below k + 1, k = 1 and 2", order_error),),
        numeric="toymodels.descent_path:descent_path",
    ),
    Derivation(
        "descent-limit",
        "Where gradient descent below the edge ends",
        r"\log\frac{K_\infty}{K_0}=-\eta\Big[\tfrac{\|\beta\|}{2}\log q-\tfrac q8-\tfrac{K_0^2}{8q}\Big]_{q_0}^{q_+}+O(\eta^2)",
        (*GD, "u = b_perp = 0", "c0 b0 <= beta, c0 + b0 != 0"),
        "a step small enough for a finite bound (``log_error``), below the edge of every curvature",
        "bounded",
        (
            Step("r dq/(2q) = r^2 dt has the stated antiderivative", _area_residuals),
            Step("K and q after one generated step", _solved_residuals),
        ),
        (Check("log K at the end of compiled runs, as a share of the derived bound", limit_error),),
        numeric="toymodels.backward_error:descent_limit",
    ),
    Derivation(
        "descent-layer",
        "What the opposing weight takes from c before it dies",
        r"\sum_{n<N}\eta\alpha cu_n^2=\frac{u_0^2}{c(2-s)}\big(1-(1-s)^{2N}\big),\qquad s=\eta\alpha c^2",
        (*GD, "c frozen while u dies: first order in u0^2/c^2 and 1/alpha"),
        "0 < s < 2",
        "proved",
        (Step("the partial sums grow by the generated term and start at 0", _layer_residual),),
        (Check("compiled runs with and without u, as a share of the next order", layer_error),),
        numeric="toymodels.layer:descent_layer",
    ),
)
