r"""$\nabla(v_i^\top H v_j)$ of an operator: exact where it is a network's loss, by differences for any other."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from analysis.curvature import CurvatureSlopes, LossCurvature, curvature_slopes, unflatten

from .operators import Linearisable

__all__ = ["operator_slopes"]


def operator_slopes(
    operator: Linearisable, point: Tensor, vectors: Tensor, *, radius: float | None = None
) -> CurvatureSlopes:
    r"""Gradient, products and curvature slopes at a point.

    Args:
        operator: A ``LossCurvature`` of kind "hessian", chunked or not; with a ``radius`` anything with ``linearise``.
        point: θ, shape (P,).
        vectors: $v_i$, shape (k, P).
        radius: None: exact, by automatic differentiation, which does not see the kinks of a ReLU. r > 0: the mean
            slope over θ ± r v by 2k linearisations, $[H(\theta + r v_i) - H(\theta - r v_i)]v_j / 2r$, made symmetric;
            its error is of second order in r, and kinks within r are seen.
    Raises:
        ValueError: If ``radius`` is not positive, or is missing for an operator that needs it.
    """
    if radius is not None:
        if not 0 < radius < math.inf:
            raise ValueError(f"radius must be positive and finite, got {radius}; pass e.g. 0.01, or None")
        return _differences(operator, point, vectors, radius)
    if not isinstance(operator, LossCurvature) or operator.kind != "hessian":
        raise ValueError(
            "operator must be a LossCurvature of kind hessian, or radius be given, got neither; pass radius=0.01"
        )
    params = unflatten(point, operator.params)
    total: CurvatureSlopes | None = None
    for x, y in operator.chunks:
        part = curvature_slopes(lambda p, x=x, y=y: _share(operator, p, x, y), params, vectors)
        total = part if total is None else total + part
    assert total is not None  # a LossCurvature has at least one chunk
    return total


def _share(operator: LossCurvature, params: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """A chunk's part of the mean loss; copies of the buffers, which BatchNorm in training mode would move."""
    held = {name: buffer.clone() for name, buffer in operator.module.named_buffers()}
    held |= dict(zip(operator.names, params, strict=True))
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no higher derivatives
        return operator.loss(functional_call(operator.module, held, (x,)), y).sum() / operator.n


def _differences(operator: Linearisable, point: Tensor, vectors: Tensor, radius: float) -> CurvatureSlopes:
    _, gradient, matvec = operator.linearise(point)
    products = [matvec(v) for v in vectors]
    k = len(vectors)
    slopes = vectors.new_zeros((k, k, point.numel()))
    for i in range(k):
        for sign in (1, -1):
            _, _, moved = operator.linearise(point + sign * radius * vectors[i])
            for j in range(k):
                slopes[i, j] += sign * moved(vectors[j]) / (2 * radius)
    held = torch.stack(products) if products else vectors.new_zeros((0, point.numel()))
    return CurvatureSlopes(gradient, held, (slopes + slopes.transpose(0, 1)) / 2)
