"""Depth and several opposing directions: what deep flows conserve, where they end, and in which order edges come."""

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import sympy as sp

from toymodels.derivations.registry import Check, Derivation, Step
from toymodels.symbolic import SymbolicModel, deep_linear, several_signals

__all__ = ["ROWS"]

BETA, ALPHA, T = sp.symbols("beta alpha t", positive=True)
DEPTHS = (1, 2, 3, 5)


def _model(depth: int) -> tuple[SymbolicModel, tuple[Any, ...], Any, Any, Any]:
    """Target, opposing and ordinary direction: the loss with its parameters put in, scalars, b_par, u, b_perp."""
    general = deep_linear(3, depth)
    values: Any = dict(zip(general.parameters, (1, ALPHA, 1, BETA, 0, 0), strict=True))
    model = SymbolicModel(general.weights, (BETA, ALPHA), general.loss.subs(values))
    scalars, (b, u, p) = general.weights[: depth - 1], general.weights[depth - 1 :]
    return model, scalars, b, u, p


def _conserved_residuals(depth: int) -> list[Any]:
    """d/dt of c_i^2 - c_{i+1}^2 and c_1^2 - |w|^2 along the flow of the general loss, all κ and targets free."""
    model = deep_linear(3, depth)
    scalars, w = model.weights[: depth - 1], model.weights[depth - 1 :]
    kept = [a**2 - b**2 for a, b in pairwise(scalars)]
    if scalars:
        kept.append(scalars[0] ** 2 - sum(v**2 for v in w))
    return [sp.expand(model.along_flow(quantity)) for quantity in kept]


def _limit_residuals(depth: int) -> list[Any]:
    """At u = b_perp = 0 and prod c b = beta: the gradient is 0 and the Hessian has the stated eigenvectors."""
    model, scalars, b, u, p = _model(depth)
    product: Any = sp.prod(scalars)
    at: Any = {u: 0, p: 0, b: BETA / product}
    gradient, hessian = model.gradient.subs(at), model.hessian.subs(at)
    # the layers and b_par: BETA / weight, whose square is the eigenvalue; u and b_perp: their own axes
    layers = sp.Matrix([BETA / c for c in scalars] + [product, 0, 0])
    fitted = sum(BETA**2 / c**2 for c in scalars) + product**2
    rest = hessian.copy()
    rest[depth, depth] -= ALPHA * product**2
    rest[depth + 1, depth + 1] -= product**2
    return [gradient, (hessian * layers - fitted * layers).expand(), rest - layers * layers.T]


def _balanced_residuals(depth: int) -> list[Any]:
    """With every square equal to Y = beta^{2/D}: the two eigenvalues of the limit."""
    y = BETA ** sp.Rational(2, depth)
    stated = BETA ** sp.Rational(2 * (depth - 1), depth)
    return [y**depth - BETA**2, y ** (depth - 1) - stated, depth * BETA**2 / y - depth * stated]


def _plain_residual() -> Any:
    """D = 1: the Hessian does not depend on the weights."""
    model = deep_linear(3, 1)
    return [sp.diff(entry, w) for entry in model.hessian for w in model.weights]


def _two_layer_residuals() -> list[Any]:
    """D = 2: x (x - K) = beta^2 is the limit of the two-layer model; the rest of the spectrum is b^2 + c^2 = R."""
    k = sp.Symbol("K", real=True)
    root = sp.sqrt(k**2 + 4 * BETA**2)
    c2 = (k + root) / 2
    return [
        sp.expand(c2 * (c2 - k) - BETA**2),
        sp.simplify(BETA**2 / c2 - (root - k) / 2),
        sp.expand(2 * c2 - k - root),
    ]


