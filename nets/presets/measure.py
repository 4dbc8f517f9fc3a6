"""The registry of measures: named functions from the outcomes of runs to one number."""

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nets.config import TrainConfig

__all__ = ["MEASURES", "Measure", "measure"]

KINDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
#: need -> what the runs must have in words, and whether a configuration gives it
NEEDS: dict[str, tuple[str, Callable[[TrainConfig], bool]]] = {
    "trained": ("training", lambda config: True),
    "sharpness": ("the sharpness measured (eig_every > 0)", lambda config: config.eig_every > 0),
    "critical": ("a constant critical sharpness", lambda config: config.critical_sharpness is not None),
    "effective_critical": (
        "a constant critical sharpness of the preconditioned Hessian",
        lambda config: config.critical_effective_sharpness is not None,
    ),
    "losses": ("the losses of all examples (record_losses full or float16)", lambda config: config.records_all_losses),
}

Needs = Sequence[str] | Callable[..., Sequence[str]]


@dataclass(frozen=True)
class Measure:
    """A measure.

    Args:
        function: Takes one outcome per run named, or lists of them where ``several``, and options by keyword.
        several: Whether each argument is the list of all runs of an entry, as a grid has them.
        needs: What the runs must have, see `measure`.
    """

    function: Callable[..., float]
    several: bool
    needs: Needs = ()

    @property
    def name(self) -> str:
        """Its name in a claim."""
        return self.function.__name__

    @property
    def says(self) -> str:
        """First line of its docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def check(self, runs: int, options: dict[str, Any]) -> None:
        """Refuse a number of runs or an option that it does not take.

        Raises:
            ValueError: If it does not.
        """
        parameters = list(inspect.signature(self.function).parameters.values())
        of = [p for p in parameters if _is_run(p)]
        least = sum(p.default is p.empty and p.kind != p.VAR_POSITIONAL for p in of)
        most = math.inf if any(p.kind == p.VAR_POSITIONAL for p in of) else len(of)
        if not max(least, 1) <= runs <= most:
            raise ValueError(f"{self.name} must be of {max(least, 1)} runs, got {runs}; name them first")
        known = {p.name: p for p in parameters if not _is_run(p)}
        wrong = sorted(set(options) - set(known))
        if wrong:
            names = ", ".join(known) or "none"
            raise ValueError(f"options of {self.name} must be among {names}; got {', '.join(wrong)}; remove it")
        for name, parameter in known.items():
            if name in options:
                _check_kind(f"{name} of {self.name}", parameter, options[name])
            elif parameter.default is parameter.empty:
                raise ValueError(f"{name} of {self.name} must be given, got none; add {name}=...")

    def check_plans(self, plans: Sequence[Any], options: dict[str, Any]) -> None:
        """Refuse the planned runs of an entry that it cannot be of.

        Args:
            plans: The runs of the entry (`RunPlan`).
            options: Given to the measure.
        Raises:
            ValueError: If they are several and it is of one, or lack what it needs.
        """
        if len(plans) > 1 and not self.several:
            raise ValueError(
                f"{self.name} must be of a single run, got {plans[0].name} with a grid of {len(plans)}; "
                "choose a measure of several"
            )
        needs = self.needs(**options) if callable(self.needs) else self.needs
        for plan in plans:
            for need in needs:
                if plan.config is None:
                    raise ValueError(f"{self.name} must be of trained runs, got {plan.folder}, simulated; name one")
                words, given = NEEDS.get(need, (f"the observer {need}", functools.partial(_observes, need)))
                if not given(plan.config):
                    raise ValueError(f"{self.name} must be of runs with {words}, got {plan.folder}; choose another")

    def __call__(self, *outcomes: Sequence[Any], **options: Any) -> float:
        """The value for the outcomes of the runs of each entry named; NaN where one did not come about."""
        if not all(outcomes):
            return math.nan
        for found in outcomes:
            if len(found) != 1 and not self.several:
                raise ValueError(f"{self.name} must be of one run each, got a grid of {len(found)}; name another run")
        given = outcomes if self.several else [found[0] for found in outcomes]
        with warnings.catch_warnings(), np.errstate(all="ignore"):  # of a run that diverged
            warnings.simplefilter("ignore", RuntimeWarning)
            return float(self.function(*given, **options))


MEASURES: dict[str, Measure] = {}


def measure(several: bool = False, needs: Needs = ()) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Register a function as a measure under its name.

    Its runs are the parameters annotated as outcomes, or those without annotation and default; the others are options.

    Args:
        several: Whether it takes all runs of a grid as a list.
        needs: What every run must have, so that others are refused before anything is trained: "trained",
            "sharpness", "critical" (sharpness, a constant one), "effective_critical" (the same of the preconditioned
            Hessian), "losses" (of all examples), or the name of an observer; or a function of the
            options that says so.
    """

    def register(function: Callable[..., float]) -> Callable[..., float]:
        name = function.__name__
        if name in MEASURES:
            raise ValueError(f"measures must have names of their own, got {name} twice; rename one")
        MEASURES[name] = Measure(function, several, needs)
        return function

    return register


def _observes(name: str, config: TrainConfig) -> bool:
    return any(text.split()[0] == name for text in config.observers)


def _is_run(parameter: inspect.Parameter) -> bool:
    if parameter.annotation is parameter.empty:
        return parameter.default is parameter.empty and parameter.kind != parameter.KEYWORD_ONLY
    return "Outcome" in str(parameter.annotation)


def _check_kind(what: str, parameter: inspect.Parameter, value: Any) -> None:
    """Refuse a value of another kind than the default, or else the annotation."""
    kind = parameter.annotation if parameter.default in (parameter.empty, None) else type(parameter.default)
    if kind not in KINDS:
        return
    right = isinstance(value, int | float) if kind is float else isinstance(value, kind)
    if kind is not bool and isinstance(value, bool):
        right = False
    if not right or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{what} must be {KINDS[kind]}, got {value!r}; correct it")
