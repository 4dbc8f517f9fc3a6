"""Measures of data without outliers, such as points on a curve: the examples that alternate most, either way.

Found in one window of steps and measured in the steps that follow it.
"""

import numpy as np

from analysis.detection import detect_in_losses
from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

from .groups import group_opposition

__all__ = ["opposite_ends", "opposite_random", "strongest_ends"]

NAN = float("nan")
DRAWS = 50

Ends = tuple[np.ndarray, np.ndarray]


def strongest_ends(losses: np.ndarray, first_step: int, share: float, level: float = 0.05) -> Ends | None:
    """The ``share`` of examples with the largest weights of either sign, half of it each, in the strongest alternation.

    Args:
        losses: Of consecutive steps, shape (steps, n).
        first_step: Step of the first row.
        share: In (0, 1]; at least one example a side.
        level: Family-wise level at which the losses alternate with one phase (``Detection.significant``).
    Returns:
        Both groups; None where nothing alternates, or one side lacks the examples.
    """
    for pair in detect_in_losses(losses, first_step).significant(level, outliers=False):
        order, most = np.argsort(pair.weights), max(1, round(share * len(pair.weights) / 2))
        first, second = order[::-1][:most], order[:most]
        if pair.weights[first[-1]] > 0 > pair.weights[second[-1]]:
            return first, second
    return None


def _measured(run: Outcome, window: int, after: int, share: float) -> tuple[np.ndarray, Ends] | None:
    """Losses of the steps after the window from the onset on, and the groups found in it."""
    if run.onset is None or run.onset + window + after > len(run.loss):
        return None
    begin = run.onset - run.first_step
    ends = strongest_ends(run.losses[begin : begin + window], run.onset, share)
    return None if ends is None else (run.losses[begin + window : begin + window + after], ends)


@measure(needs=("sharpness", "critical", "losses"))
def opposite_ends(run: Outcome, window: int = 60, after: int = 40, share: float = 0.1) -> float:
    r"""Minus the correlation of the loss changes of the two groups that alternate most; NaN without any.

    The groups are found in the ``window`` steps from the onset on, each ``share``/2 of the examples, and their mean
    losses followed for the ``after`` steps that come next: 1 where one rises as the other falls.
    """
    measured = _measured(run, window, after, share)
    return NAN if measured is None else group_opposition(*measured)


@measure(needs=("sharpness", "critical", "losses"))
def opposite_random(run: Outcome, window: int = 60, after: int = 40, share: float = 0.1) -> float:
    """The same of 50 pairs of random groups of these sizes, on average; NaN where nothing alternates."""
    measured = _measured(run, window, after, share)
    if measured is None:
        return NAN
    losses, (first, second) = measured
    rng, found = np.random.default_rng(run.config.seed), []
    for _ in range(DRAWS):
        drawn = rng.permutation(losses.shape[1])[: len(first) + len(second)]
        found.append(group_opposition(losses, (drawn[: len(first)], drawn[len(first) :])))
    return float(np.mean(found))
