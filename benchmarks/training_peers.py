"""The training loops that ``training.py`` compares with: a plain one, and the way of the edge-of-stability code.

Both train the same network on the same data with gradient descent and keep the loss of every example at every step.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from nets.architectures.norms import BatchNorm, GroupNorm, LayerNorm
from nets.architectures.transformer import Attention

__all__ = ["chunked_loop", "native", "plain_loop"]

Loss = Callable[[Tensor, Tensor], Tensor]
Loop = Callable[[], np.ndarray]


class FusedAttention(nn.Module):
    """`Attention` with the fused kernel, which has no second derivative."""

    def __init__(self, part: Attention) -> None:
        super().__init__()
        self.qkv, self.out, self.heads, self.causal = part.qkv, part.out, part.heads, part.causal

    def forward(self, x: Tensor) -> Tensor:
        n, t, size = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, size // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).reshape(n, t, size))


def native(module: nn.Module) -> nn.Module:
    """A copy with PyTorch's own normalisations and attention, whose higher derivatives are missing or wrong."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, Attention):
                setattr(parent, name, FusedAttention(part))
                continue
            if isinstance(part, BatchNorm):
                other: nn.Module = nn.BatchNorm2d(part.weight.numel(), part.eps, track_running_stats=False)
            elif isinstance(part, GroupNorm):
                other = nn.GroupNorm(part.groups, part.weight.numel(), part.eps)
            elif isinstance(part, LayerNorm):
                other = nn.LayerNorm(tuple(part.weight.shape), part.eps)
            else:
                continue
            other.weight, other.bias = part.weight, part.bias
            setattr(parent, name, other)
    return module


def plain_loop(module: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, lr: float, *, compiled: bool) -> Loop:
    """One forward pass, one backward pass, one step; channels-last weights where there are convolutions."""
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(module.parameters(), lr=lr, foreach=True)

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return loss(module(x), y)

    run = torch.compile(forward) if compiled else forward

    def step() -> np.ndarray:
        optimizer.zero_grad(set_to_none=True)
        values = run(inputs, targets)
        values.mean().backward()
        optimizer.step()
        return values.detach().numpy()

    return step


def chunked_loop(module: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, lr: float, *, chunk: int) -> Loop:
    """As ``gd.py`` of github.com/locuslab/edge-of-stability works.

    A loader over a TensorDataset gives the chunks; the losses come from a forward pass of their own; the gradient is
    accumulated chunk by chunk.
    """
    optimizer = torch.optim.SGD(module.parameters(), lr=lr)
    dataset = TensorDataset(inputs, targets)

    def chunks():
        return DataLoader(dataset, batch_size=chunk, shuffle=False)

    def step() -> np.ndarray:
        with torch.no_grad():
            values = torch.cat([loss(module(x), y) for x, y in chunks()])
        optimizer.zero_grad()
        for x, y in chunks():
            (loss(module(x), y).sum() / len(values)).backward()
        optimizer.step()
        return values.numpy()

    return step
