"""What the architectures share: seeded initial weights, refusals, and rows read as images."""

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "ImageRows", "channels", "choice", "count", "image_size", "initialise", "seeded"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}
INITS = ("torch", "he")
SQUARED_GAIN = {"relu": 2.0, "tanh": 25 / 9, "gelu": 1 / (1 / 3 + 1 / (2 * math.pi * math.sqrt(3)))}


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from ``seed`` in float32; random state and default type are as before afterwards."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def choice(name: str, value: str, known: Sequence[str]) -> str:
    """``value`` if it is one of ``known``.

    Raises:
        ValueError: Otherwise.
    """
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}; choose one of them")
    return value


def count(name: str, value: int, least: int = 1) -> int:
    """``value`` if it is an integer ≥ ``least``.

    Raises:
        ValueError: Otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}; pass {name} >= {least}")
    return value


def channels(full: int, width: float) -> int:
    """``full`` channels scaled by the width multiplier, at least 1.

    Raises:
        ValueError: If ``width`` is not positive.
    """
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"width must be positive, got {width}; pass e.g. 0.25")
    return max(1, round(full * width))


def image_size(image_shape: Sequence[int]) -> tuple[int, int, int]:
    """Height, width and channels of ``(h, w)`` or ``(h, w, c)``.

    Raises:
        ValueError: If it is neither.
    """
    if len(image_shape) not in (2, 3) or any(int(n) < 1 for n in image_shape):
        raise ValueError(f"image_shape must be (h, w) or (h, w, c), got {tuple(image_shape)}; pass e.g. (32, 32, 3)")
    h, w, c = (*map(int, image_shape), 1)[:3]
    return h, w, c


def initialise(net: nn.Module, init: str, activation: str) -> None:
    r"""Draw the convolutions' weights anew where ``init`` asks for it, from the global generator.

    Args:
        net: What is changed in place; a linear head keeps its weights.
        init: "torch": as PyTorch made them, uniform of variance 1/(3 fan-in). "he": biases 0, weights normal of
            variance $g^2$ / fan-in. $g^2$ is 2 with ReLU (He et al. 2015) and the like of it with GELU (derived):
            $1/E[\phi(z)^2]$, z standard normal, which keeps the mean square of z. With tanh it is PyTorch's 25/9.
        activation: One of ``ACTIVATIONS``.
    Raises:
        ValueError: If ``init`` is unknown.
    """
    if choice("init", init, INITS) == "torch":
        return
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=math.sqrt(SQUARED_GAIN[activation] / fan_in))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class ImageRows(nn.Module):
    """Rows (n, h·w·c), laid out height, width, channel, as images (n, c, h, w); no copy is made.

    The result is contiguous in PyTorch's channels-last memory format. Input of shape (n, h, w[, c]) is taken too.

    Args:
        image_shape: (h, w) or (h, w, c).
    """

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.image_shape = image_size(image_shape)

    def forward(self, rows: Tensor) -> Tensor:
        return rows.reshape(len(rows), *self.image_shape).permute(0, 3, 1, 2)
