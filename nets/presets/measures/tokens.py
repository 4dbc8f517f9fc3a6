"""Measures of the predicted tokens that a pair is made of: what stands before them, and what follows."""

from collections import Counter
from typing import Any

import numpy as np

from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

from .groups import find_pair, group_sets

__all__ = ["other_continuation", "shared_context"]

NAN = float("nan")


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


@measure()
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


@measure()
def other_continuation(
    run: Outcome, groups: str = "pair", window: int = 60, after: int = 40, outliers: bool = True
) -> float:
    """Chance that two such tokens which follow the same one differ; arguments as of `shared_context`."""
    rows = _meetings(run, groups, window, after, outliers)
    context, both = np.sum(rows, axis=0) if rows else (0.0, 0.0)
    return float(1 - both / context) if context else NAN
