"""An unequal pair of opposing groups: the shifted floor, its map, its end, and how it drags on the second layer."""

from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from toymodels.derivations.registry import Check, Derivation, Step
from toymodels.symbolic import SymbolicModel, several_signals

__all__ = ["ROWS"]

BETA, ALPHA, LR = sp.symbols("beta alpha eta", positive=True)
M = sp.Symbol("m", real=True)
C, B, P, U = sp.symbols("c b_par b_perp u", real=True)


@cache
def _model() -> SymbolicModel:
    """The general two-layer form with variances (1, 1, alpha) and targets (beta, 0, m)."""
    general = several_signals(3)
    values: Any = dict(zip(general.parameters, (1, 1, ALPHA, BETA, 0, M), strict=True))
    names: Any = dict(zip(general.weights, (C, B, P, U), strict=True))
    return SymbolicModel((C, B, P, U), (BETA, ALPHA, M), general.loss.subs(values).subs(names))


def _expectation_residuals() -> list[Any]:
    """E over s = +-1 with (1 +- delta)/2 and share p, minus the shifted loss and its constant; m by gamma and d2."""
    p, g0, gamma, d2 = sp.symbols("p g_0 gamma d_2", positive=True)
    delta = sp.Symbol("delta", real=True)
    a = sp.sqrt(ALPHA / p)
    ordinary = ((BETA - C * B) ** 2 + C**2 * P**2) / 2
    groups = [(C * s * a * U - g0) ** 2 / 2 for s in (1, -1)]
    shares = [(1 + delta) / 2, (1 - delta) / 2]
    mean = ordinary + p * sum(w * g for w, g in zip(shares, groups, strict=True))
    stated: Any = _model().loss.subs(M, delta * g0 / a) + p * g0**2 * (1 - delta**2) / 2
    sigma = sp.sqrt(ALPHA / (p * d2))  # an entry of x_o, so that 1^T x_o = sigma d2
    on_floor: Any = {U: delta * g0 / a / C}
    return [
        sp.expand(mean - stated),
        sp.simplify((delta * g0 / a).subs(g0, gamma * sigma * d2) - delta * gamma * sp.sqrt(d2)),
        [sp.expand(g.subs(on_floor) - g0**2 * (1 - s * delta) ** 2 / 2) for g, s in zip(groups, (1, -1), strict=True)],
    ]


def _map_residuals() -> list[Any]:
    """The step of v = cu - m, the curvature, the steps of u about m/c and of c in the deviation, the fixed point."""
    e, s = U - M / C, LR * ALPHA * C**2
    step: Any = _model().gd_map(LR)
    r = BETA - C * B
    fixed: Any = {U: M / C, B: BETA / C, P: 0}
    v, force = C * U - M, B * r - C * P**2
    grown = (1 - LR * ALPHA * (C**2 + U**2)) * v + LR * force * U
    grown += -(LR**2) * ALPHA * C * force * v + LR**2 * ALPHA**2 * C * U * v**2
    return [
        sp.expand(step[0] * step[3] - M - grown),
        _model().hessian[3, 3] - ALPHA * C**2,
        sp.expand(step[3] - M / C - (1 - s) * e),
        sp.expand(step[0] - (C + LR * (B * r - C * P**2 - ALPHA * M * e - ALPHA * C * e**2))),
        (step.subs(fixed) - sp.Matrix([C, BETA / C, 0, M / C])).applyfunc(sp.cancel),
    ]


def _end_residuals() -> list[Any]:
    """K is conserved, its value where both errors are 0, and the Hessian there as a sum of two squares."""
    k = sp.Symbol("K", real=True)
    root = (k + sp.sqrt(k**2 + 4 * (BETA**2 + M**2))) / 2
    end: Any = {U: M / C, B: BETA / C, P: 0}
    first: Any = sp.Matrix([B, C, 0, 0])
    second: Any = sp.sqrt(ALPHA) * sp.Matrix([U, 0, 0, C])
    gram = sp.Matrix([[B**2 + C**2, sp.sqrt(ALPHA) * B * U], [sp.sqrt(ALPHA) * B * U, ALPHA * (C**2 + U**2)]])
    ordinary = sp.zeros(4, 4)
    ordinary[2, 2] = C**2
    squares = first * first.T + second * second.T + ordinary
    both: Any = sp.Matrix.hstack(first, second)
    return [
        sp.expand(_model().along_flow(C**2 - B**2 - P**2 - U**2)),
        sp.expand((root - (BETA**2 + M**2) / root - k) * root),
        (_model().hessian.subs(end) - squares.subs(end)).applyfunc(sp.cancel),
        (both.T * both - gram).expand(),
    ]


