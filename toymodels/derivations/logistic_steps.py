"""Sympy steps of the logistic counterpart: everything from the loss summed over labels, signs and sorts of example."""

from functools import cache
from typing import Any

import sympy as sp

from toymodels.symbolic import SymbolicModel

__all__ = ["ALPHA", "LR", "MARGIN", "OWN", "RHO", "SHARE", "B", "C", "U", "model"]

C, B, U, W, DELTA, SLOPE = sp.symbols("c b u w delta S", real=True)
ALPHA, SHARE, MARGIN, OWN, LR, S, Z, X = sp.symbols("alpha p m mu eta s z x", positive=True)
RHO = sp.Symbol("rho", real=True)
A = sp.sqrt(ALPHA / SHARE)
TANH = sp.tanh(W / 2)


def _loss(z: Any) -> Any:
    return sp.log(1 + sp.exp(-z))


@cache
def model(own: bool = False) -> SymbolicModel:
    """Weights c, b, u; loss summed over labels, signs and sorts of example; ``own``: outliers keep a core margin μ."""
    total: Any = 0
    for label in (1, -1):
        total += (1 - SHARE) / 2 * _loss(label * C * B * (MARGIN * label))
        for sign in (1, -1):
            chance = SHARE / 4 * (1 + RHO * label * sign)
            core = OWN * label if own else 0
            total += chance * _loss(label * C * (B * core + A * sign * U))
    return SymbolicModel((C, B, U), (ALPHA, SHARE, MARGIN, RHO, OWN), total)


def _zero(expression: Any) -> Any:
    """The expression with hyperbolic functions as exponentials, reduced."""
    return sp.simplify(sp.together(sp.expand(sp.sympify(expression).rewrite(sp.exp))))


def _simple(expression: Any) -> Any:
    return sp.simplify(expression)


def _in_w(expression: Any) -> Any:
    return sp.sympify(expression).subs(U, W / (C * A))


def _step() -> Any:
    """w after one generated step of gradient descent on u, c held, s = lr alpha c^2/4."""
    step: Any = model().gd_map(LR)
    return sp.simplify(_in_w(C * A * step[2])).subs(LR, 4 * S / (ALPHA * C**2))


def _map() -> Any:
    return W - 2 * S * (TANH - RHO)


def reduction_residual() -> list[Any]:
    """The generated loss in closed form: equal after differentiation in u and in c, and at u = 0."""
    core = (1 - SHARE) * _loss(MARGIN * C * B)
    w = C * A * U
    stated = core + SHARE * (sp.log(2 * sp.cosh(w / 2)) - RHO * w / 2)
    rest = sp.expand(sp.expand_log(model().loss - stated).subs(U, 0))
    return [rest, _zero(_in_w(model().gradient[2] - sp.diff(stated, U)))]


def curvature_residual() -> list[Any]:
    gradient, hessian = model().gradient, model().hessian
    floor = (
        _in_w(hessian[2, 2])
        .rewrite(sp.exp)
        .subs(sp.exp(W), (1 + RHO) / (1 - RHO))
        .subs(sp.exp(-W), (1 - RHO) / (1 + RHO))
    )
    return [
        _zero(_in_w(gradient[2]) - SHARE * C * A / 2 * (TANH - RHO)),
        _zero(_in_w(hessian[2, 2]) - ALPHA * C**2 / 4 / sp.cosh(W / 2) ** 2),
        sp.simplify(floor - ALPHA * C**2 * (1 - RHO**2) / 4),
        sp.simplify(((1 + RHO) / (1 - RHO) - 1) / ((1 + RHO) / (1 - RHO) + 1) - RHO),  # tanh(w/2) = rho there
        sp.simplify((ALPHA * C**2 * (1 - RHO**2) / 4).subs(C, sp.sqrt(8 / (LR * ALPHA * (1 - RHO**2)))) - 2 / LR),
    ]


def _balanced(expression: Any) -> Any:
    """At u = 0, rho = 0, c = b = sqrt(z/m)."""
    return sp.sympify(expression).subs({U: 0, RHO: 0}).subs(B, C).subs(C, sp.sqrt(Z / MARGIN))


def sharpness_residual() -> list[Any]:
    hessian: Any = model().hessian
    sigma = 1 / (1 + sp.exp(Z))  # sigma(-z)
    core = (1 - SHARE) * MARGIN * sigma
    matrix = sp.Matrix(3, 3, lambda i, j: _balanced(hessian[i, j]))
    pairs = (
        ((1, 1, 0), core * (2 * Z * (1 - sigma) - 1)),
        ((1, -1, 0), core),
        ((0, 0, 1), ALPHA * Z / (4 * MARGIN)),
    )
    return [[_zero(e) for e in matrix * sp.Matrix(v) - value * sp.Matrix(v)] for v, value in pairs]


