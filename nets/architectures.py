"""Fully connected networks whose initial weights depend on the given seed alone."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

__all__ = ["mlp"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


def mlp(
    d_in: int,
    widths: Sequence[int],
    d_out: int,
    *,
    activation: str = "tanh",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    r"""Multilayer perceptron $x \mapsto W_L \phi(\dots \phi(W_1 x + b_1)) + b_L$, (n, d_in) → (n, d_out).

    Weights are PyTorch's default, uniform within $\pm 1/\sqrt{\text{fan-in}}$, drawn in float32 and then
    cast, so that float32 and float64 start from the same numbers. The global random state is untouched.

    Args:
        d_in: Input dimension.
        widths: Hidden widths; empty for a linear model.
        d_out: Output dimension.
        activation: "tanh" or "relu".
        seed: Seed of the initial weights.
        dtype: Type of the parameters.
    Raises:
        ValueError: If the activation is unknown.
    """
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation must be one of {known}, got {activation!r}; choose one of them")
    sizes = [d_in, *widths, d_out]
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            if i > 0:
                layers.append(ACTIVATIONS[activation]())
            layers.append(nn.Linear(fan_in, fan_out, dtype=torch.float32))
    return nn.Sequential(*layers).to(dtype)
