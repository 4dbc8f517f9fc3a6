"""ResNet-18 for small images (He et al. 2016): 3×3 stem without pooling, four stages of two basic blocks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .common import ACTIVATIONS, ImageRows, channels, choice, count, initialise, seeded
from .norms import norm_2d

__all__ = ["resnet18"]

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))


class BasicBlock(nn.Module):
    r"""$x \mapsto \phi(\mathrm{norm}(W_2 * \phi(\mathrm{norm}(W_1 * x))) + \mathrm{shortcut}(x))$.

    The shortcut is a strided 1×1 convolution with its norm where the shape changes, else the identity.
    """

    def __init__(self, size_in: int, size: int, stride: int, norm: str, activation: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = nn.Conv2d(size_in, size, 3, stride, padding=1, bias=bias)
        self.norm1 = norm_2d(norm, size)
        self.conv2 = nn.Conv2d(size, size, 3, padding=1, bias=bias)
        self.norm2 = norm_2d(norm, size)
        self.phi = ACTIVATIONS[activation]()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or size_in != size:
            self.shortcut = nn.Sequential(nn.Conv2d(size_in, size, 1, stride, bias=bias), norm_2d(norm, size))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(self.phi(self.norm1(self.conv1(x)))))
        return self.phi(inner + self.shortcut(x))


def resnet18(
    image_shape: Sequence[int],
    d_out: int,
    *,
    norm: str = "batch",
    activation: str = "relu",
    width: float = 1.0,
    init: str = "torch",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    r"""ResNet-18 in its form for 32×32 images; any size from 1×1 passes, the head averages over pixels.

    Convolutions have biases only where there is no norm to absorb them. With
    32×32×3, ``width`` 1, BatchNorm or GroupNorm and ten outputs: 11,173,962 parameters.

    Args:
        image_shape: (h, w) or (h, w, c); input rows have h·w·c entries in that layout.
        d_out: Output dimension.
        norm: "batch" (statistics of the given batch), "group" or "none".
        activation: "relu", "tanh" or "gelu".
        width: Factor on the numbers of channels.
        init: "torch", PyTorch's default, or "he", with which each convolution keeps the signal's size (see
            `initialise`); without a norm each block then makes it larger, since it adds two such signals.
        seed: Seed of the initial weights.
        dtype: Type of the parameters.
    Returns:
        A module (n, h·w·c) → (n, d_out).
    Raises:
        ValueError: If an option is unknown or out of range.
    """
    choice("activation", activation, tuple(ACTIVATIONS))
    count("d_out", d_out)
    rows = ImageRows(image_shape)
    size = channels(STAGES[0][0], width)
    with seeded(seed):
        layers = [
            rows,
            nn.Conv2d(rows.image_shape[2], size, 3, padding=1, bias=norm == "none"),
            norm_2d(norm, size),
            ACTIVATIONS[activation](),
        ]
        for full, stride in STAGES:
            for step in (stride, 1):
                layers.append(BasicBlock(size, channels(full, width), step, norm, activation))
                size = channels(full, width)
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(size, d_out)]
        net = nn.Sequential(*layers)
        initialise(net, init, activation)
    return net.to(dtype)
