"""Measures of the sharpness and of the edge of stability.

``effective``: of the observer "effective_sharpness" in the run's ``observers``, with the critical value that belongs to
it, and not of the record's sharpness at the iterates.
"""

import numpy as np

from analysis.oscillation import onset_step
from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

__all__ = [
    "edge_ratio",
    "final_over",
    "final_ratio",
    "highest_over",
    "highest_ratio",
    "lowest_ratio_of_start",
    "onset",
    "sharpness_at_loss",
]

NAN = float("nan")


def _needs(critical: float = 0.0, effective: bool = False, **others: object) -> tuple[str, ...]:
    if effective:
        return ("effective_sharpness",) if critical else ("effective_sharpness", "effective_critical")
    return ("sharpness",) if critical else ("sharpness", "critical")


@measure(needs=_needs)
def edge_ratio(run: Outcome, after: int = 0, effective: bool = False) -> float:
    """Mean of the sharpness over its critical value, from ``after`` steps beyond the onset to the end; NaN without one.

    Raises:
        ValueError: If the optimizer has no constant critical sharpness.
    """
    series, critical = _sharpness(run, effective)
    begin = onset_step(series, 2.0 / critical)
    if begin is None:
        return NAN
    later = series[begin + after :]
    later = later[np.isfinite(later)]
    return float(later.mean() / critical) if later.size else NAN


@measure(needs=_needs)
def onset(run: Outcome, effective: bool = False) -> float:
    """First step whose sharpness reaches its critical value from below; NaN without one."""
    series, critical = _sharpness(run, effective)
    begin = onset_step(series, 2.0 / critical)
    return NAN if begin is None else float(begin)


@measure(needs=_needs)
def highest_ratio(run: Outcome, critical: float = 0.0, effective: bool = False) -> float:
    """Largest sharpness over its critical value, that of the optimizer or the number given."""
    series, critical = _sharpness(run, effective, critical)
    return float(np.nanmax(series) / critical)


@measure(needs=_needs)
def highest_over(run: Outcome, other: Outcome, effective: bool = False) -> float:
    """Largest sharpness over the critical value of another run."""
    return highest_ratio(run, _sharpness(other, effective)[1], effective)


@measure(needs=_needs)
def final_over(run: Outcome, other: Outcome, last: int = 20, effective: bool = False) -> float:
    """Mean sharpness of the last steps over the critical value of another run."""
    return final_ratio(run, _sharpness(other, effective)[1], last, effective)


@measure(needs=_needs)
def final_ratio(run: Outcome, critical: float = 0.0, last: int = 20, effective: bool = False) -> float:
    """Mean sharpness of the last steps over its critical value, that of the optimizer or the number given."""
    series, critical = _sharpness(run, effective, critical)
    return float(np.nanmean(series[-last:]) / critical)


@measure(needs=("sharpness",))
def sharpness_at_loss(run: Outcome, loss: float = 0.3) -> float:
    """The first sharpness measured once the loss has fallen to ``loss``; NaN where it does not."""
    seen = np.flatnonzero(np.logical_or.accumulate(run.loss <= loss) & np.isfinite(run.sharpness))
    return float(run.sharpness[seen[0]]) if seen.size else NAN


@measure(needs=("sharpness",))
def lowest_ratio_of_start(run: Outcome, until: int = 0) -> float:
    """Smallest sharpness up to step ``until`` (0: of all) over that of the first step."""
    series = run.sharpness[run.first_step : until or None]
    return float(np.nanmin(series) / series[0])


def _sharpness(run: Outcome, effective: bool, critical: float = 0.0) -> tuple[np.ndarray, float]:
    """The series, shape (steps,), NaN where it was not measured, and its critical value: the one given, if not 0."""
    if not effective:
        return run.sharpness, critical or run.critical
    known = critical or run.config.critical_effective_sharpness
    if known is None:
        raise ValueError(f"this measure needs a constant critical sharpness, {run.name} has none; choose another")
    return run.series("effective_sharpness"), known
