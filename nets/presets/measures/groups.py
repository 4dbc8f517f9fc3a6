"""Measures of the examples whose losses take turns: a pair of groups, held against other groups of the same sizes.

The pair is found in one window of steps (`analysis.detection`) and measured in the steps that follow it, so that what
is seen is not what it was chosen by.
"""

from typing import Any, NamedTuple

import numpy as np

from analysis.detection import detect_in_losses
from analysis.signals import separation
from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

__all__ = [
    "Pair",
    "agreement",
    "find_pair",
    "group_changes",
    "group_opposition",
    "group_sets",
    "opposition",
    "pair_size",
    "swing",
]

Other = Outcome | None  # the run a pair is found in; None: the one measured

NAN = float("nan")
DRAWS = 20
LEVEL = 0.05
HOP = 10
NEAREST = 10  # a matched example is one of so many whose loss is nearest to the member's


class Pair(NamedTuple):
    """Two groups of examples, and the steps after the window they were found in, as the run numbers them."""

    first: np.ndarray
    second: np.ndarray
    start: int
    stop: int


def find_pair(run: Outcome, window: int = 60, after: int = 40, outliers: bool = True) -> Pair | None:
    """The strongest pair of groups in the first window from the onset on that shows one; None without onset or pair.

    Args:
        run: A run of which every example's loss is recorded.
        window: Steps in which it is sought; windows begin every ten steps, each judged at the family-wise level 0.05.
        after: Steps that follow, for measuring; the record must hold them all.
        outliers: Whether the groups must be outliers; without it, whoever alternates most.
    """
    if run.onset is None:
        return None
    for begin in range(run.onset, len(run.loss) - window - after + 1, HOP):
        losses = run.losses[begin - run.first_step :][:window]
        for pair in detect_in_losses(losses, begin).significant(LEVEL, outliers):
            first, second = (np.array(group, dtype=np.int64) for group in pair.groups)
            if first.size and second.size:
                return Pair(first, second, begin + window, begin + window + after)
    return None


def group_sets(pair: Pair, losses: np.ndarray, groups: str, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pair itself, or groups of the same sizes of other examples.

    Args:
        pair: The pair.
        losses: Of all examples, by which "matched" ones are near, shape (n,).
        groups: "pair"; "random": drawn from all others; "matched": for each member one of the ten others whose loss is
            nearest to its own.
        seed: Of the draws.
    Raises:
        ValueError: If ``groups`` is none of these, or the pair leaves too few others.
    """
    if groups == "pair":
        return [(pair.first, pair.second)]
    members = np.concatenate([pair.first, pair.second])
    others = np.setdiff1d(np.arange(len(losses)), members)
    if groups not in ("random", "matched") or len(others) < len(members):
        wrong = f"{groups!r}, {len(members)} members, {len(others)} others"
        raise ValueError(f'groups must be "pair", "random" or "matched" with as many others, got {wrong}')
    rng = np.random.default_rng(seed)
    sets = []
    for _ in range(DRAWS):
        if groups == "random":
            drawn = rng.choice(others, len(members), replace=False)
        else:
            left, drawn = others, np.empty(len(members), dtype=np.int64)
            for k in rng.permutation(len(members)):
                near = np.argsort(np.abs(losses[left] - losses[members[k]]), kind="stable")[:NEAREST]
                place = rng.choice(near)
                drawn[k], left = left[place], np.delete(left, place)
        sets.append((drawn[: len(pair.first)], drawn[len(pair.first) :]))
    return sets


def _measured(
    run: Outcome, of: Other, groups: str, *how: Any
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]] | None:
    """Losses of the run in the steps after the window, shape (steps, n), and sets of groups; None without a pair."""
    pair = find_pair(of or run, *how)
    if pair is None or len(run.loss) < pair.stop or pair.start < run.first_step:
        return None
    losses = run.losses[pair.start - run.first_step : pair.stop - run.first_step]
    return (losses, group_sets(pair, losses[0], groups)) if np.isfinite(losses).all() else None


def group_changes(losses: np.ndarray, sets: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Change of the mean loss of each group from step to step, shape (2, steps - 1)."""
    return np.stack([np.diff(losses[:, group].mean(axis=1)) for group in sets])


def group_opposition(losses: np.ndarray, sets: tuple[np.ndarray, np.ndarray]) -> float:
    r"""Minus the correlation of the two groups' changes, $-\mathrm{corr}(\Delta\bar\ell_1, \Delta\bar\ell_2)$."""
    return -float(np.corrcoef(group_changes(losses, sets))[0, 1])


@measure(needs=("losses",))
def pair_size(run: Outcome, window: int = 60, after: int = 40, outliers: bool = True) -> float:
    """Number of examples in the strongest pair of groups found from the onset on; 0 without one."""
    pair = find_pair(run, window, after, outliers)
    return 0.0 if pair is None else float(len(pair.first) + len(pair.second))


@measure(needs=("losses",))
def opposition(
    run: Outcome, of: Other = None, groups: str = "pair", window: int = 60, after: int = 40, outliers: bool = True
) -> float:
    r"""Minus the correlation of the two groups' loss changes from step to step: 1 where one rises as the other falls.

    $-\mathrm{corr}(\Delta\bar\ell_1, \Delta\bar\ell_2)$ over the steps after the window in which the pair was found.

    Args:
        run: Whose losses.
        of: Run in which the pair is found; None: the same.
        groups: "pair", or as many "random" or "matched" other examples (mean over 20 draws).
        window, after, outliers: See `find_pair`.
    """
    measured = _measured(run, of, groups, window, after, outliers)
    if measured is None:
        return NAN
    return float(np.mean([group_opposition(measured[0], s) for s in measured[1]]))


@measure(needs=("losses",))
def swing(
    run: Outcome, of: Other = None, groups: str = "pair", window: int = 60, after: int = 40, outliers: bool = True
) -> float:
    r"""Root mean square change of a group's mean loss from step to step, both groups; arguments as of `opposition`."""
    measured = _measured(run, of, groups, window, after, outliers)
    if measured is None:
        return NAN
    return float(np.mean([np.sqrt(np.mean(group_changes(measured[0], s) ** 2)) for s in measured[1]]))


@measure(needs=("losses",))
def agreement(
    run: Outcome, of: Other = None, groups: str = "pair", window: int = 60, after: int = 40, outliers: bool = True
) -> float:
    """Chance that the loss of a member changes more from step to step than that of a matched other example.

    0.5: the members of the pair are no different in this run (area under the ROC curve; mean over 20 draws).
    """
    measured, others = (_measured(run, of, g, window, after, outliers) for g in (groups, "matched"))
    if measured is None or others is None:
        return NAN
    size = np.sqrt(np.mean(np.diff(measured[0], axis=0) ** 2, axis=0))
    mine, theirs = ([size[np.concatenate(s)] for s in sets] for _, sets in (measured, others))
    return float(np.mean([separation(mine[k % len(mine)], theirs[k]) for k in range(len(theirs))]))
