"""Measures of the examples whose labels are wrong."""

from collections.abc import Sequence

import torch

from analysis.curvature import attribute, flatten, top_eigenpair
from nets.forecasting import run_losses
from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

from .held_out import peak

__all__ = ["mislabelled_share"]


@measure(several=True, needs=("held_out",))
def mislabelled_share(runs: Sequence[Outcome], last: bool = False) -> float:
    r"""Part of the sharpness at the end that examples with wrong labels carry, over their part of the examples.

    $\sum_{i\in W} v^\top H_i v / \sum_i v^\top H_i v$, v the top Hessian eigenvector, of the run of a grid whose
    held-out error has its peak (`double_descent`), or of the ``last`` run; NaN without a peak.
    """
    place = len(runs) - 1 if last else peak(runs)
    if place is None:
        return float("nan")
    run, problem = runs[place].trained, runs[place].trained.problem
    wrong = problem.dataset.truth.get("noisy")
    if wrong is None or not wrong.any():
        raise ValueError(f"this measure needs wrong labels, {runs[place].name} has none; add label_noise to its data")
    params = [p.detach() for p in run.parameters().parameters()]
    theta = flatten(params)
    pair = top_eigenpair(problem.full_batch.evaluate(theta).product, torch.zeros_like(theta), tol=1e-3)
    members = torch.from_numpy(wrong).to(theta.device)
    return attribute(run_losses(run), params, pair.vector).share(members) / float(wrong.mean())
