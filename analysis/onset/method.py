r"""A method that forecasts the onset, and how each of them gets its intervals.

Hindcast: within the record so far, the method forecast earlier levels from earlier moments. The present forecast
goes from the share f of the critical sharpness to all of it; the hindcasts go from $f\ell$ to $\ell$, for levels
ℓ up to the present sharpness. Their errors $e = \log(\text{lead}/\text{lead forecast})$ are known, and the next one is
taken to be drawn like them: $\log\text{lead} = \log\text{lead forecast} + s\,t_k$ with s the root mean square of the k
errors and $t_k$ Student's distribution. Errors of one run are not independent, and the past may be easier than the
future: the coverage of these intervals is to be measured (``benchmarks/onset.py``), it is not guaranteed.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
from scipy import stats

from toymodels.validation import count

from .forecast import LEVELS, StepForecast
from .point import OnsetPoint

__all__ = ["Lead", "OnsetMethod"]

HORIZON = 2000  # steps looked ahead by default
HINDCASTS = 10  # levels
FEWEST = 3  # errors; below, shorter extrapolations are taken too
SHORTEST = 6  # steps of the rise that a hindcast must know
UNKNOWN = 1.0  # spread of log lead where no hindcast could be made: a factor e either way
ROUNDING = 1 / math.sqrt(12)  # deviation of a whole step


class Lead(NamedTuple):
    """Steps until the critical sharpness, not rounded; None: it is not reached. With the cost in gradients."""

    steps: float | None
    gradients: float = 0.0


class OnsetMethod(ABC):
    """Forecasts the onset of a run; subclasses say how many steps it is away."""

    name: ClassVar[str]
    assumptions: ClassVar[tuple[str, ...]]

    @abstractmethod
    def lead(self, point: OnsetPoint) -> Lead:
        """The method's own answer, without uncertainty."""

    def hindcasts(self, point: OnsetPoint) -> tuple[list[tuple[float, float | None]], float]:
        """Pairs (true lead, lead forecast at the time) of earlier levels, all known at the point; and their cost."""
        pairs: list[tuple[float, float | None]] = []
        cost, share = 0.0, point.share
        while len(pairs) < FEWEST and share < 0.99:
            for moment, level, came in hindcast_moments(point, share):
                found = self.lead(point.earlier(moment, level))
                pairs.append((came - moment, found.steps))
                cost += found.gradients
            share = math.sqrt(share)
        return pairs, cost

    def forecast(self, point: OnsetPoint, horizon: int = HORIZON) -> StepForecast:
        """The onset's step with its intervals.

        Where the method says "not reached", quantiles are infinite but for the share of hindcasts that said so wrongly
        (rule of succession); within that share every step up to the horizon is taken as equally likely.

        Args:
            point: The run so far.
            horizon: Most steps to look ahead; later ones count as not reached.
        """
        horizon = count("horizon", horizon)
        found = self.lead(point)
        pairs, cost = self.hindcasts(point)
        levels = np.array(LEVELS)
        errors = [math.log(came / said) for came, said in pairs if said is not None and said > 0]
        if found.steps is None:
            missed = (sum(said is None for _, said in pairs) + 1) / (len(pairs) + 2)
            leads, never = np.where(levels < missed, horizon * levels / missed, math.inf), 1 - missed
        else:
            lead = max(found.steps, 1e-9)
            spread = math.sqrt(np.mean(np.square(errors))) if errors else UNKNOWN
            spread = math.hypot(spread, ROUNDING / max(lead, 1.0))
            student = stats.t(max(len(errors), 1))
            with np.errstate(over="ignore"):
                leads = lead * np.exp(spread * student.ppf(levels))
            leads = np.where(leads > horizon, math.inf, leads)
            never = float(student.sf(math.log(horizon / lead) / spread))
        # the onset is the first whole step at or after the crossing; the little is for rounding
        steps = point.step + np.maximum(np.ceil(leads - 1e-6), 1.0)
        return StepForecast(
            point.step,
            tuple(float(q) for q in steps),
            horizon,
            self.name,
            (*self.assumptions, f"errors like those of {len(errors)} forecasts earlier in the same run"),
            found.gradients + cost,
            never,
            len(errors),
        )


def hindcast_moments(point: OnsetPoint, share: float) -> list[tuple[int, float, int]]:
    """Distinct (moment, level, step at which the level was reached), levels evenly spaced in the logarithm."""
    start, values = point.rise()
    least, now = float(values[0]), float(values[-1])
    found: dict[tuple[int, int], float] = {}
    if least < share * now:
        for level in np.geomspace(least / share, now, HINDCASTS + 1)[1:]:
            level = min(float(level), now)
            moment, came = point.reached(share * level), point.reached(level)
            if moment is None or came is None or moment - start[0] < SHORTEST or came <= moment:
                continue
            if float(point.sharpness[moment]) < level:
                found.setdefault((moment, came), level)
    return [(moment, level, came) for (moment, came), level in found.items()]
