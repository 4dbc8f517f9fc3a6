"""The update that a step is followed by: how far it goes, and how far along the sharpest direction."""

import copy
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from .base import Column

if TYPE_CHECKING:
    from nets.descent import Problem, State

__all__ = ["Moves"]


class Moves:
    r"""$\Delta_n = \theta_{n+1} - \theta_n$ and its part $\Delta_n \cdot v_n$ along the top eigenvector last measured.

    The update is carried out once more on a copy of the state, exactly as the run will: the step of the optimizer, and
    with batches the gradient of the batch. v is as old as ``eig_every`` lets it; $\Delta_n \cdot v_n$ is NaN before the
    first one. Its sign is kept from step to step as far as v is.

    For SplitSGD, ``signed_share`` is the share of coordinates whose step is the signed one.

    Args:
        problem: The run's problem.
        every: Steps between observations.
    """

    name = "moves"

    def __init__(self, problem: "Problem", every: int) -> None:
        self.problem, self.every = problem, every
        self.split = problem.config.optimizer == "split_sgd"
        self.columns = {
            "move_norm": Column((), (), "parameter", "length of the update that follows"),
            "move_v": Column((), (), "parameter", "part of that update along the top eigenvector last measured"),
        }
        if self.split:
            about = "share of coordinates whose step is the signed one"
            self.columns["signed_share"] = Column((), (), "1", about)

    def observe(self, module: nn.Module, state: "State") -> dict[str, np.ndarray | float]:
        """Length, part along v, and for SplitSGD the share, each one number."""
        after = copy.copy(state)  # no tensor of a state is ever changed in place
        self.problem.update(after)
        move = after.parameters.double() - state.parameters.double()
        known = bool(state.eigenvector.any())
        row: dict[str, np.ndarray | float] = {
            "move_norm": float(move.norm()),
            "move_v": float(move @ state.eigenvector.double()) if known else float("nan"),
        }
        if self.split:
            threshold = self.problem.config.optimizer_settings["threshold"]
            row["signed_share"] = float((after.optimizer["momentum_buffer"].abs() > threshold).double().mean())
        return row
