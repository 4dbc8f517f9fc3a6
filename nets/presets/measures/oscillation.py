"""Measures of the oscillation: how large it is, in the parameters and in the losses, and what the gradient does."""

import numpy as np

from analysis.demodulation import demodulated_blocks
from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

__all__ = ["gradient_alignment", "group_oscillation", "oscillation_size"]

NAN = float("nan")


@measure(needs=("sharpness",))
def gradient_alignment(run: Outcome, after: int = 0, until: int = 0) -> float:
    r"""Mean $|\cos(g, v)|$ of gradient and top eigenvector from ``after`` to before ``until`` (0: the end).

    SAM's perturbation is along the gradient.
    """
    ratio = np.abs(run.series("grad_v") / run.series("grad_norm"))[after : until or None]
    return float(np.nanmean(ratio))


@measure(needs=("sharpness",))
def oscillation_size(run: Outcome, after: int = 0) -> float:
    """Root mean square of the amplitude along the top eigenvector, from step ``after`` to the end, parameter units."""
    x = run.series("oscillation")[after:]
    return float(np.sqrt(np.nanmean(x**2)))


@measure(needs=("losses",))
def group_oscillation(run: Outcome, after: int = 0, share: float = 0.05) -> float:
    r"""Size of the alternation in the losses of those that alternate most, over the mean loss, from step ``after``.

    The root mean square over blocks of four steps (``analysis.demodulation``) of each example, averaged over the
    ``share`` of examples where it is largest.
    """
    begin = max(after - run.first_step, 0)
    _, blocks = demodulated_blocks(run.losses[begin:], begin + run.first_step)
    if not len(blocks):
        return NAN
    size = np.sort(np.sqrt((blocks**2).mean(axis=0)))[::-1]
    most = max(1, round(share * size.size))
    return float(size[:most].mean() / run.losses[begin:].mean())
