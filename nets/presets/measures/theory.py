"""Measures against the closed forms of the linear model, from a run's own initial weights."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from nets.presets.measure import measure
from nets.presets.outcomes import Outcome
from toymodels.depth import depth_limit_sharpness
from toymodels.layer import SharpnessMinimum, sharpness_minimum
from toymodels.model import ReducedState

__all__ = ["limit_ratio", "minimum_ratio", "minimum_time_ratio"]

NAN = float("nan")


class Start(NamedTuple):
    """Weights of a deep linear network before training: scalars (D − 1,), and the parts of its vector."""

    scalars: np.ndarray
    b_par: float
    b_perp: float
    u: float


def initial_weights(run: Outcome) -> Start:
    """The initial weights of a run in the terms of the theory.

    Raises:
        ValueError: If the run is no deep linear network of width 1 on data "gaussian".
    """
    config, module = run.config, run.trained.problem.new_module()
    weights = [p.detach().double().cpu() for p in module.parameters()]
    linear = config.model == "linear2" or (config.model == "mlp" and config.activation == "linear")
    shapes = [tuple(w.shape) for w in weights]
    if config.data != "gaussian" or not linear or any(s[0] != 1 for s in shapes) or any(len(s) != 2 for s in shapes):
        raise ValueError(
            f"this measure is of linear networks of width 1 without biases on data gaussian, {run.name} is "
            f"{config.model} on {config.data}; choose another measure"
        )
    settings = config.data_settings
    d1, d2 = settings["d1"], settings["d2"]
    vector = weights[0].reshape(-1)
    scalars = torch.stack([w.reshape(()) for w in weights[1:]]) if weights[1:] else torch.empty(0)
    return Start(
        scalars.numpy(), float(vector[0]), float(vector[1:d1].norm()), float(vector[d1:].sum()) / float(np.sqrt(d2))
    )


@measure(several=True, needs=("sharpness",))
def limit_ratio(runs: Sequence[Outcome]) -> float:
    r"""Sharpness at the end over that at the end of gradient flow, of the run of a grid that is furthest from it.

    The flow conserves $c_i^2 - \|w\|^2$ of the components that move; the one along the target takes over the rest of
    w, so `toymodels.depth.depth_limit_sharpness` is asked with its norm (derived).
    """
    ratios = []
    for run in runs:
        start, settings = initial_weights(run), run.config.data_settings
        moving = float(np.linalg.norm([start.b_par, start.b_perp, start.u]))
        limit = depth_limit_sharpness(start.scalars, moving, settings["beta"], settings["alpha"])
        ratios.append(run.last_sharpness / float(limit))
    return max(ratios, key=lambda r: abs(np.log(r)), default=NAN)


def _minimum(run: Outcome) -> SharpnessMinimum:
    start, settings = initial_weights(run), run.config.data_settings
    if len(start.scalars) != 1:
        raise ValueError(f"this measure is of two layers, {run.name} has {len(start.scalars) + 1}; choose another one")
    state = ReducedState(float(start.scalars[0]), start.b_par, start.b_perp, start.u)
    return sharpness_minimum(state, settings["beta"], settings["alpha"])


@measure(needs=("sharpness",))
def minimum_ratio(run: Outcome) -> float:
    """Least sharpness of a two-layer linear net over that of gradient flow (`toymodels.sharpness_minimum`)."""
    return float(np.nanmin(run.sharpness) / _minimum(run).sharpness)


@measure(needs=("sharpness",))
def minimum_time_ratio(run: Outcome) -> float:
    """Time lr * step of the least sharpness of a two-layer linear net over that of gradient flow."""
    predicted = float(_minimum(run).time)
    return run.config.lr * int(np.nanargmin(run.sharpness)) / predicted if 0 < predicted < np.inf else NAN