def _lag_residuals() -> list[Any]:
    """v = cu - m along the flow: v' = -alpha (c^2 + u^2) v + u (b r - c p^2), and c' at the v that stands still."""
    v, force = C * U - M, B * (BETA - C * B) - C * P**2
    still = U * force / (ALPHA * (C**2 + U**2))
    rate = _model().flow[0] + ALPHA * U * v  # c' without the term of v
    at_still = force - ALPHA * U * still
    return [
        sp.expand(_model().along_flow(v) + ALPHA * (C**2 + U**2) * v - U * force),
        sp.expand(rate - force),
        sp.cancel(at_still.subs(U, M / C) - force / (1 + M**2 / C**4)),
        sp.cancel(at_still - force * C**2 / (C**2 + U**2)),
        # what u = m/c replaces, in terms of v = c u - m
        sp.cancel(
            C**2 / (C**2 + U**2) - 1 / (1 + M**2 / C**4) + C * v * (U + M / C) / ((C**2 + U**2) * (C**2 + M**2 / C**2))
        ),
    ]


def _solve(start: list[float], numbers: tuple[float, float, float], times: np.ndarray) -> np.ndarray:
    """Tight solve of the generated flow, shape (4, m)."""
    from scipy.integrate import solve_ivp

    flow, jacobian = _lambdas()
    solution: Any = solve_ivp(
        lambda _, y: flow(*y, *numbers),
        (0, times[-1]),
        start,
        "LSODA",
        t_eval=times,
        jac=lambda _, y: jacobian(*y, *numbers),
        rtol=1e-10,
        atol=1e-13,
    )
    return solution.y


@cache
def _lambdas() -> tuple[Any, Any]:
    model = _model()
    arguments = (*model.weights, *model.parameters)
    jacobian = model.flow.jacobian(sp.Matrix(model.weights)).tolist()
    return sp.lambdify(arguments, model.flow.T.tolist()[0], "math"), sp.lambdify(arguments, jacobian, "math")


STARTS = ((0.6, 0.1, 0.3, 0.2), (0.3, 0.7, 0.0, -0.4), (1.2, -0.1, 0.2, 0.0))


def _expectation_error() -> tuple[float, float]:
    """Vector form of the loss, by exact sums over unequal groups of examples, relative."""
    from toymodels.imbalance import floor_group_losses, floor_shift, imbalanced_loss
    from toymodels.model import ReducedState

    rng, worst = np.random.default_rng(12), 0.0
    for d1, d2, delta in ((3, 2, 0.4), (4, 6, -0.9)):
        alpha, p, gamma, size = 7.0, 0.3, 0.25, 1.6
        beta, b, b_o, c = rng.normal(size=d1), rng.normal(size=d1), rng.normal(size=d2), 0.8
        beta *= size / np.linalg.norm(beta)
        x = np.concatenate([np.eye(d1), -np.eye(d1)]) * np.sqrt(d1)  # mean 0 and covariance I exactly
        total = 0.0
        for sign, weight in ((0, 1 - p), (1, p * (1 + delta) / 2), (-1, p * (1 - delta) / 2)):
            x_o = sign * np.sqrt(alpha / (p * d2)) * np.ones(d2)
            error = c * (x @ b + x_o @ b_o) - (x @ beta + gamma * abs(x_o.sum()))
            total += weight * float(np.mean(error**2)) / 2
        b_par = float(beta @ b) / size
        state = ReducedState(c, b_par, float(np.sqrt(b @ b - b_par**2)), float(b_o.sum()) / np.sqrt(d2))
        plus, minus = floor_group_losses(delta, gamma * np.sqrt(d2) * np.sqrt(alpha / p))
        constant = p * (float(plus) * (1 + delta) + float(minus) * (1 - delta)) / 2
        got = float(imbalanced_loss(state, size, alpha, floor_shift(delta, gamma, d2))) + constant
        worst = max(worst, abs(got - total) / total)
    return worst, 1e-12


