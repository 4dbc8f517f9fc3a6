"""Outcomes of runs that were never made: records with a known answer."""

from types import SimpleNamespace

import numpy as np
import xarray as xr

from nets.config import TrainConfig
from nets.presets.outcomes import Outcome


def outcome(name="run", config=None, first_step=0, status="finished", dataset=None, **arrays) -> Outcome:
    """The outcome of a trained run with these arrays, first dimension step, in its record."""
    config = config or TrainConfig()
    run = SimpleNamespace(
        config=config, first_step=first_step, status=SimpleNamespace(status=status), dataset=dataset, problem=None
    )
    data = {}
    for key, values in arrays.items():
        values = np.asarray(values, dtype=float)
        data[key] = (("step", "example")[: values.ndim], values)
    return Outcome(name, xr.Dataset(data), run)  # type: ignore[arg-type]
