"""What an observer is: a name, a period, and the arrays of the record that it fills."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import nn

if TYPE_CHECKING:
    from nets.descent import State

__all__ = ["Column", "Observer"]


@dataclass(frozen=True)
class Column:
    """One array that an observer puts in the record, in the run's own type, NaN where nothing was observed.

    Args:
        dims: Names of the dimensions after ``step``.
        shape: Their sizes.
        units: Units.
        description: What it holds.
        fixed: Values that do not depend on the step, shape ``shape``: written once, without the dimension ``step``.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    units: str
    description: str
    fixed: np.ndarray | None = None

    @classmethod
    def constant(cls, dims: tuple[str, ...], values: np.ndarray, units: str, description: str) -> "Column":
        """A column of values that do not depend on the step."""
        return cls(dims, values.shape, units, description, values)


class Observer(Protocol):
    """Something measured at steps divisible by ``every``.

    It is made anew whenever a run is opened and must not remember earlier steps, draw from torch's global generator or
    change the module: then runs keep their bits whether they are watched, stopped or resumed.

    Attributes:
        name: Name, for messages.
        every: Steps from one observation to the next.
        columns: The arrays it fills, by the name they have in the record.
    """

    name: str
    every: int
    columns: Mapping[str, Column]

    def observe(self, module: nn.Module, state: "State") -> Mapping[str, np.ndarray | float]:
        """The values at a step, before its update.

        Args:
            module: The network at θ_n.
            state: The state of the run with row n measured: ``gradient`` is $g_n$, ``eigenvector`` the last one known.
        Returns:
            One value of the declared shape for every column that is not fixed.
        """
        ...
