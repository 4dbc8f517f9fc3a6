"""Losses per example, from the same forward pass that is differentiated; the training loss is their mean.

Outputs and targets: classes (n, k), (n,) integers; regression (n, k), (n, k) numbers; next token (n, T, k), (n, T)
integers, where every token is an example: its losses are n·T, window by window.
"""

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

__all__ = ["LOSSES", "correct", "per_example_loss"]


def squared(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    r"""$\ell_i = \tfrac12 \|f(x_i) - y_i\|^2$, summed over outputs, with $y_i = e_{y_i}$ for classes: → (n,).

    Smoothed by ε, the target of a class is $(1-\epsilon)e_{y_i} + \epsilon/k$.
    """
    if targets.is_floating_point():
        return 0.5 * (outputs - targets).square().sum(dim=1)
    onehot = functional.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
    if smoothing:
        onehot = (1 - smoothing) * onehot + smoothing / outputs.shape[1]
    return 0.5 * (outputs - onehot).square().sum(dim=1)


def cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    r"""$\ell_i = -\log \mathrm{softmax}(f(x_i))_{y_i}$ in nats: (n, k), (n,) → (n,).

    Smoothed by ε: $-\sum_c q_c \log\mathrm{softmax}(f)_c$ with $q = (1-\epsilon)e_{y_i} + \epsilon/k$.
    """
    return functional.cross_entropy(outputs, targets, reduction="none", label_smoothing=smoothing)


LOSSES = {"squared": squared, "cross_entropy": cross_entropy}


def per_example_loss(name: str, label_smoothing: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    """The function (outputs, targets) → losses of that name, shapes as above.

    Args:
        name: "squared" or "cross_entropy".
        label_smoothing: ε in [0, 1), for classes and tokens.
    Raises:
        ValueError: If the name is unknown or ε out of range. The function raises one where targets are numbers and
            the loss is cross-entropy or smoothed.
    """
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}; choose one of them")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}; pass e.g. 0.1")
    function = LOSSES[name]

    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.is_floating_point():
            if name != "squared" or label_smoothing:
                given = f"{name} with label_smoothing {label_smoothing}" if label_smoothing else name
                raise ValueError(f"loss must be squared without smoothing for regression, got {given}; pass squared")
        elif outputs.ndim == 3:
            outputs, targets = outputs.flatten(0, 1), targets.flatten()
        return function(outputs, targets, label_smoothing)

    return losses


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest output of an example is that of its target, else 0; NaN for regression: → (n,)."""
    if targets.is_floating_point():
        return outputs.new_full((len(outputs),), math.nan)
    if outputs.ndim == 3:
        outputs, targets = outputs.flatten(0, 1), targets.flatten()
    return (outputs.argmax(dim=1) == targets).to(outputs.dtype)
