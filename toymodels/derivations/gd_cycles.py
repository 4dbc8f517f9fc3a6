"""Two-cycles of gradient descent: on the balanced line, and the one in which the opposing weight takes part."""

from typing import Any

import numpy as np
import sympy as sp

from toymodels.derivations.gd_dynamics import JACOBIAN, MAP
from toymodels.derivations.registry import Check, Derivation, Step
from toymodels.symbolic import two_layer

__all__ = ["ROWS"]

C, B, P, U = two_layer().weights
BETA, ALPHA = two_layer().parameters
ETA = sp.Symbol("eta", positive=True)
X, R0, R1 = sp.symbols("x r_0 r_1", real=True)
G, A, D = sp.symbols("g a d", positive=True)  # eta beta; 1/c_0 and 1/c_1 of the opposing cycle


def _line() -> Any:
    return MAP[0].subs({B: X, C: X, P: 0, U: 0})


def _cubic(x: Any) -> Any:
    """The map on the balanced line in units 1/sqrt(eta), from the generated one."""
    return sp.expand(_line().subs({X: x / sp.sqrt(ETA), BETA: G / ETA}) * sp.sqrt(ETA))


def _slope(x: Any) -> Any:
    return sp.diff(_cubic(X), X).subs(X, x)


def _line_steps() -> tuple[Step, ...]:
    from toymodels.orbits import balanced_line

    other = balanced_line()
    move: Any = other.gd_map(ETA)[0]
    top = sp.sqrt((1 + G) / 3)
    return (
        Step("the line is invariant", lambda: (MAP[0] - MAP[1]).subs({B: X, C: X, P: 0, U: 0})),
        Step("and the map on it is gradient descent on (beta - x^2)^2/4",
             lambda: _line() - move.subs({other.weights[0]: X, other.parameters[0]: BETA})),
        Step("the slope at the minimum is 1 - 2g", lambda: _slope(sp.sqrt(G)) - (1 - 2 * G)),
        Step("x -> -x at eta x^2 = 2 + g", lambda: _cubic(sp.sqrt(2 + G)) + sp.sqrt(2 + G)),
        Step("with slope -(5 + 2g): unstable", lambda: _slope(sp.sqrt(2 + G)) + 5 + 2 * G),
        Step("beyond it |x| grows: the factor is -1 - (eta x^2 - 2 - g)",
             lambda: _cubic(X) / X + 1 + (X**2 - 2 - G)),
        Step("the largest |x| reached from within, squared, is 2 + g - (2 - g)(5 + 2g)^2/27: within, for g < 2",
             lambda: _cubic(top) ** 2 - (2 + G) + (2 - G) * (5 + 2 * G) ** 2 / 27),
        Step("it maps to 0, joining both signs, at g = 3 sqrt(3)/2 - 1", lambda: (_cubic(_cubic(top))).subs(
            G, 3 * sp.sqrt(3) / 2 - 1)),
        Step("at g = 2 the map is -T_3, Chebyshev's cubic", lambda: _cubic(2 * X).subs(G, 2) / 2 + sp.chebyshevt(3, X)),
    )  # fmt: skip


def chebyshev_error() -> tuple[float, float]:
    """Measured exponent at g = 2 against log 3. With x = 2 cos(theta), log|x'/dx| = log 3 + log|sin 3 theta| -
    log|sin theta|: the sum telescopes, so the exponent misses log 3 by exactly log|sin theta_n/sin theta_0|/n."""
    from toymodels.orbits import balanced_line, generated_map, lyapunov_exponents

    n, start = 2000, 0.7
    found = lyapunov_exponents(balanced_line(), 2.0, start={"x": start}, parameters={"beta": 1.0}, steps=n, transient=0)
    x = np.array([[start]])
    square = [1 - start**2 / 2]  # sin^2, from eta x^2 = 4 cos^2
    for _ in range(n):
        x = generated_map(balanced_line())[0](x, [1.0, 2.0])
        square.append(1 - float(x[0, 0]) ** 2 / 2)
    rest = np.log(square[-1] / square[0]) / (2 * n)
    # a step rounded by 8 eps moves log|sin| by that over sin^2
    return abs(float(found.exponent.values[0, 0]) - np.log(3) - rest), 8 * np.finfo(float).eps * np.mean(
        1 / np.array(square)
    )


