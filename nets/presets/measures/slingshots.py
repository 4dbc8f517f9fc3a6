"""Measures of slingshots: spikes of a training loss that was near 0, and what leads them."""

import itertools

import numpy as np

from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

__all__ = [
    "accuracy_gain",
    "find_spikes",
    "late_spikes",
    "leading_class",
    "leading_share",
    "spike_irregularity",
    "spike_spacing",
]

NAN = float("nan")
APART = 50  # steps


def find_spikes(loss: np.ndarray, low: float, high: float, apart: int = APART) -> list[tuple[int, int]]:
    """First step above ``high`` and peak of every spike: from a loss below ``low`` to above ``high``, and back below.

    One that begins less than ``apart`` steps after the end of the last one belongs to it.
    """
    found: list[tuple[int, int]] = []
    fallen, begin, peak, end = False, -1, -1, -apart
    for n, value in enumerate(loss):
        if not np.isfinite(value):
            break
        if begin < 0:
            fallen = fallen or value < low
            if fallen and value > high:
                begin = peak = n
            continue
        peak = n if value > loss[peak] else peak
        if value < low:
            if begin - end < apart:
                begin, last = found.pop()
                peak = last if loss[last] > loss[peak] else peak
            found.append((begin, peak))
            begin, end = -1, n
    return found


@measure(needs=("trained",))
def late_spikes(run: Outcome, low: float = 1e-4, high: float = 1e-2) -> float:
    """Number of times that the loss rises from below ``low`` to above ``high`` and falls below ``low`` again."""
    return float(len(find_spikes(run.loss, low, high)))


def _spacings(run: Outcome, low: float, high: float) -> np.ndarray:
    return np.diff([begin for begin, _ in find_spikes(run.loss, low, high)])


@measure(needs=("trained",))
def spike_spacing(run: Outcome, low: float = 1e-4, high: float = 1e-2) -> float:
    """Mean number of steps between the beginnings of successive spikes; NaN with fewer than two."""
    spacings = _spacings(run, low, high)
    return float(spacings.mean()) if spacings.size else NAN


@measure(needs=("trained",))
def spike_irregularity(run: Outcome, low: float = 1e-4, high: float = 1e-2) -> float:
    """Standard deviation of the spacings of spikes over their mean (1: at random); NaN with fewer than three spikes."""
    spacings = _spacings(run, low, high)
    return float(spacings.std() / spacings.mean()) if spacings.size > 1 else NAN


def _leaders(
    run: Outcome, share: float, window: int, earlier: int, low: float, high: float
) -> list[tuple[float, float]]:
    """For each spike the two measures below, of the step before it in which they hold most."""
    targets = run.history["target"].values
    begins = [begin for begin, _ in find_spikes(run.loss, low, high)]
    found = []
    for last, begin in itertools.pairwise([0, *begins]):
        start = begin - earlier - window
        if start < last + APART:
            continue
        losses = run.losses[start : start + window]
        most = max(1, round(share * losses.shape[1]))
        order = np.argsort(-losses, axis=1)[:, :most]
        total = losses.sum(axis=1)
        largest = np.take_along_axis(losses, order, axis=1).sum(axis=1)
        held = np.divide(largest, total, out=np.zeros_like(total), where=total > 0)  # rounded to 0: nothing is held
        step = int(np.argmax(held))
        found.append((float(held[step]), float(np.bincount(targets[order[step]]).max() / most)))
    return found


@measure(needs=("losses",))
def leading_share(
    run: Outcome, share: float = 0.05, window: int = 8, earlier: int = 0, low: float = 1e-4, high: float = 1e-2
) -> float:
    """Most that the ``share`` of largest losses holds of the whole in ``window`` steps before a spike; mean.

    The window ends ``earlier`` steps before the loss passes ``high``. NaN without a spike that begins so many steps,
    and 50 more, after the last one.
    """
    found = _leaders(run, share, window, earlier, low, high)
    return float(np.mean([held for held, _ in found])) if found else NAN


@measure(needs=("losses",))
def leading_class(
    run: Outcome, share: float = 0.05, window: int = 8, earlier: int = 0, low: float = 1e-4, high: float = 1e-2
) -> float:
    """Part of the examples of ``leading_share`` that have their commonest class; mean over the spikes."""
    found = _leaders(run, share, window, earlier, low, high)
    return float(np.mean([part for _, part in found])) if found else NAN


@measure(needs=("held_out",))
def accuracy_gain(run: Outcome, low: float = 1e-4, high: float = 1e-2) -> float:
    """Held-out accuracy at the end less the last one before the first spike; NaN without a spike."""
    spikes = find_spikes(run.loss, low, high)
    accuracy = run.series("held_out_accuracy")
    if not spikes:
        return NAN
    before = accuracy[: spikes[0][0]]
    return float(accuracy[np.isfinite(accuracy)][-1] - before[np.isfinite(before)][-1])
