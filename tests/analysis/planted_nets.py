"""The two-layer model with an opposing feature on sampled data, trained to the edge and recorded."""

from dataclasses import dataclass

import numpy as np
import torch

from analysis.projection import example_losses


@dataclass
class PlantedNet:
    """A linear two-layer network, its data and its record; ``sign`` is 0 for examples without the feature."""

    net: torch.nn.Module
    x: torch.Tensor
    y: torch.Tensor
    sign: np.ndarray
    losses: np.ndarray
    lr: float

    @property
    def carrier(self):
        return self.sign != 0

    def functions(self):
        return example_losses(self.net, half_square, self.x, self.y), [p.detach() for p in self.net.parameters()]


def half_square(outputs, targets):
    return 0.5 * (outputs[:, 0] - targets).square()


def planted_net(steps, alpha=50.0, lr=0.06, share=0.08, n=400, d=20, width=32, seed=0):
    """Targets depend on whether an example carries the feature, and not on its sign; full-batch gradient descent."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    target = x @ rng.standard_normal(d) / np.sqrt(d)
    carrier = rng.random(n) < share
    sign = np.where(carrier, np.where(rng.random(n) < 0.5, 1, -1), 0)
    direction = rng.standard_normal(d)
    x = x + np.outer(sign, direction / np.linalg.norm(direction)) * np.sqrt(alpha / share)
    y = target + carrier + 0.1 * rng.standard_normal(n)
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(d, width, bias=False), torch.nn.Linear(width, 1, bias=False)).double()
    inputs, targets = torch.tensor(x), torch.tensor(y)
    record = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small run slower on several
    for _ in range(steps):
        losses = half_square(net(inputs), targets)
        record.append(losses.detach().numpy().copy())
        gradients = torch.autograd.grad(losses.mean(), list(net.parameters()))
        with torch.no_grad():
            for p, g in zip(net.parameters(), gradients, strict=True):
                p -= lr * g
    torch.set_num_threads(threads)
    return PlantedNet(net, inputs, targets, sign, np.array(record), lr)
