"""Losses per example, from the same forward pass that is differentiated; the training loss is their mean.

Outputs and targets: classes (n, k), (n,) integers; regression (n, k), (n, k) numbers; next token (n, T, k), (n, T)
integers, where every token is an example: its losses are n·T, window by window.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["LOSSES", "WeightedLoss", "bounded", "correct", "of_rows", "per_example_loss"]


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


def bounded(losses: Tensor, bounds: Tensor) -> Tensor:
    r"""Huber's loss in terms of the loss itself: $\ell$ up to c, $2\sqrt{c\,\ell} - c$ beyond; the slope is continuous.

    For $\ell = r^2/2$ and $c = \delta^2/2$ it is Huber's $\delta|r| - \delta^2/2$.

    Args:
        losses: ℓ ≥ 0, shape (n,).
        bounds: c > 0, shape (n,); inf leaves a loss as it is.
    """
    beyond = losses > bounds
    c = torch.where(beyond, bounds, 1.0)
    return torch.where(beyond, 2 * (c * torch.where(beyond, losses, 1.0)).sqrt() - c, losses)


class WeightedLoss:
    r"""Per-example losses as a data set weighs them: $w_i\,\rho_i(\ell_i)$; the training loss stays their plain mean.

    Args:
        loss: (outputs, targets) → $\ell$, from `per_example_loss`.
        weights: $w$ of mean 1, in the shape of the class targets; None: all 1.
        bounds: Of ρ = `bounded`, in the same shape; None: ρ is the identity.
    """

    def __init__(
        self, loss: Callable[[Tensor, Tensor], Tensor], weights: Tensor | None = None, bounds: Tensor | None = None
    ) -> None:
        self.loss, self.weights, self.bounds = loss, weights, bounds

    @property
    def plain(self) -> bool:
        """Whether every loss is as it is."""
        return self.weights is None and self.bounds is None

    def of(self, rows: Tensor | slice) -> "WeightedLoss":
        """The losses of some rows of the data."""
        weights, bounds = (None if values is None else values[rows] for values in (self.weights, self.bounds))
        return WeightedLoss(self.loss, weights, bounds)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The losses of all the rows that it is for.

        Raises:
            ValueError: If there are more or fewer.
        """
        losses = self.loss(outputs, targets)
        for values in (self.weights, self.bounds):
            if values is not None and values.numel() != len(losses):
                raise ValueError(f"rows must be the {values.numel()} of this loss, got {len(losses)}; use of(rows)")
        if self.bounds is not None:
            losses = bounded(losses, self.bounds.reshape(-1).to(losses))
        return losses if self.weights is None else losses * self.weights.reshape(-1).to(losses)


def of_rows(loss: Callable[[Tensor, Tensor], Tensor], rows: Tensor | slice) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of some rows: `WeightedLoss.of`, or any other loss as it is."""
    return loss.of(rows) if isinstance(loss, WeightedLoss) else loss


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest output of an example is that of its target, else 0; NaN for regression: → (n,)."""
    if targets.is_floating_point():
        return outputs.new_full((len(outputs),), math.nan)
    if outputs.ndim == 3:
        outputs, targets = outputs.flatten(0, 1), targets.flatten()
    return (outputs.argmax(dim=1) == targets).to(outputs.dtype)
