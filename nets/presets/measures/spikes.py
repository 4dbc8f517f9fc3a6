"""Measures around the spike of a run: amplitude of the oscillation and sharpness, before and after."""

import numpy as np

from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

__all__ = ["amplitude_rise", "sharpness_turn", "spike_step"]

NAN = float("nan")
NEAR = 10  # steps averaged, up to a moment
LATER = 20  # last step looked at after a moment


def spike_step(run: Outcome) -> int | None:
    r"""Step after the onset at which the oscillation's energy $\tfrac12 S x^2$ is the largest share of the loss.

    At least 20 steps before the end; None without onset. The energy is that of `analysis.oscillation.first_spike`.
    """
    if run.onset is None:
        return None
    share = (0.5 * run.sharpness * run.series("oscillation") ** 2 / run.loss)[run.onset : -LATER]
    return run.onset + int(np.nanargmax(share)) if np.isfinite(share).any() else None


def _around(values: np.ndarray, step: int) -> tuple[float, float]:
    """Mean over the ten steps up to ``step``, and over the 10th to 20th after it; what was not measured is left out."""
    parts = values[max(0, step - NEAR + 1) : step + 1], values[step + NEAR : step + LATER]
    upto, later = (float(np.nanmean(part)) if np.isfinite(part).any() else NAN for part in parts)
    return upto, later


@measure(needs=("sharpness", "critical"))
def amplitude_rise(run: Outcome, at: str = "spike") -> float:
    """Amplitude of the oscillation over that of 40 to 20 steps before the onset; NaN without onset.

    Args:
        run: A run with the sharpness of enough steps, since the amplitude is known at those alone.
        at: "spike": over the ten steps up to `spike_step`; "after": over the 10th to 20th step after.
    """
    step = spike_step(run)
    if at not in ("spike", "after"):
        raise ValueError(f'at must be "spike" or "after", got {at!r}; choose one of them')
    if step is None or run.onset is None:
        return NAN
    size = np.abs(run.series("oscillation"))
    before = size[max(0, run.onset - 2 * LATER) : max(0, run.onset - LATER)]
    if not np.isfinite(before).any():
        return NAN
    return _around(size, step)[at == "after"] / float(np.nanmean(before))


@measure(needs=("sharpness", "critical"))
def sharpness_turn(run: Outcome, at: str = "spike") -> float:
    """Sharpness 10 to 20 steps after the spike over that of the ten steps up to it; NaN without onset.

    Args:
        run: As of `amplitude_rise`.
        at: "spike", or "before": the mean of the same over the steps from the onset to 20 before it; NaN without any.
    """
    step = spike_step(run)
    if at not in ("spike", "before"):
        raise ValueError(f'at must be "spike" or "before", got {at!r}; choose one of them')
    if step is None or run.onset is None:
        return NAN
    steps = [step] if at == "spike" else range(run.onset, step - LATER)
    pairs = [_around(run.sharpness, n) for n in steps]
    return float(np.mean([after / before for before, after in pairs])) if pairs else NAN
