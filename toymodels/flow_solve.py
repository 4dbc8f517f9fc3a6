"""Gradient flow by an adaptive solver, generated from the symbolic model: the oracle of the closed forms."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp
import xarray as xr
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from toymodels.model import ReducedState
from toymodels.symbolic import SymbolicModel, two_layer

if TYPE_CHECKING:
    from toymodels.batch import Batch

__all__ = ["flow_dataset", "simulate_flow"]


@lru_cache(maxsize=16)
def _functions(model: SymbolicModel):
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
    flow, jacobian = _functions(two_layer())
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


@lru_cache(maxsize=16)
def _log_functions(model: SymbolicModel, watch: str | None):
    """Flow with every even weight x replaced by log|x|, and the watched curvature, as functions of (y, parameters)."""
    logs = {w: sp.Symbol(f"log_{w.name}", real=True) for w in model.even_weights}
    back: Any = {w: sp.exp(s) for w, s in logs.items()}
    arguments = [logs.get(w, w) for w in model.weights]
    rates = [
        (-model.curvature(w) if w in logs else rate).subs(back)
        for w, rate in zip(model.weights, model.flow.T.tolist()[0], strict=True)
    ]
    watched = next(
        (w for w in model.weights if w.name == watch), model.even_weights[-1] if model.even_weights else None
    )
    curvature = sp.Integer(0) if watched is None else model.curvature(watched).subs(back)
    jacobian = sp.Matrix(rates).jacobian(sp.Matrix(arguments))
    constants = tuple(model.parameters)
    return (
        sp.lambdify((*arguments, *constants), rates, "math"),
        sp.lambdify((*arguments, *constants), jacobian.tolist(), "math"),
        sp.lambdify((*arguments, *constants), curvature, "math"),
        None if watched is None else watched.name,
    )


def flow_dataset(model: SymbolicModel, batch: "Batch", steps: int, stride: int | None, watch: str | None) -> xr.Dataset:
    r"""Gradient flow of each run at the times lr * step, adaptive, with the onset as an event.

    Even weights are integrated as log|x|, so they do not underflow; a weight that starts at 0 stays there. The onset is
    the first time at which lr times the watched curvature rises through 2. Tolerance 1e-10.

    Args:
        model: Symbolic model.
        batch: Inputs.
        steps: Steps of size lr that the time spans.
        stride: Keep every so manieth; None: only the end, as ``final_<name>``.
        watch: Even weight whose curvature is watched; default the last one.
    Returns:
        Dataset as of ``simulate``, without spike and peak: along gradient flow the watched weight only decays.
        ``onset_time`` (lr * step, not rounded) beside ``onset_step``.
    """
    names = [w.name for w in model.weights]
    even = [w.name for w in model.even_weights]
    flow, jacobian, curvature, watched = _log_functions(model, watch)
    loss = sp.lambdify((*model.weights, *model.parameters), model.loss, "math")
    every = steps if stride is None else stride
    kept = np.arange(steps // every + 1) * every
    arrays = {name: np.full((batch.size, len(kept)), np.nan) for name in (*names, "loss", "stability")}
    arrays |= {f"log_abs_{n}": np.full((batch.size, len(kept)), np.nan) for n in even}
    arrays |= {f"{n}_sign": np.full((batch.size, len(kept)), np.nan) for n in even}
    onset = np.full(batch.size, np.inf)
    status = np.zeros(batch.size, dtype=np.int8)
    lrs = batch.slice("lr", 0, batch.size)
    for i in range(batch.size):
        start = np.array([batch.slice(f"start_{n}", i, i + 1)[0] for n in names])
        fixed = [float(batch.slice(p.name, i, i + 1)[0]) for p in model.parameters]
        signs = np.sign(start)
        lr = float(lrs[i])
        with np.errstate(divide="ignore"):
            y0 = np.array(
                [max(np.log(abs(v)), -1e6) if n in even else v for n, v in zip(names, start, strict=True)], dtype=float
            )

        def crossing(_: float, y: np.ndarray, lr: float = lr, fixed: list[float] = fixed) -> float:
            return lr * curvature(*y, *fixed) - 2.0

        crossing.direction = 1.0  # pyright: ignore[reportFunctionMemberAccess] - how scipy takes it
        solution = solve_ivp(
            lambda _, y, fixed=fixed: flow(*y, *fixed),
            (0.0, lr * steps),
            y0,
            method="LSODA",
            t_eval=lr * kept,
            events=crossing if watched is not None else None,
            rtol=1e-10,
            atol=1e-12,
            jac=lambda _, y, fixed=fixed: jacobian(*y, *fixed),
        )
        done = solution.y.shape[1]
        status[i] = 0 if solution.success else 2
        if watched is not None and solution.t_events is not None and len(solution.t_events[0]):
            onset[i] = solution.t_events[0][0]
        for name, sign, y in zip(names, signs, solution.y, strict=True):
            if name in even:
                arrays[f"log_abs_{name}"][i, :done] = np.where(sign == 0, -np.inf, y)
                arrays[f"{name}_sign"][i] = sign
                arrays[name][i, :done] = sign * np.exp(y)
            else:
                arrays[name][i, :done] = y
        for k in range(done):
            arrays["loss"][i, k] = loss(*(arrays[n][i, k] for n in names), *fixed)
            arrays["stability"][i, k] = lr * curvature(*solution.y[:, k], *fixed)
    dims = (*batch.dims, "step")
    data = xr.Dataset({n: (dims, v.reshape((*batch.shape, len(kept)))) for n, v in arrays.items()})
    data["onset_time"] = (batch.dims, onset.reshape(batch.shape))
    step = np.where(np.isfinite(onset), np.ceil(np.where(np.isfinite(onset), onset, 0) / lrs), -1)
    data["onset_step"] = (batch.dims, step.astype(np.int64).reshape(batch.shape))
    data["status"] = (batch.dims, status.reshape(batch.shape))
    data["status"].attrs.update(flag_values=[0, 2], flag_meanings="running diverged")
    if stride is None:
        last = data.isel(step=-1)
        return last.rename({n: f"final_{n}" for n in arrays}).assign_coords(batch.coords)
    return data.assign_coords(batch.coords).assign_coords(step=kept)
