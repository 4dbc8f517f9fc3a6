"""Measures around the largest oscillation of a run: its amplitude and the sharpness, before and after."""

import numpy as np

from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

__all__ = ["amplitude_rise", "sharpness_turn", "spike_step"]

NAN = float("nan")
NEAR = 10  # steps averaged, up to a moment
LATER = 20  # last step looked at after a moment


def spike_step(run: Outcome) -> int | None:
    """Step of the largest |amplitude| along the top eigenvector after the onset, 20 steps before the end or earlier."""
    if run.onset is None:
        return None
    size = np.abs(run.series("oscillation")[run.onset : -LATER])
    return run.onset + int(np.nanargmax(size)) if np.isfinite(size).any() else None


def _around(values: np.ndarray, step: int) -> tuple[float, float]:
    """Mean over the ten steps up to ``step``, and over the 10th to 20th after it; what was not measured is left out."""
    return float(np.nanmean(values[step - NEAR + 1 : step + 1])), float(np.nanmean(values[step + NEAR : step + LATER]))


@measure()
def amplitude_rise(run: Outcome, at: str = "spike") -> float:
    """Amplitude of the oscillation over that of the twenty steps before the onset; NaN without onset.

    Args:
        run: A run with the sharpness of enough steps, since the amplitude is known at those alone.
        at: "spike": over the ten steps up to its largest value; "after": over the 10th to 20th step after.
    """
    step = spike_step(run)
    if at not in ("spike", "after"):
        raise ValueError(f'at must be "spike" or "after", got {at!r}; choose one of them')
    if step is None or run.onset is None:
        return NAN
    size = np.abs(run.series("oscillation"))
    before = float(np.nanmean(size[max(0, run.onset - 20) : run.onset]))
    return _around(size, step)[at == "after"] / before


@measure()
def sharpness_turn(run: Outcome, at: str = "spike") -> float:
    """Sharpness 10 to 20 steps after the largest amplitude over that of the ten steps up to it; NaN without onset.

    Args:
        run: As of `amplitude_rise`.
        at: "spike", or "elsewhere": the mean of the same over all other steps from the onset on.
    """
    step = spike_step(run)
    if at not in ("spike", "elsewhere"):
        raise ValueError(f'at must be "spike" or "elsewhere", got {at!r}; choose one of them')
    if step is None or run.onset is None:
        return NAN
    steps = [step] if at == "spike" else range(run.onset, len(run.loss) - LATER)
    pairs = [_around(run.sharpness, n) for n in steps if at == "spike" or n != step]
    return float(np.mean([after / before for before, after in pairs])) if pairs else NAN
