"""Loss and accuracy on examples that are not trained on, and what single inputs contribute to the latter."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from nets.data.held_out import held_out
from nets.losses import correct, per_example_loss

from .base import Column

if TYPE_CHECKING:
    from nets.descent import Problem, State

__all__ = ["HeldOut"]


class HeldOut:
    r"""Mean loss and accuracy on the examples that follow the run's own in its data set.

    With ``columns``, also the accuracy where one of these inputs is exchanged among the held-out examples by a fixed
    random permutation: what is lost is what the network owes to it (permutation importance, Breiman 2001).

    Args:
        problem: The run's problem.
        every: Steps between observations.
        examples: Number of held-out examples.
        clean: Whether their labels are without the label noise of the run.
        columns: Inputs, by index.
        seed: Seed of the permutations.
    """

    name = "held_out"

    def __init__(
        self, problem: "Problem", every: int, examples: int, clean: bool, columns: tuple[int, ...], seed: int
    ) -> None:
        self.every, config = every, problem.config
        data = held_out(config, [examples], clean)
        if data is None:
            raise ValueError(
                f"examples must be held-out ones that {config.data} has after the run's {config.n_examples}, got "
                f"{examples}; pass fewer, or data that do not change with their number"
            )
        width = data.inputs.shape[1]
        if columns and (data.kind == "tokens" or max(columns) >= width or len(set(columns)) < len(columns)):
            raise ValueError(f"columns must be different inputs in 0..{width - 1}, got {columns}; choose others")
        self.loss = per_example_loss(config.loss, config.label_smoothing)
        inputs, self.targets = data.tensors(problem.dtype, problem.device)
        self.inputs = [inputs]
        for column in columns:
            order = np.random.default_rng([seed, column]).permutation(len(data.inputs))
            exchanged = inputs.clone()
            exchanged[:, column] = inputs[torch.from_numpy(order).to(problem.device), column]
            self.inputs.append(exchanged)
        self.columns = {
            "held_out_loss": Column((), (), "loss", "mean loss of the held-out examples"),
            "held_out_accuracy": Column((), (), "1", "share of the held-out examples classified correctly"),
        }
        if columns:
            self.columns["permuted_accuracy"] = Column(
                ("column",), (len(columns),), "1", "held_out_accuracy with the values of one input exchanged"
            )
            self.columns["permuted_column"] = Column.constant(("column",), np.array(columns), "1", "index of the input")

    def observe(self, module: nn.Module, state: "State") -> dict[str, np.ndarray | float]:
        """Loss, accuracy, and with columns the accuracies without each, shape (columns,)."""
        with torch.no_grad():
            outputs = [module(inputs) for inputs in self.inputs]
            accuracies = [float(correct(o, self.targets).double().mean()) for o in outputs]
            loss = float(self.loss(outputs[0], self.targets).double().mean())
        row: dict[str, np.ndarray | float] = {"held_out_loss": loss, "held_out_accuracy": accuracies[0]}
        return row | ({"permuted_accuracy": np.array(accuracies[1:])} if len(accuracies) > 1 else {})
