"""Numerical oracles of the core derivations: each returns (error, bound) from a route that avoids the formula.

The routes are a tight solve of the generated equations, adaptive quadrature, root finding on that solve, dense
eigenvalues of the generated Hessian, and sums over examples. Imports stay inside: listing derivations needs none.
"""

from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from toymodels.symbolic import two_layer

__all__ = [
    "clock_error",
    "decay_error",
    "flow_error",
    "invariant_error",
    "kernel_error",
    "limit_error",
    "loss_error",
    "onset_error",
    "secular_error",
    "sharpness_error",
]

C, B, P, U = two_layer().weights
BETA, ALPHA = two_layer().parameters
LR = sp.Symbol("eta", positive=True)


@cache
def _starts() -> tuple[tuple[float, float], ...]:
    return ((1.0, 0.1), (0.3, -0.1), (0.5, 1.2), (0.05, 0.4), (0.7, 0.7))  # K > 0, > 0, < 0, < 0, = 0


def flow_error() -> tuple[float, float]:
    from toymodels.flow import predict_flow
    from toymodels.model import ReducedState
    from toymodels.simulation import simulate_flow

    t, worst = np.linspace(0, 12, 40), 0.0
    for c0, b0 in _starts():
        exact, solved = predict_flow(c0, b0, 1.3)(t), simulate_flow(ReducedState(c0, b0), 1.3, 50.0, t, rtol=1e-12)
        worst = max(worst, np.abs(exact.c - solved[0]).max(), np.abs(exact.b_par - solved[1]).max())
    return worst, 1e-9


def clock_error() -> tuple[float, float]:
    from scipy.integrate import quad

    from toymodels.flow import predict_flow

    worst = 0.0
    for c0, b0 in _starts():
        predict = predict_flow(c0, b0, 1.3)
        area = quad(lambda t, f=predict: float(f(t).c) ** 2, 0, 5, epsabs=1e-12, epsrel=1e-12)[0]
        worst = max(worst, abs(float(predict(5.0).clock) - area))
    return worst, 1e-10


def decay_error() -> tuple[float, float]:
    from toymodels.model import ReducedState
    from toymodels.simulation import simulate_flow

    t = np.linspace(0, 1.5, 2001)
    y = simulate_flow(ReducedState(0.8, 0.2, 0.6, 0.3), 1.2, 8.0, t, rtol=1e-12)
    from scipy.integrate import cumulative_simpson

    clock = cumulative_simpson(y[0] ** 2, x=t, initial=0)
    return float(max(np.abs(y[3] - 0.3 * np.exp(-8 * clock)).max(), np.abs(y[2] - 0.6 * np.exp(-clock)).max())), 1e-9


def onset_error() -> tuple[float, float]:
    from scipy.optimize import brentq

    from toymodels.flow import onset_time
    from toymodels.model import ReducedState
    from toymodels.simulation import simulate_flow

    worst = 0.0
    for c0, b0 in ((0.6, 0.1), (0.5, -0.1), (0.3, 0.5), (0.7, 0.7)):
        lr = 2 / (50.0 * 1.1)  # edge at c^2 = 1.1

        def above(t: float, start: tuple[float, float] = (c0, b0)) -> float:
            return float(simulate_flow(ReducedState(*start), 1.3, 50.0, [0.0, t], rtol=1e-12)[0, -1] ** 2 - 1.1)

        root: Any = brentq(above, 1e-3, 12.0, xtol=1e-13)
        worst = max(worst, abs(float(onset_time(c0, b0, 1.3, 50.0, lr)) - float(root)))
    return worst, 1e-9


def sharpness_error() -> tuple[float, float]:
    from toymodels.flow import predict_flow
    from toymodels.sharpness import solved_sharpness

    worst, hessian = 0.0, _generated(two_layer().hessian)
    for alpha in (0.2, 5.0, 100.0):
        path = predict_flow(0.4, 0.1, 1.3)(np.linspace(0, 6, 25))
        explicit = solved_sharpness(path, 1.3, alpha)
        for c, b, s in zip(path.c, path.b_par, explicit, strict=True):
            top = np.linalg.eigvalsh(hessian(c, b, 0.0, 0.0, 1.3, alpha))[-1]
            worst = max(worst, abs(float(top - s)) / abs(float(top)))
    return worst, 1e-12


def _generated(expression: Any) -> Any:
    return sp.lambdify((C, B, P, U, BETA, ALPHA), expression, "numpy")


