"""Gradient descent as a map: its fixed points and which of them are stable."""

from typing import Any

import numpy as np
import sympy as sp

from toymodels.derivations.registry import Check, Derivation, Step
from toymodels.symbolic import two_layer

__all__ = ["JACOBIAN", "MAP", "ROWS"]

C, B, P, U = two_layer().weights
BETA, ALPHA = two_layer().parameters
ETA = sp.Symbol("eta", positive=True)
LAM = sp.Symbol("lambda", real=True)
G = sp.Symbol("g", positive=True)  # eta beta
MAP: Any = two_layer().gd_map(ETA)
JACOBIAN: Any = MAP.jacobian(sp.Matrix(two_layer().weights))
LEVEL = sp.Symbol("c_2", positive=True)  # c^2 of a minimum


def _characteristic(point: dict[Any, Any], roots: list[Any]) -> sp.Expr:
    matrix = JACOBIAN.subs(point)
    return sp.expand((matrix - LAM * sp.eye(4)).det(method="berkowitz") - sp.prod([r - LAM for r in roots]))


def _origin_residual() -> sp.Expr:
    m = P**2 + ALPHA * U**2
    pair = [1 + ETA * (-m + sign * sp.sqrt(m**2 + 4 * BETA**2)) / 2 for sign in (1, -1)]
    return _characteristic({C: 0, B: 0}, [*pair, 1, 1])


def _minimum_residual() -> sp.Expr:
    point = {B: BETA / C, P: 0, U: 0}
    return _characteristic(point, [1, 1 - ETA * (BETA**2 / C**2 + C**2), 1 - ETA * C**2, 1 - ETA * ALPHA * C**2])


def jacobian_error() -> tuple[float, float]:
    """Multipliers against differences of the compiled step. The map is cubic in each weight, so that central
    differences at d and 2d, combined to remove d^2, are exact; eigenvalues of a symmetric matrix move no more
    than it. Left: 20 roundings of values below 40 over d."""
    from toymodels.gd_dynamics import minimum_multipliers, origin_multipliers

    rng, worst = np.random.default_rng(1), 0.0
    for _ in range(6):
        beta, alpha, lr, c = rng.uniform(0.3, 2.0, 4)
        p, u = rng.normal(size=2)
        for point, stated in (
            ((c, beta / c, 0.0, 0.0), minimum_multipliers(c, lr, beta, alpha)),
            ((0.0, 0.0, abs(p), u), origin_multipliers(abs(p), u, lr, beta, alpha)),
        ):
            measured = np.linalg.eigvalsh(_differences(np.array(point), beta, alpha, lr))
            worst = max(worst, float(np.abs(np.sort(stated) - measured).max()))
    return worst, 20 * 40 * np.finfo(float).eps / 0.125


def _differences(w: np.ndarray, beta: float, alpha: float, lr: float) -> np.ndarray:
    from toymodels.simulation import simulate

    moves = [(k, s * d) for k in range(4) for d in (0.125, 0.25) for s in (1, -1)]
    starts = np.array([w + np.eye(4)[k] * d for k, d in moves])
    names = [x.name for x in two_layer().weights]
    run = simulate(two_layer(), "gd", lr, 1, start=dict(zip(names, starts.T, strict=True)),
                   parameters={"beta": beta, "alpha": alpha})  # fmt: skip
    after = np.stack([run[f"final_{n}"].values for n in names]).reshape(4, 4, 2, 2)
    slope = (after[..., 0] - after[..., 1]) / np.array([0.25, 0.5])
    columns = (4 * slope[..., 0] - slope[..., 1]) / 3
    return (columns + columns.T) / 2


def _arc_steps() -> tuple[Step, ...]:
    root = sp.sqrt(1 - G**2)
    across = 1 - ETA * (BETA**2 / LEVEL + LEVEL)

    def end(sign: int) -> sp.Expr:
        return sp.simplify(across.subs(LEVEL, (1 + sign * root) / ETA).subs(BETA, G / ETA) + 1)

    lowest = 2 * sp.sqrt(ALPHA - 1) / ALPHA
    return (
        Step("at c^2 = (1 - root)/eta the multiplier across the curve is -1", lambda: end(-1)),
        Step("and at (1 + root)/eta", lambda: end(1)),
        Step("between them it is above -1: it is concave in c^2", lambda: sp.diff(across, LEVEL, 2) * LEVEL**3
             + 2 * ETA * BETA**2),
        Step("at c^2 = 2/(eta alpha) the multiplier along u is -1",
             lambda: JACOBIAN[3, 3].subs(C, sp.sqrt(2 / (ETA * ALPHA))) + 1),
        Step("at the largest step, eta beta = 2 sqrt(alpha - 1)/alpha, the lower end meets 2/(eta alpha)",
             lambda: (1 - 2 / ALPHA) ** 2 - (1 - lowest**2)),
    )  # fmt: skip


def arc_error() -> tuple[float, float]:
    """Minima perturbed by 1e-7, within and beyond either end by 0.5 %: how many do not return, or leave, as stated."""
    from toymodels.gd_dynamics import stable_arc
    from toymodels.orbits import generated_map

    lr, alpha = np.array([[0.2, 0.5, 0.9, 0.2, 0.55], [0.5, 1.0, 1.9, 9.0, 10.0]])
    low, high = stable_arc(lr, 1.0, alpha)
    c2 = np.stack([low * 0.995, low * 1.005, high * 0.995, high * 1.005])
    stable = np.array([False, True, True, False])[:, None]
    w = np.stack([np.sqrt(c2), 1 / np.sqrt(c2), 0 * c2, 0 * c2]) + 1e-7 * np.array([1, -1, 1, 1])[:, None, None]
    step, constants = generated_map(two_layer())[0], [1.0, alpha, lr]

    def distance(w: np.ndarray) -> np.ndarray:
        return np.abs(np.stack([1 - w[0] * w[1], w[2], w[3]])).max(0)

    before, most = distance(w), distance(w)
    for _ in range(4000):
        w = step(w, constants)
        most = np.maximum(most, distance(w))
        w = np.where(most > 1e-3, 0.0, w)  # it left
    return float(np.where(stable, distance(w) > before, most < 1e-3).sum()), 0.0


