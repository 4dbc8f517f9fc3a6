"""Critical curvature of each optimizer on the quadratic, from its step; what clipping changes and what it does not."""

from functools import partial
from typing import Any

import numpy as np
import sympy as sp
from scipy.optimize import brentq

from toymodels.derivations.registry import Check, Derivation, Step
from toymodels.thresholds import clipped_amplitude, clipped_lr, clipped_step, critical_sharpness, step_matrix

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


LAM, CLIP, X, NORM = sp.symbols("lambda G x g", positive=True)
FREE = LAM * X  # gradient of the quadratic, from its loss below
QUADRATIC = LAM * X**2 / 2


def _clipped(gradient: Any, clips: bool, sign: int = 1) -> Any:
    """One step from ``sign`` x: the gradient as it is, or its direction times G."""
    return sign * X - ETA * (sign * CLIP if clips else sign * gradient)


def _clipping_edge_residuals() -> list[Any]:
    """Where |g| <= G the step is that of gradient descent: multiplier -1 at 2/eta; where clipped its slope is 1."""
    gradient = sp.diff(QUADRATIC, X)
    return [
        sp.diff(_clipped(gradient, False), X).subs(LAM, 2 / ETA) + 1,
        sp.diff(_clipped(gradient, True), X) - 1,
        sp.Matrix(step_matrix("clipping", ETA, LAM, PAR))[0, 0] - sp.diff(_clipped(gradient, False), X),
    ]


def _period_two_residuals() -> list[Any]:
    """All orbits of period 2, by the zones of their two points (x > 0 > y), and where the linear zone leads."""
    edge = CLIP / LAM  # |x| at which clipping begins
    first = X - ETA * CLIP
    both_clipped = first + ETA * CLIP - X
    both_linear = sp.factor((1 - ETA * LAM) ** 2 * X - X) - ETA * LAM * (ETA * LAM - 2) * X
    mixed = sp.solve(sp.Eq((1 - ETA * LAM) * X + ETA * CLIP, X), X)
    return [
        both_clipped,  # every x with both points clipped returns: multiplier 1
        sp.expand(both_linear),  # both in the linear zone: only at eta lambda = 2 (or x = 0)
        [sp.simplify(root - edge) for root in mixed] if len(mixed) == 1 else [sp.Integer(1)],  # one in each: the border
        sp.expand((ETA * CLIP - edge) - (ETA * LAM - 1) * edge),  # growth out of the linear zone ends in the band
        sp.expand(edge + (ETA * CLIP - edge) - ETA * CLIP),  # the band is symmetric about eta G/2
        sp.expand((ETA * CLIP / 2 - edge) * 2 * LAM - CLIP * (ETA * LAM - 2)),  # and not empty just above the edge
    ]


def _effective_residuals() -> list[Any]:
    """Step with constant norm: multiplier -1 at lambda = 2 g/(eta G); at |x| = eta G/2 the effective step is 2/lambda."""
    effective = ETA * CLIP / NORM
    alone = effective.subs(NORM, LAM * ETA * CLIP / 2)
    return [(1 - effective * LAM).subs(LAM, 2 * NORM / (ETA * CLIP)) + 1, sp.simplify(alone - 2 / LAM)]


def _clipping_edge_error() -> tuple[float, float]:
    """Growth of the clipped iterates from |x| far below the threshold changes sign where the formula says."""
    worst = 0.0
    for lr in (0.03, 0.4):
        stated = critical_sharpness("clipping", lr)

        def growth(curvature: float, lr: float = lr) -> float:
            x, first = 1e-9, 1e-9
            for _ in range(400):
                x = x - lr * float(np.clip(curvature * x, -1.0, 1.0))
            return float(np.log(abs(x) / first))

        root: Any = brentq(growth, 0.97 * stated, 1.02 * stated, xtol=1e-12 * stated)
        worst = max(worst, abs(float(root) / stated - 1))
    return worst, 1e-9  # growth 400 log(eta lambda - 1): rounding of 400 steps moves its root by about 1e-13


