"""A small vision transformer (Dosovitskiy et al. 2021), which averages over patches instead of a class token."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .common import count, image_size, seeded
from .norms import LayerNorm
from .transformer import INITIAL_STD, Block, initialise

__all__ = ["ViT", "vit"]


class ViT(nn.Module):
    r"""Linear embedding of patches, learned positions, ``depth`` blocks, LayerNorm, mean over patches, linear head.

    Args:
        image_shape: (h, w) or (h, w, c); input rows have h·w·c entries in that layout.
        d_out: Output dimension.
        patch: Side of a patch in pixels; divides h and w.
        width: Model dimension.
        depth: Number of blocks.
        heads: Heads per block, a divisor of ``width``.
        activation: "gelu", "relu" or "tanh".
    Raises:
        ValueError: If a size is no integer ≥ 1, or does not divide what it must.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        d_out: int,
        *,
        patch: int = 4,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        for name, value in (("d_out", d_out), ("patch", patch), ("width", width), ("depth", depth)):
            count(name, value)
        self.image_shape, self.patch = image_size(image_shape), patch
        h, w, c = self.image_shape
        if h % patch or w % patch:
            raise ValueError(f"patch must divide the image, got {patch} for {h}x{w}; pass a divisor of both sides")
        self.embed = nn.Linear(patch * patch * c, width)
        self.positions = nn.Parameter(torch.empty((h // patch) * (w // patch), width))
        self.blocks = nn.Sequential(*(Block(width, heads, False, activation) for _ in range(depth)))
        self.norm = LayerNorm(width)
        self.head = nn.Linear(width, d_out)
        initialise(self, depth)
        nn.init.normal_(self.positions, std=INITIAL_STD)

    def forward(self, rows: Tensor) -> Tensor:
        n, p = len(rows), self.patch
        h, w, c = self.image_shape
        patches = rows.reshape(n, h // p, p, w // p, p, c).transpose(2, 3).reshape(n, -1, p * p * c)
        x = self.norm(self.blocks(self.embed(patches) + self.positions))
        return self.head(x.mean(1))


def vit(
    image_shape: Sequence[int],
    d_out: int,
    *,
    patch: int = 4,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    activation: str = "gelu",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> ViT:
    """`ViT` with weights drawn from ``seed`` in float32 and cast to ``dtype``; arguments as there."""
    with seeded(seed):
        net = ViT(image_shape, d_out, patch=patch, width=width, depth=depth, heads=heads, activation=activation)
    return net.to(dtype)
