r"""How far a Ritz value may be from its eigenvalue, judged by residuals and by the doubt in products not renewed."""

import numpy as np

from .certificate import value_bounds

__all__ = ["RESTS", "estimated_errors", "scale"]

# fitted: on a tanh MLP at the edge 95 % of the errors were below three estimates; bounds from a check carry none
SAFETY = 3.0
RESTS = 0.1  # largest share of old products in a value that may be called converged: how they changed was not seen


def estimated_errors(
    values: np.ndarray, gram: np.ndarray, doubts: np.ndarray, shifts: np.ndarray, k: int, whole: bool
) -> np.ndarray:
    r"""Estimated relative errors of the k largest Ritz values (approximated; the safety factor is fitted).

    Args:
        values: Ritz values, largest first, shape (m,).
        gram: $R^\top R$ of the residuals of the first pairs, shape (b, b), k < b where there are more pairs.
        doubts: How far each $Hy_i$ may be off, shape (m,).
        shifts: How far that may move each value, shape (m,).
        k: Number of values wanted; those beyond m have the error inf.
        whole: Whether the space is the whole one: then only the shifts count.
    """
    block, found = len(gram), min(k, len(values))
    errors = np.full(k, np.inf)
    if whole:
        errors[:found] = SAFETY * shifts[:found] / scale(values[:found])
        return errors
    gram = gram + np.diag(doubts[:block] ** 2)
    # any of the values may be larger by its shift, also one that is not wanted and would then come first
    raised = values + shifts
    # the next Ritz value, as large as its own residual allows, stands for the rest of the spectrum
    rest = raised[:block] + np.sqrt(np.maximum(gram.diagonal(), 0))
    above = [
        value_bounds(raised[:s], gram[:s, :s], float(rest[s:].max()))[:found] - values[:found]
        for s in range(found, block)
    ]
    if above:
        errors[:found] = SAFETY * np.maximum(np.min(above, axis=0), 0) / scale(values[:found])
    return errors


def scale(values: np.ndarray) -> np.ndarray:
    """Magnitudes to divide by, never 0."""
    return np.maximum(np.abs(values), np.finfo(float).tiny)
