"""The observers of a run: made from its configuration, asked when they are due."""

from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from nets.config import ConfigError
from nets.importing import call_user
from nets.options import OBSERVERS, parse_observer
from nets.recorded_losses import loss_arrays, loss_sizes

from .base import Column, Observer
from .effective import EffectiveSharpness
from .feature import FeatureShare
from .group_gradients import GroupGradients
from .groups import GroupLosses
from .held_out import HeldOut
from .moves import Moves
from .probes import Probes
from .spectrum import Density, Eigenvalues

if TYPE_CHECKING:
    from nets.descent import Problem, State

__all__ = ["Watch"]

KINDS = {
    "eigenvalues": Eigenvalues,
    "density": Density,
    "effective_sharpness": EffectiveSharpness,
    "feature": FeatureShare,
    "groups": GroupLosses,
    "group_gradients": GroupGradients,
    "held_out": HeldOut,
    "moves": Moves,
    "probes": Probes,
}
#: beginnings of names that every record has
TAKEN = ("target", "products", "accuracy", "oscillation", "loss", "grad_", "sharpness", "example_", "truth_")


class Watch:
    """The observers named by ``config.observers``; without any it costs one comparison per step.

    Args:
        problem: Data, network and loss of the run.
    Raises:
        ConfigError: If an observer cannot be made, or two declare the same array.
    """

    def __init__(self, problem: "Problem") -> None:
        self.observers = [_make(text, problem) for text in problem.config.observers]
        self.columns: dict[str, Column] = {}
        config, data = problem.config, problem.dataset
        sizes = {"step": config.steps, "example": data.n_losses, **loss_sizes(config)}
        taken = {*loss_arrays(config), *sizes}
        if data.kind == "regression" and data.targets.shape[1] > 1:
            sizes["output"] = data.targets.shape[1]
        for observer in self.observers:
            for name, column in observer.columns.items():
                if name in self.columns or name in taken or name.startswith(TAKEN):
                    raise ConfigError(f"observers must fill arrays of their own, got {name} from {observer.name}")
                self.columns[name] = column
                for dim, size in zip(column.dims, column.shape, strict=True):
                    if sizes.setdefault(dim, size) != size:
                        raise ConfigError(
                            f"dimension {dim} must have one size, got {size} and {sizes[dim]} from {observer.name}; "
                            "rename it"
                        )

    def due(self, state: "State") -> bool:
        """Whether anyone observes this step; nobody does once the run has diverged."""
        return bool(self.observers) and not state.diverged and any(state.step % o.every == 0 for o in self.observers)

    def observe(self, module: nn.Module, state: "State") -> dict[str, np.ndarray | float]:
        """The values of all observers that are due, by their names in the record.

        Raises:
            ValueError: If an observer does not give what it declared.
        """
        row: dict[str, np.ndarray | float] = {}
        for observer in self.observers:
            if state.step % observer.every:
                continue
            given = observer.observe(module, state)
            wanted = {name: c.shape for name, c in observer.columns.items() if c.fixed is None}
            got = {name: np.shape(value) for name, value in given.items()}
            if got != wanted:
                raise ValueError(f"observer {observer.name} must give arrays of shapes {wanted}, got {got}; correct it")
            row |= given
        return row


def _make(text: str, problem: "Problem") -> Observer:
    name, options = parse_observer(text)
    if name not in OBSERVERS:
        return call_user("observers", name, problem, **options)
    try:
        return KINDS[name](problem, **options)
    except (ValueError, OSError) as error:
        raise ConfigError(f"observers: {' '.join(str(error).split())}") from error
