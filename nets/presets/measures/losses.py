"""Measures of the training loss."""

from collections.abc import Sequence

import numpy as np

from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

__all__ = ["final_loss", "least_final_loss", "loss_fall"]

NAN = float("nan")


@measure()
def final_loss(run: Outcome, last: int = 1) -> float:
    """Mean training loss of the last steps; inf where the run diverged."""
    return float("inf") if run.diverged else float(run.loss[-last:].mean())


@measure(several=True)
def least_final_loss(runs: Sequence[Outcome], last: int = 1) -> float:
    """Least final loss over the runs of a grid: that of the best step size."""
    return min((final_loss(run, last) for run in runs), default=NAN)


@measure(needs=("sharpness", "critical"))
def loss_fall(run: Outcome) -> float:
    """Loss at the end over that at the onset, averaged over the ten steps before each; NaN without an onset."""
    if run.onset is None:
        return NAN
    return float(run.loss[-10:].mean() / np.nanmean(run.loss[max(0, run.onset - 9) : run.onset + 1]))
