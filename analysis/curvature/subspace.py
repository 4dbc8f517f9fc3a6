r"""An orthonormal basis V with products W = HV, some of them from an earlier H: Rayleigh-Ritz and its residuals."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .vectors import Matvec

__all__ = ["RitzPairs", "Subspace", "full_precision"]


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Inner products of vectors without tf32, whatever the products with H use: a basis must be orthonormal."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class RitzPairs:
    r"""Ritz pairs of a subspace, largest value first.

    Args:
        values: $\theta_i$, shape (m,), float64 on the CPU.
        weights: Coefficients in the basis, shape (size, m), float64 on the CPU.
        stale: Share $c_i^2$ of each vector whose product is an old one, shape (m,).
    """

    values: Tensor
    weights: Tensor
    stale: Tensor


class Subspace:
    r"""Basis V (rows) and products W = HV.

    Args:
        size: Dimension P of the operator.
        capacity: Most basis vectors held.
        dtype, device: Of the vectors.
    """

    def __init__(self, size: int, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self.basis = torch.empty((capacity, size), dtype=dtype, device=device)
        self.images = torch.empty_like(self.basis)
        self.fresh: list[bool] = []
        self.gap = 0.0  # largest ‖(H - H_old) v‖ seen by `refresh`

    def __len__(self) -> int:
        return len(self.fresh)

    @property
    def full(self) -> bool:
        """Whether no further vector fits."""
        return len(self) >= self.basis.shape[0]

    @property
    def vectors(self) -> Tensor:
        """V, shape (m, P)."""
        return self.basis[: len(self)]

    @property
    def products(self) -> Tensor:
        """W, shape (m, P)."""
        return self.images[: len(self)]

    def load(self, vectors: Tensor, products: Tensor) -> None:
        """Take over an orthonormal basis whose products belong to an earlier operator."""
        self.basis[: len(vectors)], self.images[: len(vectors)] = vectors, products
        self.fresh = [False] * len(vectors)

    def orthogonalise(self, vector: Tensor) -> tuple[Tensor | None, float]:
        """The unit vector along the part of ``vector`` outside the space and the norm of that part.

        None and 0 where rounding is all that is left.
        """
        whole = float(vector.norm())
        if not 0 < whole < float("inf"):
            return None, 0.0
        part, left = vector / whole, 1.0
        with full_precision():
            for _ in range(4):
                part = part - self.vectors.T @ (self.vectors @ part)
                norm = float(part.norm())
                left *= norm
                if left < 20 * torch.finfo(vector.dtype).eps:
                    return None, 0.0
                part = part / norm
                if norm > 0.7:  # little was taken off: what is left is orthogonal (Kahan, Parlett)
                    break
        return part, whole * left

    def append(self, vector: Tensor, matvec: Matvec) -> Tensor:
        """Add a unit vector orthogonal to the space, with its product, which is returned."""
        row = len(self)
        self.basis[row] = vector
        self.images[row] = matvec(vector)
        self.fresh.append(True)
        return self.images[row]

    def refresh(self, row: int, matvec: Matvec) -> None:
        """Replace the old product of one basis vector."""
        image = matvec(self.basis[row])
        self.gap = max(self.gap, float((image - self.images[row]).norm()))
        self.images[row] = image
        self.fresh[row] = True

    def ritz(self) -> RitzPairs:
        r"""Rayleigh-Ritz: of two products that disagree about $v_i^\top H v_j$ the fresh one is believed."""
        m = len(self)
        with full_precision():
            cross = (self.vectors @ self.products.T).to("cpu", torch.float64)  # [i, j] = v_i · W_j
        fresh = torch.tensor(self.fresh)
        trusted = torch.where(fresh[None, :] == fresh[:, None], 0.5 * (cross + cross.T), cross)
        matrix = torch.where(fresh[:, None] & ~fresh[None, :], trusted.T, trusted)
        if not torch.isfinite(matrix).all():
            nan = torch.full((m,), float("nan"), dtype=torch.float64)
            return RitzPairs(nan, torch.eye(m, dtype=torch.float64), torch.zeros_like(nan))
        values, weights = torch.linalg.eigh(matrix)
        values, weights = values.flip(0), weights.flip(1)
        stale = weights[~fresh].square().sum(0)
        return RitzPairs(values, weights, stale)

    def residuals(self, pairs: RitzPairs, count: int) -> tuple[Tensor, Tensor]:
        r"""$R = HY - Y\Theta$ of the first pairs, shape (count, P), and $R^\top R$, (count, count), float64 on the CPU.

        Formed explicitly: $\|Hy\|^2 - \theta^2$ would lose half of the digits. The part inside the space, which only
        old products can leave there, is taken off: what they get wrong there the fresh ones know.
        """
        vectors, products = self.combine(pairs.weights[:, :count])
        rows = products - pairs.values[:count, None].to(vectors) * vectors
        with full_precision():
            if not all(self.fresh):
                rows = rows - (rows @ self.vectors.T) @ self.vectors
            return rows, (rows @ rows.T).to("cpu", torch.float64)

    def combine(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors and products of combinations, ``weights`` of shape (m, r): two tensors of shape (r, P)."""
        w = weights.to(self.basis)
        with full_precision():
            return w.T @ self.vectors, w.T @ self.products

    def compress(self, weights: Tensor) -> None:
        """Keep only these combinations (orthonormal, shape (m, r)) as the new basis."""
        stale = (weights[~torch.tensor(self.fresh)].square().sum(0) > 1e-12).tolist()
        vectors, products = self.combine(weights)
        # re-orthonormalise: float32 loses it slowly over hundreds of steps
        with full_precision():
            factor = torch.linalg.cholesky((vectors @ vectors.T).to("cpu", torch.float64)).to(vectors)
            vectors = torch.linalg.solve_triangular(factor, vectors, upper=False)
            products = torch.linalg.solve_triangular(factor, products, upper=False)
        self.load(vectors, products)
        self.fresh = [not s for s in stale]
