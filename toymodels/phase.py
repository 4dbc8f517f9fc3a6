r"""The phase diagram of gradient descent on the two-layer model over step size and opposing variance.

For every point of a grid (η, α): does the run settle below the edge, cross it and sleep, spike, or diverge, and when?
Ten million points are no more than rows written one block after another: memory is that of a block, an interrupted
computation goes on where it stopped, and the values do not depend on how often that happened.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from toymodels.flow import limit_sharpness
from toymodels.phase_config import PhaseConfig
from toymodels.simulation import simulate
from toymodels.symbolic import two_layer

__all__ = ["OUTCOMES", "PhaseConfig", "compute_phase", "open_phase", "outcome", "phase_boundaries"]

BLOCK = 1 << 18  # points computed at a time
#: code of ``outcome`` -> what happened within the steps
OUTCOMES = (
    "below the edge throughout",
    "starts beyond the edge, is thrown below it",
    "crosses the edge, oscillation still asleep",
    "crosses the edge and spikes",
    "diverges",
)
ARRAYS = {
    "onset_step": ("int32", -1, "first step above the edge after one below; -1: none"),
    "spike_step": ("int32", -1, "first step at which the oscillation is 5 % of the drift; -1: none"),
    "peak_step": ("int32", -1, "first peak of |u| after that; -1: none"),
    "peak_log_abs_u": ("float32", np.nan, "log|u| there"),
    "final_sharpness": ("float32", np.nan, "largest Hessian eigenvalue at the end; NaN: diverged"),
    "last_step": ("int32", -1, "last step with finite weights"),
    "status": ("int8", -1, "0 running, 1 converged, 2 diverged; -1: not computed yet"),
}


def _create(path: Path, config: PhaseConfig) -> zarr.Group:
    group = zarr.open_group(path, mode="w-", zarr_format=3)
    rows = max(1, BLOCK // config.lrs)
    for name, (kind, fill, text) in ARRAYS.items():
        group.create_array(
            name,
            shape=(config.alphas, config.lrs),
            chunks=(min(rows, config.alphas), config.lrs),
            dtype=kind,
            fill_value=fill,
            dimension_names=("alpha", "lr_alpha"),
            attributes={"description": text},
        )
    for name, values in (("alpha", config.alpha), ("lr_alpha", config.lr_alpha)):
        group.create_array(name, shape=values.shape, dtype="float64", dimension_names=(name,))[:] = values
    # last, so that a folder that was only begun is not taken for a diagram
    group.attrs["config"] = json.dumps(asdict(config))
    return group


def compute_phase(path: Path, config: PhaseConfig, progress: Callable[[int, int], None] | None = None) -> xr.Dataset:
    """Compute the diagram, or what is missing of it, into the zarr folder ``path``.

    Args:
        path: New, or the folder of an interrupted computation of the same configuration.
        config: What to compute.
        progress: Called with (points done, points in all), first with those found done.
    Returns:
        The finished diagram, lazily read: dimensions alpha, lr_alpha; variables as ``ARRAYS``.
    Raises:
        ValueError: If the folder holds something else.
    """
    if path.exists():
        group = _reopen(path, config)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        group = _create(path, config)
    rows, total = max(1, BLOCK // config.lrs), config.alphas * config.lrs
    arrays: dict[str, Any] = {name: group[name] for name in ARRAYS}
    lr_alpha = xr.DataArray(config.lr_alpha, dims="lr_alpha")
    start = {name: getattr(config, name) for name in ("c", "b_par", "b_perp", "u")}
    for lo in range(0, config.alphas, rows):
        hi = min(lo + rows, config.alphas)
        # status is written last: a block whose status is there is complete
        if (arrays["status"][lo:hi] < 0).any():
            alpha = xr.DataArray(config.alpha[lo:hi], dims="alpha")
            data = simulate(
                two_layer(),
                config.optimizer,
                lr_alpha / alpha,
                config.steps,
                start=start,
                parameters={"beta": config.beta, "alpha": alpha},
                stride=None,
            ).transpose("alpha", "lr_alpha")
            for name, (kind, _, _) in ARRAYS.items():
                arrays[name][lo:hi] = data[name].values.astype(kind)
        if progress is not None:
            progress(hi * config.lrs, total)
    return open_phase(path)


def _reopen(path: Path, config: PhaseConfig) -> zarr.Group:
    try:
        group = zarr.open_group(path, mode="r+")
        held = json.loads(str(group.attrs["config"]))
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"{path} must be new or hold a phase diagram, but it holds none; choose another name"
        ) from error
    wanted = asdict(config)
    different = [f"{k} {held.get(k)!r} there, {wanted[k]!r} asked" for k in wanted if held.get(k) != wanted[k]]
    if different:
        raise ValueError(f"{path} holds another diagram ({'; '.join(different)}); choose another name")
    return group


def open_phase(path: Path) -> xr.Dataset:
    """The diagram at ``path``; points not computed yet have status −1."""
    return xr.open_zarr(path, consolidated=False, mask_and_scale=False)


def outcome(data: xr.Dataset, config: PhaseConfig) -> np.ndarray:
    """Index into ``OUTCOMES`` of each point, shape (alpha, lr_alpha)."""
    onset, spike, status = (data[name].values for name in ("onset_step", "spike_step", "status"))
    beyond = config.lr_alpha * config.c**2 > 2
    code = np.where(onset >= 0, np.where(spike >= 0, 3, 2), np.where(beyond, 1, 0))
    return np.where(status == 2, 4, code)


def phase_boundaries(config: PhaseConfig) -> dict[str, np.ndarray]:
    r"""Derived boundaries ηα as functions of α, shape (alphas,), none fitted.

    "edge": $2\alpha/S_\infty$, above it gradient descent must reach the edge of stability (derived from the flow;
    gradient descent differs by O(η)); "start": $2/c_0^2$, above it it starts beyond.
    """
    # the limit depends on the start through K = c^2 - |b|^2 alone: all of the first layer may stand in for b_par
    rest = np.sqrt(config.b_par**2 + config.b_perp**2 + config.u**2)
    edge = 2 * config.alpha / limit_sharpness(config.c, rest, config.beta, config.alpha)
    return {"edge": edge, "start": np.full(config.alphas, 2 / config.c**2)}
