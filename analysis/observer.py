r"""Watching any training loop for opposing signals, in three lines::

signals = OpposingSignals(model, loss_fn, (inputs, targets))
signals.step()              # once per update, before or after it, always at the same place
pairs = signals.detect().significant()
"""

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from analysis.curvature import CurvatureTracker, flat_hvp, flatten
from analysis.curvature.attribution import attribute
from analysis.demodulation import RunningDemodulation
from analysis.detection import Detection, detect_in_blocks, detect_in_projections, with_gradients

__all__ = ["OpposingSignals", "TokenExample", "per_example"]

TASKS = ("auto", "classification", "regression", "next_token")
IGNORED = -100  # target of a token that is not predicted, as in torch's cross-entropy


class TokenExample(NamedTuple):
    """A predicted token: its row and place in the data, the tokens before it (its own place included), the target."""

    row: int
    position: int
    context: tuple[int, ...]
    target: int


def per_example(loss_fn: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss without its mean: a torch loss with ``reduction="none"``; any other callable as it is."""
    if isinstance(loss_fn, nn.Module):
        if hasattr(loss_fn, "reduction"):
            loss_fn = copy.copy(loss_fn)
            loss_fn.reduction = "none"  # type: ignore[assignment]
        return loss_fn
    try:
        reducible = "reduction" in inspect.signature(loss_fn).parameters
    except ValueError:  # a builtin without a signature
        reducible = False
    return functools.partial(loss_fn, reduction="none") if reducible else loss_fn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout, no update of buffers), and every module's own mode restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class OpposingSignals:
    r"""Losses of fixed examples, demodulated as training goes on; memory does not grow with the number of steps.

    Each step costs one forward pass over the examples in evaluation mode, or none where the losses are passed. Neither
    the model, its buffers, its modes nor the random state change.

    Args:
        model: Any module whose output is a tensor, or has a tensor ``logits``.
        loss_fn: A torch loss (its reduction is taken off), or a function of outputs and targets that gives one value
            per example.
        data: Inputs and targets, first axis the example, on the model's device.
        task: "classification" (targets (n,) int), "regression" (float; the loss is averaged over an example's outputs),
            "next_token" (targets (n, T) int, outputs (n, T, vocabulary); every token with a target other than −100 is
            an example), or "auto", which tells them apart by dtype and shape.
        blocks: Blocks of 5 steps that a detection looks back on.
        batch_size: Examples per forward pass; None takes all at once.
        keep_record: Keep the losses of every step too (``record``); memory then grows.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[..., Tensor],
        data: tuple[Tensor, Tensor],
        *,
        task: str = "auto",
        blocks: int = 8,
        batch_size: int | None = None,
        keep_record: bool = False,
    ) -> None:
        inputs, targets = data
        if len(inputs) != len(targets) or len(inputs) < 1:
            raise ValueError(
                f"data must hold as many inputs as targets, got {len(inputs)} and {len(targets)}; pair them up"
            )
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}; choose one of them")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}; pass e.g. 256 or None")
        self.model, self.inputs, self.targets = model, inputs, targets
        self._loss = per_example(loss_fn)
        self.task = _task(targets) if task == "auto" else task
        self._batch = batch_size or len(inputs)
        self._running = RunningDemodulation(blocks)
        self._rows: list[np.ndarray] | None = [] if keep_record else None
        self._next = 0

    # --- recording -----------------------------------------------------------------------------------

    def step(self, step: int | None = None, losses: Tensor | np.ndarray | None = None) -> None:
        """Take the losses at the current parameters.

        Args:
            step: Number of the update that comes next; by default one more than last time.
            losses: Per-example losses already at hand, shape (examples,); None computes them.
        Raises:
            ValueError: If steps do not increase or the loss gives no value per example.
        """
        step = self._next if step is None else step
        if losses is None:
            with torch.no_grad():
                losses = self.losses([p for p in self.model.parameters() if p.requires_grad])
        row = losses.detach().double().cpu().numpy() if isinstance(losses, Tensor) else losses
        self._running.add(step, row)
        if self._rows is not None:
            self._rows.append(np.array(row, dtype=np.float64))
        self._next = step + 1

    @property
    def record(self) -> np.ndarray:
        """Losses of every step, shape (steps, examples), where ``keep_record`` was set."""
        if self._rows is None:
            raise ValueError("record was not kept; make the observer with keep_record=True")
        return np.array(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of losses held, the record apart."""
        return self._running.nbytes

    def losses(self, params: Sequence[Tensor]) -> Tensor:
        r"""$(\ell_1, \dots, \ell_n)$ at given trainable parameters, in evaluation mode, shape (examples,)."""
        names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        values = dict(zip(names, params, strict=True))
        parts = []
        with evaluating(self.model):
            for begin in range(0, len(self.inputs), self._batch):
                rows = slice(begin, begin + self._batch)
                outputs = functional_call(self.model, values, (self.inputs[rows],))
                parts.append(self._per_example(getattr(outputs, "logits", outputs), self.targets[rows]))
        return torch.cat(parts)

    def _per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.task == "next_token":
            if outputs.shape[:-1] != targets.shape:
                raise ValueError(
                    f"outputs must have shape {(*targets.shape, 'vocabulary')}, got {tuple(outputs.shape)}; "
                    "return one score per token of the vocabulary at every place"
                )
            outputs, targets = outputs.flatten(0, -2), targets.flatten()
            keep = targets != IGNORED
            outputs, targets = outputs[keep], targets[keep]
        losses = self._loss(outputs, targets)
        if losses.ndim == 0 or len(losses) != len(targets):
            raise ValueError(
                f"loss_fn must give one value per example, got shape {tuple(losses.shape)} for {len(targets)}; "
                "take off its reduction"
            )
        return losses.flatten(1).mean(1) if losses.ndim > 1 else losses

    # --- looking -------------------------------------------------------------------------------------

    def detect(self, max_pairs: int = 4, gradients: bool = False, vectors: Tensor | None = None) -> Detection:
        """Pairs in the last blocks, equal to `detect_in_losses` on the record of those steps.

        Args:
            max_pairs: Most pairs returned.
            gradients: Measure the opposition on gradients at the current parameters (two backward passes a pair).
            vectors: Top eigenvectors, shape (P,) or (K, P): measure the share of the sharpness too.
        """
        found = detect_in_blocks(*self._running.blocks(), max_pairs=max_pairs)
        if not gradients and vectors is None:
            return found
        return with_gradients(found, self.losses, self._params(), vectors)

    def eigenvectors(self, count: int = 1, tol: float = 1e-2, max_products: int = 100) -> Tensor:
        """Top Hessian eigenvectors of the examples' mean loss at the current parameters, shape (count, P).

        By a `CurvatureTracker` from a cold start, without its check: as good as ``tol`` (estimated relative error of
        the eigenvalues) or ``max_products`` let.
        """
        points = [p.requires_grad_() for p in self._params()]
        gradients = torch.autograd.grad(self.losses(points).mean(), points, create_graph=True)
        tracker = CurvatureTracker(count, tol=tol, max_cold=max_products, max_check=0)
        return tracker.measure(flat_hvp(gradients, points), flatten(gradients).detach()).vectors

    def project(self, vectors: Tensor | None = None, count: int = 1) -> Detection:
        """Pairs in the gradients' projections on the top eigenvectors, before anything oscillates.

        Args:
            vectors: Shape (P,) or (K, P); None computes ``count`` of them.
        """
        basis = self.eigenvectors(count) if vectors is None else vectors.reshape(-1, vectors.shape[-1])
        found = [attribute(self.losses, self._params(), v) for v in basis]
        slopes, curvatures = (
            torch.stack(columns, dim=1).detach().double().cpu().numpy()
            for columns in ([a.slopes for a in found], [a.curvatures for a in found])
        )
        return detect_in_projections(slopes, self._next, curvatures)

    def _params(self) -> list[Tensor]:
        return [p.detach() for p in self.model.parameters() if p.requires_grad]

    def token(self, example: int, length: int = 32) -> TokenExample:
        """Where an example of a next-token task lies: row, position, at most ``length`` tokens of context, target."""
        if self.task != "next_token":
            raise ValueError(f"token needs the task next_token, got {self.task}; index the data instead")
        places = (self.targets != IGNORED).nonzero()
        if not 0 <= example < len(places):
            raise ValueError(f"example must be in 0..{len(places) - 1}, got {example}; pass one of a pair's members")
        row, position = (int(k) for k in places[example])
        context = self.inputs[row, max(0, position + 1 - length) : position + 1]
        return TokenExample(row, position, tuple(int(t) for t in context), int(self.targets[row, position]))


def _task(targets: Any) -> str:
    if targets.is_floating_point():
        return "regression"
    return "next_token" if targets.ndim == 2 else "classification"
