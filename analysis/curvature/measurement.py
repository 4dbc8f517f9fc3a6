r"""One measurement of the largest eigenpairs of a matrix, from a carried space or from none."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .certificate import complement_bound, value_bounds
from .estimate import RESTS, estimated_errors, scale
from .subspace import RitzPairs, Subspace
from .vectors import Matvec

__all__ = ["Eigenpairs", "Measurement", "Settings"]

ADMIXTURE = 0.1  # random part of a given start, relative to it
ROOM = 12  # vectors that a check must find room for; fewer: the space is compressed first


@dataclass(frozen=True)
class Eigenpairs:
    r"""The largest eigenpairs at one step, with the evidence of their quality; largest first.

    Args:
        values: Ritz values, shape (k,), float64; each is at most the eigenvalue of its rank (up to the old
            products' share, which ``errors`` includes).
        vectors: Orthonormal vectors, shape (k, P).
        residuals: $\|Hv - \theta v\|/|\theta|$, shape (k,): some eigenvalue lies within it.
        errors: Relative error of each value, shape (k,): where ``checked`` a bound (it fails with the tracker's
            ``failure`` probability); between two checks an estimate with a fitted safety factor.
        converged: ``errors <= tol`` and the last check found nothing larger, shape (k,).
        checked: Whether this very step searched for eigenvalues that the space does not see.
        products: Products used, those of the check included.
        check_products: Products used by the check alone.
        surrogate_products: Products with the surrogate, where one was given.
        complete: Whether every eigenvalue above the level asked for is among them (True without a level).
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    errors: Tensor
    converged: Tensor
    checked: bool
    products: int
    check_products: int
    complete: bool
    surrogate_products: int = 0

    @property
    def top(self) -> float:
        """The largest value."""
        return float(self.values[0])


@dataclass(frozen=True)
class Settings:
    """The options of ``CurvatureTracker``, described there."""

    k: int
    tol: float
    level: float | None
    k_max: int
    buffer: int
    max_products: int
    max_cold: int
    max_check: int
    failure: float
    capacity: int

    def __post_init__(self) -> None:
        least = {"k": 1, "k_max": 1, "buffer": 1, "max_products": 1, "max_cold": 1, "max_check": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}; pass {name} >= {low}")
        for name in ("tol", "failure"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in (0, 1), got {getattr(self, name)}; pass e.g. 1e-3")
        needed = self.most + self.buffer + 3
        if self.capacity < needed:
            raise ValueError(
                f"capacity must be at least {needed} for these pairs, got {self.capacity}; pass more or None"
            )

    @property
    def most(self) -> int:
        """Most pairs that can be wanted."""
        return self.k if self.level is None else max(self.k, self.k_max)


class Measurement:
    """One measurement: search, then, where due, the check; holds what lives no longer than that.

    Args:
        settings: Options.
        matvec: The operator.
        start: Shape (P,); gives type and device, and the first direction of a cold start.
        carried: Ritz vectors and their old products, each (m, P), and the products' ages; None: cold start.
        generator: Source of the random directions.
    """

    def __init__(
        self,
        settings: Settings,
        matvec: Matvec,
        start: Tensor,
        carried: tuple[Tensor, Tensor, list[float]] | None,
        generator: torch.Generator,
    ) -> None:
        self.settings, self.operator, self.generator = settings, matvec, generator
        self.size, self.products, self.aim = start.numel(), 0, settings.tol
        self.space = Subspace(self.size, min(settings.capacity, self.size), start.dtype, start.device)
        self.k = min(settings.k, self.size)
        self.budget = settings.max_cold if carried is None else settings.max_products
        if carried is not None:
            self.space.load(*carried)
        else:
            self._random(start.detach())

    def run(self, check: bool) -> tuple[Eigenpairs, bool]:
        """The pairs, ``converged`` by their errors alone, and whether they are finite."""
        used, bounds = 0, None
        pairs, errors, residuals = self._search(self.budget)
        while check and bool(np.isfinite(pairs.values).all()):
            before = self.products
            bounds, broken = self._check(self.settings.max_check - used)
            used += self.products - before
            left = self.budget - (self.products - used)
            if not broken or left <= 0 or used >= self.settings.max_check:
                break
            self.aim *= 0.25  # the estimate was too bright: half the residual
            pairs, errors, residuals = self._search(left)
        if check:
            pairs, _, residuals = self._errors()
            errors = np.full(self.k, np.inf)
            n = 0 if bounds is None else min(self.k, len(bounds))
            if bounds is not None:
                errors[:n] = np.maximum(bounds[:n] - pairs.values[:n], 0) / scale(pairs.values[:n])
        return self._result(pairs, errors, residuals, bounds, check, used)

    def carry(self, calls: int) -> tuple[Tensor, Tensor, list[float]]:
        """What a measurement ``calls`` later starts from: Ritz vectors, products, each (m, P), and ages."""
        pairs = self.space.ritz()
        self.space.compress(pairs.weights[:, : min(self.k + self.settings.buffer, len(self.space))])
        ages = [age + calls for age in self.space.ages]
        return self.space.vectors.clone(), self.space.products.clone(), ages

    def _matvec(self, vector: Tensor) -> Tensor:
        self.products += 1
        return self.operator(vector)

    def _random(self, start: Tensor | None = None) -> Tensor | None:
        """Append a random direction outside the space (beside the given one); its product, None if there is none."""
        like = self.space.basis
        vector = torch.randn(self.size, generator=self.generator, dtype=like.dtype, device=like.device)
        if start is not None and bool(torch.isfinite(start).all()) and float(start.norm()) > 0:
            vector = start / start.norm() + ADMIXTURE * vector / vector.norm()
        unit, _ = self.space.orthogonalise(vector)
        return None if unit is None else self.space.append(unit, self._matvec)

    def _search(self, budget: int) -> tuple[RitzPairs, np.ndarray, np.ndarray]:
        """Renew and expand until the errors are met or ``budget`` products are used."""
        stop = self.products + budget
        while True:
            pairs, errors, residuals = self._errors()
            finite = bool(np.isfinite(pairs.values).all())
            if not finite or self.products >= stop or bool((errors <= self.aim).all()):
                return pairs, errors, residuals
            renew, which = self._best_move(pairs, int(errors.argmax()))
            if renew:
                self.space.refresh(which, self._matvec)
            elif not self._expand(pairs, which):
                return self._errors()

    def _best_move(self, pairs: RitzPairs, worst: int) -> tuple[bool, int]:
        """Renew which row (True, row) or add the residual of which pair (False, pair): what lowers the worst error.

        A renewed product is taken to be right afterwards, a residual that was added to be halved.
        """
        block = min(len(self.space), self.k + self.settings.buffer + 1)
        if worst >= len(self.space) or not self.space.old:
            return False, min(worst, len(self.space) - 1)
        rows = np.abs(pairs.weights[self.space.old, worst])
        if float(rows @ rows) > RESTS:
            return True, self.space.old[int(rows.argmax())]
        _, gram = self.space.residuals(pairs, block)
        ages = np.array(self.space.ages)
        best, move = math.inf, (False, worst)
        for i in [worst, *(i for i in range(block) if i != worst)]:
            shrunk = gram.copy()
            shrunk[i, :] *= 0.5
            shrunk[:, i] *= 0.5
            error = float(self._estimate(pairs, shrunk, pairs.doubts, pairs.shifts)[worst])
            if error < best:
                best, move = error, (False, i)
        for row in self.space.old:
            less = ages.copy()
            less[row] = 0.0
            error = float(self._estimate(pairs, gram, *self.space.doubts(pairs.weights, less))[worst])
            if error < best:
                best, move = error, (True, row)
        return move

    def _expand(self, pairs: RitzPairs, which: int) -> bool:
        """Append the residual of a pair; False where the space is the whole one."""
        if len(self.space) >= self.size:
            return False
        if self.space.full:
            pairs = self._restart(pairs)
        rows, _ = self.space.residuals(pairs, which + 1)
        unit, _ = self.space.orthogonalise(rows[which])
        if unit is None:  # an invariant space: go on with a random direction
            return self._random() is not None
        self.space.append(unit, self._matvec)
        return True

    def _restart(self, pairs: RitzPairs) -> RitzPairs:
        self.space.compress(pairs.weights[:, : min(self.k + self.settings.buffer, len(self.space) - 1)])
        return self.space.ritz()

    def _errors(self) -> tuple[RitzPairs, np.ndarray, np.ndarray]:
        """Ritz pairs, the estimated relative errors of the wanted values, and their residual norms."""
        pairs, m = self.space.ritz(), len(self.space)
        if not bool(np.isfinite(pairs.values).all()):
            nan = np.full(self.k, np.nan)
            return pairs, nan, nan
        if self.settings.level is not None:
            above = int((pairs.values >= self.settings.level).sum())
            self.k = min(max(self.settings.k, min(above, self.settings.k_max)), self.size)
        k, block = min(self.k, m), min(m, self.k + self.settings.buffer + 1)
        _, gram = self.space.residuals(pairs, block)
        residuals = np.sqrt(np.maximum(gram.diagonal(), 0))[:k]
        errors = self._estimate(pairs, gram, pairs.doubts, pairs.shifts)
        resting = (pairs.weights[self.space.old, :k] ** 2).sum(axis=0) > RESTS
        errors[:k][resting] = np.inf
        return pairs, errors, residuals

    def _estimate(self, pairs: RitzPairs, gram: np.ndarray, doubts: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        """Estimated relative errors of the wanted values, given the residuals and the doubt in old products."""
        whole = len(self.space) >= self.size
        return estimated_errors(pairs.values, gram, doubts, shifts, self.k, whole)

    def _check(self, budget: int) -> tuple[np.ndarray | None, bool]:
        """Upper bounds on the sorted eigenvalues, and whether what was found breaks the tolerance.

        Lanczos from a random start in the complement of the space; all its vectors join the space.
        """
        for row in self.space.old:
            self.space.refresh(row, self._matvec)
        pairs = self.space.ritz()
        if len(self.space) >= self.size or not bool(np.isfinite(pairs.values).all()):
            return (pairs.values if len(self.space) >= self.size else None), False
        if self.space.basis.shape[0] < min(self.size, len(self.space) + ROOM):
            pairs = self._restart(pairs)
        known, k = len(self.space), min(self.k, len(self.space))
        rest, failure = self.size - known, self.settings.failure
        _, gram = self.space.residuals(pairs, known)
        aim = self.settings.tol * scale(pairs.values[:k])
        diagonal: list[float] = []
        off: list[float] = []
        image, bounds = self._random(), None
        for _ in range(budget):
            if image is None or not bool(torch.isfinite(image).all()):
                break
            diagonal.append(float(image @ self.space.vectors[-1]))
            unit, beta = self.space.orthogonalise(image)
            off.append(0.0 if unit is None else beta)
            bounds = value_bounds(pairs.values, gram, complement_bound(diagonal, off, rest, failure))
            if k == self.k and bool((bounds[:k] - pairs.values[:k] <= aim).all()):
                return bounds, False
            # what the run has seen already: where that alone breaks the aim, search with it
            seen = value_bounds(pairs.values, gram, complement_bound(diagonal, [*off[:-1], 0.0], rest, failure))
            if k < self.k or bool((seen[:k] - pairs.values[:k] > aim).any()):
                return bounds, True
            if unit is None or self.space.full:
                break
            image = self.space.append(unit, self._matvec)
        return bounds, False

    def _result(self, pairs, errors, residuals, bounds, check, used) -> tuple[Eigenpairs, bool]:
        k = min(self.k, len(self.space))
        finite = bool(np.isfinite(pairs.values).all())
        level, complete = self.settings.level, True
        if level is not None:
            ahead = pairs.values if bounds is None else bounds
            complete = finite and self.k < len(ahead) and float(ahead[self.k]) < level
            complete = complete or self.k == self.size
        found = Eigenpairs(
            values=torch.from_numpy(pairs.values[:k].copy()),
            vectors=self.space.combine(pairs.weights[:, :k])[0],
            residuals=torch.from_numpy(residuals[:k] / scale(pairs.values[:k])),
            errors=torch.from_numpy(errors[:k].copy()),
            converged=torch.from_numpy(errors[:k] <= self.settings.tol),
            checked=check,
            products=self.products,
            check_products=used,
            complete=complete,
        )
        return found, finite