def _expansion_residuals(depth: int) -> list[Any]:
    """Order of prod(x + d_i) = Y^D, sum d_i = 0, along d_i -> e d_i: x' = 0; curvature 1 - d_b/Y to first order."""
    y, e = sp.symbols("Y e", positive=True)
    free = sp.symbols(f"d_2:{depth + 1}", real=True)
    offsets = (-sum(free), *free)
    x = sp.Function("x")(e)
    equation = sp.Add(*(sp.log(x + e * d) for d in offsets)) - depth * sp.log(y)
    at: Any = {e: 0, x: y}
    slope = sp.diff(equation, e).subs(sp.Derivative(x, e), 0).subs(at)
    curvature = y / (y + e * offsets[-1])  # relative to the balanced one, x = Y + O(e^2)
    return [sp.expand(slope), sp.expand(sp.series(curvature, e, 0, 2).removeO() - (1 - e * offsets[-1] / y))]


def _bound_residuals() -> list[Any]:
    """The pieces of the bound: t^2/(1+t) is the rest of 1/(1+t), and log(1+z) - z has second derivative -1/(1+z)^2."""
    t, z, x, y = sp.symbols("t z x Y", positive=True)
    return [
        sp.cancel(1 / (1 + t) - (1 - t) - t**2 / (1 + t)),
        sp.simplify(sp.diff(sp.log(1 + z) - z, z, 2) + 1 / (1 + z) ** 2),
        sp.cancel(y / (y + t) - y / (x + t) - y * (x - y) / ((y + t) * (x + t))),
    ]


def _numbers(depth: int, rng: np.random.Generator) -> tuple[np.ndarray, float, float, float]:
    return rng.uniform(0.2, 1.2, depth - 1), float(rng.uniform(0.1, 1.2)), float(rng.uniform(0.5, 2)), 30.0


def _limit_error() -> tuple[float, float]:
    """End of a tight solve of the generated flow and dense eigenvalues of the generated Hessian there, relative."""
    from scipy.integrate import solve_ivp

    from toymodels.depth import depth_limit, depth_limit_sharpness

    rng, worst = np.random.default_rng(5), 0.0
    for depth in (1, 2, 3, 4):
        model, scalars, b, u, p = _model(depth)
        arguments = (*scalars, b, u, p, BETA, ALPHA)
        flow = sp.lambdify(arguments, model.flow.T.tolist()[0], "math")
        hessian = sp.lambdify(arguments, model.hessian, "numpy")
        for _ in range(3):
            c0, b0, beta, alpha = _numbers(depth, rng)
            start = [*c0, b0, 0.0, 0.0]
            solution: Any = solve_ivp(
                lambda _, y, f=flow, beta=beta, alpha=alpha: f(*y, beta, alpha),
                (0, 60),
                start,
                "LSODA",
                rtol=1e-11,
                atol=1e-13,
            )
            end = solution.y[:, -1]
            limit = depth_limit(c0, b0, beta)
            got = np.append(limit.c2, limit.b2)
            worst = max(worst, float(np.abs(got / end[:depth] ** 2 - 1).max()))
            for variance in (alpha, 0.5):  # the opposing direction leads, then the layers
                top = np.linalg.eigvalsh(np.array(hessian(*end, beta, variance), float))[-1]
                worst = max(worst, abs(float(depth_limit_sharpness(c0, b0, beta, variance)) / top - 1))
    return worst, 1e-8


def _order_error() -> tuple[float, float]:
    """Error of the expansion as a share of its derived bound."""
    from toymodels.depth import depth_limit, first_order_curvature

    rng, worst = np.random.default_rng(7), 0.0
    for depth in (2, 3, 4, 6):
        for spread in (0.01, 0.1, 0.3):
            weights = np.sqrt(1 + spread * rng.uniform(-1, 1, (200, depth)))
            c0, b0 = weights[:, :-1], weights[:, -1]
            value, bound = first_order_curvature(c0, b0, 1.1, 30.0)
            exact = 30.0 * depth_limit(c0, b0, 1.1).product2
            worst = max(worst, float((np.abs(value - exact) / bound).max()))
    return worst, 1.0


