r"""Which examples carry the curvature: $u^\top H_i u$ and $\nabla\ell_i\cdot u$ for every example, by forward mode."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.func import jvp

from .vectors import unflatten

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

    slopes, curvatures = jvp(slope, points, tangents)[:2]
    return Attribution(slopes, curvatures)