def _cycle_steps() -> tuple[Step, ...]:
    total, gap = sp.sqrt(G + 3), sp.sqrt(G - 1)
    x = ((total + gap) / 2, (total - gap) / 2)
    s, p, u = sp.symbols("s p u", real=True)

    def across(k: int) -> sp.Expr:
        """Derivative of (c - b) at its two phases, in units 1/sqrt(eta)."""
        return (JACOBIAN[0, 0] - JACOBIAN[0, 1]).subs({C: x[k], B: x[k], P: 0, U: 0, ETA: 1, BETA: G})

    def along(k: int, entry: Any) -> Any:
        return entry.subs({C: x[k], B: x[k], P: 0, U: 0, ETA: 1, BETA: G})

    return (
        Step("in the plane c + b takes a factor 1 + eta r and c - b a factor 1 - eta r",
             lambda: [(MAP[0] + k * MAP[1] - (C + k * B) * (1 + k * ETA * (BETA - C * B))).subs({P: 0, U: 0}).expand()
                      for k in (1, -1)]),
        Step("both returning after two steps needs r_0 + r_1 = 0 and r_0 r_1 = 0, a fixed point: two-cycles in the plane "
             "have c = b or c = -b",
             lambda: [(1 + ETA * R0) * (1 + ETA * R1) - (1 - ETA * R0) * (1 - ETA * R1) - 2 * ETA * (R0 + R1),
                      (1 + ETA * R0) * (1 + ETA * R1) + (1 - ETA * R0) * (1 - ETA * R1) - 2 - 2 * ETA**2 * R0 * R1]),
        Step("on c = b, x_0 and x_1 exchange: sum and difference of the two equations, s = x_0 + x_1, p = x_0 x_1",
             lambda: [sp.expand(_cubic(s) + _cubic(u) - (s + u) * (1 + G - (s + u) ** 2 + 3 * s * u)),
                      sp.expand(_cubic(s) - _cubic(u) - (s - u) * (1 + G - (s + u) ** 2 + s * u))]),
        Step("they read 1 = 1 + g - s^2 + 3p and -1 = 1 + g - s^2 + p (s, difference not 0): p = 1, s^2 = g + 3",
             lambda: [(1 + G - s**2 + 3 * p - 1) - (1 + G - s**2 + p + 1) - 2 * (p - 1),
                      (1 + G - s**2 + p + 1).subs({p: 1, s: total})]),
        Step("s = 0 is the unstable x -> -x; on c = -b the same with g -> -g, where s^2 < 4p: only x -> -x, at eta x^2 = 2 - g",
             lambda: MAP[0].subs({C: X, B: -X, P: 0, U: 0}) - _line().subs(BETA, -BETA)),
        Step("x_0 -> x_1", lambda: sp.expand(_cubic(x[0]) - x[1])),
        Step("x_1 -> x_0", lambda: sp.expand(_cubic(x[1]) - x[0])),
        Step("multiplier along the line", lambda: sp.expand(
            _slope(x[0]) * _slope(x[1]) - (9 - 2 * (1 + G) ** 2))),
        Step("multiplier across it", lambda: sp.expand(across(0) * across(1) - (3 - 2 * G))),
        Step("multiplier along b_perp",
             lambda: sp.expand(along(0, JACOBIAN[2, 2]) * along(1, JACOBIAN[2, 2]) - (1 - G))),
        Step("multiplier along u", lambda: sp.expand(
            along(0, JACOBIAN[3, 3]) * along(1, JACOBIAN[3, 3]) - (1 - ALPHA * (1 + G) + ALPHA**2))),
        Step("flip to the four-cycle at g = sqrt(5) - 1", lambda: 9 - 2 * sp.expand((1 + (sp.sqrt(5) - 1)) ** 2) + 1),
    )  # fmt: skip


