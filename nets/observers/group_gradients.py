"""Gradients of groups of examples: how large they are, and how far they oppose each other."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from analysis.curvature import flatten

from .base import Column
from .groups import Grouping

if TYPE_CHECKING:
    from nets.descent import Problem, State

__all__ = ["GroupGradients"]


class GroupGradients:
    r"""Norms of the groups' mean gradients $g_G = \frac1{|G|}\sum_{i\in G}\nabla\ell_i$, and the cosines between them.

    One forward pass and a backward pass a group for every observation. A cosine with a gradient of 0 is 0.

    Args:
        problem: The run's problem.
        every: Steps between observations.
        by: What the examples of a group share, as for ``groups``.
    """

    name = "group_gradients"

    def __init__(self, problem: "Problem", every: int, by: str) -> None:
        self.problem, self.every, self.groups = problem, every, Grouping(problem, by)
        values = self.groups.values
        n = len(values)
        self.columns = {
            "group_grad_norm": Column(
                ("gradient_group",), (n,), "loss per parameter", f"norm of the mean gradient of one {by}"
            ),
            "group_grad_cosine": Column(
                ("gradient_group", "other_group"), (n, n), "1", "cosine of the mean gradients of two groups"
            ),
            "gradient_group_value": Column.constant(("gradient_group",), values, "1", f"{by} of each group"),
        }

    def observe(self, module: nn.Module, state: "State") -> dict[str, np.ndarray]:
        """Norms, shape (groups,), and cosines, shape (groups, groups)."""
        losses = self.problem.loss(module(self.problem.inputs), self.problem.targets)
        means = self.groups.means(losses)
        params = list(module.parameters())
        rows = [flatten(torch.autograd.grad(mean, params, retain_graph=True)).double() for mean in means]
        gradients = torch.stack(rows)
        norms = gradients.norm(dim=1)
        unit = gradients / norms.clamp_min(torch.finfo(norms.dtype).tiny)[:, None]
        return {"group_grad_norm": norms.cpu().numpy(), "group_grad_cosine": (unit @ unit.T).cpu().numpy()}
