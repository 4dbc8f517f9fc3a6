r"""Which examples carry the curvature: $u^\top H_i u$ and $\nabla\ell_i\cdot u$ for every example, by forward mode."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.func import jvp

from .constant_statistics import holds_constant_statistics
from .vectors import difference_radius, flatten, unflatten

__all__ = ["Attribution", "attribute"]


@dataclass(frozen=True)
class Attribution:
    r"""Slope and curvature of every example's loss along a unit vector u.

    Args:
        slopes: $\nabla\ell_i\cdot u$, shape (n,).
        curvatures: $u^\top H_i u$, shape (n,); their mean is $u^\top H u$.
    """

    slopes: Tensor
    curvatures: Tensor

    def share(self, members: Tensor) -> float:
        r"""Part of $u^\top H u$ carried by some examples: $\sum_{i\in G} u^\top H_i u / \sum_i u^\top H_i u$."""
        return float(self.curvatures[members].double().sum() / self.curvatures.double().sum())


def attribute(losses: Callable[[Sequence[Tensor]], Tensor], params: Sequence[Tensor], direction: Tensor) -> Attribution:
    r"""Slopes and curvatures of all examples along ``direction`` (exact; two nested forward-mode passes).

    One evaluation more finds out whether nested forward mode is right for the model. It is not for torch's LayerNorm
    and BatchNorm with batch statistics (``holds_constant_statistics``): there the curvatures are
    $[\nabla\ell_i(\theta + ru) - \nabla\ell_i(\theta - ru)]\cdot u / 2r$ with $r = \epsilon^{1/3}\|\theta\|$, ε the
    rounding unit (approximated to about $\epsilon^{2/3}$; the slopes stay exact).

    Args:
        losses: $\theta \mapsto (\ell_1,\dots,\ell_n)$, e.g. ``analysis.projection.example_losses``.
        params: Point θ.
        direction: u, flat, shape (P,); normalised here.
    Raises:
        ValueError: If ``direction`` is zero or not finite.
    """
    norm = float(direction.norm())
    if not 0 < norm < float("inf"):
        raise ValueError(f"direction must have a finite norm > 0, got {norm:g}; pass an eigenvector")
    points = tuple(p.detach() for p in params)
    tangents = tuple(unflatten(direction / norm, points))

    def slope(*p: Tensor) -> Tensor:
        return jvp(lambda *q: losses(q), p, tangents)[1]

    if _holds_constant_statistics(losses, points):
        radius = difference_radius(flatten(points))
        ahead, behind = (
            slope(*(p + sign * radius * t for p, t in zip(points, tangents, strict=True))) for sign in (1, -1)
        )
        return Attribution(slope(*points), (ahead - behind) / (2 * radius))
    slopes, curvatures = jvp(slope, points, tangents)[:2]
    return Attribution(slopes, curvatures)


def _holds_constant_statistics(losses: Callable[[Sequence[Tensor]], Tensor], points: Sequence[Tensor]) -> bool:
    # the graph's nodes are enough: the tensors that it would keep, more than all of forward mode takes, are dropped
    with torch.enable_grad(), saved_tensors_hooks(lambda _: None, lambda _: torch.empty(0)):
        return holds_constant_statistics(losses([p.clone().requires_grad_() for p in points]))
