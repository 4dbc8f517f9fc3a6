r"""From the symbolic model and optimizer to lines of scalar code, shared by the CPU and the GPU kernel.

An even weight x (the loss is even in it) moves by factors and passes far below what float64 can hold. It is carried
as a mantissa m in a unit $E = 2^e$, with its auxiliary variables in the same unit: $x = mE$, $x^2 = m^2W$, $W = E^2$.
Its gradient is $x\,\lambda(\ldots, x^2)$, so in that unit it is $m\,\lambda(\ldots, m^2W)$: the step needs no
exponential and no logarithm, and e changes only when the mantissa is renormalised, every few steps.
"""

from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import sympy as sp
from sympy.printing.pycode import PythonCodePrinter

from toymodels.optimizers import Optimizer
from toymodels.symbolic import SymbolicModel

__all__ = ["Group", "Program", "generate"]


@dataclass(frozen=True)
class Group:
    """An even weight carried in a unit: its mantissa, what shares its unit, and the names of exponent and W."""

    weight: str
    members: tuple[str, ...]
    exponent: str
    square: str
    unit: str


@dataclass(frozen=True)
class Program:
    """Scalar code of one update and of what is watched on the way.

    Args:
        weights: Names of the weights (for one of a group: its mantissa).
        aux: Names of the auxiliary variables, ``<name>_<weight>``.
        constants: Names of model parameters, then ``lr``, ``rate``, then hyperparameters.
        groups: Weights carried in a unit; empty in the plain form.
        step: Assignments that compute ``new_<name>`` for all weights and auxiliary variables.
        watched: Assignments of ``stability`` and ``excess`` (load minus share of the drift, > 0 in a spike).
        watch: Name of the watched weight.
        size: Expression of the largest magnitude, against which divergence is tested.
        counts: Whether the update depends on its number.
    """

    weights: tuple[str, ...]
    aux: tuple[str, ...]
    constants: tuple[str, ...]
    groups: tuple[Group, ...]
    step: tuple[str, ...]
    watched: tuple[str, ...]
    watch: str | None
    size: str
    counts: bool

    @property
    def variables(self) -> tuple[str, ...]:
        """Weights and auxiliary variables."""
        return self.weights + self.aux


class _Printer(PythonCodePrinter):
    """Scalar Python that numba compiles without branches or calls to pow where products do."""

    def _print_Pow(self, expr, rational=False):
        base, power = expr.base, expr.exp
        if power == sp.Rational(1, 2):
            return f"math.sqrt({self._print(base)})"
        if power == -1:
            return f"(1.0 / {self.parenthesize(base, 60)})"
        if isinstance(power, sp.Integer) and 1 < abs(int(power)) <= 8:
            text = self.parenthesize(base, 60)
            product = "(" + " * ".join([text] * abs(int(power))) + ")"
            return product if power > 0 else f"(1.0 / {product})"
        return f"({self.parenthesize(base, 60)} ** {self.parenthesize(power, 60)})"

    def _print_sign(self, expr):
        text = self._print(expr.args[0])
        return f"((1.0 if {text} > 0.0 else 0.0) - (1.0 if {text} < 0.0 else 0.0))"

    def _print_Rational(self, expr):
        return f"({float(expr)!r})"

    def _print_Integer(self, expr):
        return f"{int(expr)}.0"

    def _print_Max(self, expr):
        return f"max({', '.join(self._print(a) for a in expr.args)})"


_PRINT = _Printer({"fully_qualified_modules": True, "precision": 17})


def _lines(names: list[str], expressions: list[Any], prefix: str) -> tuple[str, ...]:
    shared, results = sp.cse(
        expressions, symbols=(sp.Symbol(f"{prefix}{i}", real=True) for i in range(10_000)), order="canonical"
    )
    pairs = [(name.name, value) for name, value in shared] + list(zip(names, results, strict=True))
    return tuple(f"{name} = {_PRINT.doprint(value)}" for name, value in pairs)


@lru_cache(maxsize=256)
def _gradient_parts(model: SymbolicModel) -> tuple[Any, ...]:
    """For every weight: its symbol, whether it is even, and its gradient (divided by an even weight)."""
    parts = []
    for w, g in zip(model.weights, model.gradient.T.tolist()[0], strict=True):
        even = w in model.even_weights
        parts.append((w, even, model.curvature(w) if even else sp.factor_terms(sp.expand(g))))
    return tuple(parts)


