"""Numerical oracles of the logistic rows: each returns (error, bound) from a route that avoids the formula.

Routes: vectors trained on examples, the generated steps and flow iterated or solved, dense eigenvalues, searches.
"""

from typing import Any

import numpy as np
import sympy as sp

from toymodels.derivations.logistic_steps import ALPHA, LR, MARGIN, OWN, RHO, SHARE, B, C, U, model
from toymodels.logistic import (
    logistic_critical_c2,
    logistic_edge,
    logistic_flow,
    logistic_onset_time,
    logistic_peak_curvature,
    logistic_period_two,
    logistic_sharpness,
)

__all__ = ["descend", "examples", "iterated", "solved_flow"]


def examples(alpha: float, p: float, margin: float, rho: float, d2: int = 3) -> tuple[np.ndarray, ...]:
    """x, x_o, labels and weights of a set with exactly the stated shares."""
    rows = [(margin * y, 0.0, y, (1 - p) / 2) for y in (1, -1)]
    rows += [(0.0, s, y, p / 4 * (1 + rho * y * s)) for y in (1, -1) for s in (1, -1)]
    x, sign, label, weight = np.array(rows, float).T
    return x, sign[:, None] * np.full(d2, np.sqrt(alpha / (p * d2))), label, weight


def descend(c: float, b_o: np.ndarray, data: Any, lr: float, steps: int) -> np.ndarray:
    """u over steps of gradient descent on the vector b_o alone (c held; the core does not enter)."""
    _, x_o, label, weight = data
    path = [b_o.sum() / np.sqrt(b_o.size)]
    for _ in range(steps):
        pull = -weight * label / (1 + np.exp(label * c * (x_o @ b_o)))
        b_o = b_o - lr * c * (pull @ x_o)
        path.append(b_o.sum() / np.sqrt(b_o.size))
    return np.array(path)


def growth_error() -> tuple[float, float]:
    """c^2 at which the deviation from the floor starts to grow, by bisection on vectors trained on examples.

    Bound: central differences of two starts ±h about the floor are off by O((c a h)^2), rounding by eps/(c a h).
    """
    from scipy.optimize import brentq

    alpha, p, lr, h, worst = 30.0, 0.2, 0.15, 1e-5, 0.0
    for rho in (0.0, 0.5):
        data = examples(alpha, p, 1.0, rho)
        stated = float(logistic_critical_c2(alpha, lr, rho))

        def growth(c2: float, data: Any = data, rho: float = rho) -> float:
            c = np.sqrt(c2)
            floor = 2 * np.arctanh(rho) / (c * np.sqrt(alpha / p))
            ends = [descend(c, np.full(3, (floor + e) / np.sqrt(3)), data, lr, 1)[1] for e in (h, -h)]
            return abs(ends[0] - ends[1]) / (2 * h) - 1

        root: Any = brentq(growth, 0.8 * stated, 1.2 * stated, xtol=1e-14)
        worst = max(worst, abs(float(root) / stated - 1))
    scale = np.sqrt(8 / (lr * p)) * h  # c a h at the edge, rho = 0
    return worst, float(scale**2 + 100 * 2.3e-16 / h)


def dense_error() -> tuple[float, float]:
    """Largest eigenvalue of the generated Hessian on the balanced line, relative to its norm."""
    hessian = sp.lambdify((C, B, U, ALPHA, SHARE, MARGIN, RHO), model().hessian, "numpy")
    worst = 0.0
    for alpha, p, margin in ((30.0, 0.2, 1.0), (0.05, 0.3, 2.0), (1.0, 0.5, 0.4)):
        for c in (0.02, 0.3, 1.0, 2.0):
            dense = np.array(hessian(c, c, 0.0, alpha, p, margin, 0.0), float)
            gap = np.linalg.eigvalsh(dense)[-1] - float(logistic_sharpness(c, alpha, margin, p))
            worst = max(worst, abs(gap) / np.linalg.norm(dense))
    return float(worst), 1e-14


def solved_flow(c0: float, margin: float, p: float, t: Any) -> np.ndarray:
    """c at the times t by a tight solve of the generated flow of all three weights."""
    from scipy.integrate import solve_ivp

    generated: Any = model().flow
    flow = sp.lambdify((C, B, U, ALPHA, SHARE, MARGIN, RHO), list(generated), "math")
    run = solve_ivp(
        lambda _, y: flow(*y, 5.0, p, margin, 0.0),
        (0, float(np.max(t))),
        [c0, c0, 0.0],
        "LSODA",
        t,
        rtol=1e-12,
        atol=1e-13,
    )
    return run.y[0]


