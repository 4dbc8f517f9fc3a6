"""One table for symbols, code names, meanings and units."""

from dataclasses import dataclass

__all__ = ["NOTATION", "Notation"]


@dataclass(frozen=True)
class Notation:
    """A symbol and its name in code."""

    symbol: str
    name: str
    meaning: str
    unit: str


NOTATION = (
    Notation(r"\eta", "lr", "step size", "time per step"),
    Notation("n", "step", "number of updates made", "1"),
    Notation("t", "time", "gradient-flow time, lr * step", "time"),
    Notation(r"\alpha", "alpha", "variance of the opposing feature along its one direction", "1"),
    Notation(r"\|\beta\|", "beta", "norm of the true signal", "1"),
    Notation("p", "p", "share of examples that carry the opposing feature", "1"),
    Notation(r"\gamma", "gamma", "offset of the target per unit of the opposing feature", "1"),
    Notation("k", "k", "d2 / d1", "1"),
    Notation("c", "c", "second-layer weight", "1"),
    Notation(r"b_\parallel", "b_par", "first layer along the signal", "1"),
    Notation(r"b_\perp", "b_perp", "norm of the first layer across the signal", "1"),
    Notation("u", "u", "first layer along the opposing direction", "1"),
    Notation("r", "residual", r"what the signal still lacks, \|\beta\| - c b_\parallel", "1"),
    Notation("K", "invariant", r"c^2 - b_\parallel^2 - b_\perp^2, conserved by the flow once u is negligible", "1"),
    Notation(r"\tau", "clock", r"\int c^2 dt", "1"),
    Notation("s", "stability", r"\eta \alpha c^2; gradient descent oscillates for s > 1, grows for s > 2", "1"),
    Notation("S", "sharpness", "largest algebraic eigenvalue of the loss Hessian", "1 / time"),
)
