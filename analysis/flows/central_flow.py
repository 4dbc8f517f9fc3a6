r"""Central flow: the time-averaged path of gradient descent, or of RMSProp, at the edge of stability.

The iterates are written θ + δ with a slow center θ and an oscillation δ of mean 0 and covariance Σ. With a diagonal
preconditioner P (1 for gradient descent) and t = lr * step,

$$\dot\theta = -P^{-1}\big[\nabla L + \tfrac12\nabla\langle H, \Sigma\rangle\big],\qquad
  \dot\nu = \tfrac{1-\beta_2}{\beta_2\eta}\big[\nabla L^2 + \operatorname{diag}(H\Sigma H) - \nu\big],$$
$$\Sigma \succeq 0,\qquad A = \tfrac2\eta P - H \succeq 0,\qquad \langle\Sigma, A\rangle = 0$$

(derived from the third-order expansion of the gradient; that the covariance keeps the curvature at its critical value
is the model's assumption). Σ lives on the critical directions, $\Sigma = UXU^\top$ with $U^\top PU = 1$. A step of
length h solves the complementarity problem for A(t + h), linear in X: a projected Euler method of order 1 in h.

References: Cohen, Damian, Talwalkar, Kolter & Lee (2024), arXiv 2410.24206.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.curvature import CurvatureSlopes, CurvatureTracker, precondition
from analysis.curvature.subspace import full_precision

from .complementarity import Complementarity, solve_complementarity
from .operators import Counted, Linearisable, flat_start
from .preconditioners import Preconditioner
from .slopes import operator_slopes

__all__ = ["CentralFlow", "CentralPoint"]


CHECK_EVERY = 10  # substeps from one search for missed eigenvalues to the next


@dataclass(frozen=True)
class CentralPoint:
    r"""The flow at one time, and what it says of the time averages over the oscillation.

    Args:
        step: t / lr.
        loss: L(θ) at the center.
        mean_loss: $L + \tfrac12\langle H, \Sigma\rangle$, the time-averaged loss of the iterates.
        squared_gradient: $\|\nabla L(\theta)\|^2$.
        mean_squared_gradient: $\|\nabla L + \tfrac12\nabla\langle H, \Sigma\rangle\|^2 +
            \operatorname{tr}(H\Sigma H)$, the time average over the iterates: mean and variance, to lowest order each.
        values: Largest eigenvalues of $P^{-1}H$ (the effective sharpness first), critical value 2/lr, shape (m,).
        covariance: X of the critical directions, shape (k, k), k ≤ m; their variances for P = 1.
        converged: Whether the eigenvalues met their tolerance, the last search found no larger one, there are fewer
            than ``k_max``, and X solves its problem.
        status: "running", or "diverged": a value is not finite.
    """

    step: float
    loss: float
    mean_loss: float
    squared_gradient: float
    mean_squared_gradient: float
    values: np.ndarray
    covariance: np.ndarray
    converged: bool
    status: str

    @property
    def effective_sharpness(self) -> float:
        r"""Largest eigenvalue of $P^{-1}H$ at the center."""
        return float(self.values[0])


@dataclass(frozen=True)
class _Velocity:
    """Of θ or of ν: without oscillation, shape (P,), and per unit of X, shape (k, k, P)."""

    free: Tensor
    bent: Tensor

    def at(self, x: Tensor) -> Tensor:
        """With the covariance X, shape (P,)."""
        return self.free + torch.tensordot(x, self.bent, 2)


class CentralFlow:
    r"""Central flow of a loss. Each substep is final: interrupted, it goes on from the last one.

    ``point`` is θ, ``moment`` ν, and ``directions`` the rows $u_i$, (k, P), that the ``covariance`` X of the last
    substep refers to: $\Sigma = \sum_{ij} X_{ij} u_i u_j^\top$.

    Args:
        operator: Loss with ``linearise``, e.g. ``LossCurvature``; on any device.
        start: θ(0), flat, shape (P,).
        lr: Step size η > 0.
        preconditioner: None or ``Preconditioner()``: gradient descent; ``Fixed``; ``RMSProp``.
        substeps: Euler steps per step of the optimizer. With 1 the slow directions move as the optimizer's own steps
            move them; more approach the continuous flow at order 1.
        margin: Directions whose curvature exceeds (1 - margin) 2/lr may become critical within a substep.
        k_max: Most directions followed, ≥ 2; where there are as many, ``converged`` is False.
        tol: Relative tolerance of the eigenvalues.
        radius: As of ``operator_slopes``: None: exact third derivatives; r > 0: differences over θ ± r P^{-1/2}w for
            a unit vector w, which any operator allows and which sees the kinks of a ReLU.
        seed: Of the eigensolver's random starts.
    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        operator: Linearisable,
        start: Tensor,
        lr: float,
        *,
        preconditioner: Preconditioner | None = None,
        substeps: int = 1,
        margin: float = 0.05,
        k_max: int = 10,
        tol: float = 1e-4,
        radius: float | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 < lr < math.inf:
            raise ValueError(f"lr must be positive and finite, got {lr}; pass lr > 0")
        if substeps < 1:
            raise ValueError(f"substeps must be at least 1, got {substeps}; pass e.g. 1")
        if not 0 < margin < 1:
            raise ValueError(f"margin must lie in (0, 1), got {margin}; pass e.g. 0.05")
        if k_max < 2:
            raise ValueError(f"k_max must be at least 2, got {k_max}; pass e.g. 10")
        self.counted, self.lr, self.substeps, self.radius = Counted(operator), lr, substeps, radius
        self.preconditioner = Preconditioner() if preconditioner is None else preconditioner
        self.critical, self.level = 2 / lr, (1 - margin) * 2 / lr
        self.k_max = k_max
        self.tracker = CurvatureTracker(1, tol=tol, level=self.level, k_max=k_max, check_every=CHECK_EVERY, seed=seed)
        self.point = flat_start(start)
        self.moment = self.preconditioner.initial(self.counted.linearise(self.point)[1])
        self.count = 0  # substeps taken
        self.directions = self.point.new_zeros((0, self.point.numel()))  # U of the last substep: Σ = UᵀXU
        self.third_order = 0  # third-order products; with a radius the linearisations for them

    def advance(self, steps: int, progress: Callable[[int, int], None] | None = None) -> list[CentralPoint]:
        """Follow the flow over so many steps of the optimizer.

        Args:
            steps: Steps of length lr.
            progress: Called after each with (steps done, steps).
        Returns:
            The flow at the beginning of each step; the last one has status "diverged" where it ended early.
        """
        points: list[CentralPoint] = []
        for done in range(1, steps + 1):
            for i in range(self.substeps):
                here = self.step()
                if i == 0 or here.status != "running":
                    points.append(here)
                if here.status != "running":
                    return points
            if progress is not None:
                progress(done, steps)
        return points

    def step(self) -> CentralPoint:
        """One substep of length lr / substeps; returns the flow at its beginning."""
        before = self.tracker.state_dict()
        try:
            return self._step()
        except BaseException:  # an interrupt: as if the step had not begun
            self.tracker.load_state_dict(before)
            raise

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the later results; restores to the same bits on the same device."""
        return {
            "count": self.count,
            "point": self.point.clone(),
            "moment": self.moment.clone(),
            "directions": self.directions.clone(),
            "tracker": self.tracker.state_dict(),
            "counts": [self.counted.gradients, self.counted.products, self.third_order],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state made by ``state_dict`` of a flow with the same arguments."""
        self.count, self.point, self.moment = int(state["count"]), state["point"].clone(), state["moment"].clone()
        self.directions = state["directions"].clone()
        self.tracker.load_state_dict(state["tracker"])
        self.counted.gradients, self.counted.products, self.third_order = state["counts"]

    def _step(self) -> CentralPoint:
        loss, gradient, matvec = self.counted.linearise(self.point)
        if not (math.isfinite(loss) and bool(torch.isfinite(gradient).all())):
            return self._report(loss, gradient, np.array([math.nan]), None, None, False)
        diagonal = self.preconditioner.diagonal(self.moment)
        product, root = precondition(matvec, diagonal)
        pairs = self.tracker.measure(product, torch.zeros_like(self.point))
        values = pairs.values.numpy()
        if not np.isfinite(values).all():
            return self._report(loss, gradient, values, None, None, False)
        directions = root * pairs.vectors[: int((values >= self.level).sum())]
        slopes = self._slopes(gradient, directions)
        velocity = _Velocity(-slopes.gradient / diagonal, -0.5 * slopes.slopes / diagonal)
        moment_velocity = self._moment_velocity(slopes, directions, diagonal)
        with full_precision():
            solved = self._covariance(slopes, velocity, moment_velocity, directions, diagonal)
        x = torch.from_numpy(solved.solution).to(self.point)
        h = self.lr / self.substeps
        point = self.point + h * velocity.at(x)
        moment = self.moment
        if moment_velocity is not None:
            moment = (moment + h * moment_velocity.at(x)).clamp(min=0)  # a mean of squares is not negative
        sound = bool(pairs.converged.all()) and len(values) < self.k_max and solved.converged
        here = self._report(loss, gradient, values, slopes, (directions, x), sound)
        # only now, all together, does the state change
        self.point, self.moment, self.count = point, moment, self.count + 1
        self.directions = directions
        return here

    def _slopes(self, gradient: Tensor, directions: Tensor) -> CurvatureSlopes:
        k = len(directions)
        if k == 0:
            return CurvatureSlopes(gradient, directions, directions.new_zeros((0, 0, len(gradient))))
        self.third_order += k * (k + 1) // 2 if self.radius is None else 2 * k + 1
        return operator_slopes(self.counted.operator, self.point, directions, radius=self.radius)

    def _moment_velocity(self, slopes: CurvatureSlopes, directions: Tensor, diagonal: Tensor) -> _Velocity | None:
        """Of ν; None where it is constant. HU = (2/lr) PU, exact at the edge, keeps the problem symmetric."""
        speed = self.preconditioner.rate / self.lr
        if speed == 0:
            return None
        forces = self.critical * diagonal * directions
        return _Velocity(speed * (slopes.gradient.square() - self.moment), speed * forces[:, None] * forces[None, :])

    def _covariance(
        self,
        slopes: CurvatureSlopes,
        velocity: _Velocity,
        moment_velocity: _Velocity | None,
        directions: Tensor,
        diagonal: Tensor,
    ) -> Complementarity:
        r"""X from $U^\top A(t+h)U \succeq 0$, with $\dot A = \frac2\eta\dot P - \dot H$ and U held fixed."""
        h, k = self.lr / self.substeps, len(directions)

        def parts(v: _Velocity) -> tuple[Tensor, Tensor]:
            return v.free, v.bent.flatten(0, 1).T

        # d/dt of U^T A U, shapes (k, k) and (k, k, k^2)
        changes = [-(slopes.slopes @ part) for part in parts(velocity)]
        if moment_velocity is not None:
            pairs = (directions[:, None] * directions[None, :]) * self.preconditioner.slope(self.moment)
            ours = zip(parts(moment_velocity), changes, strict=True)
            changes = [self.critical * (pairs @ part) + change for part, change in ours]
        free, bent = (h * change.to("cpu", torch.float64).numpy() for change in changes)
        curvature = slopes.products @ directions.T
        now = (self.critical * (directions * diagonal) @ directions.T - curvature).to("cpu", torch.float64).numpy()
        return solve_complementarity((now + now.T) / 2 + free, bent.reshape(k, k, k, k))

    def _report(
        self,
        loss: float,
        gradient: Tensor,
        values: np.ndarray,
        slopes: CurvatureSlopes | None,
        oscillation: tuple[Tensor, Tensor] | None,
        converged: bool,
    ) -> CentralPoint:
        square = float(gradient.double().square().sum())
        more_loss, mean_square = 0.0, square
        covariance = np.zeros((0, 0))
        if slopes is not None and oscillation is not None:
            directions, x = oscillation
            more_loss = 0.5 * float((x * (directions @ slopes.products.T)).sum())
            mean = gradient + 0.5 * torch.tensordot(x, slopes.slopes, 2)
            spread = float((x * (slopes.products @ slopes.products.T)).sum())
            mean_square = float(mean.double().square().sum()) + spread
            covariance = x.to("cpu", torch.float64).numpy()
        return CentralPoint(
            self.count / self.substeps,
            loss,
            loss + more_loss,
            square,
            mean_square,
            values,
            covariance,
            converged,
            "running" if slopes is not None else "diverged",
        )
