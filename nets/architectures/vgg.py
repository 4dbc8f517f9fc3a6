"""VGG-11 for small images (Simonyan & Zisserman 2015), with one linear layer as its head."""

from collections.abc import Sequence

import torch
from torch import nn

from .common import ACTIVATIONS, ImageRows, channels, choice, count, image_size, initialise, seeded
from .norms import norm_2d

__all__ = ["vgg11"]

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))
POOLS: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


def vgg11(
    image_shape: Sequence[int],
    d_out: int,
    *,
    norm: str = "none",
    activation: str = "relu",
    pool: str = "max",
    width: float = 1.0,
    init: str = "torch",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    r"""Eight 3×3 convolutions in five stages, each stage ended by a 2×2 pooling, and a linear head.

    A stage's pooling is left out once an axis has one pixel, and what remains at the end is averaged, so that 8×8
    images pass as well as 32×32. With 32×32×3, ``width`` 1 and ten outputs:
    9,225,610 parameters, with BatchNorm 9,231,114.

    Args:
        image_shape: (h, w) or (h, w, c); input rows have h·w·c entries in that layout.
        d_out: Output dimension.
        norm: "none", "batch" (statistics of the given batch) or "group", before each activation.
        activation: "relu", "tanh" or "gelu".
        pool: "max" or "average".
        width: Factor on the numbers of channels.
        init: "torch", PyTorch's default, which shrinks the signal of a net without norm by $\sqrt 6$ a layer with ReLU;
            or "he", which keeps its size (see `initialise`).
        seed: Seed of the initial weights.
        dtype: Type of the parameters.
    Returns:
        A module (n, h·w·c) → (n, d_out).
    Raises:
        ValueError: If an option is unknown or out of range.
    """
    choice("activation", activation, tuple(ACTIVATIONS))
    choice("pool", pool, tuple(POOLS))
    count("d_out", d_out)
    height, across, last = image_size(image_shape)
    layers: list[nn.Module] = [ImageRows(image_shape)]
    with seeded(seed):
        for stage in STAGES:
            for full in stage:
                size = channels(full, width)
                layers += [nn.Conv2d(last, size, 3, padding=1), norm_2d(norm, size), ACTIVATIONS[activation]()]
                last = size
            if min(height, across) > 1:
                layers.append(POOLS[pool](2))
                height, across = height // 2, across // 2
        layers += [nn.AdaptiveAvgPool2d(1)] if height * across > 1 else []
        layers += [nn.Flatten(), nn.Linear(last, d_out)]
        net = nn.Sequential(*(m for m in layers if not isinstance(m, nn.Identity)))
        initialise(net, init, activation)
    return net.to(dtype)
