r"""Sharpness: the largest algebraic eigenvalue of the Hessian, from Hessian-vector products alone.

The eigenvalue that matters for gradient descent is the largest *algebraic* one: a negative eigenvalue of
larger magnitude does not make the iterates oscillate. Lanczos with full reorthogonalisation finds it; the
start may be the eigenvector of an earlier step, to which a small random part is always added, so that an
eigenvector orthogonal to the start cannot stay hidden.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .vectors import Matvec

__all__ = ["EigenPair", "top_eigenpair"]

ADMIXTURE = 0.1  # norm of the random part of the start, relative to the given part


@dataclass(frozen=True)
class EigenPair:
    r"""An eigenpair with the evidence of its quality.

    Args:
        value: Rayleigh quotient $\lambda = v^\top H v$ (loss per squared parameter unit).
        vector: Unit vector v, shape (P,).
        residual: $\|Hv - \lambda v\| / |\lambda|$, dimensionless; an eigenvalue of H lies within
            ``residual * |value|`` of ``value``.
        converged: Whether ``residual <= tol``. An unconverged pair is returned, never hidden.
        products: Hessian-vector products used.
    """

    value: float
    vector: Tensor
    residual: float
    converged: bool
    products: int


def top_eigenpair(
    matvec: Matvec,
    start: Tensor,
    *,
    tol: float = 1e-2,
    max_products: int = 60,
    generator: torch.Generator | None = None,
) -> EigenPair:
    r"""Largest algebraic eigenpair of a symmetric operator by Lanczos with full reorthogonalisation.

    Stops when the estimated residual $|\beta_k s_k|$ falls below ``tol`` $|\lambda|$; the residual that is
    returned is recomputed from one more product and decides ``converged``. The error of the eigenvalue is
    at most ``residual * |value|`` and, with a gap δ to the next one, at most its square over δ.

    Args:
        matvec: $v \mapsto Hv$ for flat vectors of shape (P,).
        start: Start vector, shape (P,); zero or not finite: a random one is taken.
        tol: Relative residual asked for; independent of P.
        max_products: Most products to spend, the final check included; at least 2.
        generator: Source of the random admixture (seeded with 0 if None).
    Raises:
        ValueError: If ``tol`` or ``max_products`` is out of range.
    References: Lanczos (1950); Paige (1972) for the residual estimate.
    """
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}; pass e.g. 1e-2")
    if max_products < 2:
        raise ValueError(f"max_products must be at least 2, got {max_products}; pass e.g. 60")
    if generator is None:
        generator = torch.Generator(device=start.device).manual_seed(0)
    noise = torch.randn(start.shape, generator=generator, dtype=start.dtype, device=start.device)
    noise = noise / noise.norm()
    norm = start.norm()
    v = start / norm + ADMIXTURE * noise if torch.isfinite(norm) and norm > 0 else noise
    v = v / v.norm()

    size = v.numel()
    basis = torch.empty((min(max_products - 1, size), size), dtype=v.dtype, device=v.device)
    diagonal: list[float] = []
    offdiagonal: list[float] = []
    ritz = torch.ones(1, dtype=torch.float64)
    for k in range(basis.shape[0]):
        basis[k] = v
        w = matvec(v)
        diagonal.append(float(w @ v))
        for _ in range(2):  # twice is enough (Kahan, Parlett)
            w = w - basis[: k + 1].T @ (basis[: k + 1] @ w)
        beta = float(w.norm())
        if not (torch.isfinite(w).all()):
            return EigenPair(float("nan"), v, float("inf"), False, k + 1)
        value, ritz = _tridiagonal_top(diagonal, offdiagonal)
        estimate = beta * abs(float(ritz[-1]))
        scale = max(abs(value), torch.finfo(v.dtype).tiny)
        # 0.7: leaves room for rounding, so that the recomputed residual meets ``tol`` as well
        if estimate <= 0.7 * tol * scale or beta <= torch.finfo(v.dtype).eps * scale:
            break
        offdiagonal.append(beta)
        v = w / beta
    vector = basis[: len(diagonal)].T @ ritz.to(basis)
    vector = vector / vector.norm()
    image = matvec(vector)
    value = float(image @ vector)
    residual = float((image - value * vector).norm()) / max(abs(value), torch.finfo(v.dtype).tiny)
    return EigenPair(value, vector, residual, residual <= tol, len(diagonal) + 1)


def _tridiagonal_top(diagonal: list[float], offdiagonal: list[float]) -> tuple[float, Tensor]:
    d = torch.tensor(diagonal, dtype=torch.float64)
    matrix = torch.diag(d)
    if len(d) > 1:
        e = torch.tensor(offdiagonal[: len(d) - 1], dtype=torch.float64)
        matrix = matrix + torch.diag(e, 1) + torch.diag(e, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return float(values[-1]), vectors[:, -1]
