r"""Functions of a large symmetric matrix times a vector, $\varphi_k(-hH)b$, by Lanczos."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import exprel
from torch import Tensor

from analysis.curvature import Matvec
from analysis.curvature.subspace import Subspace

__all__ = ["PhiProduct", "phi", "phi_product"]

TERMS = 20  # of the series, used for |z| < 1: the next term is below 1e-19


def phi(order: int, z: np.ndarray) -> np.ndarray:
    r"""$\varphi_k(z) = \int_0^1 e^{(1-s)z}\frac{s^{k-1}}{(k-1)!}\,ds$, $\varphi_0 = e^z$ (to rounding).

    $\varphi_{k+1} = (\varphi_k - 1/k!)/z$; for |z| < 1 by the series $\sum_j z^j/(j+k)!$.

    Args:
        order: k ≥ 1.
        z: Any shape, float64.
    """
    z = np.asarray(z, dtype=np.float64)
    small = np.abs(z) < 1
    value = exprel(z)
    far = np.where(small, 1.0, z)
    for k in range(1, order):
        value = (value - 1 / math.factorial(k)) / far
    near, series = np.where(small, z, 0.0), np.zeros_like(z)
    for j in reversed(range(TERMS)):
        series = series * near + 1 / math.factorial(j + order)
    return np.where(small, series, value)


@dataclass(frozen=True)
class PhiProduct:
    r"""$\varphi_k(-hH)b$ with the evidence of its quality.

    Args:
        value: The vector, shape (P,).
        image: H times it, shape (P,): free, since the products with the basis are known.
        error: Estimated 2-norm of the error (asymptotic, not a bound).
        converged: Whether the estimate met the tolerance.
        products: Products used.
    """

    value: Tensor
    image: Tensor
    error: float
    converged: bool
    products: int


def phi_product(matvec: Matvec, vector: Tensor, step: float, order: int, *, tol: float, most: int) -> PhiProduct:
    r"""$\varphi_k(-hH)b \approx \|b\| V_m \varphi_k(-hT_m) e_1$ in the Krylov space of b (approximated to ``tol``).

    Error estimate $h\beta_m\|b\|\,|e_m^\top\varphi_{k+1}(-hT_m)e_1|$, the first term of the exact expansion.

    Args:
        matvec: $v \mapsto Hv$, symmetric.
        vector: b, shape (P,).
        step: h > 0.
        order: k ≥ 1.
        tol: 2-norm of the error asked for, absolute.
        most: Most products, and vectors held (memory: 2 · most · P).
    References: Saad (1992), SIAM J. Numer. Anal. 29, 209; Hochbruck & Lubich (1997), ibid. 34, 1911.
    """
    norm = float(vector.norm())
    if norm == 0:
        return PhiProduct(torch.zeros_like(vector), torch.zeros_like(vector), 0.0, True, 0)
    space = Subspace(vector.numel(), min(most, vector.numel()), vector.dtype, vector.device)
    diagonal: list[float] = []
    off: list[float] = []
    unit: Tensor | None = vector / norm
    weights, error = np.zeros(0), math.inf
    while unit is not None and not space.full:
        image = space.append(unit, matvec)
        diagonal.append(float(image @ unit))
        unit, beta = space.orthogonalise(image)
        if not (math.isfinite(diagonal[-1]) and math.isfinite(beta)):
            return PhiProduct(vector, image, math.inf, False, len(diagonal))
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
        z = -step * values
        with np.errstate(over="ignore", invalid="ignore"):  # strong negative curvature: not converged, step too long
            weights = norm * (vectors * phi(order, z)) @ vectors[0]
            error = step * beta * norm * abs(float((vectors[-1] * phi(order + 1, z)) @ vectors[0]))
        if error <= tol:
            break
        off.append(beta)
    value, image = space.combine(weights[:, None])
    return PhiProduct(value[0], image[0], error, error <= tol, len(diagonal))
