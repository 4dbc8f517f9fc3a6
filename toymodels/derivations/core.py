"""The model of the paper: reduction, flow, sharpness, thresholds, and the gradient-descent map."""

from typing import Any

import sympy as sp

from toymodels.derivations import oracles
from toymodels.derivations.registry import Check, Derivation, Step
from toymodels.symbolic import two_layer

__all__ = ["ROWS"]

C, B, P, U = two_layer().weights
BETA, ALPHA = two_layer().parameters
LR = sp.Symbol("eta", positive=True)
T = sp.Symbol("t", nonnegative=True)
K = sp.Symbol("K", real=True)
R, Q, ABOVE, BELOW, LEVEL = sp.symbols("R q a d C", positive=True)
LAM = sp.Symbol("lambda", real=True)
UPPER, LOWER = 2 * BETA + R, 2 * BETA - R  # q+, q-; K^2 = R^2 - 4 beta^2
SOLVED = {U: 0, P: 0}


def _solved_flow() -> dict[sp.Symbol, sp.Expr]:
    flow = two_layer().flow.subs(SOLVED)
    return {C: flow[0], B: flow[1]}


def _logistic_residual() -> sp.Expr:
    """q' + (q - q+)(q - q-)/2 along the flow with u = b_perp = 0, q = (c + b)^2, R^2 = K^2 + 4 beta^2."""
    q = (C + B) ** 2
    rate = sum(sp.diff(q, w) * f for w, f in _solved_flow().items())
    # (q - q+)(q - q-) = q^2 - 4 beta q + 4 beta^2 - R^2 = q^2 - 4 beta q - K^2
    return rate + (q**2 - 4 * BETA * q - (C**2 - B**2) ** 2) / 2


def _solution() -> sp.Expr:
    decay = sp.exp(-R * T)
    return (UPPER * ABOVE + LOWER * BELOW * decay) / (ABOVE + BELOW * decay)


def _clock_residual() -> sp.Expr:
    rate = -(Q - UPPER) * (Q - LOWER) / 2
    derivative = (R + K - 2 * rate / (Q - LOWER) + rate / Q) / 2
    c_squared = (Q + 2 * K + (R**2 - 4 * BETA**2) / Q) / 4
    return derivative - c_squared


def _onset_residual() -> sp.Expr:
    """q at the time of the formula, minus q*: e^{-Rt} put in by hand, q0 from a = q0 - q-, d = q+ - q0."""
    star = sp.Symbol("q_star", positive=True)
    decay = (UPPER - star) * ABOVE / ((star - LOWER) * BELOW)
    return (UPPER * ABOVE + LOWER * BELOW * decay) / (ABOVE + BELOW * decay) - star


def _secular_residual() -> sp.Expr:
    h: Any = two_layer().hessian
    secular = h[0, 0] - LAM - sum(h[0, j] ** 2 / (h[j, j] - LAM) for j in (1, 2, 3))
    product = sp.prod([h[j, j] - LAM for j in (1, 2, 3)])
    return sp.expand((h - LAM * sp.eye(4)).det(method="berkowitz") - sp.together(secular * product))


def _decoupled_residual() -> sp.Expr:
    h = two_layer().hessian.subs(SOLVED)
    quadratic = LAM**2 - (B**2 + C**2) * LAM + B**2 * C**2 - (2 * C * B - BETA) ** 2
    return sp.expand((h - LAM * sp.eye(4)).det(method="berkowitz") - (ALPHA * C**2 - LAM) * (C**2 - LAM) * quadratic)


def _reduction_residual() -> sp.Expr:
    """Mean over s = +-1 with probability p/2 each, plus the part of x with covariance I, minus the reduced loss."""
    p, g0 = sp.symbols("p g_0", positive=True)
    a = sp.sqrt(ALPHA / p)
    x_part = ((BETA - C * B) ** 2 + C**2 * P**2) / 2
    opposing = p * ((C * a * U - g0) ** 2 + (-C * a * U - g0) ** 2) / 4
    return sp.expand(x_part + opposing - p * g0**2 / 2 - two_layer().loss)


def _gd_residual() -> sp.Matrix:
    r = BETA - C * B
    stated = sp.Matrix(
        [
            C + LR * (B * r - C * P**2 - ALPHA * C * U**2),
            B + LR * C * r,
            (1 - LR * C**2) * P,
            (1 - LR * ALPHA * C**2) * U,
        ]
    )
    return (two_layer().gd_map(LR) - stated).expand()


