"""Simulation of the two-layer model: gradient descent beyond underflow, and a tight solve of gradient flow."""

from functools import cache
from typing import Any

import numpy as np
import sympy as sp
import xarray as xr
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from toymodels.descent import STATUS, as_arrays, descend
from toymodels.model import ReducedState
from toymodels.symbolic import two_layer
from toymodels.validation import positive

__all__ = ["SPIKE_SHARE", "simulate_flow", "simulate_gd"]

SPIKE_SHARE = 0.05  # a spike begins where alpha u^2 reaches this share of D = b_par r / c


def simulate_gd(
    state: ReducedState,
    beta: ArrayLike,
    alpha: ArrayLike,
    lr: ArrayLike,
    steps: int,
    *,
    stride: int = 1,
    noise_floor: float = 0.0,
) -> xr.Dataset:
    r"""Gradient descent on the reduced loss, a batch of runs at once; u is exact to rounding at any magnitude.

    Args:
        state: Start; its entries, ``beta``, ``alpha`` and ``lr`` broadcast to the runs.
        beta: $\|\beta\|$.
        alpha: Opposing variance α.
        lr: Step size η.
        steps: Updates to make.
        stride: Keep every so manieth step of the trajectories.
        noise_floor: Least |u|, as rounding or sampling noise would leave it; 0 is exact arithmetic.
    Returns:
        Dataset with dimensions run, step: c, b_par, b_perp, u_sign, log_abs_u, loss, stability ($s=\eta\alpha c^2$);
        and per run onset_step (first s > 2 from below), spike_step (first $\alpha u^2 \ge 0.05\,b_\parallel r/c$ after
        it), peak_step and peak_log_abs_u (first peak of |u| after that), −1 or NaN where there is none, last_step,
        and status: "running", "converged" or "diverged". Divergence is a status, never an error.
    Raises:
        ValueError: If a parameter is out of range.
    """
    for name, value, least in (("steps", steps, 1), ("stride", stride, 1)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} must be an integer >= {least}, got {value!r}; pass {name} >= {least}")
    if not (np.isfinite(noise_floor) and noise_floor >= 0):
        raise ValueError(f"noise_floor must be >= 0 and finite, got {noise_floor}; pass 0 for exact arithmetic")
    parameters = [positive(n, v) for n, v in (("beta", beta), ("alpha", alpha), ("lr", lr))]
    flat = as_arrays(*np.broadcast_arrays(*parameters, *state.as_array()))
    start = np.ascontiguousarray(np.stack(flat[3:], axis=1))
    runs, kept = len(start), steps // stride + 1
    out = np.full((runs, 5, kept), np.nan)
    summary = np.full((runs, 6), np.nan)
    kernel: Any = descend  # compiled: its type is numba's
    kernel(*flat[:3], start, steps, stride, float(noise_floor), SPIKE_SHARE, out, summary)
    c, b, p, sign, log_u = (out[:, i] for i in range(5))
    beta_, alpha_, lr_ = (v[:, None] for v in flat[:3])
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        loss = ((beta_ - c * b) ** 2 + (c * p) ** 2 + alpha_ * (c * np.exp(log_u)) ** 2) / 2
        stability = lr_ * alpha_ * c**2
    dims = ("run", "step")
    arrays = {"c": c, "b_par": b, "b_perp": p, "u_sign": sign, "log_abs_u": log_u, "loss": loss, "stability": stability}
    data = xr.Dataset({name: (dims, value) for name, value in arrays.items()})
    for i, name in ((0, "onset_step"), (1, "spike_step"), (2, "peak_step"), (4, "last_step")):
        data[name] = ("run", summary[:, i].astype(np.int64))
    data["peak_log_abs_u"] = ("run", summary[:, 3])
    data["status"] = ("run", np.array(STATUS)[summary[:, 5].astype(int)])
    return data.assign_coords(
        step=np.arange(kept) * stride, beta=("run", flat[0]), alpha=("run", flat[1]), lr=("run", flat[2])
    )


@cache
def _flow_functions():
    model = two_layer()
    arguments = (*model.weights, *model.parameters)
    jacobian = model.flow.jacobian(model.weights)
    return sp.lambdify(arguments, model.flow.T.tolist()[0], "math"), sp.lambdify(arguments, jacobian.tolist(), "math")


def simulate_flow(
    state: ReducedState, beta: float, alpha: float, times: ArrayLike, *, rtol: float = 1e-10, method: str = "LSODA"
) -> np.ndarray:
    r"""Gradient flow of the full reduced system, by a tight numerical solve generated from the symbolic model.

    Independent of the closed forms: it is their oracle.

    Args:
        state: Start, floats.
        times: Increasing times from 0, shape (m,).
        rtol: Relative tolerance; the absolute one is 1e-3 of it.
        method: Any of ``scipy.integrate.solve_ivp``.
    Returns:
        Shape (4, m): c, b_par, b_perp, u.
    Raises:
        RuntimeError: If the solver fails.
    """
    flow, jacobian = _flow_functions()
    t = np.asarray(times, dtype=np.float64)
    implicit = method in ("LSODA", "Radau", "BDF")
    options: dict[str, Any] = {"jac": lambda _, y: jacobian(*y, beta, alpha)} if implicit else {}
    solution = solve_ivp(
        lambda _, y: flow(*y, beta, alpha),
        (0.0, float(t[-1])),
        state.as_array().astype(float),
        method=method,
        t_eval=t,
        rtol=rtol,
        atol=rtol * 1e-3,
        **options,
    )
    if not solution.success:
        raise RuntimeError(f"gradient flow was not solved to t = {t[-1]:g}: {solution.message}; relax rtol")
    return solution.y
