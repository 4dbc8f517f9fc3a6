"""LayerNorm, BatchNorm and GroupNorm written out, because PyTorch's own lack derivatives.

The double backward of ``torch.nn.functional.layer_norm`` and ``batch_norm`` (as of PyTorch 2.13) takes the saved mean
and inverse deviation as constants: first and second derivatives are right, the third is silently wrong. The slope of
the sharpness, $\\nabla(v^\\top H v)$, is a third derivative. ``group_norm`` has no forward
mode for channels-last images. PyTorch's own are used within `first_derivatives_only`.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .common import choice
from .kernels import fused

__all__ = ["BatchNorm", "GroupNorm", "LayerNorm", "norm_1d", "norm_2d", "with_exact_norms"]

EPS = 1e-5
NORMS_1D = ("none", "layer", "batch")
NORMS_2D = ("none", "batch", "group")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _standardise(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()


class LayerNorm(nn.Module):
    r"""$\gamma (x - \bar x)/\sqrt{\mathrm{var}\,x + \epsilon} + \beta$ over the last dimensions of each example.

    Args:
        shape: The last dimensions, normalised together; also the shape of γ (1 at the start) and β (0).
        eps: ε.
    """

    def __init__(self, shape: int | tuple[int, ...], eps: float = EPS) -> None:
        super().__init__()
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.dims, self.eps = tuple(range(-len(shape), 0)), eps
        self.weight: nn.Parameter | None = nn.Parameter(torch.ones(shape))
        self.bias: nn.Parameter | None = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        if fused():
            return functional.layer_norm(x, x.shape[self.dims[0] :], self.weight, self.bias, self.eps)
        x = _standardise(x, self.dims, self.eps)
        x = x if self.weight is None else x * self.weight
        return x if self.bias is None else x + self.bias


class BatchNorm(nn.Module):
    r"""$\gamma (x - \bar x)/\sqrt{\mathrm{var}\,x + \epsilon} + \beta$ per channel of the given batch.

    The statistics are always those of the batch given, in training and evaluation: there are no running averages,
    and the parameters are the whole state. Input (n, channels, ...).

    Args:
        channels: Number of channels; γ starts at 1, β at 0.
        eps: ε.
    """

    def __init__(self, channels: int, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps
        self.weight: nn.Parameter | None = nn.Parameter(torch.ones(channels))
        self.bias: nn.Parameter | None = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if fused():
            return functional.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return _per_channel(_standardise(x, (0, *range(2, x.ndim)), self.eps), self.weight, self.bias)


class GroupNorm(nn.Module):
    r"""$\gamma (x - \bar x)/\sqrt{\mathrm{var}\,x + \epsilon} + \beta$, statistics per example and group of channels.

    Args:
        groups: Number of groups, a divisor of ``channels``.
        channels: Number of channels of the input (n, channels, ...); γ starts at 1, β at 0, one each per channel.
        eps: ε.
    """

    def __init__(self, groups: int, channels: int, eps: float = EPS) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight: nn.Parameter | None = nn.Parameter(torch.ones(channels))
        self.bias: nn.Parameter | None = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if fused():
            return functional.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        grouped = x.unflatten(1, (self.groups, -1))
        x = _standardise(grouped, tuple(range(2, grouped.ndim)), self.eps).flatten(1, 2)
        return _per_channel(x, self.weight, self.bias)


def _per_channel(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (1, -1, *[1] * (x.ndim - 2))
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


def norm_1d(norm: str, size: int) -> nn.Module:
    """Normalisation of (n, ``size``) features: "layer", "batch" or "none".

    Raises:
        ValueError: If the name is unknown.
    """
    choice("norm", norm, NORMS_1D)
    if norm == "layer":
        return LayerNorm(size)
    return BatchNorm(size) if norm == "batch" else nn.Identity()


def norm_2d(norm: str, size: int, groups: int = 32) -> nn.Module:
    """Normalisation of ``size`` channels of images: "batch", "group" or "none".

    GroupNorm uses the greatest number of groups that divides both ``groups`` and the channels.

    Raises:
        ValueError: If the name is unknown.
    """
    choice("norm", norm, NORMS_2D)
    if norm == "batch":
        return BatchNorm(size)
    return GroupNorm(math.gcd(groups, size), size) if norm == "group" else nn.Identity()


def with_exact_norms(module: nn.Module) -> nn.Module:
    """``module`` with every ``nn.LayerNorm``, ``nn.BatchNorm*d`` and ``nn.GroupNorm`` replaced by those of this file.

    Parameters are shared with the originals. A BatchNorm with running statistics is left as it is.
    """
    if type(module) is nn.LayerNorm:
        exact: nn.Module = LayerNorm(module.normalized_shape, module.eps)
    elif type(module) in BATCH_NORMS and not module.track_running_stats:
        exact = BatchNorm(module.num_features, module.eps)  # type: ignore[arg-type]
    elif type(module) is nn.GroupNorm:
        exact = GroupNorm(module.num_groups, module.num_channels, module.eps)
    else:
        for name, part in list(module.named_children()):
            setattr(module, name, with_exact_norms(part))
        return module
    exact.weight, exact.bias = module.weight, module.bias  # type: ignore[assignment]
    return exact