def flow_residual() -> list[Any]:
    """Along the generated flow at u = 0, c = b: the line is kept, u rests, and d(log z + Ei z)/dt = 2(1 - p) m."""
    flow: Any = model().flow
    rate = _balanced(2 * MARGIN * C * flow[0])  # z = m c^2
    clock = sp.log(Z) + sp.Ei(Z)
    return [
        _balanced(flow[0] - flow[1]),
        _balanced(flow[2]),
        _zero(sp.diff(clock, Z) * rate - 2 * (1 - SHARE) * MARGIN),
    ]


def endless_residual() -> list[Any]:
    """F'(z) = (1 + e^z)/z > 0 and F/(e^z/z) -> 1 (ratio of derivatives): F covers every time, and z ~ log t."""
    clock = sp.log(Z) + sp.Ei(Z)
    ratio = sp.diff(clock, Z) / sp.diff(sp.exp(Z) / Z, Z)
    return [
        sp.simplify(sp.diff(clock, Z) - (1 + sp.exp(Z)) / Z),
        sp.simplify(ratio - (1 + sp.exp(-Z)) * Z / (Z - 1)),
        sp.limit((1 + sp.exp(-Z)) * Z / (Z - 1), Z, sp.oo) - 1,
    ]


def edge_residual() -> Any:
    """The curvature of the generated Hessian at z* = 8m/(lr alpha) is 2/lr."""
    hessian: Any = model().hessian
    return sp.simplify(_balanced(hessian[2, 2]).subs(Z, 8 * MARGIN / (LR * ALPHA)) - 2 / LR)


def map_residual() -> Any:
    return _zero(_step() - _map())


def flip_residual() -> list[Any]:
    """At the floor, T = tanh(w/2) = rho and s = 2/(1 - rho^2): slope -1, a = φ''/2, b = φ'''/6, a^2 + b as stated.

    Schwarzian φ'''/φ' - (3/2)(φ''/φ')^2 = -6(a^2 + b).
    """
    t = sp.Symbol("T", real=True)
    derivative: list[Any] = [sp.diff(_map(), W, k).subs(TANH, t).subs(t, RHO) for k in (1, 2, 3)]
    first, second, third = (_simple(d.subs(S, 2 / (1 - RHO**2))) for d in derivative)
    a, b = second / 2, third / 6
    return [
        first + 1,
        sp.simplify(a**2 + b - sp.Rational(1, 6) - RHO**2 / 2),
        sp.simplify(third / first - sp.Rational(3, 2) * (second / first) ** 2 + 6 * (a**2 + b)),
    ]


def flip_form_residual() -> Any:
    """Second iterate of x -> -(1+e)x + a x^2 + b x^3 is (1+e)^2 x - 2(a^2 + b) x^3 + ... to leading order, so x^2 = e/(a^2+b)."""
    e, a, b = sp.symbols("e a b", real=True)

    def f(x: Any) -> Any:
        return -(1 + e) * x + a * x**2 + b * x**3

    twice: Any = sp.Poly(sp.expand(f(f(W))), W)
    cubic = twice.coeff_monomial(W**3).subs(e, 0) + 2 * (a**2 + b)
    linear = twice.coeff_monomial(W) - (1 + e) ** 2
    return [cubic, linear, twice.coeff_monomial(W**2).subs(e, 0)]


def orbit_residual() -> list[Any]:
    """ρ = 0: u = (lr/2) dL/du on the generated gradient is w = s tanh(w/2), and the step there is w -> -w."""
    gradient = _in_w(model().gradient[2]).subs(RHO, 0)
    half_step = (C * A * (W / (C * A) - LR / 2 * gradient)).subs(LR, 4 * S / (ALPHA * C**2))
    slope = sp.diff(_map(), W).subs(S, W / TANH)
    return [
        _zero(half_step - (W - S * TANH)),
        _zero(_map().subs({RHO: 0, S: W / TANH}) + W),
        _zero(slope - (1 - 2 * W / sp.sinh(W))),  # multiplier: its square, the map is odd
    ]


def unique_residual() -> list[Any]:
    """tanh(x)/x falls: derivative (2x - sinh 2x)/(2x^2 cosh^2 x); sinh X - X > 0: its derivative is 2 sinh^2(X/2)."""
    return [
        _zero(sp.diff(sp.tanh(X) / X, X) - (2 * X - sp.sinh(2 * X)) / (2 * X**2 * sp.cosh(X) ** 2)),
        _zero(sp.diff(sp.sinh(X) - X, X) - 2 * sp.sinh(X / 2) ** 2),
        sp.limit(S * sp.tanh(X / 2) / X, X, 0) - S / 2,
    ]