ON_SOLVED = ("u = 0 and b_perp = 0 in the equations of c and b_par", "gradient flow")
ROWS = (
    Derivation(
        "reduced-loss",
        "The loss in four numbers",
        r"L = \tfrac12(\|\beta\| - c b_\parallel)^2 + \tfrac12 c^2\|b_\perp\|^2 + \tfrac12\alpha c^2u^2 + \mathrm{const}",
        ("covariance of x is I", "both signs of the opposing feature equally likely"),
        "all parameters",
        "proved",
        (Step("mean over the opposing feature's sign", _reduction_residual),),
        (Check("relative, against the loss of the vector form summed over examples", oracles.loss_error),),
        numeric="toymodels.model:TwoLayerLinear",
    ),
    Derivation(
        "invariant",
        "Invariant of gradient flow",
        r"K = c^2 - b_\parallel^2 - b_\perp^2 - u^2 \text{ is constant}",
        ("gradient flow",),
        "all parameters",
        "proved",
        (Step("dK/dt = 0 along the flow", lambda: two_layer().along_flow(C**2 - B**2 - P**2 - U**2)),),
        (Check("drift along the full flow solved to rtol 1e-12", oracles.invariant_error),),
        numeric="toymodels.simulation:simulate_flow",
    ),
    Derivation(
        "clock-decay",
        "Exact decay in the clock of the second layer",
        r"u = u_0 e^{-\alpha\tau},\quad b_\perp = b_{\perp 0} e^{-\tau},\quad \tau = \textstyle\int_0^t c^2\,dt",
        ("gradient flow",),
        "all parameters",
        "proved",
        (
            Step("du/dt = -alpha c^2 u", lambda: two_layer().flow[3] + ALPHA * C**2 * U),
            Step("db_perp/dt = -c^2 b_perp", lambda: two_layer().flow[2] + C**2 * P),
        ),
        (Check("full flow solved to rtol 1e-12, clock by Simpson's rule", oracles.decay_error),),
        numeric="toymodels.flow:predict_flow",
    ),
    Derivation(
        "logistic-solution",
        "Exact solution on the solved phase",
        r"q = (c+b_\parallel)^2:\quad \frac{q-q_-}{q_+-q} = A e^{Rt},\quad R=\sqrt{K^2+4\|\beta\|^2},\; q_\pm = 2\|\beta\|\pm R,"
        r"\quad c = \tfrac12\big(\sqrt q + K/\sqrt q\big),\; b_\parallel = \tfrac12\big(\sqrt q - K/\sqrt q\big)",
        ON_SOLVED,
        "c0 + b0 != 0; K of either sign or 0",
        "proved",
        (
            Step("q obeys the logistic law", _logistic_residual),
            Step(
                "the stated q(t) solves it",
                lambda: sp.diff(_solution(), T) + (_solution() - UPPER) * (_solution() - LOWER) / 2,
            ),
            Step(
                "c and b_par from q and K",
                lambda: (
                    ((C + B) + (C**2 - B**2) / (C + B)) / 2 - C,
                    ((C + B) - (C**2 - B**2) / (C + B)) / 2 - B,
                ),
            ),
        ),
        (Check("closed form against LSODA, rtol 1e-12, K of both signs and 0", oracles.flow_error),),
        numeric="toymodels.flow:predict_flow",
    ),
    Derivation(
        "clock",
        "The clock in closed form",
        r"\tau(t) = \tfrac12\Big[(R+K)t - 2\log\frac{q-q_-}{q_0-q_-} + \log\frac{q}{q_0}\Big]",
        ON_SOLVED,
        "c0 + b0 != 0",
        "proved",
        (Step("dτ/dt = c^2", _clock_residual),),
        (Check("against adaptive quadrature of c^2", oracles.clock_error),),
        numeric="toymodels.flow:predict_flow",
    ),
    Derivation(
        "limit",
        "Where the flow ends, and the largest stable step",
        r"c_\infty^2 = \tfrac12\big(K+\sqrt{K^2+4\|\beta\|^2}\big),\quad S_\infty = \max(\alpha c_\infty^2, R),\quad"
        r" \eta^* = 2/S_\infty",
        ON_SOLVED,
        "c0 + b0 != 0",
        "proved",
        (
            Step(
                "c^2 at q = q+ (K^2 = R^2 - 4 beta^2)",
                lambda: (UPPER + 2 * K + (R**2 - 4 * BETA**2) / UPPER) / 4 - (K + R) / 2,
            ),
            Step("q+ is a fixed point", lambda: ((Q - UPPER) * (Q - LOWER)).subs(Q, UPPER)),
            Step(
                "the other eigenvalue there: c b_par = beta, so b_par^2 + c^2, which squared is K^2 + 4 beta^2",
                lambda: sp.expand((B**2 + C**2) ** 2 - (C**2 - B**2) ** 2 - 4 * (C * B) ** 2),
            ),
        ),
        (Check("end of the numerical flow, and dense eigenvalues there, relative", oracles.limit_error),),
        numeric="toymodels.flow:limit_sharpness",
    ),
    Derivation(
        "onset",
        "Time at which the edge of stability is reached",
        r"t^*(C) = \frac1R\log\frac{(q^*-q_-)(q_+-q_0)}{(q_+-q^*)(q_0-q_-)},\quad q^* = (\sqrt C+\sqrt{C-K})^2,\;"
        r" C = \frac{2}{\eta\alpha}",
        ON_SOLVED,
        "c0 and c0 + b0 of one sign; C between c0^2 and the limit",
        "proved",
        (
            Step("q(t*) = q*", _onset_residual),
            Step(
                "c^2 = C at q = q*",
                lambda: sp.simplify(
                    (
                        (sp.sqrt(LEVEL) + sp.sqrt(LEVEL - K) + K / (sp.sqrt(LEVEL) + sp.sqrt(LEVEL - K))) / 2
                        - sp.sqrt(LEVEL)
                    )
                    * (sp.sqrt(LEVEL) + sp.sqrt(LEVEL - K))
                ),
            ),
        ),
        (Check("against a root of the numerical flow, rtol 1e-12", oracles.onset_error),),
        numeric="toymodels.flow:onset_time",
    ),
    Derivation(
        "secular",
        "Secular equation of the arrow Hessian",
        r"\|b\|^2+\alpha u^2-\lambda = \frac{(2cb_\parallel-\|\beta\|)^2}{c^2-\lambda}+\frac{4c^2b_\perp^2}{c^2-\lambda}"
        r"+\frac{4\alpha^2c^2u^2}{\alpha c^2-\lambda}",
        (),
        "lambda not equal to c^2 or alpha c^2",
        "proved",
        (Step("characteristic polynomial = product of the diagonal times the secular function", _secular_residual),),
        (
            Check(
                "largest root against dense eigenvalues of the generated Hessian, share of its norm",
                oracles.secular_error,
            ),
        ),
        numeric="toymodels.sharpness:arrow_sharpness",
    ),
    Derivation(
        "sharpness",
        "The sharpness, explicitly",
        r"S = \max\Big(\alpha c^2,\; \tfrac12\big[b_\parallel^2+c^2+\sqrt{(c^2-b_\parallel^2)^2"
        r"+4(2cb_\parallel-\|\beta\|)^2}\big]\Big)",
        ("u = 0 and b_perp = 0",),
        "all parameters",
        "proved",
        (Step("the characteristic polynomial factors", _decoupled_residual),),
        (Check("relative, against dense eigenvalues of the derived Hessian", oracles.sharpness_error),),
        numeric="toymodels.sharpness:solved_sharpness",
    ),
    Derivation(
        "gd-map",
        "The gradient-descent map",
        r"u\leftarrow(1-\eta\alpha c^2)u,\; b_\perp\leftarrow(1-\eta c^2)b_\perp,\; b_\parallel\leftarrow b_\parallel+\eta cr,"
        r"\; c\leftarrow c+\eta(b_\parallel r-cb_\perp^2-\alpha cu^2)",
        ("full-batch gradient descent",),
        "all parameters",
        "proved",
        (Step("θ - η∇L in the form of the simulator", _gd_residual),),
        (Check("one update of the compiled loop against the generated map, relative", oracles.kernel_error),),
        numeric="toymodels.simulation:simulate_gd",
    ),
)