def _flattest_steps() -> tuple[Step, ...]:
    square = BETA / sp.sqrt(ALPHA - 1)
    return (
        Step("c^2 + beta^2/c^2 is least at c^2 = beta", lambda: sp.diff(LEVEL + BETA**2 / LEVEL, LEVEL).subs(LEVEL, BETA)),
        Step("it meets alpha c^2 at c^2 = beta/sqrt(alpha - 1)",
             lambda: ALPHA * square - square - BETA**2 / square),
        Step("and falls there if and only if alpha > 2, so that the larger of the two is least there",
             lambda: sp.diff(LEVEL + BETA**2 / LEVEL, LEVEL).subs(LEVEL, square) - (2 - ALPHA)),
        Step("the multipliers at a minimum are 1 - eta times the curvatures", _minimum_residual),
    )  # fmt: skip


def flattest_error() -> tuple[float, float]:
    """Largest dense Hessian eigenvalue on a grid of minima of spacing d in log c: the least of a function with slope
    at most 2 S in log c exceeds its infimum by at most S d, relatively d."""
    from toymodels.gd_dynamics import flattest_minimum
    from toymodels.orbits import generated_map

    worst, jacobian = 0.0, generated_map(two_layer())[1]
    for alpha in (0.3, 1.9, 2.1, 7.0, 300.0):
        c2, stated = flattest_minimum(1.3, alpha)
        c = np.sqrt(c2) * np.exp(np.linspace(-1, 1, 2001))
        dense = np.eye(4) - jacobian(np.stack([c, 1.3 / c, 0 * c, 0 * c]), [1.3, alpha, 1.0])
        worst = max(worst, abs(float(np.linalg.eigvalsh(dense)[:, -1].min() / stated) - 1))
    return worst, 1e-3


DESCENT = ("full-batch gradient descent on the two-layer model",)
ROWS = (
    Derivation(
        "gd-fixed-points",
        "All fixed points of gradient descent and their multipliers",
        r"cb_\parallel=\|\beta\|,\,u=b_\perp=0:\; 1,\, 1-\eta(b_\parallel^2+c^2),\, 1-\eta c^2,\, 1-\eta\alpha c^2;\qquad"
        r" c=b_\parallel=0:\; 1,\,1,\,1+\tfrac\eta2\big(-m\pm\sqrt{m^2+4\|\beta\|^2}\big),\; m=b_\perp^2+\alpha u^2",
        DESCENT,
        "all parameters",
        "proved",
        (
            Step(
                "u and b_perp rest only if c = 0 or they are 0",
                lambda: [MAP[3] - U + ETA * ALPHA * C**2 * U, MAP[2] - P + ETA * C**2 * P],
            ),
            Step(
                "with c = 0: c moves by eta beta b_par, so that b_par = 0", lambda: MAP[0].subs(C, 0) - ETA * BETA * B
            ),
            Step(
                "with u = b_perp = 0: c and b_par move by eta b_par r and eta c r, so that r = 0 or c = b_par = 0",
                lambda: [
                    (MAP[0] - C - ETA * B * (BETA - C * B)).subs({P: 0, U: 0}),
                    (MAP[1] - B - ETA * C * (BETA - C * B)).subs({P: 0, U: 0}),
                ],
            ),
            Step("multipliers at a minimum", _minimum_residual),
            Step("multipliers at c = b_par = 0, one of them above 1", _origin_residual),
        ),
        (Check("against differences of the compiled step (exact for a cubic map)", jacobian_error),),
        numeric="toymodels.gd_dynamics:minimum_multipliers",
    ),
    Derivation(
        "gd-stable-arc",
        "The arc of minima that gradient descent can end in",
        r"\frac{1-\sqrt{1-g^2}}{\eta} < c^2 < \min\Big(\frac{1+\sqrt{1-g^2}}{\eta},\,\frac{2}{\eta\alpha}\Big),\quad"
        r" g=\eta\|\beta\|",
        (*DESCENT, "stable: every multiplier but the neutral one along the curve below 1 in modulus"),
        "lr below 2 over the flattest minimum's sharpness; empty above",
        "proved",
        _arc_steps(),
        (Check("perturbed minima inside and outside both ends, iterated: number that do not do as stated", arc_error),),
        numeric="toymodels.gd_dynamics:stable_arc",
    ),
    Derivation(
        "gd-flattest-minimum",
        "The flattest minimum, and the largest step with any stable minimum",
        r"S_{\min} = 2\|\beta\|\;(\alpha\le2),\quad S_{\min} = \frac{\alpha\|\beta\|}{\sqrt{\alpha-1}}\;(\alpha>2),\quad"
        r" \eta_{\max} = 2/S_{\min}",
        ("u = b_perp = 0 on the curve of minima",),
        "all parameters",
        "proved",
        _flattest_steps(),
        (Check("least dense sharpness over a grid of minima, relative", flattest_error),),
        numeric="toymodels.gd_dynamics:flattest_minimum",
    ),
)
