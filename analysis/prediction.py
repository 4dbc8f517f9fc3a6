r"""Forecasts of a network's oscillation, made from a stopped run and from nothing that comes later.

Two moments:

- *approach*, where the sharpness reaches 0.75 · 2/η: which examples will oscillate, with which relative
  sign, and the factor per step by which an oscillation still decays, $\eta S - 1$;
- *onset*, where it reaches 2/η: the examples again, the growth per step, and the step of the first spike, by
  the reduced map with coefficients measured at that point.

No coefficient is fitted to the future. A forecast is a JSON document, written once, with the hash of the run
state it was made from.
"""

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.files import write_atomic
from analysis.groups import find_opposing_groups
from analysis.oscillation import onset_step
from analysis.projection import ExampleLosses, edge_coefficients, project_losses
from analysis.reduced_map import iterate_reduced_map

__all__ = ["APPROACH", "RunPoint", "make_forecast", "read_forecast", "write_forecast"]

APPROACH = 0.75  # share of 2/η at which the first forecast is made
AMPLITUDE_WINDOW = 10  # steps over which the amplitude at onset is averaged (its phase and rounding noise vary)
GROWTH_WINDOW = 10  # steps of the growth forecast
GROWTH_END = 0.1  # ... which end where |x| is forecast to reach this share of its peak
HORIZON = 2000  # most steps the reduced map looks ahead


@dataclass(frozen=True)
class RunPoint:
    r"""A run stopped at step n, before the update of that step: everything a forecast may use.

    Args:
        step: n.
        lr: Step size η.
        losses: $\theta \mapsto (\ell_1,\dots,\ell_n)$.
        params: θ_n.
        vector: Top Hessian eigenvector at θ_n, shape (P,).
        sharpness: Record up to and including step n, shape (n + 1,).
        amplitude: Demodulated amplitude, the same shape.
        state_hash: Hash of the run's state at step n.
    """

    step: int
    lr: float
    losses: ExampleLosses
    params: Sequence[Tensor]
    vector: Tensor
    sharpness: np.ndarray
    amplitude: np.ndarray
    state_hash: str

    def __post_init__(self):
        for name in ("sharpness", "amplitude"):
            got = getattr(self, name).shape
            if got != (self.step + 1,):
                raise ValueError(
                    f"{name} must hold the steps 0..{self.step} and no later one, got shape {got}; cut the record"
                )


