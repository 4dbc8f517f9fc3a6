r"""The largest eigenpairs with few products, where a cheap operator that resembles the matrix shows the way.

The surrogate S, e.g. the Hessian of a tenth of the examples at the same parameters, serves three times.
(1) It brings old products up to date: $Hv \approx H_{old}v + (S - S_{old})v$, whose error is that of S in the *change*
of the matrix alone (a control variate). (2) Directions that are missing get the product of S instead of that of H, so
that the top vector of the model is found without products. (3) One product with H at that vector y then gives an
exact Rayleigh quotient there. What the model had missed, $Ey = Hy - My$, also tells of the other vectors: with
$G_{ij}$ the covariance of $Ev_i$ and $Ev_j$, the best linear estimate of $Ev_j$ is $Ey\,G_{jy}/G_{yy}$ (kriging), so
that whatever true products span is known exactly.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .estimate import estimated_errors, scale
from .measurement import Eigenpairs, Settings
from .subspace import full_precision
from .vectors import Matvec

__all__ = ["SteeredMeasurement", "Steering"]

EXPANSIONS = 8  # most surrogate directions between two products
PART = 0.3  # share of the tolerance that what the model leaves open may take
FADE = 0.97  # per product: how fast a large relative error of the surrogate is forgotten
LEAST = 1e-3  # relative doubts below this say nothing about the surrogate
ROOM = 16  # rows that are added to the storage at a time
COLUMNS = 2**16  # columns turned at a time
AUDIT = 8  # a true product at least every so many calls, needed or not


@dataclass
class Steering:
    r"""What one steered measurement hands to the next.

    Args:
        vectors: Orthonormal rows V, shape (m, P).
        products: Products of the model with them, shape (m, P).
        images: Products of the surrogate of that step with them, shape (m, P).
        doubts: Covariance G of what the products may be off by, shape (m, m).
        shifts: The like for how far that may move a value, shape (m, m): linear, not quadratic, in the doubts.
        trust: Relative error η of the surrogate, measured.
        drift: Change per call that the surrogate did not show, measured: a norm.
        rest: Number of calls since the last true product.
        calls: Number of steered measurements before.
    """

    vectors: Tensor
    products: Tensor
    images: Tensor
    doubts: np.ndarray
    shifts: np.ndarray
    trust: float
    drift: float = 0.0
    rest: int = AUDIT
    calls: int = 0

    @classmethod
    def begin(cls, vectors: Tensor, products: Tensor, stale: np.ndarray, surrogate: Matvec) -> "Steering":
        """From products of which only the ``stale`` ones, shape (m,), are not true; the surrogate's error is seen."""
        images = torch.stack([surrogate(v) for v in vectors])
        fresh = torch.from_numpy(~stale) if not stale.all() else torch.ones(len(stale), dtype=torch.bool)
        trust = float((products - images)[fresh].norm() / products[fresh].norm())
        doubt = np.where(stale, trust * float(products.norm(dim=1).max()), 0.0)
        return cls(vectors, products, images, np.diag(doubt**2), np.diag(doubt), trust)

    def state_dict(self, key: str) -> dict[str, Tensor]:
        """All of it but vectors and products, as tensors whose names end with ``key``."""
        numbers = np.array([self.trust, self.drift, self.rest, self.calls])
        held = {"images": self.images.clone(), "numbers": torch.from_numpy(numbers)}
        held |= {n: torch.from_numpy(a.copy()) for n, a in (("doubts", self.doubts), ("shifts", self.shifts))}
        return {f"{name}_{key}": value for name, value in held.items()}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], key: str) -> "Steering":
        """What ``state_dict`` kept."""
        vectors, products, images = (state[f"{n}_{key}"].clone() for n in ("vectors", "products", "images"))
        doubts, shifts = (state[f"{n}_{key}"].numpy().copy() for n in ("doubts", "shifts"))
        trust, drift, rest, calls = state[f"numbers_{key}"].tolist()
        return cls(vectors, products, images, doubts, shifts, trust, drift, int(rest), int(calls))


