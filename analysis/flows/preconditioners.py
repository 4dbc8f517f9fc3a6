r"""Diagonal preconditioners P of $\theta \leftarrow \theta - \eta P^{-1}\nabla L$, and how their state flows."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Fixed", "Preconditioner", "RMSProp"]


class Preconditioner:
    r"""A diagonal P that depends on a second moment ν; here P = 1, gradient descent."""

    def initial(self, gradient: Tensor) -> Tensor:
        """ν at the start, shape (P,), given the gradient there; zeros where there is no state."""
        return torch.zeros_like(gradient)

    def diagonal(self, moment: Tensor) -> Tensor:
        """P, shape (P,), all entries > 0."""
        return torch.ones_like(moment)

    def slope(self, moment: Tensor) -> Tensor:
        r"""$dP/d\nu$, entry by entry, shape (P,)."""
        return torch.zeros_like(moment)

    @property
    def rate(self) -> float:
        r"""c in $\dot\nu = c\,(\overline{g^2} - \nu)$, per step of the optimizer; 0 where there is no state."""
        return 0.0


@dataclass(frozen=True)
class Fixed(Preconditioner):
    """A constant diagonal.

    Args:
        values: P, shape (P,), all > 0.
    Raises:
        ValueError: If an entry is not positive.
    """

    values: Tensor

    def __post_init__(self) -> None:
        if not bool((self.values > 0).all()):
            raise ValueError(f"values must be positive, got {float(self.values.min()):g}; add an epsilon")

    def diagonal(self, moment: Tensor) -> Tensor:
        """P as given."""
        return self.values.to(moment)


@dataclass(frozen=True)
class RMSProp(Preconditioner):
    r"""$\nu \leftarrow \beta_2\nu + (1 - \beta_2)g^2$, $P = \sqrt\nu + \epsilon$, as ``torch.optim.RMSprop``.

    The flow of ν that has the same moving average as the update made before each step is
    $\dot\nu = \frac{1-\beta_2}{\beta_2}(\overline{g^2} - \nu)$ per step (derived in the reference).

    Args:
        beta2: β2 in (0, 1); ``alpha`` of torch.
        eps: ε ≥ 0.
        moment: ν at the start, shape (P,), e.g. ``square_avg`` of a run; None: $(1-\beta_2)g^2$, as after the first
            update of torch.
    Raises:
        ValueError: If an argument is out of range.
    References: Cohen et al. (2024), arXiv 2410.24206.
    """

    beta2: float = 0.99
    eps: float = 1e-8
    moment: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 < self.beta2 < 1:
            raise ValueError(f"beta2 must lie in (0, 1), got {self.beta2}; pass e.g. 0.99")
        if not self.eps >= 0:
            raise ValueError(f"eps must be >= 0, got {self.eps}; pass e.g. 1e-8")
        if self.moment is not None and not bool((self.moment >= 0).all()):
            raise ValueError(f"moment must be >= 0, got {float(self.moment.min()):g}; pass a mean of squares")

    def initial(self, gradient: Tensor) -> Tensor:
        """ν at the start."""
        return (1 - self.beta2) * gradient.square() if self.moment is None else self.moment.to(gradient).clone()

    def diagonal(self, moment: Tensor) -> Tensor:
        """√ν + ε."""
        return moment.sqrt() + self.eps

    def slope(self, moment: Tensor) -> Tensor:
        """1 / (2√ν); 0 where ν = 0, which only weights without gradient keep."""
        return torch.where(moment > 0, 0.5 * moment.rsqrt(), 0.0)

    @property
    def rate(self) -> float:
        """(1 - β2) / β2."""
        return (1 - self.beta2) / self.beta2
