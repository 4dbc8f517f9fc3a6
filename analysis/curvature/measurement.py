r"""One measurement of the largest eigenpairs of a matrix, from a carried space or from none."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .certificate import complement_bound, value_bounds
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
        errors: Relative error of each value, shape (k,): an estimate between two checks, a bound where
            ``checked`` (it fails with the tracker's ``failure`` probability).
        converged: ``errors <= tol`` and the last check found nothing larger, shape (k,).
        checked: Whether this very step searched for eigenvalues that the space does not see.
        products: Products used, those of the check included.
        check_products: Products used by the check alone.
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
    max_check: int
    failure: float
    capacity: int

    def __post_init__(self) -> None:
        least = {"k": 1, "k_max": 1, "buffer": 1, "max_products": 1, "max_check": 0}
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
        carried: Ritz vectors and their old products, each (m, P); None: cold start.
        generator: Source of the random directions.
    """

    def __init__(
        self,
        settings: Settings,
        matvec: Matvec,
        start: Tensor,
        carried: tuple[Tensor, Tensor] | None,
        generator: torch.Generator,
    ) -> None:
        self.settings, self.operator, self.generator = settings, matvec, generator
        self.size, self.products, self.aim = start.numel(), 0, settings.tol
        self.space = Subspace(self.size, min(settings.capacity, self.size), start.dtype, start.device)
        self.k = min(settings.k, self.size)
        if carried is not None:
            self.space.load(*carried)
        else:
            self._random(start.detach())

    def run(self, check: bool) -> tuple[Eigenpairs, bool]:
        """The pairs, ``converged`` by their errors alone, and whether they are finite."""
        used, bounds = 0, None
        pairs, errors, residuals = self._search(self.settings.max_products)
        while check and bool(torch.isfinite(pairs.values).all()):
            before = self.products
            bounds, broken = self._check(self.settings.max_check - used)
            used += self.products - before
            left = self.settings.max_products - (self.products - used)
            if not broken or left <= 0 or used >= self.settings.max_check:
                break
            self.aim *= 0.25  # the estimate was too bright: half the residual
            pairs, errors, residuals = self._search(left)
        if check:
            pairs, _, residuals = self._errors()
            errors = torch.full((self.k,), float("inf"), dtype=torch.float64)
            n = 0 if bounds is None else min(self.k, len(bounds))
            if bounds is not None:
                errors[:n] = (bounds[:n] - pairs.values[:n]).clamp(min=0) / _scale(pairs.values[:n])
        return self._result(pairs, errors, residuals, bounds, check, used)

    def carry(self) -> tuple[Tensor, Tensor]:
        """What the next measurement starts from: Ritz vectors and products, each (m, P)."""
        pairs = self.space.ritz()
        self.space.compress(pairs.weights[:, : min(self.k + self.settings.buffer, len(self.space))])
        return self.space.vectors.clone(), self.space.products.clone()

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

    def _search(self, budget: int) -> tuple[RitzPairs, Tensor, Tensor]:
        """Renew and expand until the errors are met or ``budget`` products are used."""
        stop = self.products + budget
        while True:
            pairs, errors, residuals = self._errors()
            finite = bool(torch.isfinite(pairs.values).all())
            blind = not any(self.space.fresh)  # nothing is known of this operator yet
            if not finite or self.products >= stop or (not blind and bool((errors <= self.aim).all())):
                return pairs, errors, residuals
            worst = 0 if blind else min(int(errors.argmax()), len(self.space) - 1)
            if not self._renew(pairs, residuals, worst) and not self._expand(pairs, worst):
                return self._errors()

    def _renew(self, pairs: RitzPairs, residuals: Tensor, worst: int) -> bool:
        """Renew the old product with the largest part in a pair, if that spoils it more than its residual does."""
        old = [i for i, fresh in enumerate(self.space.fresh) if not fresh]
        doubt = self.space.gap * math.sqrt(float(pairs.stale[worst]))
        if not old or (any(self.space.fresh) and doubt < float(residuals[worst])):
            return False
        self.space.refresh(old[int(pairs.weights[old, worst].abs().argmax())], self._matvec)
        return True

    def _expand(self, pairs: RitzPairs, worst: int) -> bool:
        """Append the residual of a pair; False where the space is the whole one."""
        if len(self.space) >= self.size:
            return False
        if self.space.full:
            pairs = self._restart(pairs)
        rows, _ = self.space.residuals(pairs, worst + 1)
        unit, _ = self.space.orthogonalise(rows[worst])
        if unit is None:  # an invariant space: go on with a random direction
            return self._random() is not None
        self.space.append(unit, self._matvec)
        return True

    def _restart(self, pairs: RitzPairs) -> RitzPairs:
        self.space.compress(pairs.weights[:, : min(self.k + self.settings.buffer, len(self.space) - 1)])
        return self.space.ritz()

    def _errors(self) -> tuple[RitzPairs, Tensor, Tensor]:
        """Ritz pairs, the estimated relative errors of the wanted values, and their residual norms."""
        pairs, m = self.space.ritz(), len(self.space)
        if not bool(torch.isfinite(pairs.values).all()):
            nan = torch.full((self.k,), float("nan"), dtype=torch.float64)
            return pairs, nan, nan
        if self.settings.level is not None:
            above = int((pairs.values >= self.settings.level).sum())
            self.k = min(max(self.settings.k, min(above, self.settings.k_max)), self.size)
        k, block = min(self.k, m), min(m, self.k + self.settings.buffer)
        _, gram = self.space.residuals(pairs, block)
        residuals = gram.diagonal().clamp(min=0).sqrt()[:k].clone()
        gram = gram + torch.diag(pairs.stale[:block] * self.space.gap**2)
        errors = torch.full((self.k,), float("inf"), dtype=torch.float64)
        # the next Ritz value stands for the rest of the spectrum; with none left, nothing is left out
        found = [
            value_bounds(pairs.values[:s], gram[:s, :s], float(pairs.values[s]))[:k] - pairs.values[:k]
            for s in range(k, min(m, block + 1))
        ]
        if m >= self.size:
            found = [torch.zeros(k, dtype=torch.float64)]
        if found:
            doubt = pairs.stale[:k] * self.space.gap
            errors[:k] = (torch.stack(found).amin(0).clamp(min=0) + doubt) / _scale(pairs.values[:k])
        return pairs, errors, residuals

    def _check(self, budget: int) -> tuple[Tensor | None, bool]:
        """Upper bounds on the sorted eigenvalues, and whether what was found breaks the tolerance.

        Lanczos from a random start in the complement of the space; all its vectors join the space.
        """
        for row in [i for i, fresh in enumerate(self.space.fresh) if not fresh]:
            self.space.refresh(row, self._matvec)
        pairs = self.space.ritz()
        if len(self.space) >= self.size or not bool(torch.isfinite(pairs.values).all()):
            return (pairs.values if len(self.space) >= self.size else None), False
        if self.space.basis.shape[0] < min(self.size, len(self.space) + ROOM):
            pairs = self._restart(pairs)
        known, k = len(self.space), min(self.k, len(self.space))
        rest, failure = self.size - known, self.settings.failure
        _, gram = self.space.residuals(pairs, known)
        aim = self.settings.tol * _scale(pairs.values[:k])
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
        finite = bool(torch.isfinite(pairs.values).all())
        level, complete = self.settings.level, True
        if level is not None:
            ahead = pairs.values if bounds is None else bounds
            complete = finite and self.k < len(ahead) and float(ahead[self.k]) < level
            complete = complete or self.k == self.size
        found = Eigenpairs(
            values=pairs.values[:k],
            vectors=self.space.combine(pairs.weights[:, :k])[0],
            residuals=residuals[:k] / _scale(pairs.values[:k]),
            errors=errors[:k],
            converged=errors[:k] <= self.settings.tol,
            checked=check,
            products=self.products,
            check_products=used,
            complete=complete,
        )
        return found, finite


def _scale(values: Tensor) -> Tensor:
    return values.abs().clamp(min=torch.finfo(torch.float64).tiny)