def skew_residual() -> list[Any]:
    """Any ρ: with tanh(w±/2) = ρ ± δ both half orbits close if artanh(ρ+δ) - artanh(ρ-δ) = sδ; that excess is convex in δ
    (x/(1-x^2)^2 has the positive slope (1+3x^2)/(1-x^2)^3), 0 at δ = 0 with slope 2/(1-ρ^2) - s: one root or none."""
    ends = [2 * sp.atanh(RHO + sign * DELTA) for sign in (1, -1)]
    excess = sp.atanh(RHO + DELTA) - sp.atanh(RHO - DELTA) - S * DELTA
    step = [w - 2 * S * (t - RHO) for w, t in zip(ends, (RHO + DELTA, RHO - DELTA), strict=True)]
    mean, half = sp.symbols("m_w d", positive=True)
    h = sp.sinh(half) / half
    # solver's form: tanh x ± tanh y at (mean ± half)/2
    plus, minus = sp.tanh((mean + half) / 2), sp.tanh((mean - half) / 2)
    return [
        sp.expand(step[0] - ends[1] - 2 * excess),
        sp.expand(step[1] - ends[0] + 2 * excess),
        sp.simplify(
            sp.diff(excess, DELTA, 2)
            - 2 * (RHO + DELTA) / (1 - (RHO + DELTA) ** 2) ** 2
            + 2 * (RHO - DELTA) / (1 - (RHO - DELTA) ** 2) ** 2
        ),
        sp.simplify(sp.diff(X / (1 - X**2) ** 2, X) - (1 + 3 * X**2) / (1 - X**2) ** 3),
        sp.simplify(sp.diff(excess, DELTA).subs(DELTA, 0) - 2 / (1 - RHO**2) + S),
        _zero(plus + minus - 2 * sp.sinh(mean) / (sp.cosh(mean) + sp.cosh(half))),
        _zero(plus - minus - 2 * half * h / (sp.cosh(mean) + sp.cosh(half))),
    ]


def bounded_residual() -> list[Any]:
    """For w >= 0, ρ = 0: w - φ = 2s tanh(w/2) >= 0 and φ + 2s - w = 4s/(1 + e^w) > 0."""
    step = _map().subs(RHO, 0)
    return [_zero(W - step - 2 * S * TANH), _zero(step + 2 * S - W - 4 * S / (1 + sp.exp(W)))]


def peak_residual() -> list[Any]:
    """Outliers with core margin μ: curvature on the balanced line, its maximum, and its value there."""
    hessian: Any = model(own=True).hessian
    at = hessian[2, 2].subs({U: 0, RHO: 0}).subs(B, C).subs(C, sp.sqrt(X / OWN))
    curvature = ALPHA / OWN * X / (4 * sp.cosh(X / 2) ** 2)
    slope = ALPHA / OWN * (1 - X * sp.tanh(X / 2)) / (4 * sp.cosh(X / 2) ** 2)
    t = 1 / X  # tanh(x*/2); 1/cosh^2 = 1 - t^2
    return [
        _zero(at - curvature),
        _zero(sp.diff(curvature, X) - slope),
        sp.simplify(ALPHA / OWN * X * (1 - t**2) / 4 - ALPHA / OWN * (X**2 - 1) / (4 * X)),
        _zero(sp.diff(X * sp.tanh(X / 2), X) - (sp.sinh(X) + X) / (2 * sp.cosh(X / 2) ** 2)),  # > 0: one x*
    ]


def rest_residual() -> list[Any]:
    """c (c' - c)/lr of the generated step, rho = 0; the same at both ends of the orbit."""
    step: Any = model().gd_map(LR)
    push = sp.expand(C * (step[0] - C) / LR).subs(RHO, 0)
    z = MARGIN * C * B
    stated = (1 - SHARE) * z / (1 + sp.exp(z)) - SHARE * W / 2 * TANH
    return [_zero(_in_w(push) - stated), _zero(push - push.subs(U, -U))]


def one_rest_residual() -> list[Any]:
    """Slopes in log w: 1 + w/sinh w >= 1 of w tanh(w/2); 1 - w/sinh w <= 1 of s, half of it of z; at most 1 of
    z σ(-z) in log z. So the ratio of the sides rises by 1/2 at least. Last: s = 2 + w^2/6 + ... at small w."""
    ratio = X / sp.sinh(X)
    sigma = 1 / (1 + sp.exp(Z))
    s = X / sp.tanh(X / 2)
    return [
        _zero(X * sp.diff(sp.log(X * sp.tanh(X / 2)), X) - 1 - ratio),
        _zero(X * sp.diff(sp.log(s), X) - 1 + ratio),
        _zero(Z * sp.diff(sp.log(Z * sigma), Z) - 1 + Z * (1 - sigma)),
        sp.series(s, X, 0, 4).removeO() - 2 - X**2 / 6,
    ]
