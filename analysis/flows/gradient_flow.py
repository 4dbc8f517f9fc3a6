r"""Gradient flow of a network, $d\theta/dt = -\nabla L(\theta)$, in the time of gradient descent: t = lr * step.

Method: exponential Rosenbrock of order 3 with an embedded solution of order 2 ("exprb32"). With H at the start of a
step of length h, $F = -\nabla L$ and $N(\theta) = F(\theta) + H\theta$,

$$U = \theta + h\varphi_1(-hH)F(\theta),\qquad
  \theta^+ = U + 2h\varphi_3(-hH)\,[N(U) - N(\theta)],$$

the two φ-products by Lanczos. What is linear in a step is solved exactly, so that stiffness does not bound the step;
a φ-product takes about $\sqrt{h\lambda_{max}}$ Hessian products. Costs and errors beside scipy's explicit methods and
gradient descent: ``benchmarks/flows.py``.

References: Hochbruck, Ostermann & Schweitzer (2009), SIAM J. Numer. Anal. 47, 786 (exprb32).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .krylov import phi_product
from .operators import Counted, Linearisable, flat_start

__all__ = ["FlowPoint", "GradientFlow"]

ORDER = 3  # of the error of one step of the embedded solution, which the steps are chosen by
SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0
KRYLOV_SHARE = 0.2  # of a step's tolerance, allowed to each φ-product
FIRST = 0.01  # first step: moves the parameters by this share of their size
SHORTEST = 1e-14  # of the time reached; below, a step no longer moves it


@dataclass(frozen=True)
class FlowPoint:
    r"""Where the flow stands.

    Args:
        time: t = lr * step of gradient descent.
        loss: L(θ).
        gradient_norm: $\|\nabla L\|$, so that $dL/dt = -\|\nabla L\|^2$.
        status: "reached"; "diverged": loss or gradient is not finite at the start; "stalled": ``max_steps`` were
            not enough, or no step, however short, meets the tolerance (kinks, or rounding: raise ``rtol``, or take
            float64).
        gradients, products: Evaluations so far: gradients, with the graph for products, and Hessian products.
        steps, rejected: Steps taken so far, and tried in vain.
    """

    time: float
    loss: float
    gradient_norm: float
    status: str
    gradients: int
    products: int
    steps: int
    rejected: int


class GradientFlow:
    r"""Adaptive, stiff-aware gradient flow. Each accepted step is final: interrupted, it goes on from the last one.

    The root mean square of the local error of every step is held below ``atol`` + ``rtol`` · rms(θ) (estimated).

    Args:
        operator: Loss with ``linearise``, e.g. ``LossCurvature``; on any device.
        start: θ(0), flat, shape (P,).
        rtol: Relative tolerance; in float32 not below about 1e-5.
        atol: Absolute tolerance, in parameter units.
        max_step: Longest step.
        max_steps: Most steps, those tried in vain included, of one call of ``advance``. Along the kinks of a ReLU,
            where the flow slides, steps become as short as the tolerance.
        max_products: Most Hessian products in one φ-product; a step that would need more is halved
            (memory: 2 · max_products · P).
    Raises:
        ValueError: If a tolerance or limit is out of range, or ``start`` is not a real vector.
    """

    def __init__(
        self,
        operator: Linearisable,
        start: Tensor,
        *,
        rtol: float = 1e-4,
        atol: float = 1e-8,
        max_step: float = math.inf,
        max_steps: int = 10_000,
        max_products: int = 60,
    ) -> None:
        for name, value in (("rtol", rtol), ("atol", atol), ("max_step", max_step)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}; pass {name} > 0")
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps}; pass e.g. 10000")
        if max_products < 2:
            raise ValueError(f"max_products must be at least 2, got {max_products}; pass e.g. 60")
        self.operator, self.rtol, self.atol = Counted(operator), rtol, atol
        self.max_step, self.max_steps, self.max_products = max_step, max_steps, max_products
        self.time, self.point = 0.0, flat_start(start)
        self.steps = self.rejected = 0
        self._next_step: float | None = None
        self._here = self.operator.linearise(self.point)

    def advance(self, until: float, progress: Callable[[float, float], None] | None = None) -> FlowPoint:
        """Follow the flow to time ``until``, reached exactly.

        Args:
            until: t ≥ the present time.
            progress: Called after every step with (time reached, until).
        Raises:
            ValueError: If ``until`` lies in the past or is not finite.
        """
        if not self.time <= until < math.inf:
            raise ValueError(f"until must be finite and >= {self.time:g}, got {until}; pass a later time")
        status = "reached"
        if not (math.isfinite(self._here[0]) and bool(torch.isfinite(self._here[1]).all())):
            status = "diverged"
        limit = self.steps + self.rejected + self.max_steps
        while status == "reached" and self.time < until:
            if not self._step(until, limit):
                status = "stalled"
            elif progress is not None:
                progress(self.time, until)
        counts = self.operator
        return FlowPoint(
            self.time,
            self._here[0],
            float(self._here[1].double().norm()),
            status,
            counts.gradients,
            counts.products,
            self.steps,
            self.rejected,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the later results; restores to the same bits on the same device."""
        return {
            "time": self.time,
            "point": self.point.clone(),
            "next_step": -1.0 if self._next_step is None else self._next_step,
            "counts": [self.operator.gradients, self.operator.products, self.steps, self.rejected],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state made by ``state_dict`` of a flow with the same arguments."""
        self.time, self.point = float(state["time"]), state["point"].clone()
        self._next_step = None if state["next_step"] < 0 else float(state["next_step"])
        self._here = self.operator.linearise(self.point)
        self.operator.gradients, self.operator.products, self.steps, self.rejected = state["counts"]

    def _step(self, until: float, limit: int) -> bool:
        """One accepted step, to ``until`` at the latest; False if none is short enough or the limit is met."""
        tolerance = self.rtol * float(self.point.norm()) + self.atol * math.sqrt(self.point.numel())
        if self._next_step is None:
            speed = float(self._here[1].norm())
            self._next_step = FIRST * (tolerance / self.rtol) / speed if speed > 0 else until - self.time
        planned = self._next_step
        while True:
            h = min(planned, until - self.time, self.max_step)
            if not h > SHORTEST * self.time or self.steps + self.rejected >= limit:
                return False
            point, error = self._try(h, tolerance)
            ratio = error / tolerance
            if ratio <= 1:
                break
            planned = h * (max(SHRINK, SAFETY * ratio ** (-1 / ORDER)) if math.isfinite(ratio) else SHRINK)
            self.rejected += 1
        here = self.operator.linearise(point)
        grown = h * min(GROW, SAFETY * max(ratio, 1e-9) ** (-1 / ORDER))
        # only now, all together, does the state change; a step cut short by `until` does not shorten the next ones
        self._next_step = grown if h == planned else max(planned, grown)
        self.time = until if h == until - self.time else self.time + h
        self.point, self._here = point, here
        self.steps += 1
        return True

    def _try(self, h: float, tolerance: float) -> tuple[Tensor, float]:
        """The point after a step of length h and its estimated error, 2-norm; infinite where it failed."""
        _, gradient, matvec = self._here
        share = KRYLOV_SHARE * tolerance / h
        first = phi_product(matvec, -gradient, h, 1, tol=share, most=self.max_products)
        if not first.converged:
            return self.point, math.inf
        inner = self.point + h * first.value
        loss, there, _ = self.operator.linearise(inner)
        if not math.isfinite(loss):
            return self.point, math.inf
        bend = gradient - there + h * first.image  # N(U) - N(θ)
        second = phi_product(matvec, bend, h, 3, tol=share, most=self.max_products)
        if not second.converged:
            return self.point, math.inf
        correction = 2 * h * second.value
        error = float(correction.norm())
        return inner + correction, error if math.isfinite(error) else math.inf
