"""Groups of examples that share something, and their mean losses."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from .base import Column

if TYPE_CHECKING:
    from nets.descent import Problem, State

__all__ = ["GroupLosses", "Grouping"]


class Grouping:
    """The groups of examples that share a class, a token, or a known truth.

    Args:
        problem: The run's problem.
        by: "target", or the name of an integer truth that the data's generator knows of every example ("sign").
    Raises:
        ValueError: If the data know nothing of that name.
    """

    def __init__(self, problem: "Problem", by: str) -> None:
        data = problem.dataset
        labels = data.targets.reshape(-1) if by == "target" and data.kind != "regression" else data.truth.get(by)
        if labels is None or labels.shape != (data.n_losses,) or labels.dtype.kind not in "bi":
            known = [n for n, v in data.truth.items() if v.shape == (data.n_losses,) and v.dtype.kind in "bi"]
            known += ["target"] * (data.kind != "regression")
            raise ValueError(
                f"by must be one of {', '.join(known) or 'none for these data'}, got {by!r}; choose another"
            )
        self.values, members = np.unique(labels.astype(np.int64), return_inverse=True)
        self.members = torch.from_numpy(members.reshape(-1)).to(problem.device)
        self.sizes = torch.bincount(self.members)

    def means(self, values: Tensor) -> Tensor:
        """Mean over every group of a value per example, (n,) → (groups,), float64."""
        sums = torch.zeros(len(self.sizes), dtype=torch.float64, device=values.device)
        return sums.index_add(0, self.members, values.double()) / self.sizes


class GroupLosses:
    r"""$\frac1{|G|}\sum_{i \in G}\ell_i$ for the groups of examples of a `Grouping`.

    One forward pass per observation. Where ``example_loss`` is recorded too, this is its mean over the group.

    Args:
        problem: The run's problem.
        every: Steps between observations.
        by: What the examples of a group share.
    """

    name = "groups"

    def __init__(self, problem: "Problem", every: int, by: str) -> None:
        self.problem, self.every, self.groups = problem, every, Grouping(problem, by)
        values = self.groups.values
        self.columns = {
            "group_loss": Column(("group",), values.shape, "loss", f"mean loss of the examples of one {by}"),
            "group_value": Column.constant(("group",), values, "1", f"{by} of each group"),
        }

    def observe(self, module: nn.Module, state: "State") -> dict[str, np.ndarray]:
        """Mean losses, shape (groups,)."""
        with torch.no_grad():
            losses = self.problem.loss(module(self.problem.inputs), self.problem.targets)
            return {"group_loss": self.groups.means(losses).cpu().numpy()}
