"""Measures of a planted feature's part in the network (observer "feature")."""

import numpy as np

from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

__all__ = ["feature_share"]


@measure()
def feature_share(run: Outcome, after: int = 0, until: int = 0) -> float:
    """Mean share of the outputs' variation that comes from the planted feature, from ``after`` to before ``until``."""
    if "feature_share" not in run.history:
        raise ValueError(f"this measure needs the observer feature, {run.name} lacks it; add it to the run's observers")
    return float(np.nanmean(run.series("feature_share")[after : until or None]))