def _map_error() -> tuple[float, float]:
    """One coded step against the gradient of the coded loss by complex differences of the loss's formula, relative."""
    from toymodels.imbalance import imbalanced_step
    from toymodels.model import ReducedState

    rng, worst = np.random.default_rng(13), 0.0
    for _ in range(50):
        c, b, u, m = rng.normal(size=4)
        p, beta, alpha, lr = np.exp(rng.normal(size=4) - (0, 0, -2, 3))
        start = np.array([c, b, p, u], complex)

        def loss(w: np.ndarray, beta: float = beta, alpha: float = alpha, m: float = m) -> Any:
            return ((beta - w[0] * w[1]) ** 2 + (w[0] * w[2]) ** 2 + alpha * (w[0] * w[3] - m) ** 2) / 2

        gradient = np.array([loss(start + 1e-30j * np.eye(4)[i]).imag / 1e-30 for i in range(4)])
        want = np.real(start) - lr * gradient
        got = imbalanced_step(ReducedState(c, b, p, u), beta, alpha, m, lr)
        # terms that the update adds, each rounded: the weights and the parts of the gradient, which may cancel
        scale = np.abs(start) + lr * (1 + alpha) * (1 + np.abs(start).max() + abs(m) + beta) ** 3
        worst = max(worst, float((np.abs(got - want) / scale).max()))
    return worst, 16 * float(np.finfo(float).eps)


def _end_error() -> tuple[float, float]:
    """End of a tight solve and dense eigenvalues of the generated Hessian there, relative."""
    from toymodels.imbalance import imbalanced_limit_c2, imbalanced_limit_sharpness

    model, worst = _model(), 0.0
    hessian = sp.lambdify((*model.weights, *model.parameters), model.hessian, "numpy")
    for start in STARTS:
        for alpha, m in ((0.5, 0.3), (40.0, -0.5), (40.0, 1.5)):
            c, b, p, u = _solve(list(start), (1.3, alpha, m), np.array([0.0, 40.0]))[:, -1]
            c0, b0, p0, u0 = start
            worst = max(worst, abs(float(imbalanced_limit_c2(c0, b0, 1.3, m, p0, u0)) / c**2 - 1))
            top = np.linalg.eigvalsh(np.array(hessian(c, b, p, u, 1.3, alpha, m), float))[-1]
            worst = max(worst, abs(float(imbalanced_limit_sharpness(c0, b0, 1.3, alpha, m, p0, u0)) / top - 1))
    return worst, 1e-8


def _lag_error() -> tuple[float, float]:
    """Error of the drift on a tight solve, as a share of the bound, for three variances.

    y = v - v_still obeys y' = -alpha (c^2 + u^2) y - v_still', so |y| <= |y0| e^{-alpha g t} + max|v_still'|/(alpha g),
    g the least c^2 + u^2; c' misses its stated form by alpha |u| |y|, plus what u = m/c replaces in that form, a
    multiple of |v| <= |v_still| + |y|. All of it is O(1/alpha).
    """
    from toymodels.imbalance import floor_drift

    model, worst = _model(), 0.0
    v, force = C * U - M, B * (BETA - C * B) - C * P**2
    still = U * force / (ALPHA * (C**2 + U**2))
    arguments = (*model.weights, *model.parameters)
    parts = sp.lambdify(arguments, [model.flow[0], v - still, model.along_flow(still), force, still], "numpy")
    for alpha in (20.0, 80.0, 320.0):
        times = np.linspace(0, 3, 200)
        c, b, p, u = path = _solve([0.7, 0.2, 0.2, 0.5 / 0.7], (1.3, alpha, 0.5), times)
        rate, lag, speed, push, rest = (np.asarray(x, float) for x in parts(*path, 1.3, alpha, 0.5))
        least = (c**2 + u**2).min()
        bound = np.abs(lag[0]) * np.exp(-alpha * least * times) + np.abs(speed).max() / (alpha * least)
        moved = np.abs(push * c * (u + 0.5 / c)) * (np.abs(rest) + bound) / ((c**2 + u**2) * (c**2 + 0.25 / c**2))
        allowed = alpha * np.abs(u) * bound + moved
        worst = max(worst, float((np.abs(rate - floor_drift(c, b, 1.3, 0.5, p)) / allowed).max()))
    return worst, 1.0


