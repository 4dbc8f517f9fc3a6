"""Why the valley sharpens: curvature across its floor in a deep linear model."""

from typing import Any

import numpy as np
import sympy as sp

from toymodels.derivations.registry import Check, Derivation, Step
from toymodels.symbolic import deep_linear
from toymodels.valley import valley_model

__all__ = ["ROWS"]

DEPTHS = (1, 2, 3, 4)
SHARE = sp.Symbol("m", positive=True)


def _curvature_residual(depth: int) -> sp.Expr:
    """Generated curvature across the floor at share m, minus the statement."""
    model = valley_model(depth)
    beta, alpha = model.parameters
    place = sp.sqrt(depth) * (beta * SHARE) ** sp.Rational(1, depth)
    bend: Any = model.hessian[1, 1]
    there = bend.subs(model.weights[0], place)
    return sp.powdenest(there, force=True) - alpha * (beta * SHARE) ** sp.Rational(2 * (depth - 1), depth)


def _projection_residual(depth: int) -> list[sp.Expr]:
    """Slice's gradient minus the full model's gradient projected on the slice's two unit vectors."""
    full, model = deep_linear(2, depth), valley_model(depth)
    (z, x), (beta, alpha) = model.weights, model.parameters
    values = {w: z / sp.sqrt(depth) for w in full.weights[:-1]} | {full.weights[-1]: x}
    values |= dict(zip(full.parameters, (1, alpha, beta, 0), strict=True))
    gradient = [g.subs(values) for g in full.gradient.T.tolist()[0]]
    along = sp.Add(*gradient[:depth]) / sp.sqrt(depth)
    return [sp.expand(along - model.gradient[0]), sp.expand(gradient[depth] - model.gradient[1])]


def dense_error() -> tuple[float, float]:
    """Largest dense eigenvalue of the full Hessian at random places of the floor, relative: 64 roundings of its norm.
    α is above the curvature of everything else there."""
    from toymodels.orbits import generated_map
    from toymodels.valley import across_curvature

    rng, worst = np.random.default_rng(2), 0.0
    for depth in DEPTHS:
        jacobian = generated_map(deep_linear(2, depth))[1]
        for m, beta in rng.uniform(0.3, 1.2, (5, 2)):
            weights = np.array([(beta * m) ** (1 / depth)] * depth + [0.0])
            dense = np.eye(depth + 1) - jacobian(weights, [1.0, 1e4, beta, 0.0, 1.0])
            top = np.linalg.eigvalsh(dense)[-1]
            # entries of the Jacobian are 1 - H: eps of H is lost
            worst = max(worst, abs(top / float(across_curvature(m, beta, 1e4, depth)) - 1))
    return float(worst), 64 * np.finfo(float).eps


ROWS = (
    Derivation(
        "valley-sharpening",
        "Depth makes the valley sharpen",
        r"\partial_x^2L = \alpha\,(\|\beta\|m)^{2(D-1)/D},\quad m = \tfrac{1}{\|\beta\|}\textstyle\prod c_i\,w",
        ("balanced signal weights", "x = 0: on the floor"),
        "m >= 0; proved here for D = 1, 2, 3, 4",
        "proved",
        (
            *(
                Step(
                    f"curvature across the floor, D = {d}, from the generated Hessian",
                    lambda d=d: _curvature_residual(d),
                )
                for d in DEPTHS
            ),
            *(
                Step(
                    f"the slice's gradient is the projection of the full one, D = {d}",
                    lambda d=d: _projection_residual(d),
                )
                for d in DEPTHS
            ),
        ),
        (Check("largest dense eigenvalue of the full model's Hessian on the floor, relative", dense_error),),
        numeric="toymodels.valley:across_curvature",
    ),
)
