r"""The largest algebraic eigenpairs of a matrix that changes a little from step to step."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .measurement import Eigenpairs, Measurement, Settings
from .steered import SteeredMeasurement, Steering
from .vectors import Matvec

__all__ = ["CurvatureTracker"]

MISLEADING = 0.3  # relative error of a surrogate beyond which it is left aside


class CurvatureTracker:
    r"""Follows the k largest algebraic eigenpairs, from step to step, with as few products as the error allows.

    Each call carries over the last Ritz vectors and their old products, renews the products that matter,
    adds residual directions (Lanczos from a cold start, Davidson's method from a warm one) and stops when the
    estimated error of every wanted value is below ``tol``. Every ``check_every`` calls, the first included, a
    Lanczos run from a random start in the complement bounds what may have been missed
    (``certificate``): only values that passed are ``converged``.

    A surrogate, a cheap operator that resembles the matrix, spares products between the checks (``steered``); one
    whose relative error is found to exceed 0.3 is left aside.

    Args:
        k: Number of pairs wanted.
        tol: Relative error of the values asked for; independent of P.
        level: Follow every eigenvalue above this value too, up to ``k_max``; None: exactly k.
        k_max: Most pairs followed where ``level`` is given.
        buffer: Ritz vectors carried besides the wanted ones.
        max_products: Most products per call from the second on, the check not counted.
        max_cold: The same for a cold start.
        max_check: Most products of one check; 0: no checks, and nothing is called converged.
        check_every: Calls from one check to the next.
        failure: Probability that one check misses a larger eigenvalue.
        parity: 1: start from the last call's vectors. 2: from those two calls before, for iterates that jump
            between the two walls of a valley.
        capacity: Most basis vectors held (memory: two vectors of shape (P,) each); None: enough for a cold start.
        seed: Seed of the random starts.
    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        k: int = 1,
        *,
        tol: float = 3e-3,
        level: float | None = None,
        k_max: int = 10,
        buffer: int = 4,
        max_products: int = 100,
        max_cold: int = 200,
        max_check: int = 100,
        check_every: int = 50,
        failure: float = 1e-6,
        parity: int = 1,
        capacity: int | None = None,
        seed: int = 0,
    ) -> None:
        most = k if level is None else max(k, k_max)
        if capacity is None:
            capacity = most + buffer + 60
        self.settings = Settings(k, tol, level, k_max, buffer, max_products, max_cold, max_check, failure, capacity)
        if check_every < 1:
            raise ValueError(f"check_every must be at least 1, got {check_every}; pass e.g. 50")
        if parity not in (1, 2):
            raise ValueError(f"parity must be 1 or 2, got {parity}; pass 2 at iterates, 1 at midpoints")
        self.check_every, self.parity, self.seed = check_every, parity, seed
        self._spaces: dict[int, tuple[Tensor, Tensor, list[float]]] = {}
        self._steering: dict[int, Steering] = {}
        self._calls = 0
        self._last_check: int | None = None
        self._clear = 0  # how many of the largest pairs passed the last check
        self._generator: Tensor | None = None

    def measure(self, matvec: Matvec, start: Tensor, surrogate: Matvec | None = None) -> Eigenpairs:
        r"""The pairs of the operator as it is now.

        Args:
            matvec: $v \mapsto Hv$ for vectors of shape (P,).
            start: Any tensor of shape (P,) whose type and device the vectors take; used as the first direction
                of a cold start if it is not zero, with a random part added; ignored afterwards.
            surrogate: A cheap operator that resembles the matrix and changes as it does, as it is now, e.g. the
                Hessian of a tenth of the examples (``LossCurvature.sample``).
        Raises:
            ValueError: If P differs from earlier calls.
        """
        if start.ndim != 1 or not start.is_floating_point() or start.numel() == 0:
            raise ValueError(
                f"start must be a real vector of shape (P,), got {tuple(start.shape)} {start.dtype}; pass zeros(P)"
            )
        slot = self._calls % self.parity
        carried = self._spaces.get(slot) or next(iter(self._spaces.values()), None)
        if carried is not None and carried[0].shape[1] != start.numel():
            raise ValueError(
                f"start must have {carried[0].shape[1]} entries as before, got {start.numel()}; make a new tracker"
            )
        check = self._last_check is None or self._calls - self._last_check >= self.check_every
        check = check and self.settings.max_check > 0
        steering = self._steering.get(slot) or next(iter(self._steering.values()), None)
        if surrogate is None or steering is None or check or steering.trust > MISLEADING:
            found, finite = self._plain(matvec, start, surrogate, carried, slot, check)
        else:
            steered = SteeredMeasurement(self.settings, matvec, surrogate, steering)
            found, finite = steered.run()
            if finite:
                self._keep(slot, steered.carry())
        if not finite:
            return found  # what is carried stays as it was
        if found.checked:
            self._last_check = self._calls
            self._clear = int(found.converged.long().cumprod(0).sum())
        self._calls += 1
        covered = torch.arange(len(found.values)) < self._clear
        return replace(found, converged=found.converged & covered)

    def _plain(
        self,
        matvec: Matvec,
        start: Tensor,
        surrogate: Matvec | None,
        carried: tuple[Tensor, Tensor, list[float]] | None,
        slot: int,
        check: bool,
    ) -> tuple[Eigenpairs, bool]:
        generator = torch.Generator(device=start.device)
        if self._generator is None:
            generator.manual_seed(self.seed)
        else:
            generator.set_state(self._generator)
        measurement = Measurement(self.settings, matvec, start, carried, generator)
        found, finite = measurement.run(check)
        if not finite:
            return found, False
        self._generator = generator.get_state()
        vectors, products, ages = self._spaces[slot] = measurement.carry(self.parity)
        self._steering.pop(slot, None)
        if surrogate is not None:
            stale = np.array(ages) > self.parity
            self._steering[slot] = Steering.begin(vectors, products, stale, surrogate)
            found = replace(found, surrogate_products=len(vectors))
        return found, True

    def _keep(self, slot: int, steering: Steering) -> None:
        self._steering[slot] = steering
        ages = [float(self.parity)] * len(steering.vectors)
        self._spaces[slot] = (steering.vectors, steering.products, ages)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the later results, as tensors and numbers; restores to the same bits."""
        state: dict[str, Any] = {
            "calls": self._calls,
            "last_check": -1 if self._last_check is None else self._last_check,
            "clear": self._clear,
            "generator": torch.empty(0, dtype=torch.uint8) if self._generator is None else self._generator.clone(),
        }
        for key, (vectors, products, ages) in self._spaces.items():
            state[f"vectors_{key}"], state[f"products_{key}"] = vectors.clone(), products.clone()
            state[f"ages_{key}"] = torch.tensor(ages, dtype=torch.float64)
        for key, steering in self._steering.items():
            state |= steering.state_dict(str(key))
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state made by ``state_dict`` of a tracker with the same settings."""
        self._calls, self._clear = int(state["calls"]), int(state["clear"])
        self._last_check = None if int(state["last_check"]) < 0 else int(state["last_check"])
        self._generator = state["generator"].clone() if state["generator"].numel() else None
        keys = [int(name.removeprefix("vectors_")) for name in state if name.startswith("vectors_")]
        self._spaces = {
            i: (state[f"vectors_{i}"].clone(), state[f"products_{i}"].clone(), state[f"ages_{i}"].tolist())
            for i in keys
        }
        self._steering = {i: Steering.from_state(state, str(i)) for i in keys if f"images_{i}" in state}
