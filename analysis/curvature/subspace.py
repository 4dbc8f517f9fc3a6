r"""An orthonormal basis V with products W = HV, some of them from an earlier H: Rayleigh-Ritz and its residuals."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
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
        values: $\theta_i$, shape (m,), float64.
        weights: Coefficients in the basis, shape (size, m), float64.
        doubts: How far the old products in $Hy_i$ may be off, $\sqrt{\sum_j w_{ji}^2 d_j^2}$, shape (m,).
        shifts: How far that may move $\theta_i$, $\sum_j w_{ji}^2 d_j$, shape (m,).
    """

    values: np.ndarray
    weights: np.ndarray
    doubts: np.ndarray
    shifts: np.ndarray


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
        self.ages: list[float] = []  # of the products, in calls; 0: of this operator
        self.rate = 0.0  # largest ‖(H - H_old) v‖ per call of age, seen by `refresh`

    def __len__(self) -> int:
        return len(self.ages)

    @property
    def old(self) -> list[int]:
        """Rows whose product belongs to an earlier operator."""
        return [i for i, age in enumerate(self.ages) if age > 0]

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

    def load(self, vectors: Tensor, products: Tensor, ages: list[float]) -> None:
        """Take over an orthonormal basis with products of the given ages."""
        self.basis[: len(vectors)], self.images[: len(vectors)] = vectors, products
        self.ages = list(ages)

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
        self.ages.append(0.0)
        return self.images[row]

    def refresh(self, row: int, matvec: Matvec) -> None:
        """Replace the old product of one basis vector."""
        image = matvec(self.basis[row])
        self.rate = max(self.rate, float((image - self.images[row]).norm()) / self.ages[row])
        self.images[row] = image
        self.ages[row] = 0.0

    def ritz(self) -> RitzPairs:
        r"""Rayleigh-Ritz: of two products that disagree about $v_i^\top H v_j$ the fresh one is believed."""
        m = len(self)
        with full_precision():
            cross = _small(self.vectors @ self.products.T)  # [i, j] = v_i · W_j
        ages = np.array(self.ages)
        fresh = ages == 0
        trusted = np.where(fresh[None, :] == fresh[:, None], 0.5 * (cross + cross.T), cross)
        matrix = np.where(fresh[:, None] & ~fresh[None, :], trusted.T, trusted)
        if not np.isfinite(matrix).all():
            nan = np.full(m, np.nan)
            return RitzPairs(nan, np.eye(m), nan, nan)
        values, weights = (a.numpy() for a in torch.linalg.eigh(torch.from_numpy(matrix)))
        values, weights = values[::-1].copy(), weights[:, ::-1].copy()
        return RitzPairs(values, weights, *self.doubts(weights, ages))

    def doubts(self, weights: np.ndarray, ages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``doubts`` and ``shifts`` of combinations, were the products of the given ages."""
        shares = weights**2
        return self.rate * np.sqrt(ages**2 @ shares), self.rate * (ages @ shares)

    def residuals(self, pairs: RitzPairs, count: int) -> tuple[Tensor, np.ndarray]:
        r"""$R = HY - Y\Theta$ of the first pairs, shape (count, P), and $R^\top R$, (count, count), float64.

        Formed explicitly: $\|Hy\|^2 - \theta^2$ would lose half of the digits. The part inside the space, which only
        old products can leave there, is taken off: what they get wrong there the fresh ones know.
        """
        vectors, products = self.combine(pairs.weights[:, :count])
        rows = products - torch.from_numpy(pairs.values[:count, None]).to(vectors) * vectors
        with full_precision():
            if self.old:
                rows = rows - (rows @ self.vectors.T) @ self.vectors
            return rows, _small(rows @ rows.T)

    def combine(self, weights: np.ndarray) -> tuple[Tensor, Tensor]:
        """Vectors and products of combinations, ``weights`` of shape (m, r): two tensors of shape (r, P)."""
        w = torch.from_numpy(np.ascontiguousarray(weights)).to(self.basis)
        with full_precision():
            return w.T @ self.vectors, w.T @ self.products

    def compress(self, weights: np.ndarray) -> None:
        """Keep only these combinations (orthonormal, shape (m, r)) as the new basis."""
        ages = np.sqrt(np.array(self.ages) ** 2 @ weights**2)
        ages[ages < 1e-9] = 0.0
        vectors, products = self.combine(weights)
        # re-orthonormalise: float32 loses it slowly over hundreds of steps
        with full_precision():
            factor = torch.linalg.cholesky((vectors @ vectors.T).to("cpu", torch.float64)).to(vectors)
            vectors = torch.linalg.solve_triangular(factor, vectors, upper=False)
            products = torch.linalg.solve_triangular(factor, products, upper=False)
        self.load(vectors, products, ages.tolist())


def _small(matrix: Tensor) -> np.ndarray:
    return matrix.to("cpu", torch.float64).numpy()
