"""Measures of spikes of the training loss."""

import numpy as np

from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

__all__ = ["find_spikes", "late_spikes", "spike_spacing"]

NAN = float("nan")


def find_spikes(loss: np.ndarray, level: float, factor: float) -> list[tuple[int, int]]:
    """First step and peak of every spike after the loss has first fallen below ``level``.

    A spike begins where the loss exceeds ``factor`` times the least since the last one, and ends where it has fallen
    below the square root of ``factor`` times the least before it, or where it has lost as much as it rose.
    """
    below = np.flatnonzero(loss < level)
    found: list[tuple[int, int]] = []
    if not below.size:
        return found
    least, peak, begin = np.inf, -1, -1
    for n in range(int(below[0]), len(loss)):
        value = loss[n]
        if not np.isfinite(value):
            break
        if peak < 0:
            least = min(least, value)
            if value > factor * least:
                begin = peak = n
            continue
        peak = n if value > loss[peak] else peak
        if value < np.sqrt(factor) * least or value * factor < loss[peak]:
            found.append((begin, peak))
            least, peak = value, -1
    return found


@measure()
def late_spikes(run: Outcome, level: float = 0.01, factor: float = 10.0) -> float:
    """Number of times that the loss, once below ``level``, rises by ``factor`` and falls again."""
    return float(len(find_spikes(run.loss, level, factor)))


@measure()
def spike_spacing(run: Outcome, level: float = 0.01, factor: float = 10.0) -> float:
    """Median number of steps between the peaks of successive spikes, see ``late_spikes``; NaN with fewer than two."""
    peaks = [peak for _, peak in find_spikes(run.loss, level, factor)]
    return float(np.median(np.diff(peaks))) if len(peaks) > 1 else NAN
