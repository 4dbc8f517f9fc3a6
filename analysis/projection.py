r"""How each example's loss responds to a move along a direction, and the coefficients of the reduced map.

A model enters as a function ``losses(params) -> (n,)`` of its parameters alone; ``example_losses`` makes one
from a module, a loss and data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from analysis.curvature import flatten, unflatten

__all__ = ["EdgeCoefficients", "edge_coefficients", "example_losses", "group_gradient", "project_losses"]

ExampleLosses = Callable[[Sequence[Tensor]], Tensor]


def example_losses(
    module: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor
) -> ExampleLosses:
    r"""The function $\theta \mapsto (\ell_1, \dots, \ell_n)$ of a module's parameters.

    Args:
        module: Any module; its buffers are used as they are.
        loss: Maps outputs and targets to per-example values, shape (n,).
        inputs: Shape (n, ...).
        targets: Shape (n, ...).
    """
    names = [name for name, p in module.named_parameters() if p.requires_grad]

    def losses(params: Sequence[Tensor]) -> Tensor:
        outputs = functional_call(module, dict(zip(names, params, strict=True)), (inputs,))
        return loss(outputs, targets)

    return losses


def project_losses(losses: ExampleLosses, params: Sequence[Tensor], direction: Tensor) -> Tensor:
    r"""$s_i = \nabla\ell_i \cdot v$ for every example at once, by one forward-mode product (exact).

    Args:
        losses: $\theta \mapsto (\ell_1,\dots,\ell_n)$.
        params: Point θ at which to differentiate.
        direction: v, flat, shape (P,).
    Returns:
        Shape (n,), loss per parameter unit.
    """
    points = [p.detach() for p in params]
    tangents = unflatten(direction, points)
    return jvp(lambda *p: losses(p), tuple(points), tuple(tangents))[1]


def group_gradient(losses: ExampleLosses, params: Sequence[Tensor], members: Tensor) -> Tensor:
    r"""Gradient of the mean loss of some examples, flat, shape (P,)."""
    points = [p.detach().requires_grad_() for p in params]
    return flatten(torch.autograd.grad(losses(points)[members].mean(), points))


@dataclass(frozen=True)
class EdgeCoefficients:
    r"""Coefficients of the reduced map at the edge of stability, measured at one point.

    Args:
        sharpness: $S = v^\top H v$.
        progressive: $A = -\nabla L_\perp \cdot \nabla S_\perp$: along gradient flow $\dot S = A$.
        restoring: $B = \|\nabla S_\perp\|^2$: an oscillation of amplitude x lowers S by $\eta B x^2/2$ a step.
        slope: $\nabla L \cdot v$.
    """

    sharpness: float
    progressive: float
    restoring: float
    slope: float


def edge_coefficients(losses: ExampleLosses, params: Sequence[Tensor], vector: Tensor) -> EdgeCoefficients:
    r"""Measure S, A, B at θ along the unit vector v (exact derivatives; ⊥ means without the part along v).

    One gradient, one Hessian-vector product and the gradient of $v^\top H v$ (a third derivative contracted
    twice with v).

    References: Damian, Nichani & Lee (2023), arXiv 2209.15594, for the role of A and B.
    """
    points = [p.detach().requires_grad_() for p in params]
    v = vector / vector.norm()
    gradient = flatten(torch.autograd.grad(losses(points).mean(), points, create_graph=True))
    product = flatten(torch.autograd.grad(gradient @ v, points, create_graph=True, materialize_grads=True))
    sharpness = product @ v
    # a loss that is piecewise quadratic has no third derivative: its sharpness then has no graph
    if sharpness.requires_grad:
        slope_of_sharpness = flatten(torch.autograd.grad(sharpness, points, materialize_grads=True))
    else:
        slope_of_sharpness = torch.zeros_like(v)
    gradient = gradient.detach()
    gradient_perp = gradient - (gradient @ v) * v
    sharpness_perp = slope_of_sharpness - (slope_of_sharpness @ v) * v
    return EdgeCoefficients(
        sharpness=float(sharpness.detach()),
        progressive=-float(gradient_perp @ sharpness_perp),
        restoring=float(sharpness_perp @ sharpness_perp),
        slope=float(gradient @ v),
    )