def balanced_cycle_error() -> tuple[float, float]:
    """End of a simulated run inside the stable range against the formula. The run has converged to rounding, which the
    slowest multiplier m amplifies by at most 1/(1 - |m|) (its Jacobian is symmetric); 16 roundings a step."""
    from toymodels.gd_dynamics import balanced_cycle
    from toymodels.orbits import orbit_diagram

    lr, worst = np.array([1.05, 1.12, 1.2]) / 0.8, 0.0
    cycle, multipliers = balanced_cycle(lr, 0.8, 0.7)
    start = {"c": 0.8, "b_par": 0.85, "b_perp": 0.1, "u": 0.1}
    end = orbit_diagram(two_layer(), lr, start=start, parameters={"beta": 0.8, "alpha": 0.7}, transient=1000, samples=2)
    for name, stated in (("c", cycle.c), ("b_par", cycle.b_par)):
        worst = max(worst, float(np.abs(np.sort(end[name].values.T, 0) - np.sort(stated, 0)).max()))
    worst = max(worst, float(np.abs(end.u.values).max()))
    return worst, 16 * np.finfo(float).eps * 2 / (1 - float(np.abs(multipliers).max()))


def _opposing_steps() -> tuple[Step, ...]:
    alpha = (A**2 + D**2) / ETA  # 1/c_0^2 + 1/c_1^2 = eta alpha
    kappa, product = BETA / (alpha - 1), A * D
    r = (kappa * (A - D) * A / ETA, -kappa * (A - D) * D / ETA)
    load = (A**2 * kappa * (A - D) / ETA) ** 2 * (product - ETA) / (ETA * alpha - product)  # alpha u_0^2
    cubic = BETA**2 * product**3 / (alpha - 1) + product - ETA * alpha
    states = ({C: 1 / A, B: (BETA - r[0]) * A}, {C: 1 / D, B: (BETA - r[1]) * D})
    squares = (load / alpha, load / alpha * (D / A) ** 4)
    s, q, both = sp.symbols("s q P", positive=True)

    def image(entry: int, phase: int) -> Any:
        form = MAP[entry].subs({P: 0}).expand().subs(U**2, squares[phase])
        return form.subs({**states[phase], ALPHA: alpha})

    def modulo(expression: Any) -> Any:
        """Remainder of the numerator after division by that of the cubic, in beta."""
        numerator = [sp.fraction(sp.together(e))[0] for e in (expression, cubic)]
        return sp.rem(*(sp.expand(n) for n in numerator), BETA)

    root = (ALPHA - 1) / BETA**2
    f = both**3 / root + both - ETA * ALPHA
    return (
        Step("u returns after two steps if and only if 1/c_0^2 + 1/c_1^2 = eta alpha (or u = 0)",
             lambda: (JACOBIAN[3, 3] * JACOBIAN[3, 3].subs(C, s)).expand() - 1
             - ETA * ALPHA * C**2 * s**2 * (ETA * ALPHA - 1 / C**2 - 1 / s**2)),
        Step("so its factor is -c_0^2/c_1^2", lambda: JACOBIAN[3, 3].subs({ALPHA: alpha, C: 1 / A}) + D**2 / A**2),
        Step("b_par returns if and only if c_0 r_0 + c_1 r_1 = 0; with b_par = (beta - r)/c this fixes r",
             lambda: [r[0] / A + r[1] / D, (MAP[1] - B - ETA * C * (BETA - C * B)).expand(),
                      states[1][B] - states[0][B] - ETA * r[0] / A]),
        Step("c returns after two steps if and only if alpha u_0^2 is as stated: it enters linearly",
             lambda: sp.together(image(0, 0) - 1 / A + image(0, 1) - 1 / D)),
        Step("and c goes to c_1 by the cubic only (a = b being a fixed point, a + b not 0): necessity",
             lambda: _necessity(image, load, cubic)),
        Step("the stated orbit is one: c_0 -> c_1", lambda: modulo(image(0, 0) - 1 / D)),
        Step("c_1 -> c_0", lambda: modulo(image(0, 1) - 1 / A)),
        Step("b_0 -> b_1 and b_1 -> b_0",
             lambda: [modulo(image(1, 0) - states[1][B]), modulo(image(1, 1) - states[0][B])]),
        Step("it starts at P = eta alpha/2, c_0 = c_1, where eta beta = 2 sqrt(alpha - 1)/alpha",
             lambda: f.subs(both, ETA * ALPHA / 2).subs(BETA, 2 * sp.sqrt(ALPHA - 1) / (ALPHA * ETA))),
        Step("and ends at P = eta, u = 0, where eta beta = alpha - 1",
             lambda: f.subs(both, ETA).subs(BETA, (ALPHA - 1) / ETA)),
        Step("b_perp returns by the same condition with alpha = 1: not together with u, unless alpha = 1",
             lambda: JACOBIAN[2, 2] - JACOBIAN[3, 3].subs(ALPHA, 1)),
        Step("nor alone: with 1/c_0^2 + 1/c_1^2 = eta, b_par returns only if beta (1/c_1 - 1/c_0) = 0",
             lambda: ((BETA + q * D / ETA) * D - (BETA - q * A / ETA) * A - q - BETA * (D - A)).expand().subs(
                 D**2, ETA - A**2).expand()),
    )  # fmt: skip


