r"""What an intervention did to a run, and what was to be expected of it: outcomes, forecasts, effects over seeds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from analysis.oscillation import onset_step
from toymodels.validation import finite

__all__ = ["Effect", "Outcome", "crossing_forecast", "loss_spike", "measure_outcome", "paired_effect"]

AVERAGED = 5  # steps over which a sharpness is averaged: the oscillation has period 2
SLOPE_SHARE = 0.5  # the rate of sharpening is fitted to the last half of the steps so far


@dataclass(frozen=True)
class Outcome:
    """What is compared between runs (measured); None where the record does not show it.

    Args:
        sharpness: Mean over the five steps up to the compared step.
        onset: First step at which the sharpness reaches its critical value from below.
        spike: `loss_spike` over the whole record, loss units.
        final_loss: At the last step.
        accuracy: Share of the untouched training examples classified correctly at the end.
        held_out_accuracy: The same of examples that follow them in the data set.
        steps: Steps recorded.
    """

    sharpness: float | None
    onset: int | None
    spike: float
    final_loss: float
    accuracy: float | None
    held_out_accuracy: float | None
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; numbers that are not finite become null."""
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in asdict(self).items()}


def loss_spike(loss: ArrayLike) -> float:
    r"""Largest rise of the loss above an earlier value, $\max_{m \le n}(L_n - L_m)$; inf where it diverged."""
    values = np.asarray(loss, dtype=np.float64)
    if not np.isfinite(values).all():
        return float("inf")
    return float((values - np.minimum.accumulate(values)).max())


def measure_outcome(
    record: Mapping[str, np.ndarray],
    critical: float | None,
    at: int,
    accuracy: float | None = None,
    held_out_accuracy: float | None = None,
    first_step: int = 0,
) -> Outcome:
    """The outcome of one run.

    Args:
        record: Arrays ``loss`` and ``sharpness``, shape (steps,).
        critical: Critical sharpness, 2/η for gradient descent; None: there is no constant one, hence no onset.
        at: Step at which the sharpness is compared, as the run numbers its steps; without a row for it the outcome's
            sharpness is None.
        accuracy, held_out_accuracy: Passed on.
        first_step: Step number of the first row.
    """
    s = np.asarray(record["sharpness"], dtype=np.float64)
    row = at - first_step
    window = s[max(0, row - AVERAGED + 1) : row + 1] if 0 <= row < len(s) else s[:0]
    window = window[np.isfinite(window)]
    onset = None if critical is None else onset_step(s, 2.0 / critical)
    loss = np.asarray(record["loss"], dtype=np.float64)
    return Outcome(
        float(window.mean()) if window.size else None,
        None if onset is None else onset + first_step,
        loss_spike(loss),
        float(loss[-1]),
        accuracy,
        held_out_accuracy,
        len(s) + first_step,
    )


def crossing_forecast(sharpness: ArrayLike, critical: float, ratio: float = 1.0) -> float | None:
    r"""Step at which ``ratio`` times the sharpness reaches ``critical``, by a straight line (fitted to the past).

    The line goes through the last value with the least-squares slope of the last half of the record. A run whose
    sharpness is ``ratio`` times that of the record at every step is what an intervention is assumed to give. Sharpening
    is no straight line: the error of this step is larger than that of "no effect" in ``benchmarks/causality.py``.

    Args:
        sharpness: Record up to the step of the forecast, shape (steps,); NaN where it was not measured.
        critical: > 0.
        ratio: > 0; 1 forecasts the recorded run itself.
    Returns:
        The step, not rounded; None where the sharpness does not rise.
    """
    s = np.asarray(sharpness, dtype=np.float64)
    steps = np.flatnonzero(np.isfinite(s))
    if steps.size < 2 or not ratio > 0:
        raise ValueError(f"a forecast needs two values and a ratio > 0, got {steps.size} and {ratio}; train further")
    late = steps[steps >= min(int(len(s) * (1 - SLOPE_SHARE)), steps[-2])]
    slope = float(np.polyfit(late, s[late], 1)[0])
    last = steps[-1]
    return float(last + (critical / ratio - s[last]) / slope) if slope > 0 else None


class Effect(NamedTuple):
    """A paired difference over seeds.

    ``mean`` with its ``low`` and ``high`` (Student's interval, normal differences assumed), ``size``: mean over the
    standard deviation of the differences (Cohen's d_z; inf where they are all equal), ``n``: pairs.
    """

    mean: float
    low: float
    high: float
    size: float
    n: int


def paired_effect(treated: ArrayLike, control: ArrayLike, level: float = 0.95) -> Effect:
    """Mean of treated minus control over the same seeds, with an interval of the given level.

    Args:
        treated, control: Shape (seeds,), at least two.
        level: In (0, 1).
    """
    a, b = finite("treated", treated), finite("control", control)
    if a.shape != b.shape or a.ndim != 1 or a.size < 2:
        raise ValueError(f"an effect needs two vectors of one length >= 2, got {a.shape} and {b.shape}; run more seeds")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}; pass e.g. 0.95")
    d = a - b
    mean, deviation = float(d.mean()), float(d.std(ddof=1))
    half = float(stats.t.ppf(0.5 + level / 2, d.size - 1)) * deviation / float(np.sqrt(d.size))
    size = mean / deviation if deviation > 0 else (0.0 if mean == 0 else float(np.copysign(np.inf, mean)))
    return Effect(mean, mean - half, mean + half, size, d.size)
