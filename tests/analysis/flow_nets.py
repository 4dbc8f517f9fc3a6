"""Losses on which flows are known: the two-layer model as a module, oscillating toys, a small network."""

import torch
from torch import nn

from analysis.curvature import LossCurvature


def half_square(outputs, targets):
    return 0.5 * (outputs - targets).square().flatten(1).sum(1)


class TwoLayer(nn.Module):
    """f = c (w · x), float64."""

    def __init__(self, c, w):
        super().__init__()
        self.c = nn.Parameter(torch.tensor(float(c), dtype=torch.float64))
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x):
        return (self.c * (x @ self.w))[:, None]


def two_layer(c, w, kappa, beta):
    r"""The loss $\tfrac12\sum_j \kappa_j (c w_j - \beta_j)^2$ as a mean over one example per feature."""
    scale = (len(kappa) * torch.tensor(kappa, dtype=torch.float64)).sqrt()
    targets = scale * torch.tensor(beta, dtype=torch.float64)
    return LossCurvature(TwoLayer(c, w), half_square, torch.diag(scale), targets[:, None])


def small_net(seed=0, activation=nn.Tanh, dtype=torch.float64, n=20, **options):
    """4-8-3 network on random data with a curved teacher."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    y = torch.sin(2 * x[:, :3]) + 0.5 * x[:, 1:]
    net = nn.Sequential(nn.Linear(4, 8), activation(), nn.Linear(8, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    net = net.to(dtype)
    return LossCurvature(net, half_square, x.to(dtype), y.to(dtype), **options)


class Toy:
    """Any scalar function of a flat point, linearised by autograd."""

    def __init__(self, function):
        self.function = function

    def linearise(self, point=None):
        p = point.detach().requires_grad_()
        value = self.function(p)
        (gradient,) = torch.autograd.grad(value, p, create_graph=True)

        def matvec(v):
            return torch.autograd.grad(gradient, p, v, retain_graph=True)[0]

        return float(value.detach()), gradient.detach(), matvec


def descend(operator, start, lr, steps):
    """Iterates of gradient descent, shape (steps + 1, P)."""
    path = [start.clone()]
    for _ in range(steps):
        path.append(path[-1] - lr * operator.linearise(path[-1])[1])
    return torch.stack(path)
