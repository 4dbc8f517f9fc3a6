"""The one symbolic model from which gradients, Hessians, the GD map and the flow are generated.

Nothing below is transcribed: a model is its weights and its loss; sympy differentiates the rest.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import sympy as sp

__all__ = ["SymbolicModel", "deep_linear", "several_signals", "two_layer"]


@dataclass(frozen=True)
class SymbolicModel:
    r"""Weights $\theta$, parameters and loss $L(\theta)$ of a model, with everything derived from them.

    Args:
        weights: Trained variables θ, in the order used by every array that belongs to the model.
        parameters: Fixed constants of the loss.
        loss: $L(\theta)$, up to an additive constant.
    """

    weights: tuple[sp.Symbol, ...]
    parameters: tuple[sp.Symbol, ...]
    loss: sp.Expr

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
    return SymbolicModel((c, b_par, b_perp, u), (beta, alpha), loss)


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
