"""The three problems of the curvature benchmark: tanh MLP, small VGG, two-layer GPT; data or stand-ins for them."""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CASES", "Case"]


@dataclass
class Case:
    """A module, its per-example loss and data; ``source`` says whether the data are real."""

    name: str
    module: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor
    targets: Tensor
    source: str


def _cifar(n: int) -> tuple[Tensor, Tensor, str]:
    path = Path(os.environ.get("OPPOSING_DATA", "")) / "cifar10" / "train-00000-of-00001.parquet"
    if not os.environ.get("OPPOSING_DATA") or not path.is_file():
        g = torch.Generator().manual_seed(0)
        labels = torch.randint(10, (n,), generator=g)
        means = torch.randn(10, 3072, generator=g)
        return means[labels] + torch.randn(n, 3072, generator=g), labels, "stand-in: Gaussian classes"
    import pyarrow.parquet as pq
    from PIL import Image

    batch = next(pq.ParquetFile(path).iter_batches(batch_size=n, columns=["img", "label"]))
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(c["bytes"]))) for c in batch["img"].to_pylist()])
    scaled = (pixels / 255 - [0.4914, 0.4822, 0.4465]) / [0.2470, 0.2435, 0.2616]
    labels = torch.tensor(batch["label"].to_pylist())
    return torch.from_numpy(scaled.reshape(n, -1).astype(np.float32)), labels, "CIFAR-10"


def _text(n: int, length: int) -> tuple[Tensor, Tensor, str]:
    path = Path(os.environ.get("OPPOSING_DATA", "")) / "text" / "tinyshakespeare.txt"
    real = bool(os.environ.get("OPPOSING_DATA")) and path.is_file()
    text = path.read_text()[: n * length + 1] if real else "the cat sat on the mat, and so on; " * (n * length)
    symbols = {c: i for i, c in enumerate(sorted(set(text)))}
    codes = torch.tensor([symbols[c] for c in text[: n * length + 1]])
    source = "tinyshakespeare" if real else "stand-in: one sentence repeated"
    return codes[:-1].view(n, length), codes[1:].view(n, length), source


def squared(outputs: Tensor, labels: Tensor) -> Tensor:
    return 0.5 * (outputs - functional.one_hot(labels, outputs.shape[1])).square().sum(1)


def mlp(n: int) -> Case:
    x, y, source = _cifar(n)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3072, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 10))
    return Case("A", net, squared, x, y, source)


def vgg(n: int) -> Case:
    x, y, source = _cifar(n)
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU(), nn.Linear(64, 10))
    return Case("B", net, squared, x.view(n, 32, 32, 3).permute(0, 3, 1, 2).contiguous(), y, source)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.first, self.second = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.first(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.second(x))))


class _Gpt(nn.Module):
    def __init__(self, symbols: int, length: int, width: int = 64) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(symbols, width), nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(_Block(width, 4), _Block(width, 4))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.tokens(x) + self.places)))


def next_symbol(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(1)


def gpt(n: int, length: int = 32) -> Case:
    x, y, source = _text(n, length)
    torch.manual_seed(0)
    return Case("C", _Gpt(int(x.max().maximum(y.max())) + 1, length), next_symbol, x, y, source)


CASES: dict[str, Callable[[int], Case]] = {"A": mlp, "B": vgg, "C": gpt}