def _mirror_steps() -> tuple[Step, ...]:
    b = -BETA / ((ALPHA - 1) * C)
    square = (2 / ETA - ETA * ALPHA**2 * BETA**2 / (2 * (ALPHA - 1) ** 2)) / ALPHA
    t = sp.Symbol("t", real=True)
    there = {P: 0, B: b}
    value = sp.sqrt(2 / (ETA * ALPHA))

    def image(entry: int) -> Any:
        return MAP[entry].expand().subs(U**2, square).subs(there).subs(C, value)

    return (
        Step("with 1/c_0 + 1/c_1 = 0 the two steps of c are opposite whatever u: the case the other cycle leaves out",
             lambda: _mirror_sum()),
        Step("u -> -u", lambda: JACOBIAN[3, 3].subs(C, value) + 1),
        Step("b -> -b", lambda: sp.simplify(image(1) + b.subs(C, value))),
        Step("c -> -c", lambda: sp.simplify(image(0) + value)),
        Step("b is fixed by it", lambda: sp.simplify(
            (MAP[1] + B).subs({P: 0, C: value}).subs(B, t) - (2 - 2 / ALPHA) * (t - b.subs(C, value)))),
        Step("u^2 is 0 at eta beta = 2 (alpha - 1)/alpha",
             lambda: sp.simplify(square.subs(BETA, 2 * (ALPHA - 1) / (ALPHA * ETA)))),
        Step("at beta = 0 it lies on eta alpha (c^2 + u^2) = 4",
             lambda: sp.simplify(ETA * ALPHA * (value**2 + square.subs(BETA, 0)) - 4)),
    )  # fmt: skip


def _mirror_sum() -> Any:
    """Sum of the two steps of c with c_1 = -c_0, b_1 = -b_0, u_1 = -u_0: 0, whatever b and u."""
    step = MAP[0] - C
    return (step + step.subs({C: -C, B: -B, U: -U}, simultaneous=True)).expand()


def mirror_error() -> tuple[float, float]:
    """One step of the generated map to minus itself, relative to the terms it adds: 32 roundings."""
    from toymodels.gd_dynamics import mirror_cycle
    from toymodels.orbits import generated_map

    lr, alpha = np.array([[0.01, 0.5, 0.9, 0.3], [0.3, 3.0, 10.0, 300.0]])
    w = mirror_cycle(lr, 1.0, alpha).as_array()[:, 0]
    size = np.abs(w).max(0) * (1 + lr * alpha * (w**2).sum(0))
    return float((np.abs(generated_map(two_layer())[0](w, [1.0, alpha, lr]) + w).max(0) / size).max()), 32 * np.finfo(
        float
    ).eps


def _necessity(image: Any, load: Any, cubic: Any) -> Any:
    """c' - c_1 at the stated load, minus the cubic times a factor that is not 0 unless c_0 = c_1."""
    factor = (A - D) / (A * D * (A**2 - A * D + D**2))
    return sp.together(image(0, 0) - 1 / D - factor * cubic)


