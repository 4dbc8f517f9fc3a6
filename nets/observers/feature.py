"""How much of the network's output comes from a planted feature."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from .base import Column

if TYPE_CHECKING:
    from nets.descent import Problem, State

__all__ = ["FeatureShare"]


class FeatureShare:
    r"""The planted feature's share of the variation of the outputs (measured).

    $$\frac{\sum_{i\in C} \|f(x_i) - f(x_i - (x_i\cdot q)\,q)\|^2}{\sum_{i} \|f(x_i) - \bar f\|^2}$$

    with q the feature and C its carriers. The feature is taken out of one carrier at a time, the others left as they
    are, so that BatchNorm keeps the statistics of the data up to one example's part.

    Args:
        problem: The run's problem; its data must know ``pattern`` and ``carrier``, as planted ones do.
        every: Steps between observations.
        carriers: Carriers that are looked at, the first so many; the sum is scaled up to all.
    """

    name = "feature"

    def __init__(self, problem: "Problem", every: int, carriers: int) -> None:
        truth = problem.dataset.truth
        if "pattern" not in truth or not truth.get("carrier", np.zeros(1)).any():
            raise ValueError(
                f"data must know a pattern and its carriers, {problem.dataset.name} knows "
                f"{', '.join(truth) or 'nothing'}; choose data planted"
            )
        self.problem, self.every = problem, every
        rows = np.flatnonzero(truth["carrier"])
        self.rows, self.scale = rows[:carriers].tolist(), len(rows) / len(rows[:carriers])
        self.pattern = torch.as_tensor(truth["pattern"], dtype=problem.inputs.dtype, device=problem.device)
        self.columns = {
            "feature_share": Column((), (), "1", "share of the outputs' variation that comes from the planted feature")
        }

    def observe(self, module: nn.Module, state: "State") -> dict[str, float]:
        """The share."""
        changed = self.problem.inputs.clone()
        with torch.no_grad():
            outputs = module(changed).double()
            moved = 0.0
            for i in self.rows:
                kept = changed[i].clone()
                changed[i] = kept - (kept @ self.pattern) * self.pattern
                moved += float((module(changed)[i].double() - outputs[i]).square().sum())
                changed[i] = kept
        total = float((outputs - outputs.mean(0)).square().sum())
        return {"feature_share": self.scale * moved / total if total > 0 else float("nan")}
