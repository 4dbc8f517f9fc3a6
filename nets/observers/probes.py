"""Outputs of the network on chosen inputs."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from .base import Column

if TYPE_CHECKING:
    from nets.descent import Problem, State

__all__ = ["Probes"]


class Probes:
    r"""$f(x_k; \theta_n)$ for fixed inputs $x_k$, such as images of one colour (``analysis.probe``).

    The inputs are copied into the record as ``probe_input``. BatchNorm takes its statistics from the probes alone.

    Args:
        problem: The run's problem.
        every: Steps between observations.
        examples: Indices of rows of the run's own data.
        file: A ``.npy`` array of shape (m, ...) of inputs as the network takes them (standardised, or tokens); they
            follow the ``examples``.
        feature: Whether the feature that the data's generator planted follows them, alone and as strong as a carrier
            has it (``truth["pure"]``).
    """

    name = "probes"

    def __init__(self, problem: "Problem", every: int, examples: tuple[int, ...], file: str, feature: bool) -> None:
        rows = problem.dataset.inputs
        if not examples and not file and not feature:
            raise ValueError(
                "probes must be given examples, a file or feature, got none; pass e.g. probes examples=0,1"
            )
        if examples and max(examples) >= len(rows):
            raise ValueError(f"examples must be rows in 0..{len(rows) - 1}, got {max(examples)}; choose others")
        inputs = rows[np.array(examples, dtype=np.int64)]
        if file:
            given = np.load(file, allow_pickle=False)
            if given.shape[1:] != rows.shape[1:] or (given.dtype.kind == "f") != (rows.dtype.kind == "f"):
                raise ValueError(
                    f"file must hold inputs of shape (m, {', '.join(map(str, rows.shape[1:]))}) like {rows.dtype}, "
                    f"got {given.shape} {given.dtype}; reshape them"
                )
            inputs = np.concatenate([inputs, given.astype(rows.dtype)])
        if feature:
            pure = problem.dataset.truth.get("pure")
            if pure is None:
                raise ValueError(f"feature must be that of planted data, got {problem.dataset.name}; leave it out")
            inputs = np.concatenate([inputs, pure.astype(rows.dtype)])
        self.every = every
        self.inputs = torch.from_numpy(inputs).to(problem.device, problem.inputs.dtype)
        with torch.no_grad():
            shape = tuple(problem.module(self.inputs).shape)
        dims = ("probe", "probe_output") if len(shape) == 2 else ("probe", "probe_position", "probe_output")
        self.columns = {
            "probe_outputs": Column(dims, shape, "1", "outputs of the network on probe_input"),
            "probe_input": Column.constant(("probe", "probe_feature"), inputs, "1", "inputs as the network takes them"),
        }

    def observe(self, module: nn.Module, state: "State") -> dict[str, np.ndarray]:
        """Outputs, shape (probes, outputs) or (probes, positions, outputs)."""
        with torch.no_grad():
            return {"probe_outputs": module(self.inputs).cpu().numpy()}