def generate(
    model: SymbolicModel, optimizer: Optimizer, *, watch: str | None = None, share: float = 0.05, scaled: bool = True
) -> Program:
    """Scalar code of one update of ``optimizer`` on ``model``.

    Args:
        model: Weights, parameters and loss.
        optimizer: Its update rule; the values of its fields play no role, except that a scalar 0 may drop a term.
        watch: Even weight whose oscillation is watched; None takes the last one, if there is any.
        share: Share of the drift that counts as the begin of a spike.
        scaled: Carry even weights in a unit (underflow-proof); else plain floats.
    Raises:
        ValueError: If ``watch`` is not an even weight.
    """
    even = [w for w in model.weights if w in model.even_weights]
    if watch is not None and watch not in [w.name for w in even]:
        raise ValueError(f"watch must be an even weight ({', '.join(w.name for w in even) or 'none'}), got {watch!r}")
    watched = next((w for w in even if w.name == watch), even[-1] if even else None)
    carried = even if scaled and optimizer.homogeneous else []
    squares = {w: sp.Symbol(f"W_{w.name}", positive=True) for w in carried}
    units = {w: sp.Symbol(f"E_{w.name}", positive=True) for w in carried}
    dummies = {w: sp.Symbol(f"_square_of_{w.name}", positive=True) for w in carried}
    roots = {w: sp.sqrt(d) for w, d in dummies.items()}

    def place(expression: Any, values: dict[Any, Any]) -> Any:
        """``expression``, even in the carried weights, at ``values`` (theirs being mantissas)."""
        lifted = expression.subs(roots) if carried else expression
        full = {dummies[w]: values[w] ** 2 * squares[w] for w in carried}
        full |= {w: v for w, v in values.items() if w not in squares}
        return lifted.xreplace(full) if all(isinstance(k, sp.Symbol) for k in full) else lifted.subs(full)

    def gradient(w: Any) -> list[Any]:
        values = dict(zip(model.weights, w, strict=True))
        return [place(part, values) * (values[s] if ev else 1) for s, ev, part in _gradient_parts(model)]

    names = tuple(w.name for w in model.weights)
    aux = {a: [sp.Symbol(f"{a}_{n}", real=True) for n in names] for a in optimizer.aux}
    h = SimpleNamespace(
        lr=sp.Symbol("lr", positive=True),
        n=sp.Symbol("n", positive=True),
        unit=[units.get(w, sp.Integer(1)) for w in model.weights],
    )
    fields = tuple(optimizer.hyperparameters())
    for name in fields:
        setattr(h, name, sp.Symbol(name, nonnegative=True))
    new_w, new_aux = optimizer.update(list(model.weights), gradient, aux, h)
    new_w = [sp.factor_terms(e) if w in squares else e for w, e in zip(model.weights, new_w, strict=True)]
    variables = list(names) + [s.name for a in optimizer.aux for s in aux[a]]
    results = list(new_w) + [e for a in optimizer.aux for e in new_aux[a]]
    step = _lines([f"new_{v}" for v in variables], results, "t")

    lines: tuple[str, ...] = ()
    if watched is not None:
        here = dict(zip(model.weights, model.weights, strict=True))
        load, drift = model.load_and_drift(watched)
        i = names.index(watched.name)
        bend = optimizer.curvature(place(model.curvature(watched), here), {a: aux[a][i] for a in aux}, h)
        excess = place(load, here) - sp.Float(share) * place(drift, here)
        lines = _lines(["stability", "excess"], [sp.Symbol("rate") * bend, excess], "z")
    groups = tuple(
        Group(w.name, (w.name, *(f"{a}_{w.name}" for a in optimizer.aux)), f"e_{w.name}", f"W_{w.name}", f"E_{w.name}")
        for w in carried
    )
    sizes = [f"({g.weight} * {g.weight} * {g.square})" for g in groups]
    sizes += [f"abs({w})" for w in names if w not in [g.weight for g in groups]]
    return Program(
        names,
        tuple(variables[len(names) :]),
        (*(p.name for p in model.parameters), "lr", "rate", *fields),
        groups,
        step,
        lines,
        None if watched is None else watched.name,
        " + ".join(sizes),
        any("n" in sp.sympify(e).free_symbols or h.n in sp.sympify(e).free_symbols for e in results),
    )
