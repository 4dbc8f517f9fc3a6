"""Measures of how far the sharpness falls and rises."""

from collections.abc import Sequence

import numpy as np

from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

__all__ = ["least_ascent", "most_sharpening", "sharpening"]

NAN = float("nan")


@measure(needs=("sharpness",))
def sharpening(run: Outcome) -> float:
    """Sharpness at the end over that of the first step."""
    return run.last_sharpness / float(run.sharpness[run.first_step])


@measure(several=True, needs=("sharpness",))
def most_sharpening(runs: Sequence[Outcome]) -> float:
    """Sharpness at the end over that of the first step, of the run of a grid that is furthest from 1."""
    return max((sharpening(run) for run in runs), key=lambda r: abs(np.log(r)), default=NAN)


@measure(several=True, needs=("sharpness",))
def least_ascent(*runs: Sequence[Outcome]) -> float:
    """Smallest ratio of the sharpness at the end to that of the run before, in the order given; above 1: it rises.

    Of several grids of one length: over entries at the same place of the grids.
    """
    return min((float(r) for r in ratios_to_the_one_before(runs)), default=NAN)


def ratios_to_the_one_before(runs: Sequence[Sequence[Outcome]]) -> list[float]:
    """End sharpness over that of the run before: within one grid, or between the grids given, place by place."""
    rows = [[run.last_sharpness for run in grid] for grid in runs]
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"grids must have one length, got {[len(row) for row in rows]}; compare others")
    table = np.array(rows if len(rows) > 1 else [[value] for value in rows[0]])
    return list((table[1:] / table[:-1]).reshape(-1))