def _balanced_error() -> tuple[float, float]:
    """The balanced formula against the general root and dense eigenvalues of the generated Hessian, relative."""
    from toymodels.depth import balanced_limit_sharpness

    worst = 0.0
    for depth in DEPTHS:
        model, scalars, b, u, p = _model(depth)
        hessian = sp.lambdify((*scalars, b, u, p, BETA, ALPHA), model.hessian, "numpy")
        for beta in (0.4, 1.0, 2.5):
            for alpha in (0.5, 3.0, 40.0):
                weight = beta ** (1 / depth)
                dense = np.array(hessian(*[weight] * depth, 0.0, 0.0, beta, alpha), float)
                top = np.linalg.eigvalsh(dense)[-1]
                worst = max(worst, abs(float(balanced_limit_sharpness(depth, beta, alpha)) / top - 1))
    return worst, 1e-12


def _signals_residuals() -> list[Any]:
    """Along the flow of opposing targets 0: (log w_j)' = -alpha_j c^2; w_j e^{alpha_j tau} is constant; curvatures."""
    model = several_signals(4)
    c, _, *w = model.weights
    kappa, target = model.parameters[:4], model.parameters[4:]
    values: Any = dict(zip(target, (BETA, 0, 0, 0), strict=True))
    tau = sp.Symbol("tau", nonnegative=True)
    flow = model.flow.subs(values)
    out: list[Any] = []
    for j, wj in enumerate(w, start=1):
        constant = wj * sp.exp(kappa[j] * tau)
        out.append(sp.expand(sp.diff(constant, wj) * flow[j + 1] + sp.diff(constant, tau) * c**2))
    gone: Any = {wj: 0 for wj in w}
    hessian = model.hessian.subs(values).subs(gone)
    block = sp.zeros(5, 5)
    block[:2, :2] = hessian[:2, :2]
    for j in range(2, 5):
        block[j, j] = kappa[j - 1] * c**2
    out.append((hessian - block).expand())
    out.append(sp.expand(model.gd_map(T).subs(values)[2] - (1 - T * kappa[1] * c**2) * w[0]))
    return out


def _signals_error() -> tuple[float, float]:
    """Decay of three directions in the clock, from a solve that carries the clock and log|w_j|; onsets by its events."""
    from scipy.integrate import solve_ivp

    from toymodels.depth import signal_order

    model = several_signals(4)
    flow = sp.lambdify((model.weights, model.parameters), model.flow.T.tolist()[0], "math")
    alphas, lr, w0 = (30.0, 55.0, 42.0), 0.05, (1e-6, -2e-6, 1e-6)
    numbers = (1.0, *alphas, 1.3, 0.0, 0.0, 0.0)

    def rates(_: float, y: Any) -> list[float]:
        return [*flow(y[:5], numbers), y[0] ** 2]

    events = [lambda _, y, a=a: lr * a * y[0] ** 2 - 2 for a in alphas]
    found: Any = solve_ivp(
        rates, (0, 6), [0.4, 0.1, *w0, 0.0], "DOP853", events=events, rtol=1e-12, atol=1e-30, dense_output=True
    )
    worst = 0.0
    early = found.sol(0.5)
    for a, start, end in zip(alphas, w0, early[2:5], strict=True):
        worst = max(worst, abs(float(np.log(end / start) + a * early[5])))
    onset = signal_order(0.4, 0.1, 1.3, alphas, lr).onset
    for want, got in zip(found.t_events, onset, strict=True):
        worst = max(worst, abs(float(want[0]) - float(got)))
    return worst, 1e-8


