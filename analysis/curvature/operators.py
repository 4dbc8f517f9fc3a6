r"""The matrices of a network's loss as products with vectors: Hessian, Gauss-Newton, preconditioned, restricted.

$L(\theta) = \frac1n\sum_i \ell(f(x_i;\theta), y_i)$ over all examples given, in chunks of any sizes: a chunk of
m examples has the weight m/n. The module is used as it stands: its mode (training or evaluation), its buffers,
its frozen parameters (left out) and its tied weights (one entry each) are the caller's; of a module from
``torch.compile`` the original is taken, since compiled graphs have no second derivative. Two consequences:
BatchNorm in training mode uses the statistics of each chunk, so that the loss itself depends on the chunks;
dropout in training mode makes the matrix random from product to product.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from .vectors import Matvec, flatten, unflatten

__all__ = ["LossCurvature", "precondition", "restrict"]

Loss = Callable[[Tensor, Tensor], Tensor]
Kind = Literal["hessian", "gauss_newton"]


class LossCurvature:
    r"""Loss, gradient and curvature products of a module on fixed data.

    ``linearise`` evaluates loss and gradient once and returns the product with the matrix at that point; all
    products of one step share that work. With ``keep`` the graph of every chunk stays in memory, which is
    fastest; without, each product builds the graphs again, chunk by chunk, so that no more than one chunk's
    graph exists at a time.

    Args:
        module: Any module.
        loss: Maps outputs and targets to per-example values, shape (m,), for a chunk of m examples.
        inputs, targets: First dimension n; or sequences of chunks of unequal sizes.
        chunk_size: Most examples at a time; None: all at once.
        kind: "hessian", or "gauss_newton": $\frac1n\sum_i J_i^\top \nabla^2_f\ell\, J_i$, positive where ℓ is
            convex in the outputs.
        parameters: Names of the parameters that vary (layers, groups); None: all that require a gradient.
        examples: Indices of the examples that make up the matrix, with weights 1/len; None: all.
        keep: Whether the graphs stay between products; None: exactly where there is one chunk.
    Raises:
        ValueError: If lengths differ, a name is unknown, or a size is out of range.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        inputs: Tensor | Sequence[Tensor],
        targets: Tensor | Sequence[Tensor],
        *,
        chunk_size: int | None = None,
        kind: Kind = "hessian",
        parameters: Sequence[str] | None = None,
        examples: Tensor | None = None,
        keep: bool | None = None,
    ) -> None:
        if kind not in ("hessian", "gauss_newton"):
            raise ValueError(f"kind must be hessian or gauss_newton, got {kind!r}; pass one of them")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}; pass more, or None for one chunk")
        module = getattr(module, "_orig_mod", module)
        self.module, self.loss = module, loss
        self.kind: Kind = kind
        self.chunk_size = chunk_size
        self.chunks = _chunks(inputs, targets, chunk_size, examples)
        self.n = sum(len(x) for x, _ in self.chunks)
        self.keep = len(self.chunks) == 1 if keep is None else keep
        held = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if parameters is not None:
            parameters = [name.removeprefix("_orig_mod.") for name in parameters]
            unknown = sorted(set(parameters) - set(held))
            if unknown:
                raise ValueError(
                    f"parameters must be trainable ones of the module, got {unknown}; see named_parameters()"
                )
            held = {name: p for name, p in held.items() if name in set(parameters)}
        if not held:
            raise ValueError("parameters must name at least one trainable parameter, got none; unfreeze one")
        self.names, self.params = list(held), list(held.values())

    def sample(self, size: int, seed: int = 0) -> "LossCurvature":
        """The same matrix of ``size`` examples drawn without replacement: a surrogate for ``CurvatureTracker``.

        Raises:
            ValueError: If ``size`` is not in 1..n.
        """
        if not 1 <= size <= self.n:
            raise ValueError(f"size must lie in 1..{self.n}, got {size}; pass about a tenth of the examples")
        kept = torch.randperm(self.n, generator=torch.Generator().manual_seed(seed))[:size]
        return LossCurvature(
            self.module,
            self.loss,
            *zip(*self.chunks, strict=True),
            chunk_size=self.chunk_size,
            kind=self.kind,
            parameters=self.names,
            examples=kept.to(self.chunks[0][0].device),
        )

    @property
    def size(self) -> int:
        """Number of parameters P in the matrix."""
        return sum(p.numel() for p in self.params)

    def point(self) -> Tensor:
        """The parameters as they are now, flat, shape (P,)."""
        return flatten([p.detach() for p in self.params])

    def linearise(self, point: Tensor | None = None) -> tuple[float, Tensor, Matvec]:
        r"""Loss, gradient (P,) and product $v \mapsto Hv$ at ``point`` (P,), by default where the module is.

        The module's own parameters are not changed. Everything refers to the values at this moment: in-place
        changes of the parameters afterwards do not reach the product where ``point`` was given, and spoil it
        where it was not.
        """
        points = self._points(point)
        if self.kind == "gauss_newton" or not self.keep:
            total, gradient = 0.0, torch.zeros(self.size, dtype=points[0].dtype, device=points[0].device)
            for x, y in self.chunks:
                value = self.chunk_loss(points, x, y)
                gradient += flatten(torch.autograd.grad(value, points, materialize_grads=True))
                total += float(value.detach())
            return total, gradient, self._unkept(points)
        values = [self.chunk_loss(points, x, y) for x, y in self.chunks]
        parts = [flatten(torch.autograd.grad(v, points, create_graph=True, materialize_grads=True)) for v in values]
        gradient = torch.stack([p.detach() for p in parts]).sum(0)

        def matvec(vector: Tensor) -> Tensor:
            return sum((_second(part, points, vector, retain=True) for part in parts), torch.zeros_like(vector))

        return float(sum(v.detach() for v in values)), gradient, matvec

    def product(self, point: Tensor | None = None) -> Matvec:
        r"""The product of ``linearise`` alone, where loss and gradient are known: nothing is evaluated before its use.

        It builds the graph of every chunk anew at each use, whatever ``keep`` is.
        """
        return self._unkept(self._points(point))

    def _points(self, point: Tensor | None) -> list[Tensor]:
        flat = self.point() if point is None else point.detach()
        return [p.clone().requires_grad_() for p in unflatten(flat, self.params)]

    def _unkept(self, points: list[Tensor]) -> Matvec:
        return self._gauss_newton(points) if self.kind == "gauss_newton" else self._rebuilt(points)

    def _outputs(self, points: Sequence[Tensor], x: Tensor) -> Tensor:
        # copies of the buffers: BatchNorm in training mode would otherwise move its running statistics
        held = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        held |= dict(zip(self.names, points, strict=True))
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no second derivative
            return functional_call(self.module, held, (x,))

    def chunk_loss(self, points: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
        r"""A chunk's part of the mean loss, $\frac1n\sum_{i\in\text{chunk}}\ell_i$; the chunks' parts add up to L(θ).

        Args:
            points: The varying parameters, as ``params``; gradients reach them.
            x, y: One of ``chunks``.
        Raises:
            ValueError: If the loss does not return one value per example.
        """
        losses = self.loss(self._outputs(points, x), y)
        if losses.shape != (len(x),):
            raise ValueError(
                f"loss must return one value per example, shape ({len(x)},), got {tuple(losses.shape)}; "
                "use reduction='none' and sum over the rest"
            )
        return losses.sum() / self.n

    def _rebuilt(self, points: list[Tensor]) -> Matvec:
        def matvec(vector: Tensor) -> Tensor:
            result = torch.zeros_like(vector)
            for x, y in self.chunks:
                grads = torch.autograd.grad(
                    self.chunk_loss(points, x, y), points, create_graph=True, materialize_grads=True
                )
                result += _second(flatten(grads), points, vector, retain=False)
            return result

        return matvec

    def _gauss_newton(self, points: list[Tensor]) -> Matvec:
        fixed = tuple(p.detach() for p in points)

        def matvec(vector: Tensor) -> Tensor:
            result, tangents = torch.zeros_like(vector), tuple(unflatten(vector, fixed))
            for x, y in self.chunks:
                outputs, pull = vjp(lambda *p, x=x: self._outputs(p, x), *fixed)[:2]
                push = jvp(lambda *p, x=x: self._outputs(p, x), fixed, tangents)[1]
                leaf = outputs.detach().requires_grad_()
                slope = torch.autograd.grad(self.loss(leaf, y).sum() / self.n, leaf, create_graph=True)[0]
                if slope.requires_grad:
                    bent = torch.autograd.grad(slope, leaf, push.detach(), materialize_grads=True)[0]
                    result += flatten([g.reshape(-1) for g in pull(bent.detach())])
            return result

        return matvec


def _second(grad: Tensor, points: Sequence[Tensor], vector: Tensor, *, retain: bool) -> Tensor:
    if not grad.requires_grad:  # a loss that is linear in these parameters
        return torch.zeros_like(vector)
    return flatten(torch.autograd.grad(grad, points, grad_outputs=vector, retain_graph=retain, materialize_grads=True))


def _chunks(
    inputs: Tensor | Sequence[Tensor],
    targets: Tensor | Sequence[Tensor],
    size: int | None,
    examples: Tensor | None,
) -> list[tuple[Tensor, Tensor]]:
    xs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    ys = [targets] if isinstance(targets, Tensor) else list(targets)
    lengths = [len(x) for x in xs], [len(y) for y in ys]
    if lengths[0] != lengths[1] or sum(lengths[0]) == 0:
        raise ValueError(
            f"inputs and targets must have equal lengths > 0, got {lengths[0]} and {lengths[1]}; pair them"
        )
    if examples is not None:
        if examples.dtype == torch.bool or examples.numel() == 0:
            raise ValueError("examples must be indices, at least one; pass mask.nonzero().squeeze(1) for a mask")
        xs, ys = [torch.cat(xs)[examples]], [torch.cat(ys)[examples]]
    pairs = list(zip(xs, ys, strict=True))
    if size is not None:
        pairs = [(a, b) for x, y in pairs for a, b in zip(x.split(size), y.split(size), strict=True)]
    return pairs


def precondition(matvec: Matvec, diagonal: Tensor) -> tuple[Matvec, Tensor]:
    r"""$P^{-1/2} H P^{-1/2}$ for a diagonal P: symmetric, with the eigenvalues of $P^{-1}H$.

    The largest one is the effective sharpness of an optimizer with preconditioner P (RMSProp, Adam:
    $P = \operatorname{diag}(\sqrt{\hat\nu} + \epsilon)$); its critical value is that of the optimizer without P
    (``toymodels.critical_sharpness``). Derived: similarity.

    Args:
        matvec: $v \mapsto Hv$.
        diagonal: Diagonal of P, shape (P,), all entries > 0.
    Returns:
        The product, and $P^{-1/2}$, shape (P,): a unit eigenvector w of the product gives the eigenvector
        $P^{-1/2}w$ of $P^{-1}H$.
    Raises:
        ValueError: If an entry is not positive and finite.
    """
    if not bool(((diagonal > 0) & torch.isfinite(diagonal)).all()):
        bad = float(diagonal[~((diagonal > 0) & torch.isfinite(diagonal))][0])
        raise ValueError(f"diagonal must be positive and finite, got {bad:g}; add the optimizer's epsilon")
    root = diagonal.rsqrt()
    return lambda vector: root * matvec(root * vector), root


def restrict(matvec: Matvec, entries: Tensor, size: int) -> Matvec:
    r"""The principal submatrix of H on some entries: curvature of a layer or group with the others held fixed.

    Where products of the whole are not needed, ``LossCurvature(parameters=...)`` is cheaper.

    Args:
        matvec: Product with the whole matrix, (P,) → (P,).
        entries: Indices kept, shape (q,).
        size: P.
    """

    def product(vector: Tensor) -> Tensor:
        whole = vector.new_zeros(size)
        whole[entries] = vector
        return matvec(whole)[entries]

    return product
