"""Measures of the predicted tokens that a pair is made of: what stands before them, and what follows."""

from collections import Counter
from typing import Any

import numpy as np

from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

from .groups import DRAWS, find_pair, group_opposition, group_sets

__all__ = ["continuation_opposition", "other_continuation", "shared_context"]

NAN = float("nan")
LEAST = 5


def _tokens(run: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """The token before each prediction, and the one predicted, both shape (n,)."""
    data = run.trained.dataset
    if data.kind != "tokens":
        raise ValueError(f"this measure is of data of kind tokens, {run.name} has {data.kind}; choose another measure")
    return data.inputs.reshape(-1), data.targets.reshape(-1)


def _meetings(run: Outcome, groups: str, *how: Any) -> list[tuple[float, float]]:
    """Per set of groups: chance that a token of each share their context, and that they share it and the target."""
    pair = find_pair(run, *how)
    if pair is None:
        return []
    before, target = _tokens(run)
    rows = []
    for sets in group_sets(pair, run.losses[pair.start - run.first_step], groups):
        chances = []
        for label in (before, before * (1 + target.max()) + target):
            one, other = (Counter(label[group].tolist()) for group in sets)
            met = sum(count * other[value] for value, count in one.items())
            chances.append(met / (len(sets[0]) * len(sets[1])))
        rows.append((chances[0], chances[1]))
    return rows


@measure(needs=("losses",))
def shared_context(
    run: Outcome, groups: str = "pair", window: int = 60, after: int = 40, outliers: bool = True
) -> float:
    """Chance that a token of one group and one of the other follow the same token.

    Args:
        run: A run on text.
        groups: "pair", or as many "random" or "matched" other tokens (mean over 20 draws).
        window, after, outliers: See ``groups.find_pair``.
    """
    rows = _meetings(run, groups, window, after, outliers)
    return float(np.mean([context for context, _ in rows])) if rows else NAN


@measure(needs=("losses",))
def other_continuation(
    run: Outcome, groups: str = "pair", window: int = 60, after: int = 40, outliers: bool = True
) -> float:
    """Chance that two such tokens which follow the same one differ; arguments as of `shared_context`."""
    rows = _meetings(run, groups, window, after, outliers)
    context, both = np.sum(rows, axis=0) if rows else (0.0, 0.0)
    return float(1 - both / context) if context else NAN


@measure(needs=("losses",))
def continuation_opposition(run: Outcome, context: str = ":", split: str = "continuation") -> float:
    r"""Minus the correlation of the loss changes of the two most frequent continuations of one token, after the onset.

    $-\mathrm{corr}(\Delta\bar\ell_1, \Delta\bar\ell_2)$ from step to step: 1 where one rises as the other falls. NaN
    without onset, or where fewer than two continuations occur five times.

    Args:
        run: A run on text.
        context: The token before, as text.
        split: "continuation", or "random": the same tokens in two groups of the same sizes, whatever follows (mean
            over 20 draws).
    Raises:
        ValueError: If the text lacks the token, or the split is unknown.
    """
    names, (before, target) = run.trained.dataset.class_names, _tokens(run)
    if context not in names or split not in ("continuation", "random"):
        wrong = f"{context!r} and {split!r}"
        raise ValueError(f'context must be a token of the text and split "continuation" or "random", got {wrong}')
    here = np.flatnonzero(before == names.index(context))
    common = [value for value, count in Counter(target[here].tolist()).most_common(2) if count >= LEAST]
    if run.onset is None or len(common) < 2:
        return NAN
    groups = [here[target[here] == value] for value in common]
    sets = [(groups[0], groups[1])]
    if split == "random":
        rng, both = np.random.default_rng(0), np.concatenate(groups)
        drawn = [rng.permutation(both) for _ in range(DRAWS)]
        sets = [(order[: len(groups[0])], order[len(groups[0]) :]) for order in drawn]
    losses = run.losses[run.onset - run.first_step :]
    return float(np.mean([group_opposition(losses, pair) for pair in sets]))
