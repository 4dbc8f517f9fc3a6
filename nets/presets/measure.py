"""The registry of measures: named functions from the outcomes of runs to one number."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MEASURES", "Measure", "measure"]


@dataclass(frozen=True)
class Measure:
    """A measure.

    Args:
        function: Takes one outcome per run named, or lists of them where ``several``, and options by keyword.
        several: Whether each argument is the list of all runs of an entry, as a grid has them.
    """

    function: Callable[..., float]
    several: bool

    @property
    def says(self) -> str:
        """First line of its docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def check(self, runs: int, options: dict[str, Any]) -> None:
        """Refuse a number of runs or an option that it does not take.

        Raises:
            ValueError: If it does not.
        """
        try:
            inspect.signature(self.function).bind(*[None] * runs, **options)
        except TypeError as error:
            raise ValueError(f"{error}; it takes {inspect.signature(self.function)}") from None

    def __call__(self, *outcomes: Sequence[Any], **options: Any) -> float:
        """The value for the outcomes of the runs of each entry named."""
        if self.several:
            return float(self.function(*outcomes, **options))
        for found in outcomes:
            if len(found) != 1:
                raise ValueError(f"{self.function.__name__} must be of one run each, got a grid of {len(found)}")
        return float(self.function(*(found[0] for found in outcomes), **options))


MEASURES: dict[str, Measure] = {}


def measure(several: bool = False) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Register a function as a measure under its name.

    Args:
        several: Whether it takes all runs of a grid as a list.
    """

    def register(function: Callable[..., float]) -> Callable[..., float]:
        name = function.__name__
        if name in MEASURES:
            raise ValueError(f"measures must have names of their own, got {name} twice; rename one")
        MEASURES[name] = Measure(function, several)
        return function

    return register
