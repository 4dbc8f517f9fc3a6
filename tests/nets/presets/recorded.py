"""Outcomes made from arrays alone."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import xarray as xr

from nets.config import TrainConfig
from nets.presets import Outcome


def recorded(problem: Any = None, config: TrainConfig | None = None, first_step: int = 0, **arrays: Any) -> Outcome:
    """A finished run with these arrays: a name that begins with "fixed_" is no series, others go along the steps."""
    data = xr.Dataset()
    for name, values in arrays.items():
        fixed, values = name.startswith("fixed_"), np.asarray(values)
        name = name.removeprefix("fixed_")
        dims = [f"{name}_{k}" for k in range(values.ndim)]
        data[name] = ((dims if fixed else ["step", *dims[1:]]), values)
    status = SimpleNamespace(status="finished")
    run: Any = SimpleNamespace(config=config or TrainConfig(), problem=problem, first_step=first_step, status=status)
    return Outcome("made", data, run)
