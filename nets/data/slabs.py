r"""Two predictive features, a simple and a complex one: a line and slabs (Shah et al. 2020, arXiv 2006.07710)."""

import numpy as np

from .dataset import DataError, Dataset

__all__ = ["slabs"]

WIDTH = 2.0  # of the range [-1, 1] of both features


def slabs(
    n_examples: int,
    *,
    slabs: int = 5,
    noise: int = 18,
    margin: float = 0.1,
    agree: float = 1.0,
    seed: int = 0,
) -> Dataset:
    r"""Rows (simple feature, complex feature, noise) of two classes with signs s = ±1; either feature may suffice.

    - Simple: $x_0 = r\,t$, t uniform in [margin, 1], r = s with probability ``agree``, else −s: one threshold.
    - Complex: $x_1$ uniform in one of the k equal slabs of [−1, 1], class 1 in the even ones (counted from 0), class 0
      in the odd ones, each without ``margin`` of its width at both sides. It always tells the class, by k − 1
      thresholds; k is odd, so its mean is 0 in both classes.
    - Noise: independent standard normal numbers.

    An example depends on the seed and its index alone, not on how many follow.

    Args:
        n_examples: Number of examples.
        slabs: k, odd and ≥ 3.
        noise: Number of noise features.
        margin: Distance kept from the thresholds, in (0, 0.5): of 0 in $x_0$, and as a share of a slab in $x_1$.
        agree: Share of examples whose simple feature tells the class; 0.5: it tells nothing.
        seed: Seed.
    Returns:
        Float64 data of shape (n, 2 + noise); ``truth`` has ``agrees`` (n,) bool and ``slab`` (n,) int64.
    Raises:
        DataError: If an argument is out of range.
    """
    checks = (
        ("slabs", slabs, slabs >= 3 and slabs % 2 == 1, "odd and at least 3"),
        ("noise", noise, noise >= 0, ">= 0"),
        ("margin", margin, 0 < margin < 0.5, "in (0, 0.5)"),
        ("agree", agree, 0 <= agree <= 1, "in [0, 1]"),
    )
    for name, value, good, requirement in checks:
        if not good:
            raise DataError(f"{name} must be {requirement}, got {value!r}; pass another {name}")
    draws = np.random.default_rng([seed, 0]).random((n_examples, 5))
    labels = (draws[:, 0] < 0.5).astype(np.int64)
    agrees = draws[:, 1] < agree
    simple = np.where(agrees, 1, -1) * (2 * labels - 1) * (margin + (1 - margin) * draws[:, 2])
    of_class = np.where(labels == 1, slabs // 2 + 1, slabs // 2)
    slab = 2 * np.floor(draws[:, 3] * of_class).astype(np.int64) + (1 - labels)
    complex_ = -1 + WIDTH / slabs * (slab + margin + (1 - 2 * margin) * draws[:, 4])
    rest = np.random.default_rng([seed, 1]).standard_normal((n_examples, noise))
    inputs = np.concatenate([simple[:, None], complex_[:, None], rest], axis=1)
    truth = {"agrees": agrees, "slab": slab}
    return Dataset(inputs, labels, 2, None, "slabs", ("odd", "even"), truth=truth)
