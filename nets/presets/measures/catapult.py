"""Measures of the catapult: what starts beyond the edge, is thrown to where it is flatter, and where that ends."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq

from nets.presets.measure import measure
from nets.presets.outcomes import Outcome
from nets.presets.simulated import SimulationPlan
from toymodels.gd_dynamics import boundary_level, catapult_level
from toymodels.sharpness import arrow_sharpness

__all__ = [
    "boundary_of_start",
    "boundary_ratio",
    "largest_loss_ratio",
    "lowest_ratio_after_peak",
    "simulated_final_ratio",
    "spikes",
    "start_ratio",
]

NAN = float("nan")
LEVEL = 4.0  # of both theories: above it gradient descent diverges


@measure()
def start_ratio(run: Outcome) -> float:
    """Sharpness of the first step over its critical value."""
    if run.simulation is None:
        return float(run.sharpness[run.first_step] / run.critical)
    plan = run.simulation
    return float(arrow_sharpness(plan.state, plan.beta, plan.alpha)) * plan.lr / 2.0


@measure()
def simulated_final_ratio(run: Outcome) -> float:
    """Sharpness at the end of gradient descent on the two-layer model over 2/lr; NaN where it diverged."""
    return float(run.history["final_sharpness"]) * _plan(run).lr / 2.0


@measure()
def spikes(run: Outcome, rise: float = 1.5, until: int = 0) -> float:
    """Number of times the loss rises above ``rise`` times its smallest value so far, up to step ``until`` (0: all)."""
    loss = run.loss[run.first_step : until or None]
    above = loss > rise * np.minimum.accumulate(loss)
    return float((np.diff(above.astype(int), prepend=0) == 1).sum())


@measure()
def largest_loss_ratio(run: Outcome) -> float:
    """Largest loss over that of the first step; inf where the run diverged."""
    loss = run.loss[run.first_step :]
    return float("inf") if run.diverged else float(np.nanmax(loss) / loss[0])


@measure(needs=("sharpness", "critical"))
def lowest_ratio_after_peak(run: Outcome, until: int = 0) -> float:
    """Smallest sharpness over its critical value after the largest loss, up to step ``until`` (0: of all)."""
    peak = run.first_step + int(np.nanargmax(run.loss[run.first_step : until or None]))
    return float(np.nanmin(run.sharpness[peak : until or None]) / run.critical)


@measure(several=True, needs=("sharpness",))
def boundary_of_start(runs: Sequence[Outcome]) -> float:
    r"""Step size beyond which the runs of a grid diverge, in units of 2/S(0); NaN where the grid does not hold it.

    The geometric mean of the last step size before and the first one at which a run diverged. All must have the same
    start.
    """
    between = _boundary(runs, [run.config.lr for run in runs])
    return between * float(runs[0].sharpness[runs[0].first_step]) / 2.0


@measure(several=True)
def boundary_ratio(runs: Sequence[Outcome]) -> float:
    r"""The same of simulated runs, over the step size that theory gives; NaN where the grid does not hold it.

    Theory: ``boundary_level`` = 4 where u = 0 (exact), else ``catapult_level`` = 4, which has the opposing direction
    alone and is exact up to what the others do meanwhile, O(β/α).
    """
    plans = [_plan(run) for run in runs]
    return _boundary(runs, [plan.lr for plan in plans]) / _theory(plans[0])


def _boundary(runs: Sequence[Outcome], rates: Sequence[float]) -> float:
    ordered = sorted(zip(rates, (run.diverged for run in runs), strict=True))
    first = next((k for k, (_, gone) in enumerate(ordered) if gone), 0)
    return float(np.sqrt(ordered[first - 1][0] * ordered[first][0])) if first else NAN


def _plan(run: Outcome) -> SimulationPlan:
    if run.simulation is None:
        raise ValueError(f"this measure is of simulated runs, {run.name} is trained; choose another measure")
    return run.simulation


def _theory(plan: SimulationPlan) -> float:
    if plan.u != 0:
        return LEVEL / float(catapult_level(plan.c, plan.u, 1.0, plan.alpha))  # linear in lr
    start = (plan.c, plan.b_par, plan.b_perp)
    most = (2 - 1e-12) / plan.beta
    found: Any = brentq(lambda lr: float(boundary_level(*start, lr, plan.beta)) - LEVEL, 1e-12, most)
    return float(found)
