"""Critical curvature of each optimizer on the quadratic, from its step matrix."""

from functools import partial

import numpy as np
import sympy as sp
from scipy.optimize import brentq

from toymodels.derivations.registry import Check, Derivation, Step
from toymodels.thresholds import critical_sharpness, step_matrix

__all__ = ["ROWS"]

ETA, PAR = sp.symbols("eta theta", positive=True)
FORMULAS = {
    "gd": (2 / ETA, r"\lambda^* = 2/\eta", "gradient descent", 0.0),
    "weight_decay": (2 / ETA - PAR, r"\lambda^* = 2/\eta - \omega", "weight decay", 0.3),
    "heavy_ball": (2 * (1 + PAR) / ETA, r"\lambda^* = 2(1+\mu)/\eta", "heavy ball", 0.8),
    "nesterov": (
        2 * (1 + PAR) / (ETA * (1 + 2 * PAR)),
        r"\lambda^* = \frac{2}{\eta}\frac{1+\mu}{1+2\mu}",
        "Nesterov momentum",
        0.8,
    ),
    "ema": (
        2 * (1 + PAR) / ((1 - PAR) * ETA),
        r"\lambda^* = \frac{2(1+\beta_1)}{(1-\beta_1)\eta}",
        "EMA momentum (Adam with frozen preconditioner P; λ of P⁻¹H)",
        0.9,
    ),
    "sam": (
        (-1 + sp.sqrt(1 + 8 * PAR / ETA)) / (2 * PAR),
        r"\lambda^* = \frac{-1+\sqrt{1+8\rho/\eta}}{2\rho}",
        "SAM (unnormalised, radius ρ)",
        0.05,
    ),
}


def _flip_residual(name: str) -> sp.Expr:
    """det(M + 1) at λ*: an eigenvalue of the step is exactly -1 there, the flip."""
    matrix = sp.Matrix(step_matrix(name, ETA, FORMULAS[name][0], PAR))
    return sp.simplify(sp.expand((matrix + sp.eye(matrix.rows)).det()))


def _bisection_error(name: str) -> tuple[float, float]:
    """Growth of the iterated step changes sign where the formula says."""
    parameter, worst = FORMULAS[name][3], 0.0
    for lr in (0.03, 0.4):
        stated = critical_sharpness(name, lr, parameter)

        def growth(curvature: float, lr: float = lr) -> float:
            matrix = np.array(step_matrix(name, lr, curvature, parameter), dtype=float)
            state, log = np.ones(len(matrix)), 0.0
            for n in range(4000):
                state = matrix @ state
                norm = np.abs(state).max()
                log, state = (log + np.log(norm) if n >= 2000 else 0.0), state / norm
            return log / 2000

        root = brentq(growth, 0.7 * stated, 1.3 * stated, xtol=1e-9 * stated)
        worst = max(worst, abs(float(root) / stated - 1))  # pyright: ignore[reportArgumentType]
    return worst, 1e-6


ROWS = tuple(
    Derivation(
        f"threshold-{name.replace('_', '-')}",
        f"Critical curvature of {title}",
        statement,
        ("quadratic loss along the direction",),
        "lr > 0 and the optimizer's own parameter in its range",
        "proved",
        (Step("the step matrix has the eigenvalue -1 at the stated curvature", partial(_flip_residual, name)),),
        (Check("bisection on the growth of the iterated step, relative", partial(_bisection_error, name)),),
        numeric="toymodels.thresholds:critical_sharpness",
        source="derived here from the step on a quadratic",
    )
    for name, (_, statement, title, _) in FORMULAS.items()
)
