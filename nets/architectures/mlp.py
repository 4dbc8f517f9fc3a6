"""Fully connected networks, plain or normalised."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from .common import choice, seeded
from .norms import NORMS_1D, norm_1d

__all__ = ["mlp"]

PHI: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "linear": nn.Identity}
INITS = ("torch", "orthogonal")


def mlp(
    d_in: int,
    widths: Sequence[int],
    d_out: int,
    *,
    activation: str = "tanh",
    norm: str = "none",
    bias: bool = True,
    init: str = "torch",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    r"""Multilayer perceptron $x \mapsto W_L \phi(\dots \phi(W_1 x + b_1)) + b_L$, (n, d_in) → (n, d_out).

    Weights are PyTorch's default, uniform within $\pm 1/\sqrt{\text{fan-in}}$, drawn in float32 and then
    cast, so that float32 and float64 start from the same numbers. The global random state is untouched.
    With a norm, $\phi(W x + b)$ becomes $\phi(\mathrm{norm}(W x + b))$ in every hidden layer; the weights $W, b$
    are those of the plain network of the same seed.

    With activation "linear", widths of 1, no bias and one output it is the deep linear model of ``toymodels``:
    a vector and D − 1 scalars; orthogonal, it starts as the reference initialisation does, up to signs.

    Args:
        d_in: Input dimension.
        widths: Hidden widths; empty for a linear model.
        d_out: Output dimension.
        activation: "tanh", "relu" or "linear", φ(z) = z.
        norm: "none", "layer" (LayerNorm) or "batch" (BatchNorm with the statistics of the given batch).
        bias: Whether the layers have biases b.
        init: "torch" (PyTorch's, see above), or "orthogonal": each W has orthonormal rows or columns, whichever are
            fewer (Saxe et al. 2014), and each b is 0.
        seed: Seed of the initial weights.
        dtype: Type of the parameters.
    Raises:
        ValueError: If the activation, the norm or the initialisation is unknown.
    """
    choice("activation", activation, tuple(PHI))
    choice("norm", norm, NORMS_1D)
    choice("init", init, INITS)
    sizes = [d_in, *widths, d_out]
    layers: list[nn.Module] = []
    with seeded(seed):
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            if i > 0:
                layers += [] if norm == "none" else [norm_1d(norm, fan_in)]
                layers.append(PHI[activation]())
            layers.append(nn.Linear(fan_in, fan_out, bias=bias, dtype=torch.float32))
        if init == "orthogonal":
            for layer in layers:
                if isinstance(layer, nn.Linear):
                    nn.init.orthogonal_(layer.weight)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers).to(dtype)
