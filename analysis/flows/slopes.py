r"""$\nabla(v_i^\top H v_j)$ of an operator: exact where it is a network's loss, by differences for any other."""

import math

from torch import Tensor

from analysis.curvature import CurvatureSlopes, LossCurvature, curvature_slopes, difference_slopes, unflatten

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
        radius: None: exact, by automatic differentiation, with the limits of ``curvature_slopes``. r > 0: the mean
            slope over θ ± r v by 2k + 1 linearisations (``difference_slopes``), which also sees kinks within r.
    Raises:
        ValueError: If ``radius`` is not positive, or is missing for an operator that needs it.
    """
    if radius is not None:
        if not 0 < radius < math.inf:
            raise ValueError(f"radius must be positive and finite, got {radius}; pass e.g. 0.01, or None")
        return difference_slopes(operator.linearise, point, vectors, [radius] * len(vectors))
    if not isinstance(operator, LossCurvature) or operator.kind != "hessian":
        raise ValueError(
            "operator must be a LossCurvature of kind hessian, or radius be given, got neither; pass radius=0.01"
        )
    params = unflatten(point, operator.params)
    total: CurvatureSlopes | None = None
    for x, y in operator.chunks:
        part = curvature_slopes(lambda p, x=x, y=y: operator.chunk_loss(p, x, y), params, vectors)
        total = part if total is None else total + part
    assert total is not None  # a LossCurvature has at least one chunk
    return total