def flow_error() -> tuple[float, float]:
    worst = 0.0
    for c0, margin, p in ((0.05, 1.0, 0.1), (0.8, 3.0, 0.4)):
        t = np.geomspace(0.01, 200.0, 25)
        worst = max(worst, float(np.abs(logistic_flow(c0, margin, p)(t) - solved_flow(c0, margin, p, t)).max()))
    return worst, 1e-9


def onset_error() -> tuple[float, float]:
    """Root of alpha c(t)^2/4 = 2/lr on the solved flow."""
    from scipy.optimize import brentq

    stated = float(logistic_onset_time(0.4, 40.0, 0.1, 1.3, 0.2))
    root: Any = brentq(
        lambda t: 40.0 / 4 * float(solved_flow(0.4, 1.3, 0.2, [t])[0]) ** 2 - 20.0, 0.5 * stated, 2 * stated, xtol=1e-11
    )
    return abs(float(root) / stated - 1), 1e-9


def iterated(s: float, rho: float, steps: int = 3000, start: float = 0.3) -> tuple[float, float]:
    """Last two w of vectors trained on examples at frozen c, from w = ``start``; larger first."""
    alpha, p, c = 12.0, 0.25, 1.3
    data, scale = examples(alpha, p, 1.0, rho), c * np.sqrt(alpha / p)
    u = descend(c, np.full(3, start / scale / np.sqrt(3)), data, 4 * s / (alpha * c**2), steps)
    return float(scale * u[-2:].max()), float(scale * u[-2:].min())


def near_flip_error() -> tuple[float, float]:
    """Half distance d of the iterated orbit: e/((a^2+b) d^2) -> 1 linearly in e, so 2 f(e/2) - f(e) -> 1 quadratically."""
    worst = 0.0
    for rho in (0.0, 0.5):
        ratio = []
        for e in (0.02, 0.01):
            high, low = iterated((2 + e) / (1 - rho**2), rho, 2500)
            ratio.append(e / (1 / 6 + rho**2 / 2) / ((high - low) / 2) ** 2)
        worst = max(worst, abs(2 * ratio[1] - ratio[0] - 1))
    return worst, 0.02**2 * 4  # e^2, coefficient of the expansion in e of order 1


def amplitude_error() -> tuple[float, float]:
    """Bound: 600 steps contract by |multiplier|^300 < 1e-29 (multipliers below 0.8); the rest is rounding."""
    worst = 0.0
    for s, rho in ((2.1, 0.0), (3.0, 0.0), (5.0, 0.0), (2.5, 0.3), (2.9, 0.3)):
        orbit = logistic_period_two(s, rho)
        high, low = iterated(s, rho, 600)
        worst = max(worst, abs(high - float(orbit.high)), abs(low - float(orbit.low)))
    return worst, 1e-12


def edge_error() -> tuple[float, float]:
    """Generated steps of c and u, b held, until they repeat after two: c and |w| of the orbit, relative.

    Bound: the orbit attracts; what is left is rounding, divided by the restoring rate 1 - |multiplier| (> 1e-3 here).
    """
    alpha, lr, worst = 40.0, 0.2, 0.0
    stepped: Any = model().gd_map(LR).subs(LR, lr)
    step = sp.lambdify((C, B, U, ALPHA, SHARE, MARGIN, RHO), list(stepped), "math")
    for b, p, margin in ((2.0, 0.2, 1.0), (3.0, 0.3, 1.0), (1.5, 0.1, 0.7)):
        c, u, before = 1.05, 0.02, np.inf
        for n in range(20000):
            c, _, u = step(c, b, u, alpha, p, margin, 0.0)
            if n % 100 == 0:
                if abs(c - before) < 1e-15:
                    break
                before = c
        stated = logistic_edge(b, alpha, lr, margin, p)
        w = abs(c * np.sqrt(alpha / p) * u)
        worst = max(worst, abs(c / float(stated[0]) - 1), abs(w / float(stated[1]) - 1))
    return worst, 10 * 2.3e-16 / 1e-3


def peak_error() -> tuple[float, float]:
    """Maximum of the generated curvature over the line, by golden section; quadratic there, so value to rounding."""
    from scipy.optimize import minimize_scalar

    value = sp.lambdify((C, B, U, ALPHA, SHARE, RHO, OWN), model(own=True).hessian[2, 2], "math")
    worst = 0.0
    for own in (0.3, 1.7):
        found: Any = minimize_scalar(
            lambda q, mu=own: -value(q**0.5, q**0.5, 0.0, 30.0, 0.2, 0.0, mu),
            bounds=(0.2 / own, 5 / own),
            method="bounded",
        )
        worst = max(worst, abs(-found.fun / float(logistic_peak_curvature(30.0, own)) - 1))
    return worst, 1e-9
