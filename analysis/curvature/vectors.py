r"""Parameters as one flat vector, and the Hessian-vector product on a kept graph."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Matvec", "difference_radius", "flat_hvp", "flatten", "midpoint", "unflatten"]

Matvec = Callable[[Tensor], Tensor]


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors into one vector of shape (P,)."""
    return torch.cat([t.reshape(-1) for t in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Cut a vector of shape (P,) into tensors shaped as ``like``.

    Raises:
        ValueError: If the lengths differ.
    """
    total = sum(t.numel() for t in like)
    if vector.numel() != total:
        raise ValueError(f"vector must have {total} entries, got {vector.numel()}; pass one for these tensors")
    parts = torch.split(vector, [t.numel() for t in like])
    return [part.view_as(t) for part, t in zip(parts, like, strict=True)]


def flat_hvp(grads: Sequence[Tensor], params: Sequence[Tensor]) -> Matvec:
    r"""Hessian-vector product $v \mapsto Hv$ by double backward on the graph kept with ``grads``.

    Args:
        grads: Gradients of the loss, made with ``create_graph=True``; one tensor per parameter.
        params: The parameters, in the same order.
    Returns:
        A function of a flat vector of shape (P,).
    """
    flat = flatten(grads)

    def matvec(vector: Tensor) -> Tensor:
        product = torch.autograd.grad(flat, params, grad_outputs=vector, retain_graph=True, materialize_grads=True)
        return flatten(product)

    return matvec


def midpoint(before: Tensor, here: Tensor, after: Tensor) -> Tensor:
    r"""$\tfrac14(\theta_{n-1} + 2\theta_n + \theta_{n+1})$: a part that alternates from step to step cancels (exact).

    The curvature measured here is free of the oscillation that spoils it at the iterates.
    """
    return 0.25 * (before + after) + 0.5 * here


def difference_radius(point: Tensor) -> float:
    r"""$\epsilon^{1/3}\|\theta\|$, ε the rounding unit: central differences over it err by about $\epsilon^{2/3}$."""
    return torch.finfo(point.dtype).eps ** (1 / 3) * float(point.norm())
