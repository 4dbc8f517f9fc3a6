"""One-dimensional regression on a Chebyshev polynomial, the small task of the edge-of-stability literature."""

import numpy as np

from .dataset import DataError, Dataset

__all__ = ["chebyshev"]


def chebyshev(n_examples: int, *, degree: int = 5) -> Dataset:
    r"""$y = T_k(x)$ at ``n_examples`` equidistant points of [−1, 1], ends included (Cohen et al. 2021).

    Args:
        n_examples: Number of points, ≥ 2.
        degree: k ≥ 0.
    Raises:
        DataError: If an argument is out of range.
    """
    if n_examples < 2:
        raise DataError(f"n_examples must be at least 2 for chebyshev, got {n_examples}; pass e.g. 20")
    if degree < 0:
        raise DataError(f"degree must be >= 0, got {degree}; pass e.g. 5")
    x = np.linspace(-1.0, 1.0, n_examples)
    y = np.polynomial.chebyshev.Chebyshev.basis(degree)(x)
    return Dataset(x[:, None], y[:, None], 1, None, "chebyshev", ("y",), kind="regression")