def opposing_cycle_error() -> tuple[float, float]:
    """Two compiled steps from the stated orbit, relative to the sizes of what a step adds: 64 roundings."""
    from toymodels.gd_dynamics import opposing_cycle
    from toymodels.simulation import simulate

    alpha = np.array([2.2, 3.0, 10.0, 10.0, 10.0, 200.0])
    lowest = 2 * np.sqrt(alpha - 1) / alpha
    lr = lowest * np.array([1.05, 1.3, 1.05, 1.5, 3.0, 1.4])
    w = opposing_cycle(lr, 1.0, alpha).as_array()
    names, worst = [x.name for x in two_layer().weights], 0.0
    for first in (0, 1):
        start = dict(zip(names, w[:, first], strict=True))
        run = simulate(two_layer(), "gd", lr, 2, start=start, parameters={"beta": 1.0, "alpha": alpha})
        path = np.stack([run[n].values for n in names])  # weight, run, step
        growth = np.abs(w).max((0, 1)) * (1 + lr * alpha * np.abs(w).max((0, 1)) ** 2) ** 2
        stated = np.stack([w[:, 1 - first], w[:, first]], -1)
        worst = max(worst, float((np.abs(path[:, :, 1:] - stated).max((0, 2)) / growth).max()))
    return worst, 64 * np.finfo(float).eps


ROWS = (
    Derivation(
        "gd-balanced-line",
        "Gradient descent on the balanced line is the cubic map",
        r"c=b_\parallel=x:\; x\mapsto x+\eta x(\|\beta\|-x^2);\quad \text{bounded}\iff \eta x^2\le 2+g\;(g\le2);\quad"
        r" \text{flip } g=1,\; \text{signs merge } g=\tfrac{3\sqrt3}2-1,\; g=2:\; -T_3,\;\Lambda=\log3",
        ("u = b_perp = 0 and c = b_par at the start",),
        "g = eta beta > 0",
        "proved",
        _line_steps(),
        (Check("measured Lyapunov exponent at g = 2, the telescoping rest taken off", chebyshev_error),),
        numeric="toymodels.orbits:balanced_line",
    ),
    Derivation(
        "gd-balanced-cycle",
        "The two-cycle after the flip, and its multipliers",
        r"x_0x_1=\tfrac1\eta,\; (x_0+x_1)^2=\tfrac{g+3}\eta;\quad 9-2(1+g)^2,\; 3-2g,\; 1-g,\; 1-\alpha(1+g)+\alpha^2",
        ("full-batch gradient descent on the two-layer model",),
        "g > 1; stable for g < sqrt(5) - 1, alpha < 1 + g, alpha^2 - alpha(1 + g) > -2",
        "proved",
        _cycle_steps(),
        (Check("end of simulated runs in the full model", balanced_cycle_error),),
        numeric="toymodels.gd_dynamics:balanced_cycle",
    ),
    Derivation(
        "gd-opposing-cycle",
        "The two-cycle in which the opposing weight takes part",
        r"\frac{\|\beta\|^2P^3}{\alpha-1}+P=\eta\alpha,\; P=\frac1{c_0c_1},\; \frac1{c_0^2}+\frac1{c_1^2}=\eta\alpha,\;"
        r" \frac{u_1}{u_0}=-\frac{c_0^2}{c_1^2};\quad \text{exists} \iff \frac{2\sqrt{\alpha-1}}{\alpha}<\eta\|\beta\|<\alpha-1,\;\alpha>2",
        ("full-batch gradient descent on the two-layer model", "alpha not 1"),
        "c_0 and c_1 not opposite; up to signs unique",
        "proved",
        _opposing_steps(),
        (Check("two compiled steps from it, both phases, relative", opposing_cycle_error),),
        numeric="toymodels.gd_dynamics:opposing_cycle",
    ),
    Derivation(
        "gd-mirror-cycle",
        "The two-cycle in which every weight changes sign",
        r"\eta\alpha c^2=2,\; b_\parallel=-\frac{\|\beta\|}{(\alpha-1)c},\; \alpha u^2=\frac2\eta-\frac{\eta\alpha^2\|\beta\|^2}{2(\alpha-1)^2};"
        r"\quad \text{exists} \iff \eta\|\beta\|<\frac{2|\alpha-1|}{\alpha}",
        ("full-batch gradient descent on the two-layer model", "alpha not 1"),
        "with the balanced ones and the opposing one these are all two-cycles",
        "proved",
        _mirror_steps(),
        (Check("a step of the generated map to minus itself, relative", mirror_error),),
        numeric="toymodels.gd_dynamics:mirror_cycle",
    ),
)
