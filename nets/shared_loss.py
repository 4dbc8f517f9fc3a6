r"""The loss of all examples, computed by several processes, each from the rows it holds.

Process r of R holds rows $\lfloor nr/R \rfloor$ to $\lfloor n(r+1)/R \rfloor - 1$; each gives its part of the sums of
``nets.evaluation``, in chunks of its own. Loss, gradient and Hessian products are thus those of one process up to
rounding. A minibatch is split likewise: each process takes the rows of the batch that it holds.

BatchNorm: the rows that one process computes at a time are a ghost batch of their own, so the loss is another function
for another number of processes; R processes with one chunk each compute that of one process whose chunks are their
shares.
"""

from typing import Any

import torch
from torch import Tensor

from .config import ConfigError
from .evaluation import ChunkedLoss, Evaluation
from .ranks import EVALUATE, GRADIENT, PRODUCT, SET_UP, Ranks

__all__ = ["SharedLoss"]


class SharedLoss:
    """A `nets.evaluation.FullBatch` over all processes: process 0 calls its methods, the others `follow`.

    Args:
        ranks: The processes.
        local: The rows of this process.
        about: In process 0: what the others need to hold the same problem, as plain values.
    Raises:
        ConfigError: If there are fewer rows than processes.
    """

    def __init__(self, ranks: Ranks, local: ChunkedLoss, about: dict[str, Any] | None = None) -> None:
        if local.n_rows < ranks.size:
            raise ConfigError(
                f"n_examples must be at least the number of processes, {ranks.size}, got {local.n_rows}; "
                "start fewer processes"
            )
        self.ranks, self.local, self.about = ranks, local, about
        self.rows = ranks.rows(local.n_rows)
        self._part: Evaluation | None = None

    def evaluate(self, parameters: Tensor, products: bool = True) -> Evaluation:
        """Losses, gradient and products at flat ``parameters``, shape (P,); ``products``: whether any will be asked.

        Raises:
            RankError: If a process has ended; also in ``gradient`` and ``product``.
        """
        self._command(EVALUATE, int(products))
        return self._evaluate(parameters, products)

    def gradient(self, parameters: Tensor, rows: Tensor | None = None) -> Tensor:
        """Gradient of the mean loss of some rows (None: all), flat, shape (P,)."""
        self._command(GRADIENT, 0 if rows is None else len(rows))
        return self._gradient(parameters, rows)

    def product(self, vector: Tensor) -> Tensor:
        r"""$Hv$ at the parameters of the last evaluation, (P,) → (P,)."""
        self._command(PRODUCT)
        return self._product(vector)

    def follow(self, command: int, number: int) -> None:
        """Do this process's part of a command of process 0."""
        vector = torch.empty(self.local.size, dtype=self.local.params[0].dtype, device=self.local.params[0].device)
        if command == EVALUATE:
            self._evaluate(vector, bool(number))
        elif command == PRODUCT:
            self._product(vector)
        else:
            self._gradient(vector, torch.empty(number, dtype=torch.int64) if number else None)

    def _command(self, code: int, number: int = 0) -> None:
        if self.ranks.served is not self:
            self.ranks.command(SET_UP)
            self.ranks.spread_object({**(self.about or {}), "threads": torch.get_num_threads()})
            refusals = [text for text in self.ranks.gather_text("") if text]
            if refusals:
                raise ConfigError(refusals[0])
            self.ranks.served = self
        self.ranks.command(code, number)

    def _evaluate(self, parameters: Tensor, products: bool) -> Evaluation:
        self._part = None  # its graph would otherwise stay beside the new one
        self._part = part = self.local.evaluate(self.ranks.spread(parameters), products)
        per_row = len(part.losses) // (self.rows.stop - self.rows.start)
        n, start = self.local.n_rows * per_row, self.rows.start * per_row
        sums = part.gradient.new_zeros(len(part.gradient) + 2 * n)
        gradient, losses, hits = sums.split([len(part.gradient), n, n])
        gradient.copy_(part.gradient)
        losses[start : start + len(part.losses)] = part.losses  # zeros elsewhere: the sum puts the parts together
        hits[start : start + len(part.losses)] = part.correct
        self.ranks.total(sums)
        return Evaluation(losses, hits, gradient.clone(), self.product)

    def _product(self, vector: Tensor) -> Tensor:
        assert self._part is not None
        return self.ranks.total(self._part.product(self.ranks.spread(vector)))

    def _gradient(self, parameters: Tensor, rows: Tensor | None) -> Tensor:
        parameters = self.ranks.spread(parameters)
        if rows is None:
            return self.ranks.total(self.local.gradient(parameters))
        rows = self.ranks.spread(rows)
        mine = rows[(rows >= self.rows.start) & (rows < self.rows.stop)] - self.rows.start
        return self.ranks.total(self.local.gradient(parameters, mine, len(rows)))
