"""Measures of a planted feature's part in the network (observer "feature")."""

import numpy as np

from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

__all__ = ["feature_share", "feature_share_at_loss"]

NAN = float("nan")


@measure(needs=("feature",))
def feature_share(run: Outcome, after: int = 0, until: int = 0) -> float:
    """Mean share of the outputs' variation that comes from the planted feature, from ``after`` to before ``until``."""
    return float(np.nanmean(run.series("feature_share")[after : until or None]))


@measure(needs=("feature",))
def feature_share_at_loss(run: Outcome, loss: float = 0.3) -> float:
    """The first share observed once the loss has fallen to ``loss``; NaN where it does not."""
    shares = run.series("feature_share")
    seen = np.flatnonzero(np.logical_or.accumulate(run.loss <= loss) & np.isfinite(shares))
    return float(shares[seen[0]]) if seen.size else NAN
