"""Measures of the steps that optimizers take, each at the best of the step sizes tried."""

from collections.abc import Sequence

import numpy as np

from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

from .losses import final_loss

__all__ = ["best_place", "least_signed_share", "path_along", "path_share", "path_variance"]

NAN = float("nan")


def best(runs: Sequence[Outcome], last: int) -> Outcome:
    """The run with the least mean loss over its last steps."""
    if not runs:
        raise ValueError("the best of no runs was asked for; declare a run")
    return min(runs, key=lambda run: final_loss(run, last))


def _moves(runs: Sequence[Outcome], last: int) -> tuple[np.ndarray, np.ndarray]:
    """Moves along v and lengths of the moves, where both were observed, each shape (m,)."""
    run = best(runs, last)
    along, length = run.series("move_v"), run.series("move_norm")
    seen = np.isfinite(along) & np.isfinite(length)
    return along[seen], length[seen]


@measure(several=True, needs=("moves",))
def path_along(runs: Sequence[Outcome], last: int = 20) -> float:
    r"""Mean $|\Delta\theta_n \cdot v_n|$ per step along the top eigenvector, of the best run of a grid."""
    return float(np.abs(_moves(runs, last)[0]).mean())


@measure(several=True, needs=("moves",))
def path_share(runs: Sequence[Outcome], last: int = 20) -> float:
    r"""Part of the path along the top eigenvector, $\sum|\Delta\theta_n\cdot v_n| / \sum\|\Delta\theta_n\|$."""
    along, length = _moves(runs, last)
    return float(np.abs(along).sum() / length.sum())


@measure(several=True, needs=("moves",))
def path_variance(runs: Sequence[Outcome], last: int = 20) -> float:
    r"""Variance over the steps of the move $\Delta\theta_n\cdot v_n$ along the top eigenvector, of the best run."""
    return float(_moves(runs, last)[0].var())


@measure(several=True, needs=("trained",))
def best_place(*entries: Sequence[Outcome], last: int = 20) -> float:
    """Values of each grid beyond its best step size on the nearer side; the least over the entries: 0 is its end."""
    places = []
    for runs in entries:
        rates = sorted({run.config.lr for run in runs})
        place = rates.index(best(runs, last).config.lr)
        places.append(min(place, len(rates) - 1 - place))
    return float(min(places, default=NAN))


@measure(several=True, needs=("trained",))
def least_signed_share(
    runs: Sequence[Outcome], reference: Sequence[Outcome], within: float = 1.05, last: int = 20
) -> float:
    """Least mean share of coordinates with SplitSGD's signed step, of the runs that end within a factor of a reference.

    Args:
        runs: Runs of SplitSGD with the observer ``moves``.
        reference: Runs whose least final loss is the measure.
        within: Factor on it.
        last: Steps over which final losses are averaged.
    """
    bar = within * final_loss(best(reference, last), last)
    good = [run for run in runs if final_loss(run, last) <= bar]
    return float(min((np.nanmean(run.series("signed_share")) for run in good), default=NAN))
