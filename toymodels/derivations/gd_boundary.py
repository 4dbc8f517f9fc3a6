"""Where gradient descent diverges: the invariant ellipsoid, the chaos on it, and the catapult of the opposing direction."""

from typing import Any

import numpy as np
import sympy as sp

from toymodels.derivations.gd_dynamics import MAP
from toymodels.derivations.registry import Check, Derivation, Step
from toymodels.symbolic import several_signals, two_layer

__all__ = ["ROWS"]

C, B, P, U = two_layer().weights
BETA, ALPHA = two_layer().parameters
ETA = sp.Symbol("eta", positive=True)
THETA, Z, G = sp.symbols("theta z g", real=True)
E, V, F = ETA * (BETA - C * B), ETA * C * B, ETA * C * P
GB = ETA * BETA


def _level(c: Any, b: Any, p: Any) -> Any:
    return ETA * (c**2 + b**2 + p**2) + GB * (GB - ETA * c * b)


def _next(expression: Any) -> Any:
    """``expression`` of (c, b_par, b_perp) after one step of the generated map with u = 0."""
    after = dict(zip((C, B, P), MAP.subs(U, 0)[:3], strict=True))
    return sp.sympify(expression).subs(after, simultaneous=True)


def _ellipsoid_steps() -> tuple[Step, ...]:
    e = sp.Symbol("e", real=True)
    return (
        Step("4 - Q takes the factor 1 - g e + e^2 + f^2, e = eta r, f = eta c b_perp",
             lambda: sp.expand(4 - _next(_level(C, B, P)) - (4 - _level(C, B, P)) * (1 - GB * E + E**2 + F**2))),
        Step("which is positive for g < 2: a sum of squares", lambda: 1 - G * e + e**2 - (e - G / 2) ** 2 - (4 - G**2) / 4),
        Step("Q < 4 is an ellipsoid for g < 2, so bounded: Q - g^2 is a positive form",
             lambda: sp.expand(_level(C, B, P) - GB**2 - ETA * ((2 - GB) * (C + B) ** 2 / 4 + (2 + GB) * (C - B) ** 2 / 4
                                                               + P**2))),
        Step("at a minimum Q is eta times the sharpness across the curve: minima with Q > 4 have a multiplier below -3",
             lambda: _level(C, BETA / C, 0) - ETA * (C**2 + BETA**2 / C**2)),
    )  # fmt: skip


def ellipsoid_error() -> tuple[float, float]:
    """Random starts, simulated: how many inside leave 10 times its size, or outside stay within it for 2000 steps."""
    from toymodels.gd_dynamics import boundary_level
    from toymodels.simulation import simulate

    rng = np.random.default_rng(5)
    g = rng.uniform(0.05, 1.98, 4000)
    size = 2 * np.sqrt((4 - g**2) / (2 - g))  # largest semi-axis of c + b
    c, b, p = rng.uniform(-0.9, 0.9, (3, 4000)) * size / np.sqrt(g)
    run = simulate(two_layer(), "gd", g, 2000, start={"c": c, "b_par": b, "b_perp": p, "u": 0.0},
                   parameters={"beta": 1.0, "alpha": 1.0}, stride=2000)  # fmt: skip
    inside = boundary_level(c, b, p, g, 1.0) < 4
    far = ~(
        np.abs(np.stack([run[f"final_{n}"].values for n in ("c", "b_par", "b_perp")])).max(0) < 10 * size / np.sqrt(g)
    )
    return float((far == inside).sum()) + float(min(inside.mean(), 1 - inside.mean()) < 0.1), 0.0


