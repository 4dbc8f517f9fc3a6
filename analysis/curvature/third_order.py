r"""How curvature changes with the parameters: $\nabla(v_i^\top H v_j)$, the third derivative contracted twice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .constant_statistics import holds_constant_statistics
from .vectors import Matvec, difference_radius, flat_hvp, flatten, unflatten

__all__ = ["CurvatureSlopes", "curvature_slopes", "difference_slopes"]


@dataclass(frozen=True)
class CurvatureSlopes:
    r"""Gradient of a loss, products of its Hessian with some vectors, and how these curvatures change.

    Args:
        gradient: $\nabla L$, shape (P,).
        products: $Hv_i$, shape (k, P).
        slopes: $\nabla_\theta(v_i^\top H(\theta) v_j)$ with the vectors held fixed, shape (k, k, P); symmetric in i, j.
    """

    gradient: Tensor
    products: Tensor
    slopes: Tensor

    def __add__(self, other: "CurvatureSlopes") -> "CurvatureSlopes":
        """The slopes of the sum of two losses."""
        return CurvatureSlopes(
            self.gradient + other.gradient, self.products + other.products, self.slopes + other.slopes
        )


def curvature_slopes(
    loss: Callable[[Sequence[Tensor]], Tensor], params: Sequence[Tensor], vectors: Tensor
) -> CurvatureSlopes:
    r"""Exact derivatives by reverse mode: one gradient, k products, k(k+1)/2 third-order products, on one graph.

    Two limits. Where the loss is piecewise quadratic along the vectors (ReLU between its kinks) the kinks themselves
    are not seen. And torch's LayerNorm, and its BatchNorm with batch statistics, have wrong third derivatives
    (``holds_constant_statistics``): where the graph holds one of them, the slopes are differences of exact products
    instead, over a radius of $\epsilon^{1/3}\|\theta\|$ with ε the rounding unit (approximated to about
    $\epsilon^{2/3}$).

    Args:
        loss: $\theta \mapsto L$, a scalar.
        params: Point θ.
        vectors: $v_i$, shape (k, P).
    Raises:
        ValueError: If ``vectors`` is not a matrix of rows of P entries.
    """
    points = [p.detach().requires_grad_() for p in params]
    size = sum(p.numel() for p in points)
    if vectors.ndim != 2 or vectors.shape[1] != size:
        raise ValueError(f"vectors must have shape (k, {size}), got {tuple(vectors.shape)}; pass one vector a row")
    value = loss(points)
    if len(vectors) > 0 and holds_constant_statistics(value):
        return _norm_slopes(loss, points, vectors)
    gradient = flatten(torch.autograd.grad(value, points, create_graph=True, materialize_grads=True))
    products = [_slope(gradient @ v, points, keep=True) for v in vectors]
    k = len(vectors)
    slopes = vectors.new_zeros((k, k, size))
    for i in range(k):
        for j in range(i, k):
            slopes[i, j] = slopes[j, i] = _slope(products[j] @ vectors[i], points, keep=False)
    held = torch.stack([p.detach() for p in products]) if products else vectors.new_zeros((0, size))
    return CurvatureSlopes(gradient.detach(), held, slopes)


def difference_slopes(
    linearise: Callable[[Tensor], tuple[float, Tensor, Matvec]], point: Tensor, vectors: Tensor, radii: Sequence[float]
) -> CurvatureSlopes:
    r"""$[H(\theta + r_i v_i) - H(\theta - r_i v_i)]v_j / 2r_i$, made symmetric: error of second order in $r_i$.

    Args:
        linearise: Loss, gradient and product at a point (P,); called 2k + 1 times.
        point: θ, shape (P,).
        vectors: $v_i$, shape (k, P).
        radii: $r_i > 0$, k of them.
    """
    _, gradient, matvec = linearise(point)
    products = [matvec(v) for v in vectors]
    k = len(vectors)
    slopes = vectors.new_zeros((k, k, point.numel()))
    for i, radius in enumerate(radii):
        for sign in (1, -1):
            _, _, moved = linearise(point + sign * radius * vectors[i])
            for j in range(k):
                slopes[i, j] += sign * moved(vectors[j]) / (2 * radius)
    held = torch.stack(products) if products else vectors.new_zeros((0, point.numel()))
    return CurvatureSlopes(gradient, held, (slopes + slopes.transpose(0, 1)) / 2)


def _norm_slopes(
    loss: Callable[[Sequence[Tensor]], Tensor], params: Sequence[Tensor], vectors: Tensor
) -> CurvatureSlopes:
    def linearise(point: Tensor) -> tuple[float, Tensor, Matvec]:
        points = [p.detach().requires_grad_() for p in unflatten(point, params)]
        value = loss(points)
        grads = torch.autograd.grad(value, points, create_graph=True, materialize_grads=True)
        return float(value.detach()), flatten([g.detach() for g in grads]), flat_hvp(grads, points)

    point = flatten([p.detach() for p in params])
    reach = difference_radius(point)
    return difference_slopes(linearise, point, vectors, [reach / float(v.norm()) for v in vectors])


def _slope(value: Tensor, points: Sequence[Tensor], *, keep: bool) -> Tensor:
    """Gradient of a scalar; zero where it does not depend on the parameters (no graph)."""
    if not value.requires_grad:
        return torch.zeros_like(flatten([p.detach() for p in points]))
    parts = torch.autograd.grad(value, points, create_graph=keep, retain_graph=True, materialize_grads=True)
    return flatten(parts)
