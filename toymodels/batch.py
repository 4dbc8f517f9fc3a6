"""Inputs of a batch of runs: by name, validated, broadcast against each other without being copied."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from toymodels.model import ReducedState, TwoLayerLinear
from toymodels.optimizers import Optimizer
from toymodels.symbolic import SymbolicModel, two_layer
from toymodels.validation import finite, positive

__all__ = ["Batch", "make_batch", "named_inputs", "resolve_model"]


@dataclass(frozen=True)
class Batch:
    """All inputs, broadcast against each other without being copied."""

    values: dict[str, np.ndarray]
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    coords: dict[Any, Any]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def slice(self, name: str, lo: int, hi: int) -> np.ndarray:
        return np.broadcast_to(self.values[name], self.shape).flat[lo:hi]


def make_batch(inputs: dict[str, Any]) -> Batch:
    if any(isinstance(v, xr.DataArray) for v in inputs.values()):
        arrays = xr.broadcast(*(v if isinstance(v, xr.DataArray) else xr.DataArray(v) for v in inputs.values()))
        first = arrays[0]
        if "step" in first.dims:
            raise ValueError("dimension of a batch must not be called 'step', got one; rename it")
        values = {name: np.asarray(a.data, dtype=np.float64) for name, a in zip(inputs, arrays, strict=True)}
        return Batch(values, tuple(map(str, first.dims)), first.shape, dict(first.coords))
    arrays = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in inputs.values()))
    shape = (int(np.prod(arrays[0].shape, dtype=np.int64)),)
    values = {name: a.reshape(-1) for name, a in zip(inputs, arrays, strict=True)}
    return Batch(values, ("run",), shape, {})


def named_inputs(
    model: SymbolicModel, optimizer: Optimizer, lr: Any, start: Mapping[str, Any], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Every input by name, validated; ``start_<weight>`` for the start."""
    wanted = {"start": [w.name for w in model.weights], "parameters": [p.name for p in model.parameters]}
    for label, given in (("start", start), ("parameters", parameters)):
        if set(given) != set(wanted[label]):
            raise ValueError(f"{label} must name {', '.join(wanted[label]) or 'nothing'}; got {', '.join(given)}")
    inputs: dict[str, Any] = {}
    for w in model.weights:
        finite(w.name, start[w.name])
        inputs[f"start_{w.name}"] = start[w.name]
    for p in model.parameters:
        (positive if p.is_positive else finite)(p.name, parameters[p.name])
        inputs[p.name] = parameters[p.name]
    positive("lr", lr)
    inputs["lr"] = lr
    for name in optimizer.hyperparameters():
        inputs[name] = getattr(optimizer, name)
    return inputs


def resolve_model(
    model: Any, start: Any, parameters: Any
) -> tuple[SymbolicModel, Mapping[str, Any], Mapping[str, Any]]:
    """Symbolic model, start and parameters, from the forms a caller may use."""
    if isinstance(model, TwoLayerLinear):
        start = model.reference_state() if start is None else start
        parameters = {"beta": model.beta, "alpha": model.alpha, **(parameters or {})}
        model = two_layer()
    if start is None:
        raise ValueError("start must be given for a symbolic model, got None; pass {weight: value}")
    if isinstance(start, ReducedState):
        start = {name: getattr(start, name) for name in ("c", "b_par", "b_perp", "u")}
    return model, start, parameters or {}
