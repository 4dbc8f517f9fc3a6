r"""Parameters and reduced state of the two-layer linear model with an opposing feature.

Source: E. Rosenfeld & A. Risteski (ICLR 2024), arXiv 2311.04163.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from toymodels.validation import count, finite, positive

__all__ = ["ReducedState", "TwoLayerLinear"]


@dataclass(frozen=True)
class ReducedState:
    r"""The four numbers that the dynamics needs; floats or arrays of one shape.

    Args:
        c: Second-layer weight.
        b_par: $b_\parallel = \beta^\top b / \|\beta\|$.
        b_perp: Norm of the rest of b, ≥ 0.
        u: $1^\top b_o / \sqrt{d_2}$.
    Raises:
        ValueError: If a value is not finite, or ``b_perp`` is negative.
    """

    c: Any
    b_par: Any
    b_perp: Any = 0.0
    u: Any = 0.0

    def __post_init__(self):
        for name in ("c", "b_par", "b_perp", "u"):
            finite(name, getattr(self, name))
        if (np.asarray(self.b_perp) < 0).any():
            raise ValueError(f"b_perp must be >= 0, got {np.min(self.b_perp):g}; pass the norm of the orthogonal part")

    def as_array(self) -> np.ndarray:
        """Shape (4, ...): c, b_par, b_perp, u, broadcast against each other."""
        return np.stack(np.broadcast_arrays(*(np.asarray(v, float) for v in (self.c, self.b_par, self.b_perp, self.u))))


@dataclass(frozen=True)
class TwoLayerLinear:
    r"""Data and network of the model.

    Features $x \in R^{d_1}$ with covariance I; with probability p an opposing feature
    $x_o = \pm\sqrt{\alpha/(p d_2)}\,1 \in R^{d_2}$, else 0. Target $\beta^\top x + \gamma|1^\top x_o|$;
    network $c(b^\top x + b_o^\top x_o)$; loss $L = \tfrac12 E(f - y)^2$.

    Args:
        d1: Number of ordinary features, ≥ 1.
        d2: Number of coordinates of the opposing feature, ≥ 1.
        beta: $\|\beta\| > 0$.
        alpha: $E\|x_o\|^2 > 0$.
        p: Share of examples with the opposing feature, in (0, 1].
        gamma: Offset of the target; moves the group losses, not the dynamics.
    Raises:
        ValueError: If a parameter is out of its range.
    """

    d1: int = 100
    d2: int = 100
    beta: float = 1.0
    alpha: float = 100.0
    p: float = 0.1
    gamma: float = 0.0

    def __post_init__(self):
        for name in ("d1", "d2"):
            count(name, getattr(self, name))
        positive("beta", self.beta)
        positive("alpha", self.alpha)
        finite("gamma", self.gamma)
        if not 0 < self.p <= 1:
            raise ValueError(f"p must lie in (0, 1], got {self.p}; pass a share of the examples")

    @property
    def k(self) -> float:
        """Ratio $k = d_2/d_1$."""
        return self.d2 / self.d1

    @property
    def projection(self) -> float:
        r"""$a = \sqrt{\alpha/p}$, size of $1^\top x_o/\sqrt{d_2}$ on an example that carries the feature."""
        return float(np.sqrt(self.alpha / self.p))

    @property
    def offset(self) -> float:
        r"""$g_0 = \gamma\sqrt{d_2}\,a = \gamma|1^\top x_o|$, what the target of such an example adds."""
        return float(self.gamma * np.sqrt(self.d2) * self.projection)

    def reference_state(self, u: float | None = None) -> ReducedState:
        r"""The reference initialisation.

        $\|b\|^2 = d_1/(d_1+d_2)$, $\|b_o\|^2 = d_2/(d_1+d_2)$, $b_\parallel = 1/\sqrt{d_1+d_2}$, c = 1.
        ``u`` None: the root mean square of a random direction, $\|b_o\|/\sqrt{d_2} = 1/\sqrt{d_1+d_2}$.
        """
        total = self.d1 + self.d2
        b_par = 1 / np.sqrt(total)
        b_perp = np.sqrt(max(self.d1 / total - b_par**2, 0.0))
        return ReducedState(1.0, float(b_par), float(b_perp), float(b_par if u is None else u))

    def loss(self, state: ReducedState) -> np.ndarray:
        r"""Reduced loss $\tfrac12 r^2 + \tfrac12 c^2 b_\perp^2 + \tfrac12\alpha c^2u^2$ (without its constant)."""
        c, b_par, b_perp, u = state.as_array()
        return ((self.beta - c * b_par) ** 2 + (c * b_perp) ** 2 + self.alpha * (c * u) ** 2) / 2

    def group_losses(self, state: ReducedState) -> tuple[np.ndarray, np.ndarray]:
        r"""Mean losses of the two opposing groups.

        $$\ell_\pm = \tfrac12 r^2 + \tfrac12 c^2 b_\perp^2 + \tfrac12(\pm c\,a\,u - g_0)^2,\quad
          a = \sqrt{\alpha/p},\; g_0 = \gamma\sqrt{d_2}\,a$$

        They exchange when u changes sign.
        """
        c, b_par, b_perp, u = state.as_array()
        common = ((self.beta - c * b_par) ** 2 + (c * b_perp) ** 2) / 2
        w = c * self.projection * u
        return common + (w - self.offset) ** 2 / 2, common + (w + self.offset) ** 2 / 2
