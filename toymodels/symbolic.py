"""The one symbolic model from which gradients, Hessians, the GD map and the flow are generated.

Nothing below is transcribed: a model is its weights and its loss; sympy differentiates the rest.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import sympy as sp

__all__ = ["SymbolicModel", "deep_linear", "quadratic", "several_signals", "two_layer"]


@dataclass(frozen=True)
class SymbolicModel:
    r"""Weights $\theta$, parameters and loss $L(\theta)$ of a model, with everything derived from them.

    Args:
        weights: Trained variables θ, in the order used by every array that belongs to the model.
        parameters: Fixed constants of the loss.
        loss: $L(\theta)$, up to an additive constant.
        drift: Optional override of the drift in :meth:`load_and_drift`.
    """

    weights: tuple[sp.Symbol, ...]
    parameters: tuple[sp.Symbol, ...]
    loss: sp.Expr
    drift: sp.Expr | None = None

    @cached_property
    def gradient(self) -> sp.Matrix:
        r"""$\nabla L$, a column of length ``len(weights)``."""
        return sp.Matrix([sp.diff(self.loss, w) for w in self.weights])

    @cached_property
    def hessian(self) -> sp.Matrix:
        r"""$\nabla^2 L$, square and symmetric."""
        return sp.hessian(self.loss, self.weights)

    @property
    def flow(self) -> sp.Matrix:
        r"""Right-hand side of gradient flow, $\dot\theta = -\nabla L$."""
        return -self.gradient

    def fix(self, **values: float) -> "SymbolicModel":
        """The model with some parameters set to numbers, e.g. a target of 0 that makes a direction opposing.

        Raises:
            ValueError: If a name is not a parameter.
        """
        names = {p.name: p for p in self.parameters}
        for name in values:
            if name not in names:
                raise ValueError(f"parameter must be one of {', '.join(names)}; got {name!r}")
        known: Any = {names[name]: sp.nsimplify(value) for name, value in values.items()}
        left = tuple(p for p in self.parameters if p not in known)
        drift = None if self.drift is None else self.drift.subs(known)
        return SymbolicModel(self.weights, left, self.loss.subs(known), drift)

    @cached_property
    def even_weights(self) -> tuple[sp.Symbol, ...]:
        r"""Weights x with $L(-x) = L(x)$: their gradient is x times a function of $x^2$, so they decay and grow by
        factors. These are the directions that oscillate across a valley, and that underflow in plain floating point."""
        return tuple(w for w in self.weights if sp.expand(self.loss.subs(w, -w) - self.loss) == 0)

    def curvature(self, weight: sp.Symbol) -> sp.Expr:
        r"""$\lambda = \partial_x L / x$ of an even weight x: gradient descent takes x to $(1 - \eta\lambda)\,x$.

        At x = 0 it is the Hessian's diagonal entry.

        Raises:
            ValueError: If the loss is not even in ``weight``.
        """
        if weight not in self.even_weights:
            names = ", ".join(w.name for w in self.even_weights) or "none"
            raise ValueError(f"weight must be one in which the loss is even ({names}), got {weight}")
        return sp.factor_terms(sp.cancel(sp.diff(self.loss, weight) / weight))

    def load_and_drift(self, weight: sp.Symbol) -> tuple[sp.Expr, sp.Expr]:
        r"""How hard the oscillation of an even weight x pulls its own curvature down, and what drives that up.

        $$\text{load} = \nabla\lambda\cdot(\nabla L - \nabla L|_{x=0}),\qquad
          \text{drift} = -\nabla\lambda\cdot\nabla L|_{x=0}$$

        with λ taken at x = 0: along gradient flow $\dot\lambda = \text{drift} - \text{load}$. A spike begins
        where the load is a few per cent of the drift.
        """
        at_rest = self.curvature(weight).subs(weight, 0)
        slope = sp.Matrix([at_rest]).jacobian(sp.Matrix(self.weights))
        sleeping = self.gradient.subs(weight, 0)
        load = (slope * (self.gradient - sleeping))[0, 0]
        drift = -(slope * sleeping)[0, 0] if self.drift is None else self.drift
        factored: Any = sp.factor(load), sp.factor_terms(sp.sympify(drift))
        return factored

    def gd_map(self, lr: sp.Expr) -> sp.Matrix:
        r"""One step of gradient descent, $\theta \mapsto \theta - \eta \nabla L$."""
        return sp.Matrix(self.weights) - lr * self.gradient

    def along_flow(self, quantity: sp.Expr) -> sp.Expr:
        r"""Time derivative of ``quantity``($\theta$) along gradient flow (chain rule)."""
        derivative = sp.Matrix([quantity]).jacobian(sp.Matrix(self.weights)) * self.flow
        return sp.sympify(derivative[0, 0])


@cache
def two_layer() -> SymbolicModel:
    r"""The reduced two-layer linear model with one opposing feature.

    $$L = \tfrac12 (\|\beta\| - c\,b_\parallel)^2 + \tfrac12 c^2 b_\perp^2 + \tfrac12 \alpha c^2 u^2$$

    Weights in order: ``c`` (second layer), ``b_par`` ($b_\parallel$), ``b_perp`` ($\|b_\perp\|$, whose
    direction never changes), ``u`` (first-layer weight on the opposing feature).
    Source: Rosenfeld & Risteski (2024); reduction derived in ``derivations.core``.
    """
    c, b_par, b_perp, u = sp.symbols("c b_par b_perp u", real=True)
    beta, alpha = sp.symbols("beta alpha", positive=True)
    loss = ((beta - c * b_par) ** 2 + c**2 * b_perp**2 + alpha * c**2 * u**2) / 2
    # the drift of alpha c^2 through the signal alone, alpha u^2 against D = b_par r / c in the literature's form
    drift = 2 * alpha * c * b_par * (beta - c * b_par)
    return SymbolicModel((c, b_par, b_perp, u), (beta, alpha), loss, drift)


@cache
def quadratic() -> SymbolicModel:
    r"""$L = \tfrac12\lambda x^2$ with weight ``x`` and parameter ``curvature``: the local picture of a threshold."""
    x, curvature = sp.Symbol("x", real=True), sp.Symbol("curvature", positive=True)
    return SymbolicModel((x,), (curvature,), curvature * x**2 / 2)


@cache
def several_signals(n: int) -> SymbolicModel:
    r"""General two-layer form with ``n`` first-layer directions: $L=\tfrac12\sum_j \kappa_j (c w_j-\beta_j)^2$.

    An opposing direction has large $\kappa_j$ and $\beta_j \approx 0$. Weights: c, w_1, ..., w_n.
    """
    return deep_linear(n, depth=2)


@cache
def deep_linear(n: int, depth: int) -> SymbolicModel:
    r"""Product of ``depth - 1`` scalars and one vector: $L=\tfrac12\sum_j\kappa_j(c_1\cdots c_{D-1}w_j-\beta_j)^2$.

    Weights: c_1, ..., c_{D-1} (``c`` alone for depth 2, none for depth 1), then w_1, ..., w_n.
    """
    if n < 1 or depth < 1:
        raise ValueError(f"deep_linear needs n >= 1 and depth >= 1, got n={n}, depth={depth}")
    names = ["c"] if depth == 2 else [f"c_{i}" for i in range(1, depth)]
    scalars = tuple(sp.Symbol(name, real=True) for name in names)
    w = tuple(sp.Symbol(f"w_{j}", real=True) for j in range(1, n + 1))
    kappa = tuple(sp.Symbol(f"kappa_{j}", positive=True) for j in range(1, n + 1))
    target = tuple(sp.Symbol(f"beta_{j}", real=True) for j in range(1, n + 1))
    product = sp.prod(scalars)
    terms = (k * (product * wj - bj) ** 2 for k, wj, bj in zip(kappa, w, target, strict=True))
    return SymbolicModel(scalars + w, kappa + target, sp.Add(*terms) / 2)
