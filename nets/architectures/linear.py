"""The two-layer linear network, the trainable counterpart of the theory's model."""

import torch
from torch import nn

from .common import count, seeded

__all__ = ["two_layer_linear"]


def two_layer_linear(
    d_in: int, width: int, d_out: int, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    r"""$x \mapsto W_2 W_1 x$ without biases, (n, d_in) → (n, d_out).

    With ``width`` and ``d_out`` 1 it is $f = c\,b^\top x$ of the two-layer model of ``toymodels``: $b$ the first
    weight, shape (1, d_in), and $c$ the second, shape (1, 1). Weights are PyTorch's default.

    Args:
        d_in: Input dimension.
        width: Width of the hidden layer.
        d_out: Output dimension.
        seed: Seed of the initial weights.
        dtype: Type of the parameters.
    Raises:
        ValueError: If a size is not an integer ≥ 1.
    """
    for name, value in (("d_in", d_in), ("width", width), ("d_out", d_out)):
        count(name, value)
    with seeded(seed):
        layers = [nn.Linear(d_in, width, bias=False), nn.Linear(width, d_out, bias=False)]
    return nn.Sequential(*layers).to(dtype)
