"""Outcomes of runs that never were: records with a known answer."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import xarray as xr

from nets.config import TrainConfig
from nets.presets import Outcome

LR = 0.4  # critical sharpness 5


def made(
    losses: np.ndarray | None = None,
    *,
    onset: int = 10,
    steps: int = 0,
    dataset: Any = None,
    status: str = "finished",
    series: dict[str, np.ndarray] | None = None,
    **options: Any,
) -> Outcome:
    """A finished run whose sharpness rises through 2/lr at ``onset``, with the given losses and other series."""
    steps = steps or len(losses)
    sharpness = np.where(np.arange(steps) < onset, 4.0, 5.5)
    arrays = {"sharpness": ("step", sharpness), "loss": ("step", np.ones(steps))}
    if losses is not None:
        arrays |= {"example_loss": (("step", "example"), losses), "loss": ("step", losses.mean(axis=1))}
    arrays |= {name: ("step", values) for name, values in (series or {}).items()}
    config = TrainConfig(**{"lr": LR, "n_examples": 40 if losses is None else losses.shape[1], **options})
    run: Any = SimpleNamespace(
        config=config, first_step=0, step=steps, dataset=dataset, status=SimpleNamespace(status=status)
    )
    return Outcome("made", xr.Dataset(arrays), run)


def taking_turns(
    first: np.ndarray, second: np.ndarray, n: int, steps: int, size: float = 1.0, noise: float = 0.01, seed: int = 0
) -> np.ndarray:
    """Losses that fall slowly, with noise; those of two groups alternate against each other by ``size`` beside."""
    rng, flip = np.random.default_rng(seed), (-1.0) ** np.arange(steps)
    losses = 3 + np.exp(-np.arange(steps) / 100)[:, None] + noise * rng.standard_normal((steps, n))
    losses[:, first] += size * flip[:, None]
    losses[:, second] -= size * flip[:, None]
    return losses