def _chaos_steps() -> tuple[Step, ...]:
    a, rho, psi = sp.Symbol("a"), sp.Symbol("rho", positive=True), sp.Symbol("psi", real=True)
    on = {P: 0}
    z = rho * (sp.cos(psi) + sp.I * sp.sin(psi))
    bar = rho * (sp.cos(psi) - sp.I * sp.sin(psi))

    def distance(sign: int) -> sp.Expr:
        """Modulus of a + sign, a = (z + 1/z)/2, times 2 rho: |z + sign|^2."""
        return sp.expand((z + sign) * (bar + sign), complex=False)

    return (
        Step("e goes to e (e^2 - 3) + e (4 - Q)",
             lambda: sp.expand((_next(E) - E * (E**2 - 3) - E * (4 - _level(C, B, P))).subs(on))),
        Step("on Q = 4, e = 2 cos(theta): theta -> 3 theta, of exponent log 3",
             lambda: sp.expand(2 * sp.expand_trig(sp.cos(3 * THETA)) - 2 * sp.cos(THETA) * (4 * sp.cos(THETA) ** 2 - 3))),
        Step("the factor across, 1 - g e + e^2, is (z^2 - 2 a z + 1)(z^2 - 2 a* z + 1)/z^2 with z = exp(i theta), "
             "a + a* = g/2, a a* = 1/4",
             lambda: sp.expand((1 - G * (Z + 1 / Z) + (Z + 1 / Z) ** 2) * Z**2
                               - ((Z**2 + 1) ** 2 - 2 * (G / 2) * Z * (Z**2 + 1) + 4 * sp.Rational(1, 4) * Z**2))),
        Step("its roots are z = rho exp(i psi) and 1/z, a = (z + 1/z)/2; by Jensen's formula its mean logarithm is "
             "2 log(rho); |a - 1| + |a + 1| = |z - 1|^2/(2 rho) + |z + 1|^2/(2 rho) = rho + 1/rho",
             lambda: sp.simplify((distance(-1) + distance(1)) / (2 * rho) - rho - 1 / rho)),
        Step("for (z - 1)^2 = 2 z (a - 1), and with + likewise", lambda: [
            sp.expand((Z + k) ** 2 - 2 * Z * ((Z + 1 / Z) / 2 + k)) for k in (1, -1)]),
        Step("|a -+ 1|^2 = 5/4 -+ g/2, by a* = 1/(4 a) and a + a* = g/2", lambda: [
            sp.expand((a + k) * (1 / (4 * a) + k) - (sp.Rational(5, 4) + k * (a + 1 / (4 * a)))) for k in (1, -1)]),
        Step("at g = 0 rho is the golden ratio", lambda: sp.simplify((1 + sp.sqrt(5)) / 2 + 2 / (1 + sp.sqrt(5)) - sp.sqrt(5))),
        Step("at g = 2 it is 1", lambda: sp.sqrt(sp.Rational(5, 4) - 1) + sp.sqrt(sp.Rational(5, 4) + 1) - 2),
    )  # fmt: skip


def exponent_error() -> tuple[float, float]:
    """Mean logarithm over theta by the trapezoidal rule with N points: four roots leave 4 rho^-N/N or less; and
    rounding, 16 eps in the factor."""
    from toymodels.gd_dynamics import boundary_exponents

    worst, n = 0.0, 4096
    theta = 2 * np.pi * np.arange(n) / n
    for g in (1e-6, 0.4, 1.0, 1.5, 1.99):
        factor = 1 - 2 * g * np.cos(theta) + 4 * np.cos(theta) ** 2
        stated = float(boundary_exponents(g, 1.0)[1])
        bound = 8 / n * np.exp(-n * stated / 2) + 16 * np.finfo(float).eps * float(np.mean(1 / factor))
        worst = max(worst, abs(stated - float(np.log(factor).mean())) / bound)
    return worst, 1.0


def _catapult() -> tuple[Any, Any, Any, Any, Any]:
    """q, z and their images for L = kappa c^2 w^2/2, from the generated map; and the two weights."""
    model = several_signals(1).fix(beta_1=0)
    (c, w), kappa = model.weights, model.parameters[0]
    image: Any = model.gd_map(ETA)
    size, product = ETA * kappa * (c**2 + w**2), ETA * kappa * c * w
    after = [e.subs({c: image[0], w: image[1]}, simultaneous=True) for e in (size, product)]
    return size, product, after[0], after[1], model


def _catapult_steps() -> tuple[Step, ...]:
    q, z, q1, z1, model = _catapult()
    s = sp.Symbol("q", positive=True)
    (c, w), kappa = model.weights, model.parameters[0]
    return (
        Step("z' = z (1 - q + z^2)", lambda: sp.expand(z1 - z * (1 - q + z**2))),
        Step("q' = q - z^2 (4 - q): q falls below 4 and rises above", lambda: sp.expand(q1 - q + z**2 * (4 - q))),
        Step("q^2 - 4 z^2 is a square, so 4 z^2 <= q^2 and q' >= q (1 - q/2)^2 >= 0: bounded below",
             lambda: [sp.expand(q**2 - 4 * z**2 - (ETA * kappa * (c**2 - w**2)) ** 2),
                      sp.expand(s - s**2 / 4 * (4 - s) - s * (1 - s / 2) ** 2)]),
        Step("from q < 4: the sum of z^2 (4 - q) is q_0 - q_oo, so z -> 0; the limit of z'/z is 1 - q_oo, so q_oo <= 2, "
             "and it is eta times the sharpness of the minimum reached",
             lambda: [(z1 / z).simplify() - (1 - q + z**2).expand(),
                      ((model.hessian[0, 0] + model.hessian[1, 1]) * ETA - q).expand(),
                      model.hessian.subs(w, 0).det()]),
        Step("from q > 4 and z^2 < 2: |z'/z| > 1, so z does not die out and q has no limit",
             lambda: -(1 - s + 2) - 1 - (s - 4)),
        Step("on q = 4, z = 2 cos(theta): Chebyshev's cubic again", lambda: sp.expand(
            z1 - z * (z**2 - 3) - z * (4 - q))),
    )  # fmt: skip


