r"""Data of the two-layer model: Gaussian features and an opposing one (Rosenfeld & Risteski 2024)."""

import numpy as np

from toymodels.model import TwoLayerLinear

from .dataset import DataError, Dataset

__all__ = ["gaussian"]


def gaussian(
    n_examples: int,
    *,
    d1: int = 20,
    d2: int = 20,
    beta: float = 1.0,
    alpha: float = 100.0,
    p: float = 0.1,
    gamma: float = 0.0,
    delta: float = 0.0,
    whitened: bool = False,
    seed: int = 0,
) -> Dataset:
    r"""Inputs $(x, x_o)$ of shape (n, d1 + d2), targets $y = \beta^\top x + \gamma|1^\top x_o|$, shape (n, 1).

    $x \sim N(0, I)$; $x_o = s\sqrt{\alpha/(p d_2)}\,1$ with probability p, else 0; $P(s = 1) = (1+\delta)/2$; β along
    the first axis. ``whitened``: the sample moments are those of the population exactly: $\frac1n\sum xx^\top = I$, x
    uncorrelated with $x_o$ and $|x_o|$, $\frac1n\sum\|x_o\|^2 = \alpha$, and the two signs have
    round(np(1 ± δ)/2) examples each. Then the full-batch loss of $f = c(b^\top x + b_o^\top x_o)$ with δ = 0 is the
    model's reduced loss plus a constant, to rounding.

    Args:
        n_examples: Number of examples n.
        d1, d2, beta, alpha, p, gamma: Parameters of ``toymodels.TwoLayerLinear``.
        delta: Imbalance of the signs, in [−1, 1].
        whitened: See above; needs n ≥ d1 + 2.
        seed: Seed.
    Returns:
        Float64 data; ``truth`` has ``carrier`` (n,) bool, ``sign`` (n,) int8, 0 for those that carry nothing.
    Raises:
        DataError: If an argument is out of range.
    """
    try:
        TwoLayerLinear(d1=d1, d2=d2, beta=beta, alpha=alpha, p=p, gamma=gamma)
    except ValueError as error:
        raise DataError(str(error)) from error
    if not -1 <= delta <= 1:
        raise DataError(f"delta must lie in [-1, 1], got {delta}; pass the imbalance of the pair")
    n = n_examples
    normal, uniform, order = (np.random.default_rng([seed, k]) for k in range(3))
    x = normal.standard_normal((n, d1))
    if whitened:
        if n < d1 + 2:
            raise DataError(f"n_examples must be at least d1 + 2 = {d1 + 2} for whitened data, got {n}; pass more")
        plus, minus = (round(n * p * (1 + s * delta) / 2) for s in (1, -1))
        if plus + minus < 1 or plus + minus > n:
            raise DataError(f"p must give 1..{n} carriers among {n}, got {plus + minus}; pass more examples")
        sign = order.permutation(np.repeat([1, -1, 0], [plus, minus, n - plus - minus])).astype(np.int8)
        carrier = sign != 0
        amplitude = np.sqrt(alpha * n / carrier.sum())
        outliers = np.stack([carrier, sign], axis=1).astype(np.float64)
        if abs(int(sign.sum())) == carrier.sum():  # one sign only: the two columns are parallel
            outliers = outliers[:, :1]
        basis = np.linalg.qr(np.concatenate([outliers, x], axis=1))[0]
        x = basis[:, outliers.shape[1] :] * np.sqrt(n)
    else:
        draws = uniform.random((n, 2))
        carrier = draws[:, 0] < p
        sign = np.where(carrier, np.where(draws[:, 1] < (1 + delta) / 2, 1, -1), 0).astype(np.int8)
        amplitude = np.sqrt(alpha / p)
    opposing = (amplitude / np.sqrt(d2)) * sign[:, None] * np.ones(d2)
    targets = beta * x[:, :1] + gamma * np.abs(opposing.sum(axis=1, keepdims=True))
    inputs = np.concatenate([x, opposing], axis=1)
    truth = {"carrier": carrier, "sign": sign}
    return Dataset(inputs, targets, 1, None, "gaussian", ("y",), kind="regression", truth=truth)
