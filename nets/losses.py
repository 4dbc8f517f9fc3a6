"""Losses per example; the training loss is their mean."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

__all__ = ["per_example_loss"]


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""$\ell_i = \tfrac12 \|f(x_i) - e_{y_i}\|^2$, summed over classes: (n, k), (n,) → (n,)."""
    onehot = functional.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
    return 0.5 * (outputs - onehot).square().sum(dim=1)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""$\ell_i = -\log \mathrm{softmax}(f(x_i))_{y_i}$ in nats: (n, k), (n,) → (n,)."""
    return functional.cross_entropy(outputs, targets, reduction="none")


LOSSES = {"squared": squared, "cross_entropy": cross_entropy}


def per_example_loss(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The function (outputs (n, k), targets (n,)) → losses (n,) of that name.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}; choose one of them")
    return LOSSES[name]