def _clipped_orbit_error() -> tuple[float, float]:
    """Iterates from many starts: share outside the stated band, return of its points, and |x| + |x'| against eta G; 0 below the edge."""
    rng, worst = np.random.default_rng(11), 0.0
    lr, clip = np.exp(rng.uniform(-3, 0, 400)), np.exp(rng.uniform(-2, 2, 400))
    curvature = rng.uniform(2.05, 6, 400) / lr
    x = rng.choice([-1, 1], 400) * np.exp(rng.uniform(-12, 3, 400)) * lr * clip
    for _ in range(600):  # 1.05^600 and 600 lr G exceed every distance of the starts from the band
        x = clipped_step(x, lr, clip, curvature)
    after, band = clipped_step(x, lr, clip, curvature), clipped_amplitude(lr, clip, curvature)
    size = np.abs([x, after]) / (lr * clip)
    worst = max(worst, float(np.max(band.low / (lr * clip) - size)), float(np.max(size - band.high / (lr * clip))))
    worst = max(worst, float(np.abs(size.sum(axis=0) - 1).max()), float(np.abs(band.centre / (lr * clip) - 0.5).max()))
    for share in (0.0, rng.uniform(0, 1, 400), 1.0):  # the whole band returns after two steps, its ends included
        x = band.low + share * (band.high - band.low)
        twice = clipped_step(clipped_step(x, lr, clip, curvature), lr, clip, curvature)
        worst = max(worst, float(np.abs((twice - x) / (lr * clip)).max()))
    x = band.low * 0.999  # a share e inside of the band's end, two steps move by e lr G
    twice = clipped_step(clipped_step(x, lr, clip, curvature), lr, clip, curvature)
    worst = max(worst, float(np.abs((twice - x) / (lr * clip) - 1e-3).max()))
    x = rng.uniform(-20, 20, 400) * lr * clip
    for _ in range(600):
        x = clipped_step(x, lr, clip, 1.9 / lr)
    return max(worst, float(np.abs(x / (lr * clip)).max())), 1e-12


def _effective_error() -> tuple[float, float]:
    """Two directions, one with a constant gradient a: growth of the other changes sign at 2/clipped_lr; relative."""
    worst = 0.0
    for lr, clip, slope in ((0.1, 1.0, 7.0), (0.02, 3.0, 20.0)):
        stated = 2 / float(clipped_lr(lr, clip, slope))

        def growth(curvature: float, lr: float = lr, clip: float = clip, slope: float = slope) -> float:
            x = 1e-12
            for _ in range(400):
                gradient = np.array([curvature * x, slope])
                x -= float((lr * gradient * min(1.0, clip / np.linalg.norm(gradient)))[0])
            return float(np.log(abs(x) / 1e-12))

        root: Any = brentq(growth, 0.97 * stated, 1.02 * stated, xtol=1e-12 * stated)
        worst = max(worst, abs(float(root) / stated - 1))
    return worst, 1e-9


CLIPPING_ROWS = (
    Derivation(
        "threshold-clipping",
        "Clipping does not move the edge",
        r"\lambda^* = 2/\eta \text{ for every threshold } G",
        ("quadratic loss along the direction", "the oscillation starts below the threshold, |g| <= G"),
        "lr > 0, G > 0",
        "proved",
        (Step("multiplier -1 at 2/eta where the step is not clipped; slope 1 where it is", _clipping_edge_residuals),),
        (Check("bisection on the growth of clipped iterates, relative", _clipping_edge_error),),
        numeric="toymodels.thresholds:critical_sharpness",
        source="derived here from the step on a quadratic",
    ),
    Derivation(
        "clipped-orbits",
        "Clipping caps the amplitude",
        r"\eta\lambda>2:\; \{x,\,x-\eta G\},\; \tfrac G\lambda\le x\le\eta G-\tfrac G\lambda,"
        r"\quad |x_n|+|x_{n+1}|=\eta G,\text{ neutral}",
        ("quadratic loss, one direction", "no iterate is exactly 0"),
        "lr lambda > 2; reached in finitely many steps, which orbit depends on the start; below the edge x decays",
        "proved",
        (Step("all orbits of period 2, and where the linear zone leads", _period_two_residuals),),
        (Check("iterates from 400 starts, in units of lr G", _clipped_orbit_error),),
        numeric="toymodels.thresholds:clipped_amplitude",
        source="derived here from the step on a quadratic",
    ),
    Derivation(
        "clipped-lr",
        "Effective step under a constant gradient norm",
        r"\eta_{\mathrm{eff}}=\eta\min(1,G/\|g\|),\quad\lambda^*=\tfrac2\eta\max(1,\|g\|/G);\quad"
        r"|x|=\tfrac{\eta G}2\Rightarrow\eta_{\mathrm{eff}}=2/\lambda",
        ("the norm of the whole gradient is constant",),
        "lr > 0, G > 0",
        "proved",
        (
            Step(
                "multiplier -1 there; the symmetric clipped orbit sits at its own effective edge", _effective_residuals
            ),
        ),
        (Check("bisection on the growth next to a constant slope, relative", _effective_error),),
        numeric="toymodels.thresholds:clipped_lr",
        source="derived here from the step on a quadratic",
    ),
)

ROWS = (
    tuple(
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
    + CLIPPING_ROWS
)