class SteeredMeasurement:
    """One measurement by products with the matrix and with its surrogate.

    Args:
        settings: Options of the tracker.
        matvec: The operator.
        surrogate: The cheap operator, of this step.
        steering: From the last measurement; not changed.
    """

    def __init__(self, settings: Settings, matvec: Matvec, surrogate: Matvec, steering: Steering) -> None:
        self.settings, self.operator, self.surrogate = settings, matvec, surrogate
        self.products = self.surrogate_products = 0
        self.trust, self.drift = steering.trust, steering.drift
        self.rest, self.calls = steering.rest, steering.calls
        self.k = min(settings.k, steering.vectors.shape[1])
        self.rows = _Rows(steering.vectors)
        change = [0.0] * len(self.rows)
        for i, v in enumerate(steering.vectors):
            image = self._image(v)
            change[i] = float((image - steering.images[i]).norm())
            self.rows.put(i, v, steering.products[i] + (image - steering.images[i]), image)
        moved = self.trust * np.array(change) + self.drift
        before = np.sqrt(steering.doubts.diagonal())
        self.doubts = steering.doubts + np.diag((before + moved) ** 2 - before**2)  # the sample's errors add up
        self.shifts = steering.shifts + np.diag(moved)
        self._symmetrise()

    def run(self) -> tuple[Eigenpairs, bool]:
        """The pairs, ``converged`` by their estimated errors alone, and whether they are finite."""
        self._ritz()
        if np.isfinite(self.values).all():
            # what rises from below is seen in time
            for i in range(EXPANSIONS if self.calls == 0 else 1):
                self._expand(self.k + (self.calls + i) % self.settings.buffer)
            if self.rest >= AUDIT:
                self._product(0)
        grown = 0
        while True:
            errors, open_part, residuals = self._errors()
            if not np.isfinite(self.values).all() or bool((errors <= self.settings.tol).all()):
                break
            left = bool((open_part > PART * self.settings.tol).any())
            if left and grown < EXPANSIONS and self._expand(self._best(expand=True)):
                grown += 1
            elif self.products < self.settings.max_products and self.doubts.diagonal().any():
                self._product(self._best(expand=False))
                grown = 0
            else:
                break
        return self._result(errors, residuals)

    def carry(self) -> Steering:
        """What the next measurement starts from: the leading vectors."""
        kept = min(self.k + self.settings.buffer, len(self.v))
        v, w, z = (self.rows.part(i)[:kept] for i in range(3))
        doubts, shifts = (a[:kept, :kept].copy() for a in (self.doubts, self.shifts))
        rest = 0 if self.products else self.rest + 1
        with full_precision():  # float32 loses orthonormality slowly over hundreds of steps
            factor = torch.linalg.cholesky((v @ v.T).to("cpu", torch.float64)).to(v)
            v, w, z = (torch.linalg.solve_triangular(factor, a, upper=False) for a in (v, w, z))
        return Steering(v, w, z, doubts, shifts, self.trust, self.drift, rest, self.calls + 1)

    @property
    def v(self) -> Tensor:
        """The basis, rows."""
        return self.rows.part(0)

    @property
    def w(self) -> Tensor:
        """Products of the model."""
        return self.rows.part(1)

    def _image(self, vector: Tensor) -> Tensor:
        self.surrogate_products += 1
        return self.surrogate(vector)

    def _symmetrise(self) -> None:
        r"""Make $v_i\cdot Mv_j = v_j\cdot Mv_i$; of two products that disagree the more doubtful one gives way."""
        with full_precision():
            cross = _small(self.v @ self.w.T)
        if not np.isfinite(cross).all():
            return
        doubts, axes = np.linalg.eigh(self.doubts)
        doubts = np.maximum(doubts, 0) + np.finfo(float).tiny
        excess = axes.T @ (cross - cross.T) @ axes
        change = axes @ (excess * doubts[:, None] / (doubts[:, None] + doubts[None, :])) @ axes.T
        with full_precision():
            self.w.add_(torch.from_numpy(change).to(self.v) @ self.v)

    def _ritz(self) -> None:
        """Turn the basis into the Ritz vectors of the model, largest value first."""
        with full_precision():
            matrix = (self.v @ self.w.T).to("cpu", torch.float64)
        if not bool(torch.isfinite(matrix).all()):
            self.values = np.full(len(matrix), np.nan)
            return
        values, weights = torch.linalg.eigh(0.5 * (matrix + matrix.T))
        self.values, turn = values.numpy()[::-1].copy(), weights.flip(1)
        self.doubts, self.shifts = (turn.numpy().T @ a @ turn.numpy() for a in (self.doubts, self.shifts))
        self.rows.turn(turn.T)
        if self.settings.level is not None:
            above = int((self.values >= self.settings.level).sum())
            self.k = min(max(self.settings.k, min(above, self.settings.k_max)), self.v.shape[1])

    def _residuals(self, count: int) -> Tensor:
        return self.w[:count] - torch.from_numpy(self.values[:count, None]).to(self.v) * self.v[:count]

    def _block(self) -> tuple[np.ndarray, bool]:
        """Gram matrix of the residuals of the leading pairs, and whether the space is the whole one."""
        rows = self._residuals(min(len(self.v), self.k + self.settings.buffer + 1))
        with full_precision():
            return _small(rows @ rows.T), len(self.v) >= self.v.shape[1]

    def _errors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Estimated relative errors, what the model leaves open of them, and residual norms."""
        if not np.isfinite(self.values).all():
            nan = np.full(self.k, np.nan)
            return nan, nan, nan
        gram, whole = self._block()
        errors = estimated_errors(self.values, gram, *self._doubt(self.doubts, self.shifts), self.k, whole)
        sure = np.zeros(len(self.v))
        return errors, estimated_errors(self.values, gram, sure, sure, self.k, whole), np.sqrt(gram.diagonal())

    def _doubt(self, doubts: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.sqrt(np.maximum(doubts.diagonal(), 0)), np.maximum(shifts.diagonal(), 0)

    def _best(self, *, expand: bool) -> int:
        """At which pair a further direction, taken to halve its residual, or a true product lowers the error most."""
        gram, whole = self._block()
        found = []
        for i in range(len(gram)):
            shrunk = gram.copy()
            if expand:
                shrunk[i, :] *= 0.5
                shrunk[:, i] *= 0.5
                doubts = shifts = np.zeros(len(self.v))
            else:
                doubts, shifts = self._doubt(_known(self.doubts, i), _known(self.shifts, i))
            found.append(estimated_errors(self.values, shrunk, doubts, shifts, self.k, whole).max())
        return int(np.argmin(found))

    def _expand(self, which: int) -> bool:
        """Add the residual of a pair, with the surrogate's product; False where nothing is left."""
        which = min(which, len(self.v) - 1)
        if len(self.v) >= self.v.shape[1]:
            return False
        unit = self._residuals(which + 1)[which]
        with full_precision():
            for _ in range(2):
                unit = unit / unit.norm()
                unit = unit - self.v.T @ (self.v @ unit)
        norm = float(unit.norm())
        if not 0.5 < norm < 2:
            return False
        unit = unit / norm
        image = self._image(unit)
        with full_precision():  # what the model knows of the unit's products with the space goes first
            product = image + self.v.T @ (self.w @ unit - self.v @ image)
        self.rows.put(len(self.rows), unit, product, image)
        doubt = self.trust * abs(self.values[0])
        self.doubts, self.shifts = _bordered(self.doubts, doubt**2), _bordered(self.shifts, doubt)
        self._ritz()
        return True

    def _product(self, which: int) -> None:
        """The true product at one Ritz vector; the model is made to agree with it."""
        self.products += 1
        true = self.operator(self.v[which])
        missed = true - self.w[which]
        seen, doubt = float(missed.norm()), float(self._doubt(self.doubts, self.shifts)[0][which])
        if np.isfinite(seen):
            self._learn(seen, doubt)
        noise = 10 * torch.finfo(true.dtype).eps * abs(self.values[0])
        # rounding may leave a known one below 0, and its covariances say nothing
        variance = max(self.doubts[which, which], 0.0) + noise**2 + 1e-12 * self.doubts.diagonal().max()
        share = torch.from_numpy(self.doubts[:, which] / variance).to(missed)
        share[which] = 1.0
        with full_precision():
            for i, part in enumerate(share.tolist()):
                self.w[i].add_(missed, alpha=part)
        learnt = max(self.doubts[which, which], 0.0) / variance
        self.doubts, self.shifts = _known(self.doubts, which, learnt), _known(self.shifts, which, learnt)
        self._symmetrise()
        self._ritz()

    def _learn(self, seen: float, doubt: float) -> None:
        """Compare what a product was off by with the doubt in it."""
        least = LEAST * abs(self.values[0])
        if doubt > least:
            factor = max(seen / doubt, FADE)
            self.trust, self.drift = self.trust * factor, self.drift * factor
            self.doubts, self.shifts = self.doubts * factor**2, self.shifts * factor
        elif seen > max(least, self.drift):
            more = seen - self.drift  # no product of this call shows less change
            self.drift = seen
            self.doubts = self.doubts + np.eye(len(self.v)) * more**2
            self.shifts = self.shifts + np.eye(len(self.v)) * more

    def _result(self, errors: np.ndarray, residuals: np.ndarray) -> tuple[Eigenpairs, bool]:
        k, finite = min(self.k, len(self.v)), bool(np.isfinite(self.values).all())
        level = self.settings.level
        complete = level is None or self.k == self.v.shape[1]
        if level is not None and finite and self.k < len(self.values):
            complete = complete or float(self.values[self.k]) < level
        doubts, _ = self._doubt(self.doubts, self.shifts)
        found = Eigenpairs(
            values=torch.from_numpy(self.values[:k].copy()),
            vectors=self.v[:k].clone(),
            residuals=torch.from_numpy(np.hypot(residuals[:k], doubts[:k]) / scale(self.values[:k])),
            errors=torch.from_numpy(errors[:k].copy()),
            converged=torch.from_numpy(errors[:k] <= self.settings.tol),
            checked=False,
            products=self.products,
            check_products=0,
            complete=complete,
            surrogate_products=self.surrogate_products,
        )
        return found, finite


