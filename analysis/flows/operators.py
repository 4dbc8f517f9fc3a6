"""What a flow needs of a loss: its linearisation at any point, and how often it was asked for."""

from typing import Protocol

from torch import Tensor

from analysis.curvature import Matvec

__all__ = ["Counted", "Linearisable", "flat_start"]


class Linearisable(Protocol):
    """A loss that can be linearised, e.g. ``analysis.curvature.LossCurvature``."""

    def linearise(self, point: Tensor | None = None) -> tuple[float, Tensor, Matvec]:
        r"""Loss, gradient (P,) and product $v \mapsto Hv$ at ``point`` (P,)."""
        ...


class Counted:
    """An operator whose gradients and products are counted.

    Args:
        operator: The operator.
    """

    def __init__(self, operator: Linearisable) -> None:
        self.operator, self.gradients, self.products = operator, 0, 0

    def linearise(self, point: Tensor | None = None) -> tuple[float, Tensor, Matvec]:
        """As of the operator."""
        self.gradients += 1
        loss, gradient, matvec = self.operator.linearise(point)

        def product(vector: Tensor) -> Tensor:
            self.products += 1
            return matvec(vector)

        return loss, gradient, product


def flat_start(start: Tensor) -> Tensor:
    """A copy of a start, shape (P,).

    Raises:
        ValueError: If it is not a real vector.
    """
    if start.ndim != 1 or start.numel() == 0 or not start.is_floating_point():
        raise ValueError(
            f"start must be a real vector of shape (P,), got {tuple(start.shape)} {start.dtype}; flatten it"
        )
    return start.detach().clone()
