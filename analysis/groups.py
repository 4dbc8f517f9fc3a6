r"""Opposing groups at one step: the examples whose losses move most, up and down, and how opposed they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from analysis.projection import ExampleLosses, group_gradient

__all__ = ["OpposingGroups", "find_opposing_groups", "largest_movers"]


@dataclass(frozen=True)
class OpposingGroups:
    r"""Two groups of examples and the evidence that they oppose each other.

    Args:
        rising: Indices with the largest positive change, strongest first.
        falling: Indices with the largest negative change, strongest first.
        cosine: $\cos(g_+, g_-)$ of the groups' mean gradients, in [−1, 1].
        alignment: $(|\cos(g_+, v)|, |\cos(g_-, v)|)$ with the top eigenvector.
        opposition: $\max(0, -\cos(g_+, g_-))$, in [0, 1]: 1 exactly opposed, 0 not at all.
        control: The same number for two disjoint random groups of the same sizes (mean over draws).
    """

    rising: tuple[int, ...]
    falling: tuple[int, ...]
    cosine: float
    alignment: tuple[float, float]
    opposition: float
    control: float


def largest_movers(change: ArrayLike, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the ``k`` largest increases and of the ``k`` largest decreases, strongest first.

    Only changes of the right sign count, so a group may hold fewer than ``k``.
    """
    values = np.asarray(change, dtype=np.float64)
    if values.ndim != 1 or not 0 < k <= values.size // 2:
        raise ValueError(f"k must be between 1 and half of the {values.size} examples, got {k}; pass a smaller k")
    order = np.argsort(values, kind="stable")
    rising, falling = order[::-1][:k], order[:k]
    return rising[values[rising] > 0], falling[values[falling] < 0]


def _cosine(a: Tensor, b: Tensor) -> float:
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else 0.0


def find_opposing_groups(
    losses: ExampleLosses,
    params: Sequence[Tensor],
    change: ArrayLike,
    vector: Tensor,
    k: int = 20,
    control_draws: int = 8,
    seed: int = 0,
) -> OpposingGroups | None:
    r"""The opposing groups at a step, from a signed change of every example's loss.

    Args:
        losses: $\theta \mapsto (\ell_1, \dots, \ell_n)$.
        params: θ at the step.
        change: Signed change per example, shape (n,): a one-step difference, a demodulated change, or the
            projection $\nabla\ell_i\cdot v$.
        vector: Top Hessian eigenvector v, shape (P,).
        k: Largest size of a group.
        control_draws: Random pairs of groups averaged for ``control``.
        seed: Seed of those draws.
    Returns:
        The groups, or None where no example's loss rises or none falls.
    """
    rising, falling = largest_movers(change, k)
    if rising.size == 0 or falling.size == 0:
        return None
    up = group_gradient(losses, params, torch.as_tensor(rising.copy()))
    down = group_gradient(losses, params, torch.as_tensor(falling.copy()))
    cosine = _cosine(up, down)
    rng = np.random.default_rng(seed)
    n = np.asarray(change).size
    controls = []
    for _ in range(control_draws):
        drawn = rng.permutation(n)[: rising.size + falling.size]
        a = group_gradient(losses, params, torch.as_tensor(drawn[: rising.size]))
        b = group_gradient(losses, params, torch.as_tensor(drawn[rising.size :]))
        controls.append(max(0.0, -_cosine(a, b)))
    return OpposingGroups(
        rising=tuple(int(i) for i in rising),
        falling=tuple(int(i) for i in falling),
        cosine=cosine,
        alignment=(abs(_cosine(up, vector)), abs(_cosine(down, vector))),
        opposition=max(0.0, -cosine),
        control=float(np.mean(controls)),
    )
