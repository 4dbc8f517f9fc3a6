r"""Loss, gradient and Hessian products of all examples, accumulated over chunks of rows.

$$L = \frac1n\sum_{i=1}^n \ell_i = \sum_k L_k, \qquad L_k = \frac1n\sum_{i \in k} \ell_i, \qquad
  \nabla L = \sum_k \nabla L_k, \qquad H = \sum_k \nabla^2 L_k$$

Every chunk is divided by n, not by its own length, so the sums are exact for chunks of any sizes; only the rounding
depends on them. No more than one chunk's graph is in memory at a time. With one chunk its graph stays, and products
cost no new forward pass.

BatchNorm uses the statistics of the rows it is given together. In chunks these are "ghost batches": the loss is then
another function, which depends on the chunks, and its gradient and Hessian are those of that function. All other
networks here treat rows separately.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from analysis.curvature import LossCurvature, Matvec, flat_hvp, flatten

from .architectures.kernels import first_derivatives_only
from .config import ConfigError
from .losses import correct, of_rows

__all__ = ["ChunkedLoss", "Evaluation", "FullBatch"]

_untyped: Any = torch  # the foreach functions are exported without their names
_copy = _untyped._foreach_copy_


@dataclass(frozen=True)
class Evaluation:
    """The loss at one point.

    Args:
        losses: Loss of each example, shape (n,).
        correct: 1 where an example is classified correctly, else 0; NaN for regression; shape (n,).
        gradient: Gradient of the mean loss, flat, shape (P,).
        product: $v \\mapsto Hv$ of the mean loss at this point, (P,) → (P,); valid until the next call of
            ``evaluate`` or ``gradient``, which puts other parameters into the network.
    """

    losses: Tensor
    correct: Tensor
    gradient: Tensor
    product: Matvec

    @property
    def loss(self) -> float:
        """Mean of the losses."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """Share of examples classified correctly; NaN for regression."""
        return float(self.correct.double().mean())


class FullBatch(Protocol):
    """What computes the loss of all examples: one process, or several together."""

    def evaluate(self, parameters: Tensor, products: bool = True) -> Evaluation:
        """Losses, gradient and products at flat ``parameters``, shape (P,); ``products``: whether any will be asked."""
        ...

    def gradient(self, parameters: Tensor, rows: Tensor | None = None) -> Tensor:
        """Gradient of the mean loss of some rows (None: all), flat, shape (P,)."""
        ...


class ChunkedLoss:
    """The mean loss of the rows one process holds, or their part of the mean over more rows than these.

    Args:
        module: Network without state besides its parameters; they are overwritten.
        loss: Maps outputs and targets of m rows to their losses: one a row, or for tokens the same number each.
        inputs, targets: The rows, first dimension m.
        chunk_size: Most rows at a time; 0: all at once. The last chunk has what is left.
        n_rows: Rows that the mean is over; None: m. Of more, the results are this process's share of the sums.
        kernels: "exact", "fused" or "compiled": of `evaluate` without products (`nets.architectures.kernels`);
            `gradient`, of minibatches and of SAM's second point, is always exact.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
        chunk_size: int = 0,
        n_rows: int | None = None,
        kernels: str = "exact",
    ) -> None:
        self.module, self.loss, self.kernels = module, loss, kernels
        self.inputs, self.targets = inputs, targets
        self.chunk_size = chunk_size or len(inputs)
        self.n_rows = n_rows or len(inputs)
        if kernels != "exact":
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.params = list(module.parameters())

    @property
    def size(self) -> int:
        """Number of parameters P."""
        return sum(p.numel() for p in self.params)

    def evaluate(self, parameters: Tensor, products: bool = True) -> Evaluation:
        """Losses, gradient and products at flat ``parameters``; one forward pass gives all but the products.

        Without ``products`` no graph is kept; a product is then computed as with several chunks.
        """
        self._place(parameters)
        keep = products and len(self.inputs) <= self.chunk_size
        losses, hits = [], []
        gradient, product = None, None
        for x, y in self._chunks(self.inputs, self.targets):
            outputs, values = self._forward(x, y) if products else self._fast_forward(x, y)
            grads = self._grads(values, len(x), self.n_rows, keep)
            part = self._flat([g.detach() for g in grads])
            gradient = part if gradient is None else gradient + part
            losses.append(values.detach())
            hits.append(correct(outputs, y))
            if keep:
                product = flat_hvp(grads, self.params)
        if gradient is None:
            gradient = torch.zeros_like(parameters)
        return Evaluation(torch.cat(losses), torch.cat(hits), gradient, product or self._rebuilt(parameters))

    def gradient(self, parameters: Tensor, rows: Tensor | None = None, n_rows: int | None = None) -> Tensor:
        """Gradient of the mean loss of ``rows`` (None: all held), or their part of the mean over ``n_rows``."""
        self._place(parameters)
        inputs, targets = (self.inputs, self.targets) if rows is None else (self.inputs[rows], self.targets[rows])
        loss = self.loss if rows is None else of_rows(self.loss, rows)
        total = n_rows or (self.n_rows if rows is None else len(rows))
        gradient = torch.zeros_like(parameters)
        for k, (x, y) in enumerate(self._chunks(inputs, targets)):
            part = self._flat(self._grads(loss(self.module(x), y), len(x), total, keep=False))
            gradient = gradient + part if k else part
        return gradient

    def _grads(self, losses: Tensor, rows: int, total: int, keep: bool) -> tuple[Tensor, ...]:
        """Gradient of the sum over ``total`` · (losses a row)."""
        return torch.autograd.grad(losses.sum() / (total * (losses.numel() // rows)), self.params, create_graph=keep)

    def _chunks(self, inputs: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
        if len(inputs) == 0:
            return []
        return list(zip(inputs.split(self.chunk_size), targets.split(self.chunk_size), strict=True))

    @functools.cached_property
    def _placed(self) -> Tensor:
        """Where the module's parameters lie, flat; kept, since fresh memory costs as much as a copy."""
        return flatten([p.detach() for p in self.params])

    def _place(self, parameters: Tensor) -> None:
        with torch.no_grad():
            if self.kernels != "exact":  # into where they are: convolutions keep their channels last
                _copy(self.params, self._parts(parameters))
                return
            nn.utils.vector_to_parameters(self._placed.copy_(parameters), self.params)

    def _flat(self, gradients: Sequence[Tensor]) -> Tensor:
        """One vector; in one pass also where the channels are last."""
        if self.kernels == "exact":
            return flatten(gradients)
        vector = torch.empty(self.size, dtype=gradients[0].dtype, device=gradients[0].device)
        _copy(self._parts(vector), gradients)
        return vector

    def _parts(self, vector: Tensor) -> list[Tensor]:
        """Views of a flat vector in the shapes of the parameters."""
        parts = vector.split([p.numel() for p in self.params])
        return [part.view(p.shape) for part, p in zip(parts, self.params, strict=True)]

    def _forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs, without their graph, and losses of some rows at the module's parameters."""
        outputs = self.module(x)
        return outputs.detach(), self.loss(outputs, y)

    def _fast_forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The same, of which first derivatives alone will be asked."""
        if self.kernels == "exact":
            return self._forward(x, y)
        with first_derivatives_only():
            return self._compiled(x, y) if self.kernels == "compiled" else self._forward(x, y)

    @functools.cached_property
    def _compiled(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """`_forward`, compiled by the first call."""
        forward = torch.compile(self._forward)

        def checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            try:
                return forward(x, y)
            except Exception as error:  # whatever dynamo, inductor and the C++ compiler raise
                reason = (str(error).strip().splitlines() or [""])[0]
                raise ConfigError(
                    f"kernels compiled must be able to build the network, got {type(error).__name__}: {reason}; "
                    "install a C++ compiler or train with kernels fused"
                ) from error

        return checked

    def _rebuilt(self, parameters: Tensor) -> Matvec:
        """Products that build the graph of every chunk anew; costs nothing where none is asked for."""
        share = len(self.inputs) / self.n_rows

        def row_losses(outputs: Tensor, targets: Tensor) -> Tensor:
            return share * self.loss(outputs, targets).reshape(len(targets), -1).mean(1)

        @functools.cache
        def curvature() -> Matvec:
            xs, ys = zip(*self._chunks(self.inputs, self.targets), strict=True)
            return LossCurvature(self.module, row_losses, xs, ys, keep=False).product(parameters)

        return lambda vector: curvature()(vector)