def loss_error() -> tuple[float, float]:
    """Vector form of the loss, by exact sums over the examples: E of a polynomial of degree 2 in x needs x = ±e_i√d1."""
    from toymodels.model import ReducedState, TwoLayerLinear

    rng, worst = np.random.default_rng(3), 0.0
    for d1, d2 in ((3, 2), (5, 7)):
        model = TwoLayerLinear(d1, d2, beta=1.7, alpha=6.0, p=0.3, gamma=0.2)
        beta, b, b_o, c = rng.normal(size=d1), rng.normal(size=d1), rng.normal(size=d2), 0.8
        beta *= model.beta / np.linalg.norm(beta)
        x = np.concatenate([np.eye(d1), -np.eye(d1)]) * np.sqrt(d1)  # mean 0 and covariance I exactly
        total = 0.0
        for sign, weight in ((0, 1 - model.p), (1, model.p / 2), (-1, model.p / 2)):
            x_o = sign * np.sqrt(model.alpha / (model.p * d2)) * np.ones(d2)
            error = c * (x @ b + x_o @ b_o) - (x @ beta + model.gamma * abs(x_o.sum()))
            total += weight * np.mean(error**2) / 2
        constant = model.gamma**2 * d2 * model.alpha / 2  # E of half the squared offset
        b_par = beta @ b / model.beta
        state = ReducedState(c, b_par, np.sqrt(b @ b - b_par**2), b_o.sum() / np.sqrt(d2))
        worst = max(worst, abs(float(model.loss(state)) + constant - total) / total)
    return worst, 1e-12


def invariant_error() -> tuple[float, float]:
    from toymodels.model import ReducedState
    from toymodels.simulation import simulate_flow

    c, b, p, u = simulate_flow(ReducedState(0.8, 0.2, 0.6, 0.3), 1.2, 8.0, np.linspace(0, 6, 200), rtol=1e-12)
    invariant = c**2 - b**2 - p**2 - u**2
    return float(np.abs(invariant - (0.64 - 0.04 - 0.36 - 0.09)).max()), 1e-9


def limit_error() -> tuple[float, float]:
    """The end of a long numerical flow, and the generated Hessian there."""
    from toymodels.flow import limit_c2, limit_sharpness
    from toymodels.model import ReducedState
    from toymodels.simulation import simulate_flow

    worst, hessian = 0.0, _generated(two_layer().hessian)
    for c0, b0 in _starts():
        for alpha in (0.5, 50.0):
            c, b, _, _ = simulate_flow(ReducedState(c0, b0), 1.3, alpha, [0.0, 30.0], rtol=1e-12)[:, -1]
            top = np.linalg.eigvalsh(hessian(c, b, 0.0, 0.0, 1.3, alpha))[-1]
            worst = max(worst, abs(float(limit_sharpness(c0, b0, 1.3, alpha)) / top - 1))
            worst = max(worst, abs(float(limit_c2(c0, b0, 1.3)) / c**2 - 1))
    return float(worst), 1e-9


def secular_error() -> tuple[float, float]:
    """Largest root of the secular equation against dense eigenvalues of the generated Hessian."""
    from toymodels.model import ReducedState
    from toymodels.sharpness import arrow_sharpness

    rng, worst, hessian = np.random.default_rng(4), 0.0, _generated(two_layer().hessian)
    for _ in range(200):
        c, b, u = rng.normal(size=3)
        p, beta, alpha = np.exp(rng.normal(size=3) * (1, 1, 3))
        dense = hessian(c, b, p, u, beta, alpha)
        gap = np.linalg.eigvalsh(dense)[-1] - float(arrow_sharpness(ReducedState(c, b, p, u), beta, alpha))
        worst = max(worst, abs(gap) / np.linalg.norm(dense))
    return float(worst), 1e-13


def kernel_error() -> tuple[float, float]:
    """One update of the compiled loop against the map that sympy generates; relative, entry by entry."""
    from toymodels.model import ReducedState
    from toymodels.simulation import simulate_gd

    rng, worst = np.random.default_rng(6), 0.0
    step = sp.lambdify((C, B, P, U, BETA, ALPHA, LR), two_layer().gd_map(LR), "numpy")
    for _ in range(50):
        c, b, u = rng.normal(size=3)
        p, beta, alpha, lr = np.exp(rng.normal(size=4) - (0, 0, -2, 3))
        run = simulate_gd(ReducedState(c, b, p, u), beta, alpha, lr, 1).isel(run=0, step=1)
        got = np.array([run.c, run.b_par, run.b_perp, run.u_sign * np.exp(run.log_abs_u)], float)
        want = step(c, b, p, u, beta, alpha, lr).ravel()
        scale = np.abs([c, b, p, u]) + np.abs(want - [c, b, p, u])  # the terms that the update adds
        worst = max(worst, float(np.abs((got - want) / scale).max()))
    return worst, 1e-13