ROWS = (
    Derivation(
        "imbalance-loss",
        "Imbalance shifts the floor of the valley",
        r"L=\tfrac12(\|\beta\|-cb_\parallel)^2+\tfrac12c^2\|b_\perp\|^2+\tfrac12\alpha(cu-m)^2+\tfrac p2g_0^2(1-\delta^2),"
        r"\quad m=\delta g_0/a=\delta\gamma\sqrt{d_2},\quad \ell_\pm\big|_{cu=m}-\ell_0=\tfrac12g_0^2(1\mp\delta)^2",
        ("covariance of x is I", "E s = delta where the opposing feature is present"),
        "all parameters, delta in [-1, 1]",
        "proved",
        (
            Step(
                "expectation over the sign, the shift by gamma and d2, the group losses on the floor",
                _expectation_residuals,
            ),
        ),
        (Check("relative, against the loss of the vector form summed over unequal groups", _expectation_error),),
        numeric="toymodels.imbalance:floor_shift",
    ),
    Derivation(
        "imbalance-map",
        "Descent about the shifted floor",
        r"e=u-m/c:\; u'-\tfrac mc=(1-\eta\alpha c^2)e,\quad c'=c+\eta\,(b_\parallel r-cb_\perp^2-\alpha me-\alpha ce^2),"
        r"\quad\partial_u^2L=\alpha c^2,\quad v=cu-m:\; v'=\big(1-\eta\alpha(c^2+u^2)\big)v+\eta fu-\eta^2\alpha cfv"
        r"+\eta^2\alpha^2cuv^2,\; f=b_\parallel r-cb_\perp^2",
        ("full-batch gradient descent",),
        "c != 0; fixed where c b_par = beta, b_perp = 0, c u = m; near it the edge is alpha (c^2 + m^2/c^2) = 2/lr",
        "proved",
        (Step("the step of v, curvature, the steps of u about m/c and of c, the fixed point", _map_residuals),),
        (Check("one step against complex-step differences of the loss", _map_error),),
        numeric="toymodels.imbalance:imbalanced_step",
    ),
    Derivation(
        "imbalance-limit",
        "Where the flow ends on the shifted floor, and its sharpness",
        r"c_\infty^2=\tfrac12\big(K+\sqrt{K^2+4(\|\beta\|^2+m^2)}\big),\quad S_\infty=\lambda_{\max}\begin{pmatrix}"
        r"b_\parallel^2+c^2&\sqrt\alpha b_\parallel u\\\sqrt\alpha b_\parallel u&\alpha(c^2+u^2)\end{pmatrix}",
        ("gradient flow", "the flow ends at a minimum"),
        "all parameters; K = c^2 - b_par^2 - b_perp^2 - u^2 at the start",
        "proved",
        (Step("K is conserved, its value at the end, and the Hessian there as two squares", _end_residuals),),
        (Check("end of a tight solve, and dense eigenvalues there, relative", _end_error),),
        numeric="toymodels.imbalance:imbalanced_limit_sharpness",
    ),
    Derivation(
        "imbalance-drift",
        "The floor drags on the second layer",
        r"\dot c=\frac{b_\parallel r-cb_\perp^2}{1+m^2/c^4}+O(1/\alpha),\quad v=cu-m:\;\dot v=-\alpha(c^2+u^2)v"
        r"+u(b_\parallel r-cb_\perp^2)",
        ("gradient flow", "u starts on the floor or has decayed to it"),
        "c != 0",
        "bounded",
        (Step("the equation of the lag, and the rate of c where the lag stands still", _lag_residuals),),
        (Check("share of the bound used on tight solves, alpha = 20, 80, 320", _lag_error),),
        numeric="toymodels.imbalance:floor_drift",
    ),
)
