r"""Oscillations in a recorded run: onset, amplitude, growth, period and spikes.

Gradient descent near the edge writes itself as $\theta_n = \bar\theta_n + (-1)^n x_n v_n$: a slow center and a
fast oscillation of amplitude x along the top eigenvector v. All functions here read recorded series; none
needs a model.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Spike", "demodulated_change", "first_spike", "growth_rate", "onset_step", "period"]


@dataclass(frozen=True)
class Spike:
    r"""A peak of the oscillation.

    Args:
        begin: First step of the rise at which $\tfrac12 S x^2$ exceeds the chosen share of the loss.
        peak: Step of the local maximum of |x|.
        height: |x| at the peak (parameter units).
    """

    begin: int
    peak: int
    height: float


def onset_step(sharpness: ArrayLike, lr: float, fraction: float = 1.0) -> int | None:
    r"""First step at which the sharpness reaches ``fraction`` of $2/\eta$; None if it never does.

    Only a crossing from below counts: a run that starts above the threshold has no onset before it has
    been below it. Values that are not finite (not measured) are passed over.

    Args:
        sharpness: Largest Hessian eigenvalue at each step, shape (steps,).
        lr: Step size η > 0.
        fraction: Share of the threshold; 0.75 is the approach used by the forecasts.
    """
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}; pass lr > 0")
    values = np.asarray(sharpness, dtype=np.float64)
    level = fraction * 2.0 / lr
    below = values < level  # NaN compares False: never counted as below
    armed = np.logical_or.accumulate(below)
    crossing = np.flatnonzero(armed & (values >= level))
    return int(crossing[0]) if crossing.size else None


def growth_rate(amplitude: ArrayLike, start: int, stop: int) -> float:
    r"""Growth of $\log|x|$ per step, the least-squares slope over steps ``start`` to ``stop`` inclusive (measured).

    Raises:
        ValueError: If the window holds fewer than two non-zero amplitudes.
    """
    x = np.abs(np.asarray(amplitude, dtype=np.float64)[start : stop + 1])
    steps = np.arange(start, start + x.size)
    good = np.isfinite(x) & (x > 0)
    if good.sum() < 2:
        raise ValueError(
            f"growth_rate needs two non-zero amplitudes in steps {start}..{stop}, got {int(good.sum())}; "
            "choose a window inside the record"
        )
    return float(np.polyfit(steps[good], np.log(x[good]), 1)[0])


def first_spike(
    amplitude: ArrayLike, sharpness: ArrayLike, loss: ArrayLike, start: int, share: float = 0.02
) -> Spike | None:
    r"""First peak of |x| at or after ``start`` whose energy $\tfrac12 S x^2$ exceeds ``share`` of the loss.

    Args:
        amplitude: Demodulated amplitude x, shape (steps,), either sign.
        sharpness: Largest Hessian eigenvalue S, shape (steps,).
        loss: Training loss, shape (steps,).
        start: Step from which to look, usually the onset.
        share: Smallest energy of a spike, as a share of the loss at that step.
    Returns:
        The spike, or None where the record ends before a peak.
    """
    x = np.abs(np.asarray(amplitude, dtype=np.float64))
    energy = 0.5 * np.asarray(sharpness, dtype=np.float64) * x**2
    large = energy >= share * np.asarray(loss, dtype=np.float64)
    begin = None
    for n in range(max(start, 1), x.size - 1):
        if not large[n]:
            begin = None
            continue
        begin = n if begin is None else begin
        if x[n] >= x[n - 1] and x[n] > x[n + 1]:
            return Spike(begin, n, float(x[n]))
    return None


def demodulated_change(example_loss: ArrayLike, start: int, stop: int) -> np.ndarray:
    r"""Period-2 part of every example's loss over steps ``start`` to ``stop`` inclusive (measured).

    $$d_i = \frac{1}{m}\sum_{n=start+1}^{stop-1} (-1)^n
      \frac{\ell_i(n+1) - 2\ell_i(n) + \ell_i(n-1)}{-4}$$

    The second difference removes a slow drift, so that an example which is merely badly fitted does not
    qualify; $(-1)^n$ makes the alternating part add up. Growing oscillations weight their largest steps most.

    Args:
        example_loss: Per-example losses, shape (steps, examples).
    Returns:
        Signed amplitude of the alternation, shape (examples,): $\ell_i(n) \approx$ drift $+ (-1)^n d_i$.
    """
    losses = np.asarray(example_loss, dtype=np.float64)
    if not (start >= 0 and stop - start >= 2 and stop < losses.shape[0]):
        raise ValueError(
            f"the window must hold at least 3 recorded steps, got {start}..{stop} of {losses.shape[0]}; widen it"
        )
    window = losses[start : stop + 1]
    second = window[2:] - 2 * window[1:-1] + window[:-2]
    parity = np.where(np.arange(start + 1, stop) % 2 == 0, 1.0, -1.0)
    return (parity @ second) / (-4.0 * second.shape[0])


def period(series: ArrayLike) -> float:
    r"""Dominant period, in steps, of a series after its slow drift is removed (periodogram; measured).

    A cubic is taken off as the drift; 2 is the flip of gradient descent at its edge.
    """
    values = np.asarray(series, dtype=np.float64)
    if values.size < 8 or not np.isfinite(values).all():
        raise ValueError(f"period needs at least 8 finite values, got {values.size}; pass a longer window")
    steps = np.linspace(-1.0, 1.0, values.size)
    rest = values - np.polynomial.Polynomial.fit(steps, values, 3)(steps)
    power = np.abs(np.fft.rfft(rest * np.hanning(values.size + 2)[1:-1], n=16 * values.size)) ** 2
    frequency = np.fft.rfftfreq(16 * values.size)
    power[frequency < 2.0 / values.size] = 0.0
    return float(1.0 / frequency[int(np.argmax(power))])
