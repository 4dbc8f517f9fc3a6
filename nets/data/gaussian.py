r"""Data of the two-layer model: Gaussian features and an opposing one (Rosenfeld & Risteski 2024)."""

import numpy as np

from toymodels.model import TwoLayerLinear
from toymodels.network import draw_sample

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
        model = TwoLayerLinear(d1=d1, d2=d2, beta=beta, alpha=alpha, p=p, gamma=gamma)
        sample = draw_sample(model, n_examples, seed, whitened=whitened, delta=delta, direction=np.eye(d1)[0])
    except ValueError as error:
        raise DataError(str(error)) from error
    opposing = sample.projection[:, None] / np.sqrt(d2) * np.ones(d2)
    inputs = np.concatenate([sample.x, opposing], axis=1)
    sign = sample.groups.astype(np.int8)
    truth = {"carrier": sign != 0, "sign": sign}
    return Dataset(inputs, sample.target[:, None], 1, None, "gaussian", ("y",), kind="regression", truth=truth)
