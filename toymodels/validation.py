"""Refusals with one clear line: the argument, the requirement, the value, the remedy."""

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["finite", "positive"]


def positive(name: str, value: ArrayLike) -> np.ndarray:
    """``value`` as float64, all entries finite and > 0.

    Raises:
        ValueError: Otherwise; NaN is refused too.
    """
    array = finite(name, value)
    if not (array > 0).all():
        bad = array[~(array > 0)].flat[0]
        raise ValueError(f"{name} must be positive, got {bad:g}; pass {name} > 0")
    return array


def finite(name: str, value: ArrayLike) -> np.ndarray:
    """``value`` as float64, all entries finite.

    Raises:
        ValueError: Otherwise.
    """
    array = np.asarray(value, dtype=np.float64)
    if not np.isfinite(array).all():
        bad = array[~np.isfinite(array)].flat[0]
        raise ValueError(f"{name} must be finite, got {bad}; pass a number")
    return array