def forecast_examples(point: RunPoint, k: int = 40) -> dict[str, Any]:
    r"""Which examples will oscillate: $s_i = \nabla\ell_i\cdot v$, one forward-mode product for all (derived).

    The losses alternate as $\ell_i(n) \approx$ drift $+ s_i x_n$ with $x_n$ changing sign each step, so $s_i$
    gives size and sign, the latter up to one sign common to all. First order in x; v is taken as constant.
    """
    with torch.no_grad():
        current = point.losses(list(point.params))
    projection = project_losses(point.losses, point.params, point.vector)
    n = projection.numel()
    groups = find_opposing_groups(
        point.losses, point.params, projection.detach().cpu().numpy(), point.vector, k=min(k // 2, n // 2)
    )
    return {
        "projection": [float(s) for s in projection],
        "k": min(k, n),
        "groups": None
        if groups is None
        else {
            "first": list(groups.rising),
            "second": list(groups.falling),
            "cosine": groups.cosine,
            "alignment": list(groups.alignment),
            "opposition": groups.opposition,
            "opposition_of_random_groups": groups.control,
        },
        "baseline": {"name": "examples with the highest loss", "values": [float(v) for v in current]},
    }


def _decay(point: RunPoint) -> dict[str, Any]:
    factor = point.lr * float(point.sharpness[-1]) - 1.0
    return {"factor_now": factor, "alternates": factor > 0, "grows": factor > 1}


def forecast_spike(point: RunPoint) -> dict[str, Any]:
    r"""Growth per step and step of the first spike, by the reduced map (approximated, nothing fitted).

    The amplitude at onset is the root mean square of the demodulated amplitude over the last steps: in a
    smooth network it sits at the rounding floor and its single values are noise. Baselines: persistence for
    the growth (the factor $\eta S - 1$ stays what it is now), and, for the lead of the spike, the time that
    the run took from the approach to the onset.
    """
    c = edge_coefficients(point.losses, point.params, point.vector)
    recent = point.amplitude[-AMPLITUDE_WINDOW:]
    recent = recent[np.isfinite(recent)]
    floor = float(torch.finfo(point.vector.dtype).tiny)
    amplitude = max(float(np.sqrt(np.mean(recent**2))) if recent.size else 0.0, floor)
    excess = point.lr * float(point.sharpness[-1]) - 2.0
    path = iterate_reduced_map(amplitude, excess, point.lr, c.progressive, c.restoring, HORIZON)
    approach = onset_step(point.sharpness, point.lr, APPROACH)
    out: dict[str, Any] = {
        "coefficients": {
            "amplitude": amplitude,
            "excess": excess,
            "progressive": c.progressive,
            "restoring": c.restoring,
        },
        "peak_step": None if path.peak is None else point.step + path.peak,
        "baseline": {
            "name": "lead equals the time from approach to onset",
            "peak_step": None if approach is None else 2 * point.step - approach,
        },
        "growth": None,
    }
    if path.peak is not None:
        x = path.amplitude
        out["peak_amplitude"] = float(x[path.peak])
        stop = int(np.argmax(x >= GROWTH_END * x[path.peak]))
        start = max(0, stop - GROWTH_WINDOW)
        if stop - start >= 2:
            out["growth"] = {
                "start": point.step + start,
                "stop": point.step + stop,
                "rate": float(np.log(x[stop] / x[start]) / (stop - start)),
                "baseline": {"name": "persistence of ηS − 1", "rate": float(np.log1p(max(excess, -0.999)))},
            }
    return out


def make_forecast(point: RunPoint, code_version: str = "") -> dict[str, Any]:
    """All forecasts that the run's own state supports at this step; their kind follows from the sharpness.

    Raises:
        ValueError: If the sharpness was not measured or is not positive.
    """
    sharpness = float(point.sharpness[-1])
    if not sharpness > 0:
        raise ValueError(
            f"sharpness at step {point.step} must be positive, got {sharpness}; forecast from a step where it is"
        )
    at_edge = onset_step(point.sharpness, point.lr) is not None
    forecast: dict[str, Any] = {
        "kind": "onset" if at_edge else "approach",
        "made_at_step": point.step,
        "state_hash": point.state_hash,
        "code_version": code_version,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "lr": point.lr,
        "sharpness": sharpness,
        "threshold": 2.0 / point.lr,
        "assumptions": [
            "full-batch gradient descent at a constant step size",
            "the top eigenvector keeps its direction until the spike",
            "third order in the oscillation's amplitude; A and B constant from here on",
        ],
        "examples": forecast_examples(point),
        "oscillation": _decay(point),
    }
    if at_edge:
        forecast["spike"] = forecast_spike(point)
    return forecast


def write_forecast(path: Path, forecast: dict[str, Any]) -> None:
    """Write a forecast atomically; an existing one is never overwritten.

    Raises:
        ValueError: If the file exists.
    """
    if path.exists():
        raise ValueError(f"a forecast is never overwritten, but {path} exists; forecast from another step")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(forecast, indent=1, allow_nan=False) + "\n").encode())


def read_forecast(path: Path) -> dict[str, Any]:
    """Read a forecast.

    Raises:
        ValueError: If it is missing, not JSON, or lacks what every forecast has.
    """
    try:
        forecast = json.loads(path.read_text())
        missing = {"kind", "made_at_step", "state_hash", "lr", "examples"} - set(forecast)
    except (OSError, ValueError, TypeError) as e:
        raise ValueError(f"{path} must be a readable forecast: {e}; make it with `opposing forecast RUN`") from e
    if missing:
        raise ValueError(f"{path} must be a forecast, but lacks {sorted(missing)}; make it anew")
    return forecast
