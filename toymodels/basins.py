"""Basins of gradient descent: what becomes of each start of a plane."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from toymodels.orbits import generated_map, map_inputs
from toymodels.simulation import simulate
from toymodels.symbolic import SymbolicModel
from toymodels.validation import count

__all__ = ["OUTCOMES", "basin"]

OUTCOMES = ("bounded", "converged", "catapulted", "diverged")
PERIODS = 32  # the longest period looked for
SAME = 1e-6  # two points of an orbit closer than this share of its size are one


def basin(
    model: SymbolicModel,
    lr: Any,
    *,
    start: Mapping[str, Any],
    parameters: Mapping[str, Any],
    steps: int = 2000,
) -> xr.Dataset:
    r"""What becomes of gradient descent from many starts (simulated).

    Args:
        model: Symbolic model.
        lr: Step size η > 0.
        start: Weights at the start by name; two DataArrays with different dimensions span a plane.
        parameters: Model parameters by name.
        steps: Updates to make, ≥ 1.
    Returns:
        Dataset over the inputs' dimensions: ``outcome`` (0 bounded but not at rest, 1 converged, 2 converged from a
        start whose sharpness exceeds 2/η: a catapult, 3 diverged), ``period`` (least period up to 32 of the orbit at
        the end, 0 where there is none or it diverged), ``start_sharpness``, ``final_sharpness`` (1/time),
        ``last_step`` and ``final_<weight>``.
    Raises:
        ValueError: If an argument is out of range.
    """
    steps = count("steps", steps)
    symbolic, batch, first, constants = map_inputs(model, lr, start, parameters)
    run = simulate(symbolic, "gd", lr, steps, start=start, parameters=parameters, stride=steps)
    step, jacobian = generated_map(symbolic)
    curvature = np.eye(len(first)) - jacobian(first, [*constants[:-1], 1.0])
    sharpness = np.linalg.eigvalsh((curvature + curvature.swapaxes(-2, -1)) / 2)[:, -1]

    end = np.stack([run[f"final_{w.name}"].values.reshape(-1) for w in symbolic.weights])
    status = run.status.values.reshape(-1)
    period = _period(step, end, constants, status == 2)
    # at rest: the step moves the weights by less than a period-one orbit's share of their size
    rest = period == 1
    outcome = np.where(status == 2, 3, np.where(rest, np.where(sharpness * constants[-1] > 2, 2, 1), 0))
    data = xr.Dataset(coords=batch.coords)
    for name, value in (("outcome", outcome.astype(np.int8)), ("period", period), ("start_sharpness", sharpness)):
        data[name] = (batch.dims, value.reshape(batch.shape))
    data["outcome"].attrs.update(flag_values=list(range(4)), flag_meanings=" ".join(OUTCOMES))
    for name in ("final_sharpness", "last_step", *(f"final_{w.name}" for w in symbolic.weights)):
        data[name] = (batch.dims, run[name].values)
    for name in ("start_sharpness", "final_sharpness"):
        data[name].attrs["units"] = "1/time"
    return data


def _period(step: Any, end: np.ndarray, constants: list[np.ndarray], gone: np.ndarray) -> np.ndarray:
    """Least period of the orbit through ``end``, by a full second round of it; 0 where there is none."""
    period = np.zeros(end.shape[1], np.int16)
    with np.errstate(all="ignore"):
        points, largest = [end], np.abs(end).max(0)
        for _ in range(2 * PERIODS):
            points.append(step(points[-1], constants))
        path = np.stack(points)
        largest = np.abs(path).max((0, 1))
        for n in range(PERIODS, 0, -1):
            close = np.abs(path[n : 2 * n + 1] - path[: n + 1]).max((0, 1)) <= SAME * largest
            period = np.where(close, n, period)
    return np.where(gone, 0, period).astype(np.int16)
