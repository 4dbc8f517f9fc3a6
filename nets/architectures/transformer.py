"""The transformer block, pre-norm, with attention written out so that every derivative of it exists."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .common import ACTIVATIONS, choice, count
from .kernels import fused
from .norms import LayerNorm

__all__ = ["Attention", "Block", "initialise"]

INITIAL_STD = 0.02


class Attention(nn.Module):
    r"""Multi-head self-attention $\mathrm{softmax}(QK^\top/\sqrt{d/h})V$ per head, (n, T, d) → (n, T, d).

    Written as matrix products and a softmax: the fused kernels of ``scaled_dot_product_attention`` have neither
    double backward nor forward mode. They are used within `first_derivatives_only`.

    Args:
        size: Model dimension d.
        heads: Number of heads h, a divisor of d.
        causal: Whether a position sees only itself and earlier ones.
    Raises:
        ValueError: If the heads do not divide d.
    """

    def __init__(self, size: int, heads: int, causal: bool) -> None:
        super().__init__()
        if size % count("heads", heads):
            raise ValueError(f"heads must divide width, got {heads} for {size}; pass a divisor of {size}")
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        n, t, size = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, size // self.heads).permute(2, 0, 3, 1, 4)
        if fused():
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
            return self.out(mixed.transpose(1, 2).reshape(n, t, size))
        scores = q @ k.transpose(-1, -2) / math.sqrt(size // self.heads)
        if self.causal:
            later = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, size))


class Block(nn.Module):
    r"""$x \leftarrow x + \mathrm{attention}(\mathrm{LN}\,x)$, then $x \leftarrow x + W_2\phi(W_1\,\mathrm{LN}\,x)$.

    Args:
        size: Model dimension d; the hidden layer has 4d units.
        heads: Number of heads.
        causal: See `Attention`.
        activation: "gelu", "relu" or "tanh".
    """

    def __init__(self, size: int, heads: int, causal: bool, activation: str) -> None:
        super().__init__()
        choice("activation", activation, tuple(ACTIVATIONS))
        self.norm1 = LayerNorm(size)
        self.attention = Attention(size, heads, causal)
        self.norm2 = LayerNorm(size)
        self.up = nn.Linear(size, 4 * size)
        self.phi = ACTIVATIONS[activation]()
        self.down = nn.Linear(4 * size, size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(self.phi(self.up(self.norm2(x))))


def initialise(module: nn.Module, depth: int) -> None:
    r"""Initial weights of GPT-2: normal with σ = 0.02, biases 0, projections into the residual 0.02/√(2·depth)."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            residual = name.endswith(("attention.out", "down"))
            nn.init.normal_(part.weight, std=INITIAL_STD / math.sqrt(2 * depth) if residual else INITIAL_STD)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
