"""The problems of the curvature benchmark: tanh MLP, narrow VGG-11, two-layer GPT, ResNet-18; data or stand-ins."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nets.architectures import gpt as gpt_net
from nets.architectures import mlp as mlp_net
from nets.architectures import resnet18, vgg11
from nets.config import TrainConfig
from nets.data import Dataset, load_data
from nets.losses import per_example_loss

__all__ = ["CASES", "Case"]

TEXT = "tinyshakespeare.txt"


@dataclass
class Case:
    """A module, its per-example loss and data; ``source`` says whether the data are real."""

    name: str
    module: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor
    targets: Tensor
    source: str

    def to(self, device: str) -> "Case":
        """The same on a device."""
        moved = self.module.to(device), self.loss, self.inputs.to(device), self.targets.to(device)
        return Case(self.name, *moved, self.source)


def _images(n: int) -> tuple[Dataset, str]:
    if os.environ.get("OPPOSING_DATA"):
        return load_data(TrainConfig(data="cifar10", n_examples=n)), "CIFAR-10"
    return load_data(TrainConfig(data="planted", n_examples=n)), "stand-in: planted images"


def mlp(n: int) -> Case:
    """3072-200-200-10, tanh, squared loss."""
    data, source = _images(n)
    return Case("A", mlp_net(3072, (200, 200), 10), per_example_loss("squared"), *data.tensors(torch.float32), source)


def vgg(n: int) -> Case:
    """VGG-11 with a quarter of the channels, squared loss."""
    data, source = _images(n)
    net = vgg11((32, 32, 3), 10, width=0.25)
    return Case("B", net, per_example_loss("squared"), *data.tensors(torch.float32), source)


def gpt(n: int) -> Case:
    """Two blocks of width 64 on windows of 32 characters, cross-entropy; a window is an example."""
    base = os.environ.get("OPPOSING_DATA")
    path = str(Path(base) / "text" / TEXT) if base else None
    data = load_data(TrainConfig(data="text", data_path=path, n_examples=n, loss="cross_entropy"))
    tokens = per_example_loss("cross_entropy")

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return tokens(outputs, targets).view(len(targets), -1).mean(1)

    source = TEXT if base else "stand-in: language reference"
    return Case("C", gpt_net(data.n_classes, 32), loss, *data.tensors(torch.float32), source)


def resnet(n: int) -> Case:
    """ResNet-18 without normalisation, squared loss."""
    data, source = _images(n)
    net = resnet18((32, 32, 3), 10, norm="none")
    return Case("R", net, per_example_loss("squared"), *data.tensors(torch.float32), source)


CASES: dict[str, Callable[[int], Case]] = {"A": mlp, "B": vgg, "C": gpt, "R": resnet}
