"""What a derived result is: a statement, the steps that prove it, and the function that evaluates it."""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import sympy as sp

__all__ = ["Check", "Derivation", "Proof", "Step"]

Status = Literal["proved", "bounded", "measured"]


@dataclass(frozen=True)
class Step:
    """One link of a derivation that sympy executes.

    Args:
        text: What the step shows, one sentence.
        residual: Returns an expression or matrix that must simplify to exactly 0.
    """

    text: str
    residual: Callable[[], Any]


@dataclass(frozen=True)
class Check:
    """A numerical comparison that can fail: ``run`` returns (error, bound); it passes when error <= bound.

    Args:
        text: What is compared with what (the oracle must be independent of the formula).
        run: Returns the measured error and the derived (or stated) bound.
    """

    text: str
    run: Callable[[], tuple[float, float]]


@dataclass(frozen=True)
class Proof:
    """Outcome of re-proving one derivation."""

    id: str
    ok: bool
    seconds: float
    detail: str


@dataclass(frozen=True)
class Derivation:
    """A result of the theory.

    Args:
        id: Stable name, words joined by hyphens.
        title: One line.
        statement: LaTeX of the result (without the surrounding dollar signs).
        assumptions: What must hold for the statement.
        domain: Parameter values for which the statement and its numeric function are meant.
        status: ``proved`` (every step's residual reduces to 0 and nothing else is needed), ``bounded``
            (an error bound is derived and tested by ``checks``), ``measured`` (numerical evidence only).
        steps: Links executed by sympy.
        checks: Numerical comparisons against an independent oracle.
        numeric: Import path ``module:function`` of the function that evaluates the result, or "".
        source: Where the result comes from.
    """

    id: str
    title: str
    statement: str
    assumptions: tuple[str, ...]
    domain: str
    status: Status
    steps: tuple[Step, ...] = ()
    checks: tuple[Check, ...] = ()
    numeric: str = ""
    source: str = "derived here; model: Rosenfeld & Risteski (2024), arXiv 2311.04163"
    tags: tuple[str, ...] = field(default=())

    def __post_init__(self):
        if self.status == "proved" and not self.steps:
            raise ValueError(f"derivation {self.id}: status 'proved' requires at least one step, got none")
        if self.status != "proved" and not self.checks:
            raise ValueError(f"derivation {self.id}: status '{self.status}' requires a check, got none")

    def prove(self) -> Proof:
        """Execute every step and check anew; the first that fails is named in the result."""
        start = time.perf_counter()
        for step in self.steps:
            residual = step.residual()
            if not vanishes(residual):
                return Proof(self.id, False, time.perf_counter() - start, f"not zero: {step.text}: {residual}")
        for check in self.checks:
            error, bound = check.run()
            if not error <= bound:
                detail = f"error {error:.3g} above its bound {bound:.3g}: {check.text}"
                return Proof(self.id, False, time.perf_counter() - start, detail)
        n = len(self.steps) + len(self.checks)
        return Proof(self.id, True, time.perf_counter() - start, f"{n} steps")

    def function(self) -> Callable[..., Any]:
        """The numeric function that evaluates the result."""
        if not self.numeric:
            raise ValueError(f"derivation {self.id} has no numeric function")
        module, name = self.numeric.split(":")
        return getattr(importlib.import_module(module), name)


def vanishes(residual: Any) -> bool:
    """Whether sympy reduces an expression, or every entry of a matrix or sequence, to exactly 0."""
    if isinstance(residual, sp.MatrixBase | tuple | list):
        return all(vanishes(entry) for entry in residual)
    expression = sp.sympify(residual)
    if expression == 0:
        return True
    return sp.simplify(sp.together(sp.expand(expression))) == 0
