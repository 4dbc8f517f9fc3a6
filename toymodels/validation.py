"""Refusals with one clear line: the argument, the requirement, the value, the remedy."""

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["count", "finite", "not_negative", "positive"]


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


def not_negative(name: str, value: ArrayLike) -> np.ndarray:
    """``value`` as float64, all entries finite and >= 0.

    Raises:
        ValueError: Otherwise.
    """
    array = finite(name, value)
    if (array < 0).any():
        raise ValueError(f"{name} must be >= 0, got {array.min():g}; pass {name} >= 0")
    return array


def count(name: str, value: object, least: int = 1) -> int:
    """``value`` as an integer of at least ``least``; True and 2.0 are none.

    Raises:
        ValueError: Otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}; pass {name} >= {least}")
    return int(value)
