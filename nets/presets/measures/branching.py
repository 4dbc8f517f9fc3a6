"""Measures of two branches from one state, one at the edge of stability and one below it: who gains from the edge.

Both branches are compared at the same time lr * (steps since the fork), over the last quarter of the time that both
have: losses averaged over steps, so that an oscillation of period 2 cancels. The gain of some examples from the edge is
the logarithm of their mean loss below the edge over that at the edge.
"""

import numpy as np
import torch

from analysis.detection import detect_in_losses
from analysis.projection import group_gradient
from analysis.scoring import rank_correlation
from nets.forecasting import run_losses
from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

__all__ = ["class_gain_agreement", "class_gain_spread", "gain_by_alignment", "pair_gain"]

NAN = float("nan")
WINDOW = 40  # steps before the fork in which the pair is looked for
COMPARED = 0.25  # of the common time


@measure(needs=("losses",))
def pair_gain(edge: Outcome, stable: Outcome, parent: Outcome, others: bool = False) -> float:
    """Gain from the edge of the pair that the 40 steps before the fork show, or of all others; NaN without a pair.

    Args:
        edge, stable: The branches.
        parent: The run whose losses before the fork tell the pair.
        others: Of the examples that are no members.
    """
    fork = _fork(edge, stable)
    window = parent.losses[max(fork - WINDOW - parent.first_step, 0) : fork - parent.first_step]
    pairs = [pair for pair in detect_in_losses(window, max(fork - WINDOW, parent.first_step)).pairs if pair.members]
    if not pairs:
        return NAN
    chosen = np.isin(np.arange(window.shape[1]), pairs[0].members)
    return _gain(edge, stable, ~chosen if others else chosen)


@measure(needs=("losses",))
def class_gain_spread(edge: Outcome, stable: Outcome) -> float:
    """Standard deviation over the classes of their gains from the edge: 0 where it serves all alike."""
    return float(np.std(list(_class_gains(edge, stable).values())))


@measure(needs=("losses",))
def class_gain_agreement(edge: Outcome, stable: Outcome, other_edge: Outcome, other_stable: Outcome) -> float:
    """Rank correlation over the classes of their gains in one pair of branches with those in another pair."""
    pairs = (_class_gains(edge, stable), _class_gains(other_edge, other_stable))
    return rank_correlation(*(list(gains.values()) for gains in pairs))


@measure(needs=("losses", "sharpness"))
def gain_by_alignment(edge: Outcome, stable: Outcome) -> float:
    r"""Rank correlation over the classes of gain and $|\cos(g_G, v)|$ of a class's gradient with the top eigenvector.

    Both at the fork.

    References: Kwag et al. (2026), arXiv 2606.04212.
    """
    gains = _class_gains(edge, stable)
    fork = _fork(edge, stable)
    run = (edge if edge.first_step == fork else stable).trained
    state = run.state(fork)
    losses = run_losses(run)
    params = [p.detach() for p in run.problem.module_at(state.parameters).parameters()]
    targets = run.dataset.targets
    aligned = []
    for label in gains:
        gradient = group_gradient(losses, params, torch.as_tensor(np.flatnonzero(targets == label)))
        aligned.append(abs(float(gradient @ state.eigenvector)) / float(gradient.norm()))
    return rank_correlation(aligned, list(gains.values()))


def _fork(edge: Outcome, stable: Outcome) -> int:
    """Step of the fork: the first of the branch that is one."""
    fork = max(edge.first_step, stable.first_step)
    if fork == 0:
        raise ValueError(f"this measure is of a run and its fork, neither {edge.name} nor {stable.name} is one")
    return fork


def _late_losses(run: Outcome, fork: int, time: float) -> np.ndarray:
    """Mean losses of the examples over the last quarter of the time since the fork, shape (n,); NaN for one step."""
    rows = run.losses[fork - run.first_step :]
    end = min(round(time / run.config.lr), len(rows))
    if end < 2:
        return np.full(rows.shape[1], NAN)
    begin = min(round((1 - COMPARED) * time / run.config.lr), end - 2)
    return rows[begin : end - (end - begin) % 2].mean(axis=0)  # an even number of steps


def _gain(edge: Outcome, stable: Outcome, chosen: np.ndarray) -> float:
    fork = _fork(edge, stable)
    time = min(run.config.lr * (run.first_step + len(run.losses) - fork) for run in (edge, stable))
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = (_late_losses(run, fork, time)[chosen].mean() for run in (edge, stable))
        return float(np.log(high / low))


def _class_gains(edge: Outcome, stable: Outcome) -> dict[int, float]:
    targets = edge.trained.dataset.targets
    return {int(label): _gain(edge, stable, targets == label) for label in np.unique(targets)}