class _Rows:
    """Vectors, products and images, row by row, turned in place: memory for three of each row and little more."""

    def __init__(self, like: Tensor) -> None:
        self.held = like.new_empty((3, len(like) + ROOM, like.shape[1]))
        self.count = len(like)

    def __len__(self) -> int:
        return self.count

    def part(self, which: int) -> Tensor:
        return self.held[which, : self.count]

    def put(self, row: int, *parts: Tensor) -> None:
        """Set a row, or append one."""
        if row == self.held.shape[1]:
            self.held = torch.cat([self.held, torch.empty_like(self.held[:, :ROOM])], dim=1)
        self.count = max(self.count, row + 1)
        for held, part in zip(self.held, parts, strict=True):
            held[row] = part

    def turn(self, rotation: Tensor) -> None:
        """Replace the rows by combinations, shape (count, count), a stretch of columns at a time."""
        rotation = rotation.to(self.held)
        with full_precision():
            for which in range(3):
                for columns in self.part(which).split(COLUMNS, dim=1):
                    columns.copy_(rotation @ columns)


def _small(array: Tensor) -> np.ndarray:
    return array.to("cpu", torch.float64).numpy()


def _known(matrix: np.ndarray, i: int, learnt: float = 1.0) -> np.ndarray:
    """Covariance left once entry i is known, of which the others learn a share."""
    if not matrix[i, i] > 0:
        return matrix.copy()
    left = matrix - learnt * np.outer(matrix[:, i], matrix[i]) / matrix[i, i]
    left[i, :] = left[:, i] = 0.0
    return left


def _bordered(matrix: np.ndarray, entry: float) -> np.ndarray:
    """With one more row and column, zero but for the diagonal."""
    wider = np.zeros((len(matrix) + 1, len(matrix) + 1))
    wider[:-1, :-1], wider[-1, -1] = matrix, entry
    return wider
