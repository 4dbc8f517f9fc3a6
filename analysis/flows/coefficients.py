r"""The coefficients of the reduced map at one step, for any operator: S, A, B, x."""

from torch import Tensor

from analysis.projection import EdgeCoefficients

from .operators import Linearisable
from .slopes import operator_slopes

__all__ = ["reduced_coefficients"]


def reduced_coefficients(
    operator: Linearisable,
    point: Tensor,
    vector: Tensor,
    earlier: tuple[Tensor, Tensor] | None = None,
    *,
    radius: float | None = None,
) -> EdgeCoefficients:
    r"""S, the progressive-sharpening rate A, the restoring B, and the demodulated amplitude x, at θ along v.

    What ``analysis.reduced_map.iterate_reduced_map`` takes: with $y = \eta S - 2$,
    $x \leftarrow -(1+y)x$, $y \leftarrow y + \eta^2(A - \tfrac12 Bx^2)$. Exact derivatives, or differences over
    ``radius``; x is approximated (``analysis.projection.demodulated_amplitude``).

    Args:
        operator: As of ``operator_slopes``: a ``LossCurvature``, or with a ``radius`` anything with ``linearise``.
        point: θ_n, shape (P,); the midpoint of three iterates where the oscillation is large.
        vector: v, shape (P,), the top eigenvector; normalised here.
        earlier: Gradients at the iterates n-1 and n-2, each (P,), with ``point`` the iterate n; None: the amplitude is
            NaN.
        radius: As of ``operator_slopes``.
    """
    v = vector / vector.norm()
    return EdgeCoefficients.of(operator_slopes(operator, point, v[None], radius=radius), v, earlier)
