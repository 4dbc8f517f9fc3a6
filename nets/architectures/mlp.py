"""Fully connected networks, plain or normalised."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from .common import ACTIVATIONS, choice, seeded
from .norms import NORMS_1D, norm_1d

__all__ = ["mlp"]

SMOOTH_OR_KINKED = ("tanh", "relu")


def mlp(
    d_in: int,
    widths: Sequence[int],
    d_out: int,
    *,
    activation: str = "tanh",
    norm: str = "none",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    r"""Multilayer perceptron $x \mapsto W_L \phi(\dots \phi(W_1 x + b_1)) + b_L$, (n, d_in) → (n, d_out).

    Weights are PyTorch's default, uniform within $\pm 1/\sqrt{\text{fan-in}}$, drawn in float32 and then
    cast, so that float32 and float64 start from the same numbers. The global random state is untouched.
    With a norm, $\phi(W x + b)$ becomes $\phi(\mathrm{norm}(W x + b))$ in every hidden layer; the weights $W, b$
    are those of the plain network of the same seed.

    Args:
        d_in: Input dimension.
        widths: Hidden widths; empty for a linear model.
        d_out: Output dimension.
        activation: "tanh" or "relu".
        norm: "none", "layer" (LayerNorm) or "batch" (BatchNorm with the statistics of the given batch).
        seed: Seed of the initial weights.
        dtype: Type of the parameters.
    Raises:
        ValueError: If the activation or the norm is unknown.
    """
    choice("activation", activation, SMOOTH_OR_KINKED)
    choice("norm", norm, NORMS_1D)
    sizes = [d_in, *widths, d_out]
    layers: list[nn.Module] = []
    with seeded(seed):
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            if i > 0:
                layers += [] if norm == "none" else [norm_1d(norm, fan_in)]
                layers.append(ACTIVATIONS[activation]())
            layers.append(nn.Linear(fan_in, fan_out, dtype=torch.float32))
    return nn.Sequential(*layers).to(dtype)