def catapult_error() -> tuple[float, float]:
    """Iterated starts, 1 % off the boundary or more: how many with q < 4 diverge or end above 2/lr, or q > 4 stay."""
    from toymodels.gd_dynamics import catapult_level
    from toymodels.orbits import generated_map

    rng = np.random.default_rng(7)
    lr, alpha = rng.uniform(0.01, 2, 2000), rng.uniform(0.1, 300, 2000)
    q, angle = np.concatenate([rng.uniform(2, 3.96, 1000), rng.uniform(4.04, 8, 1000)]), rng.uniform(0, 2 * np.pi, 2000)
    start = np.sqrt(q / (lr * alpha)) * np.stack([np.cos(angle), np.sin(angle)])
    w, step = start, generated_map(several_signals(1).fix(beta_1=0))[0]
    with np.errstate(all="ignore"):
        for _ in range(2000):
            w = step(w, [alpha, lr])
    stays = np.isfinite(w).all(0)
    wrong = stays != (catapult_level(start[0], start[1], lr, alpha) < 4)
    end = lr * alpha * (w**2).sum(0)  # above 2.01 z would have grown by 1.01^2000
    return float(wrong.sum() + (stays & (end > 2 + 1e-2)).sum()), 0.0


LARGE = "u = 0; eta beta < 2"
ROWS = (
    Derivation(
        "gd-ellipsoid",
        "The boundary of divergence is an invariant ellipsoid",
        r"Q=\eta(c^2+b_\parallel^2+b_\perp^2)+g(g-\eta cb_\parallel):\quad 4-Q' = (4-Q)\,(1-ge+e^2+f^2),\quad"
        r" e=\eta r,\; f=\eta cb_\perp,\; g=\eta\|\beta\|<2",
        ("full-batch gradient descent", "u = 0 at the start"),
        LARGE,
        "proved",
        _ellipsoid_steps(),
        (
            Check(
                "random starts: inside bounded (proved), outside away (measured); number that do not", ellipsoid_error
            ),
        ),
        numeric="toymodels.gd_dynamics:boundary_level",
        source="invariance derived here; critical step and boundary: Liang & Montúfar (2025), arXiv 2509.25351",
    ),
    Derivation(
        "gd-boundary-chaos",
        "On the boundary descent is Chebyshev's cubic; across it, it repels",
        r"Q=4:\; e=2\cos\theta,\;\theta\mapsto3\theta,\;\Lambda_\parallel=\log3;\quad \Lambda_\perp = 2\log\rho,\;"
        r" \rho+\tfrac1\rho=\sqrt{\tfrac54-\tfrac g2}+\sqrt{\tfrac54+\tfrac g2}",
        ("u = b_perp = 0", "almost every start on the boundary (its invariant measure has theta uniform)"),
        LARGE,
        "proved",
        _chaos_steps(),
        (Check("mean logarithm over theta by the trapezoidal rule", exponent_error),),
        numeric="toymodels.gd_dynamics:boundary_exponents",
    ),
    Derivation(
        "gd-catapult",
        "The opposing direction alone: catapult below 4, divergence above",
        r"L=\tfrac12\alpha c^2u^2,\; q=\eta\alpha(c^2+u^2),\; z=\eta\alpha cu:\quad z'=z(1-q+z^2),\; q'=q-z^2(4-q);\quad"
        r" q_0<4 \Rightarrow \eta S_\infty\le2,\quad q_0>4 \Rightarrow \text{divergence}",
        ("gradient descent on the opposing term alone", "z does not become 0 exactly (else the run rests where it is)"),
        "all parameters",
        "proved",
        _catapult_steps(),
        (Check("simulated starts at least 1 % off: number that do not do as stated", catapult_error),),
        numeric="toymodels.gd_dynamics:catapult_level",
        source="derived here; the same two lines as the wide model of Lewkowycz et al. (2020), arXiv 2003.02218",
    ),
)
