r"""Optimizers: SplitSGD and SAM, and a factory that takes the rest from ``torch.optim``.

The rules are those of ``toymodels.optimizers``, whose critical curvatures ``toymodels.thresholds`` derives.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from .options import OPTIMIZERS

__all__ = ["SAM", "SplitSGD", "make_optimizer"]

Params = Iterable[Tensor] | Iterable[dict[str, Any]]
Closure = Callable[[], Tensor] | None


def _in_range(name: str, value: float, good: bool, requirement: str, remedy: str) -> None:
    if not (good and math.isfinite(value)):
        raise ValueError(f"{name} must {requirement}, got {value}; pass {remedy}")


class SplitSGD(Optimizer):
    r"""SGD whose coordinates with a large momentum take a signed step of fixed size (Rosenfeld & Risteski 2024).

    $$m \leftarrow \mu m + (1 - d)\, g, \qquad
      w_j \leftarrow w_j - \begin{cases} \eta_s\,\mathrm{sign}(m_j) & |m_j| > \theta \\ \eta\, g_j & \text{else}
      \end{cases}$$

    with $g = \nabla L + \omega w$ and m = 0 at the start. The momentum decides *which* step a coordinate takes, and the
    sign; the plain step is that of SGD without momentum. Look-alikes: ``torch.optim.SGD`` steps along m everywhere, and
    starts m at the first gradient, undampened; signSGD takes the fixed step everywhere.

    Args:
        params: Parameters, or groups of them with options of their own.
        lr: η > 0.
        signed_lr: $\eta_s$ > 0, size of the signed step, in units of a parameter.
        threshold: θ > 0 on |m|, in units of a gradient.
        momentum: μ in [0, 1).
        dampening: d in [0, 1).
        weight_decay: ω ≥ 0.
        foreach: Whether to update all tensors of a group by one call; the result is the same to the bit.
    Raises:
        ValueError: If an option is out of its range.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        signed_lr: float = 1e-3,
        threshold: float = 0.1,
        momentum: float = 0.9,
        dampening: float = 0.9,
        weight_decay: float = 0.0,
        foreach: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "signed_lr": signed_lr,
            "threshold": threshold,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "foreach": foreach,
        }
        super().__init__(cast(Any, params), defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; its options are checked."""
        options = {**self.defaults, **param_group}
        for name in ("lr", "signed_lr", "threshold"):
            _in_range(name, options[name], options[name] > 0, "be positive", f"{name} > 0")
        for name in ("momentum", "dampening"):
            _in_range(name, options[name], 0 <= options[name] < 1, "lie in [0, 1)", "e.g. 0.9")
        _in_range("weight_decay", options["weight_decay"], options["weight_decay"] >= 0, "be >= 0", "0 for none")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Closure = None) -> Tensor | None:  # type: ignore[override]
        """One step with the gradients in ``grad``; parameters without one stay.

        Args:
            closure: Computes the loss and its gradients anew; its value is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            momenta = [self.state[p]["momentum_buffer"] for p in params]
            tensors = [(params, [cast(Tensor, p.grad) for p in params], momenta)]
            if not group["foreach"]:
                tensors = [([p], [g], [m]) for p, g, m in zip(*tensors[0], strict=True)]
            for part in tensors:
                _split_step(*part, group)
        return loss

    @torch.no_grad()
    def signed_share(self) -> float:
        """Share of coordinates that took the signed step last time, in [0, 1]; 0 before the first step."""
        signed = total = 0
        for group in self.param_groups:
            for p in group["params"]:
                total += p.numel()
                if "momentum_buffer" in self.state[p]:
                    signed += int((self.state[p]["momentum_buffer"].abs() > group["threshold"]).sum())
        return signed / total


def _split_step(params: list[Tensor], grads: list[Tensor], momenta: list[Tensor], o: dict[str, Any]) -> None:
    many: Any = torch  # the foreach functions are exported without their names
    if o["weight_decay"]:
        grads = list(many._foreach_add(grads, params, alpha=o["weight_decay"]))
    many._foreach_mul_(momenta, o["momentum"])
    many._foreach_add_(momenta, grads, alpha=1 - o["dampening"])
    signed = many._foreach_mul(many._foreach_sign(momenta), o["signed_lr"])
    plain = many._foreach_mul(grads, o["lr"])
    large = [m.abs() > o["threshold"] for m in momenta]
    steps = [torch.where(mask, a, b) for mask, a, b in zip(large, signed, plain, strict=True)]
    many._foreach_sub_(params, steps)


class SAM(Optimizer):
    r"""Sharpness-aware minimisation around any optimizer: $g = \nabla L(w + \rho\,\nabla L(w))$ goes to ``base``.

    ``normalised`` (Foret et al. 2021): $w + \rho\,\nabla L/\|\nabla L\|$, the norm over all parameters. The
    unnormalised form is that of the critical curvature in ``toymodels.thresholds``.

    Args:
        base: Optimizer of the parameters; its state, its groups and its step are used.
        rho: Radius ρ ≥ 0: a length in parameter space if normalised, else parameter per gradient.
        normalised: Whether the ascent has length ρ.
    Raises:
        ValueError: If ρ is negative.
    """

    def __init__(self, base: Optimizer, rho: float = 0.05, *, normalised: bool = False) -> None:
        _in_range("rho", rho, rho >= 0, "be >= 0", "e.g. 0.05")
        self.base = base
        super().__init__(base.param_groups, {"rho": rho, "normalised": normalised})
        self.param_groups, self.state = base.param_groups, base.state
        for group in self.param_groups:
            group.setdefault("rho", rho)
            group.setdefault("normalised", normalised)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave."""
        self.base.load_state_dict(state_dict)
        self.param_groups, self.state = self.base.param_groups, self.base.state

    @torch.no_grad()
    def step(self, closure: Closure = None) -> Tensor:  # type: ignore[override]
        """One step.

        Args:
            closure: Clears the gradients, computes the loss, calls backward, returns the loss; called twice.
        Returns:
            The loss at w, before the step.
        Raises:
            ValueError: If there is no closure.
        """
        if closure is None:
            raise ValueError("closure must be given to SAM, got None; pass a function that computes the loss anew")
        with torch.enable_grad():
            loss = closure()
        pairs = [(p, g) for g in self.param_groups for p in g["params"] if p.grad is not None]
        kept = [p.clone() for p, _ in pairs]
        norms = [cast(Tensor, p.grad).norm() for p, _ in pairs]
        norm = torch.stack(norms).norm() if norms else torch.zeros(())
        for p, group in pairs:
            grad = cast(Tensor, p.grad)
            if group["normalised"]:
                grad = grad / norm.clamp_min(torch.finfo(grad.dtype).tiny)
            p.add_(grad, alpha=group["rho"])
        with torch.enable_grad():
            closure()
        for (p, _), before in zip(pairs, kept, strict=True):
            p.copy_(before)  # restored, not subtracted: to the bit
        self.base.step()
        return loss


def make_optimizer(name: str, params: Params, lr: float, **options: Any) -> Optimizer:
    r"""The optimizer ``name`` with its options as in ``nets.options``; those left out take their defaults.

    "gd", "sgd", "heavy_ball" and "nesterov" are ``torch.optim.SGD`` without or with momentum: torch's Nesterov steps
    from the look-ahead point $w + \mu v$ to the next one. "adam", "adamw", "rmsprop" are torch's. ``clip_norm`` > 0
    scales the gradient that a step uses down to that norm (for "sam": the gradient at the ascended point).

    Args:
        name: One of ``nets.options.OPTIMIZERS``.
        params: Parameters or groups.
        lr: Step size η > 0.
        **options: Options of that optimizer.
    Raises:
        ValueError: If the name or an option is unknown, or a value out of range.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}; choose one of them")
    _in_range("lr", lr, lr > 0, "be positive", "lr > 0")
    table = OPTIMIZERS[name]
    for key, value in options.items():
        if key not in table:
            raise ValueError(f"optimizer {name} has options {', '.join(table)}, got {key}; leave it out")
        table[key].check(f"optimizer {name}", key, value)
    o = {**{key: option.default for key, option in table.items()}, **options}
    clip, decay = o.pop("clip_norm"), o["weight_decay"]
    parameters = cast(Any, list(params))
    if name in ("adam", "adamw"):
        kind = Adam if name == "adam" else AdamW
        optimizer: Optimizer = kind(parameters, lr, (o["beta1"], o["beta2"]), o["eps"], decay)
    elif name == "rmsprop":
        optimizer = RMSprop(parameters, lr, o["alpha"], o["eps"], decay, o["momentum"])
    elif name == "split_sgd":
        optimizer = SplitSGD(parameters, lr, **o)
    else:
        nesterov = name == "nesterov"
        optimizer = SGD(parameters, lr, o.get("momentum", 0.0), o.get("dampening", 0.0), decay, nesterov)
    if clip:
        optimizer.register_step_pre_hook(lambda opt, args, kwargs: _clip_before_use(opt, args, kwargs, clip))
    return SAM(optimizer, o["rho"], normalised=o["normalised"]) if name == "sam" else optimizer


def _clip_before_use(optimizer: Optimizer, args: Any, kwargs: dict[str, Any], norm: float) -> Any:
    """Clip the gradients there are; where a closure is to compute them, clip after it did."""

    def clip() -> None:
        clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"] if p.grad is not None], norm)

    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if closure is None:
        clip()
        return None

    def clipped() -> Any:
        loss = closure()
        clip()
        return loss

    return (args[0], clipped), {}
