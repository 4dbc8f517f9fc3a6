"""A GPT-style decoder (Radford et al. 2019): next-token logits at every position."""

import torch
from torch import Tensor, nn

from .common import count, seeded
from .norms import LayerNorm
from .transformer import INITIAL_STD, Block, initialise

__all__ = ["GPT", "gpt"]


class GPT(nn.Module):
    r"""Token and position embeddings, ``depth`` causal blocks, LayerNorm, head: (n, T) → (n, T, V).

    Args:
        vocabulary: Number of tokens V.
        context: Most positions T.
        width: Model dimension d.
        depth: Number of blocks.
        heads: Heads per block, a divisor of ``width``.
        activation: "gelu", "relu" or "tanh".
        tied: Whether the head is the token embedding (as in GPT-2) or a matrix of its own.
        last_only: Give the logits of the last position only, (n, T) → (n, V).
        d_out: Give the logits of the first so many tokens only, where the rest are no answers; None: all V.
    Raises:
        ValueError: If a size is no integer ≥ 1, or the heads do not divide the width.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        *,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        activation: str = "gelu",
        tied: bool = True,
        last_only: bool = False,
        d_out: int | None = None,
    ) -> None:
        super().__init__()
        sizes = {"vocabulary": vocabulary, "context": context, "width": width, "depth": depth}
        for name, value in sizes.items():
            count(name, value)
        if not 1 <= (d_out or vocabulary) <= vocabulary:
            raise ValueError(f"d_out must lie in 1..{vocabulary}, the vocabulary, got {d_out}; pass fewer")
        self.context, self.last_only, self.d_out = context, last_only, d_out
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(context, width))
        self.blocks = nn.Sequential(*(Block(width, heads, True, activation) for _ in range(depth)))
        self.norm = LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        initialise(self, depth)
        nn.init.normal_(self.positions, std=INITIAL_STD)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits.

        Args:
            tokens: Shape (n, T), integers in [0, V).
        Raises:
            ValueError: If T exceeds the context.
        """
        t = tokens.shape[1]
        if t > self.context:
            raise ValueError(f"tokens must have at most {self.context} positions, got {t}; pass a larger context")
        x = self.norm(self.blocks(self.tokens(tokens) + self.positions[:t]))
        return self.head(x[:, -1] if self.last_only else x)[..., : self.d_out]


def gpt(
    vocabulary: int,
    context: int,
    *,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    activation: str = "gelu",
    tied: bool = True,
    last_only: bool = False,
    d_out: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> GPT:
    """`GPT` with weights drawn from ``seed`` in float32 and cast to ``dtype``; arguments as there."""
    with seeded(seed):
        net = GPT(
            vocabulary,
            context,
            width=width,
            depth=depth,
            heads=heads,
            activation=activation,
            tied=tied,
            last_only=last_only,
            d_out=d_out,
        )
    return net.to(dtype)