FLOW = ("gradient flow", "covariance I along the target")
ENDS = (*FLOW, "the flow ends at a minimum, not in the saddle at 0")
ROWS = (
    Derivation(
        "depth-invariants",
        "What a deep flow conserves",
        r"c_i^2 - c_j^2 \text{ and } c_i^2 - \|w\|^2 \text{ are constant}",
        ("gradient flow",),
        "every depth, covariance and target; executed for D = 2, 3, 5",
        "proved",
        tuple(Step(f"D = {d}: their derivatives along the flow", partial(_conserved_residuals, d)) for d in (2, 3, 5)),
        numeric="toymodels.depth:depth_limit",
    ),
    Derivation(
        "depth-limit",
        "Where a deep flow ends, and its sharpness there",
        r"\prod_{i=1}^D(y+e_i)=\|\beta\|^2,\quad S_\infty=\max\Big(\alpha\prod_i c_i^2,\;"
        r"\|\beta\|^2\big(b_\parallel^{-2}+\sum_i c_i^{-2}\big)\Big)",
        ENDS,
        "every depth and every imbalance of the layers; e_i is the initial excess of a square over the least one",
        "proved",
        (
            *(
                Step(f"D = {d}: gradient 0, and the Hessian is diagonal plus one square", partial(_limit_residuals, d))
                for d in (1, 2, 3, 4)
            ),
            Step(
                "D = 2: the limit of the two-layer model, and sqrt(K^2 + 4 beta^2) without the feature",
                _two_layer_residuals,
            ),
        ),
        (Check("end of a tight solve, and dense eigenvalues there, relative", _limit_error),),
        numeric="toymodels.depth:depth_limit_sharpness",
    ),
    Derivation(
        "depth-balanced",
        "Depth sharpens: the balanced limit",
        r"S_\infty = \max(\alpha, D)\,\|\beta\|^{2(D-1)/D}",
        (*ENDS, "all c_i^2 and b_par^2 equal at the start"),
        "D >= 1; D = 1 never sharpens",
        "proved",
        (
            *(
                Step(f"D = {d}: product and eigenvalues at equal squares", partial(_balanced_residuals, d))
                for d in DEPTHS
            ),
            Step("D = 1: the Hessian is constant", _plain_residual),
        ),
        (Check("dense eigenvalues of the generated Hessian, relative", _balanced_error),),
        numeric="toymodels.depth:balanced_limit_sharpness",
    ),
    Derivation(
        "depth-offsets",
        "Unbalanced layers, to first order",
        r"\alpha\prod_i c_i^2 = \alpha\|\beta\|^{2(D-1)/D}\,(1-t+\epsilon),\quad t=\frac{\delta_b}{Y},\; Y=\|\beta\|^{2/D},\quad"
        r"|\epsilon|\le\max\Big(\frac{t^2}{1+t},\frac{e^h-1}{(1+t)^2}\Big),\; h=\frac{\sum_i\delta_i^2}{2DY^2(1-\mu)^2},"
        r"\;\mu=\max_i\frac{-\delta_i}{Y}",
        ENDS,
        "offsets delta_i from the mean of the D squares, mu < 1",
        "bounded",
        (
            *(
                Step(f"D = {d}: the mean square has no first-order term", partial(_expansion_residuals, d))
                for d in (2, 3, 4)
            ),
            Step("remainders of the bound (geometric mean <= mean gives the other side)", _bound_residuals),
        ),
        (Check("share of the bound used, against the exact root", _order_error),),
        numeric="toymodels.depth:first_order_curvature",
    ),
    Derivation(
        "several-signals",
        "Several opposing directions: decay, curvature, order of onsets",
        r"w_j = w_{j0}e^{-\alpha_j\tau},\quad \tau=\textstyle\int_0^t c^2dt,\quad \partial_{w_j}^2L=\alpha_jc^2,\quad"
        r"\alpha_jc(t_j^*)^2=2/\eta:\;\alpha_i>\alpha_j\Rightarrow t_i^*\le t_j^*",
        ("gradient flow", "targets 0 along the opposing directions", "curvatures and onsets: the w_j negligible"),
        "any number of directions",
        "proved",
        (Step("w_j e^{alpha_j tau} is constant, the Hessian decouples, the GD map of w_j", _signals_residuals),),
        (Check("log-decay and onsets from a tight solve of the generated flow", _signals_error),),
        numeric="toymodels.depth:signal_order",
    ),
)
