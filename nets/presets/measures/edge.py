"""Measures of the sharpness and of the edge of stability."""

import numpy as np

from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

__all__ = ["edge_ratio", "final_ratio", "highest_ratio", "lowest_ratio_of_start", "onset"]

NAN = float("nan")


def _needs(critical: float = 0.0, **others: object) -> tuple[str, ...]:
    return ("sharpness",) if critical else ("sharpness", "critical")


@measure(needs=("sharpness", "critical"))
def edge_ratio(run: Outcome, after: int = 0) -> float:
    """Mean of the sharpness over its critical value, from ``after`` steps beyond the onset to the end; NaN without one.

    Raises:
        ValueError: If the optimizer has no constant critical sharpness.
    """
    if run.onset is None:
        return NAN
    later = run.sharpness[run.onset + after :]
    later = later[np.isfinite(later)]
    return float(later.mean() / run.critical) if later.size else NAN


@measure(needs=("sharpness", "critical"))
def onset(run: Outcome) -> float:
    """First step whose sharpness reaches its critical value from below; NaN without one."""
    return NAN if run.onset is None else float(run.onset)


@measure(needs=_needs)
def highest_ratio(run: Outcome, critical: float = 0.0) -> float:
    """Largest sharpness over its critical value, that of the optimizer or the number given."""
    return float(np.nanmax(run.sharpness) / (critical or run.critical))


@measure(needs=_needs)
def final_ratio(run: Outcome, critical: float = 0.0, last: int = 20) -> float:
    """Mean sharpness of the last steps over its critical value, that of the optimizer or the number given."""
    return float(np.nanmean(run.sharpness[-last:]) / (critical or run.critical))


@measure(needs=("sharpness",))
def lowest_ratio_of_start(run: Outcome, until: int = 0) -> float:
    """Smallest sharpness up to step ``until`` (0: of all) over that of the first step."""
    series = run.sharpness[run.first_step : until or None]
    return float(np.nanmin(series) / series[0])
