r"""The toy valley: two coordinates of a deep linear model, along the floor of its valley and across it.

A product of D − 1 scalars and one vector (``symbolic.deep_linear``) with one signal and one opposing direction. With
all its signal weights equal to $z/\sqrt D$, z is arc length along the balanced line and x, the weight on the
opposing feature, is the way across. So a step of gradient descent on this slice is the full model's step projected
on it; for D = 1 there is nothing to project. Kept balanced, the slice can hold a run at the edge for ever: x bounces
from wall to wall where the pull of the bounce down the floor and that of the signal up it cancel. In the full
model the imbalance drifts and the run ends at rest below the edge.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp
import xarray as xr
from numpy.typing import ArrayLike

from toymodels.simulation import simulate
from toymodels.symbolic import SymbolicModel, deep_linear
from toymodels.validation import finite, positive

__all__ = ["across_curvature", "valley_model", "valley_path", "valley_surface"]


@lru_cache(maxsize=16)
def valley_model(depth: int) -> SymbolicModel:
    r"""Loss of the balanced slice, by substitution into ``deep_linear``.

    $$L = \tfrac12\big(\|\beta\|-(z/\sqrt D)^D\big)^2 + \tfrac12\alpha(z/\sqrt D)^{2(D-1)}x^2$$

    Weights z (along the floor), x (across it); parameters beta, alpha.

    Args:
        depth: Number of layers D ≥ 1.
    Raises:
        ValueError: If ``depth`` is below 1.
    """
    full = deep_linear(2, depth)
    z, x = sp.symbols("z x", real=True)
    beta, alpha = sp.symbols("beta alpha", positive=True)
    signal, opposing = full.weights[:-1], full.weights[-1]
    values: dict[Any, Any] = {w: z / sp.sqrt(depth) for w in signal} | {opposing: x}
    values |= dict(zip(full.parameters, (1, alpha, beta, 0), strict=True))
    return SymbolicModel((z, x), (beta, alpha), full.loss.subs(values, simultaneous=True))


def across_curvature(learned: ArrayLike, beta: ArrayLike, alpha: ArrayLike, depth: ArrayLike) -> np.ndarray:
    r"""Curvature across the valley where a share m of the signal is learned: $\alpha(\|\beta\|m)^{2(D-1)/D}$ (derived).

    m = (product of the signal weights)/‖β‖. It grows along the floor for D ≥ 2 and is α everywhere for D = 1: depth
    makes the valley sharpen.

    Args:
        learned: Share m ≥ 0, shape (...).
        beta: $\|\beta\|$ > 0.
        alpha: Opposing variance α > 0.
        depth: Number of layers D ≥ 1.
    Returns:
        Curvature, 1/time, shape (...).
    Raises:
        ValueError: If an argument is out of its range.
    """
    share, beta, alpha = finite("learned", learned), positive("beta", beta), positive("alpha", alpha)
    layers = finite("depth", depth)
    if (share < 0).any():
        raise ValueError(f"learned must be >= 0, got {share.min():g}; pass the share of the signal that is learned")
    if ((layers < 1) | (layers != np.floor(layers))).any():
        raise ValueError(f"depth must be an integer >= 1, got {layers.flat[0]:g}; pass a number of layers")
    return alpha * (beta * share) ** (2 * (layers - 1) / layers)


def valley_surface(z: ArrayLike, x: ArrayLike, beta: float, alpha: float, depth: int) -> xr.Dataset:
    """The loss over the slice, from the generated model.

    Args:
        z: Positions along the floor (arc length), shape (n,).
        x: Positions across it, shape (m,).
        beta, alpha, depth: The model.
    Returns:
        Dataset with dimensions x, z: ``loss``; along z: ``floor_loss`` (x = 0) and ``across_curvature`` (generated
        Hessian entry there, 1/time).
    Raises:
        ValueError: If an argument is out of its range.
    """
    model = valley_model(depth)
    arguments = (*model.weights, *model.parameters)
    loss = sp.lambdify(arguments, model.loss, "numpy")
    bend = sp.lambdify(arguments, model.hessian[1, 1], "numpy")
    z, x = np.atleast_1d(finite("z", z)), np.atleast_1d(finite("x", x))
    beta, alpha = float(positive("beta", beta)), float(positive("alpha", alpha))
    data = xr.Dataset(coords={"z": z, "x": x})
    data["loss"] = (("x", "z"), np.broadcast_to(loss(z, x[:, None], beta, alpha), (len(x), len(z))))
    data["floor_loss"] = ("z", np.broadcast_to(loss(z, 0.0, beta, alpha), z.shape))
    data["across_curvature"] = ("z", np.broadcast_to(bend(z, 0.0, beta, alpha), z.shape))
    return data


def valley_path(
    z: float, x: float, beta: float, alpha: float, depth: int, lr: float, steps: int, *, stride: int = 1
) -> xr.Dataset:
    """Gradient descent on the slice (simulated from the generated kernel).

    Args:
        z, x: Start.
        beta, alpha, depth: The model.
        lr: Step size η > 0.
        steps: Updates to make.
        stride: Keep every so manieth step.
    Returns:
        One run of :func:`toymodels.simulation.simulate`.
    """
    parameters = {"beta": beta, "alpha": alpha}
    run = simulate(valley_model(depth), "gd", lr, steps, start={"z": z, "x": x}, parameters=parameters, stride=stride)
    return run.isel(run=0)
