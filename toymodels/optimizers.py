r"""Optimizers as symbolic maps: the one place where an update is written down; kernels are generated from it.

Each optimizer's fields are its hyperparameters, numbers or arrays (one per run). ``update`` receives the weights,
a gradient *function* and the auxiliary variables as sympy expressions and returns the new ones.

An even weight and its auxiliary variables may be carried in a common unit $2^e$ (see ``codegen``): the gradient
function then returns the component in that unit. That is legal for updates that are homogeneous in each weight's
group; where one compares with a fixed number (SplitSGD), it multiplies by ``unit``. Adam divides by a fixed ε and
is not homogeneous: it is never rescaled, and never lets a weight underflow either.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from toymodels.thresholds import critical_sharpness
from toymodels.validation import finite, not_negative, positive

__all__ = [
    "GD",
    "OPTIMIZERS",
    "SAM",
    "Adam",
    "EMAMomentum",
    "HeavyBall",
    "Nesterov",
    "Optimizer",
    "SplitSGD",
    "make_optimizer",
]

Vector = Sequence[Any]
Gradient = Callable[[Vector], list[Any]]


@dataclass(frozen=True)
class Optimizer(ABC):
    """Abstract: an update rule. Concrete ones are final.

    Class attributes:
        aux: Names of the auxiliary variables kept for every weight, all 0 at the start.
        homogeneous: Whether the update may be carried in the unit of an even weight.
    """

    aux: ClassVar[tuple[str, ...]] = ()
    homogeneous: ClassVar[bool] = True

    @abstractmethod
    def update(
        self, w: Vector, gradient: Gradient, aux: dict[str, list[Any]], h: SimpleNamespace
    ) -> tuple[list[Any], dict[str, list[Any]]]:
        """New weights and auxiliary variables.

        Args:
            w: Weights (expressions).
            gradient: Takes weights, returns the gradient's components.
            aux: Auxiliary variables by name, one per weight.
            h: Symbols: ``lr``, the hyperparameters by field name, ``n`` (number of this update, from 1) and
                ``unit`` (one per weight).
        """

    def rate(self, lr: np.ndarray, h: dict[str, np.ndarray]) -> np.ndarray:
        r"""$2/\lambda^*$ with $\lambda^*$ the critical curvature: ``stability`` is curvature times this."""
        raise NotImplementedError

    def curvature(self, value: Any, aux: dict[str, Any], h: SimpleNamespace) -> Any:
        """The curvature that meets the threshold, from that of the loss along the watched weight."""
        return value

    def hyperparameters(self) -> dict[str, np.ndarray]:
        """Validated values of the fields as float64 arrays."""
        return {f.name: finite(f.name, getattr(self, f.name)) for f in fields(self)}


def _unit_interval(name: str, value: np.ndarray) -> np.ndarray:
    if not ((value >= 0) & (value < 1)).all():
        raise ValueError(f"{name} must lie in [0, 1), got {value[~((value >= 0) & (value < 1))].flat[0]:g}; pass 0.9")
    return value


def _rate(name: str, lr: np.ndarray, parameter: np.ndarray) -> np.ndarray:
    pairs = np.broadcast(lr, parameter)
    return np.array([2 / critical_sharpness(name, float(a), float(b)) for a, b in pairs]).reshape(pairs.shape)


@dataclass(frozen=True)
class GD(Optimizer):
    r"""Gradient descent, $w \leftarrow w - \eta(\nabla L + \omega w)$.

    Args:
        weight_decay: ω ≥ 0.
    """

    weight_decay: ArrayLike = 0.0

    def update(self, w, gradient, aux, h):
        g = gradient(w)
        if np.ndim(self.weight_decay) == 0 and self.weight_decay == 0:
            return [a - h.lr * b for a, b in zip(w, g, strict=True)], {}
        return [a - h.lr * (b + h.weight_decay * a) for a, b in zip(w, g, strict=True)], {}

    def rate(self, lr, h):
        left = 1 - lr * h["weight_decay"] / 2  # lambda* = (2/lr) (1 - lr omega/2)
        with np.errstate(divide="ignore"):
            return np.where(left > 0, lr / np.where(left > 0, left, 1.0), np.inf)

    def hyperparameters(self):
        return {"weight_decay": not_negative("weight_decay", self.weight_decay)}


@dataclass(frozen=True)
class HeavyBall(Optimizer):
    r"""Polyak's momentum: $m \leftarrow \mu m + \nabla L,\; w \leftarrow w - \eta m$.

    Looks like :class:`EMAMomentum`, without the factor $1-\mu$ on the gradient.

    Args:
        momentum: μ in [0, 1).
    """

    momentum: ArrayLike = 0.9
    aux: ClassVar[tuple[str, ...]] = ("m",)

    def update(self, w, gradient, aux, h):
        m = [h.momentum * a + g for a, g in zip(aux["m"], gradient(w), strict=True)]
        return [a - h.lr * b for a, b in zip(w, m, strict=True)], {"m": m}

    def rate(self, lr, h):
        return _rate("heavy_ball", lr, h["momentum"])

    def hyperparameters(self):
        return {"momentum": _unit_interval("momentum", finite("momentum", self.momentum))}


@dataclass(frozen=True)
class Nesterov(Optimizer):
    r"""Nesterov's momentum: $v \leftarrow \mu v - \eta\nabla L(w + \mu v),\; w \leftarrow w + v$.

    Args:
        momentum: μ in [0, 1).
    """

    momentum: ArrayLike = 0.9
    aux: ClassVar[tuple[str, ...]] = ("m",)

    def update(self, w, gradient, aux, h):
        ahead = [a + h.momentum * v for a, v in zip(w, aux["m"], strict=True)]
        v = [h.momentum * a - h.lr * g for a, g in zip(aux["m"], gradient(ahead), strict=True)]
        return [a + b for a, b in zip(w, v, strict=True)], {"m": v}

    def rate(self, lr, h):
        # the look-ahead point y obeys the step matrix of thresholds: same eigenvalues
        return _rate("nesterov", lr, h["momentum"])

    def hyperparameters(self):
        return {"momentum": _unit_interval("momentum", finite("momentum", self.momentum))}


@dataclass(frozen=True)
class EMAMomentum(Optimizer):
    r"""Exponential moving average: $m \leftarrow \beta_1 m + (1-\beta_1)\nabla L,\; w \leftarrow w - \eta m$.

    Adam with a frozen preconditioner.

    Args:
        beta1: β₁ in [0, 1).
    """

    beta1: ArrayLike = 0.9
    aux: ClassVar[tuple[str, ...]] = ("m",)

    def update(self, w, gradient, aux, h):
        m = [h.beta1 * a + (1 - h.beta1) * g for a, g in zip(aux["m"], gradient(w), strict=True)]
        return [a - h.lr * b for a, b in zip(w, m, strict=True)], {"m": m}

    def rate(self, lr, h):
        return _rate("ema", lr, h["beta1"])

    def hyperparameters(self):
        return {"beta1": _unit_interval("beta1", finite("beta1", self.beta1))}


@dataclass(frozen=True)
class SAM(Optimizer):
    r"""Sharpness-aware minimisation, unnormalised: $w \leftarrow w - \eta\nabla L(w + \rho\nabla L(w))$.

    Args:
        rho: Radius ρ ≥ 0, in units of weight per gradient.
    """

    rho: ArrayLike = 0.05

    def update(self, w, gradient, aux, h):
        up = [a + h.rho * g for a, g in zip(w, gradient(w), strict=True)]
        return [a - h.lr * g for a, g in zip(w, gradient(up), strict=True)], {}

    def rate(self, lr, h):
        return _rate("sam", lr, h["rho"])

    def hyperparameters(self):
        return {"rho": not_negative("rho", self.rho)}


@dataclass(frozen=True)
class Adam(Optimizer):
    r"""Adam with bias correction (Kingma & Ba 2015), $w \leftarrow w - \eta\hat m/(\sqrt{\hat v}+\epsilon)$.

    Its ``stability`` is that of the effective curvature $\lambda/(\sqrt{\hat v}+\epsilon)$ along the watched weight,
    with the v before the update; threshold as for :class:`EMAMomentum`.

    Args:
        beta1: β₁ in [0, 1).
        beta2: β₂ in [0, 1).
        eps: ε > 0.
    """

    beta1: ArrayLike = 0.9
    beta2: ArrayLike = 0.999
    eps: ArrayLike = 1e-8
    aux: ClassVar[tuple[str, ...]] = ("m", "v")
    homogeneous: ClassVar[bool] = False

    def update(self, w, gradient, aux, h):
        import sympy as sp

        g = gradient(w)
        m = [h.beta1 * a + (1 - h.beta1) * b for a, b in zip(aux["m"], g, strict=True)]
        v = [h.beta2 * a + (1 - h.beta2) * b**2 for a, b in zip(aux["v"], g, strict=True)]
        first, second = 1 - h.beta1**h.n, 1 - h.beta2**h.n
        new = [a - h.lr * (b / first) / (sp.sqrt(q / second) + h.eps) for a, b, q in zip(w, m, v, strict=True)]
        return new, {"m": m, "v": v}

    def rate(self, lr, h):
        return _rate("ema", lr, h["beta1"])

    def curvature(self, value, aux, h):
        import sympy as sp

        # before the first update v is 0 and has no bias to correct: the denominator below is then 0/1
        passed = sp.Max(1 - h.beta2 ** (h.n - 1), sp.Float(1e-300))
        return value / (sp.sqrt(aux["v"] / passed) + h.eps)

    def hyperparameters(self):
        return {
            "beta1": _unit_interval("beta1", finite("beta1", self.beta1)),
            "beta2": _unit_interval("beta2", finite("beta2", self.beta2)),
            "eps": positive("eps", self.eps),
        }


@dataclass(frozen=True)
class SplitSGD(Optimizer):
    r"""SGD whose coordinates with a large momentum take a fixed signed step (Rosenfeld & Risteski 2024).

    $m \leftarrow \mu m + (1-d)\nabla L$; $w_j \leftarrow w_j - \eta_s\,\mathrm{sign}(m_j)$ where $|m_j| > \theta$,
    else $w_j \leftarrow w_j - \eta\nabla_j L$.

    Args:
        momentum: μ in [0, 1).
        dampening: d in [0, 1).
        threshold: θ > 0 on |m|.
        signed_lr: $\eta_s$ > 0, the size of the signed step.
    """

    momentum: ArrayLike = 0.9
    dampening: ArrayLike = 0.9
    threshold: ArrayLike = 0.1
    signed_lr: ArrayLike = 1e-3
    aux: ClassVar[tuple[str, ...]] = ("m",)

    def update(self, w, gradient, aux, h):
        import sympy as sp

        g = gradient(w)
        m = [h.momentum * a + (1 - h.dampening) * b for a, b in zip(aux["m"], g, strict=True)]
        new = [
            sp.Piecewise((a - h.signed_lr * sp.sign(b) / unit, sp.Abs(b) * unit > h.threshold), (a - h.lr * c, True))
            for a, b, c, unit in zip(w, m, g, h.unit, strict=True)
        ]
        return new, {"m": m}

    def rate(self, lr, h):
        return lr  # below the threshold it is gradient descent

    def hyperparameters(self):
        return {
            "momentum": _unit_interval("momentum", finite("momentum", self.momentum)),
            "dampening": _unit_interval("dampening", finite("dampening", self.dampening)),
            "threshold": positive("threshold", self.threshold),
            "signed_lr": positive("signed_lr", self.signed_lr),
        }


#: name on the command line -> class
OPTIMIZERS: dict[str, type[Optimizer]] = {
    "gd": GD,
    "heavy_ball": HeavyBall,
    "nesterov": Nesterov,
    "ema": EMAMomentum,
    "sam": SAM,
    "adam": Adam,
    "split_sgd": SplitSGD,
}


def make_optimizer(optimizer: "str | Optimizer") -> Optimizer:
    """An optimizer from its name, with default hyperparameters; an instance is returned as it is.

    Raises:
        ValueError: If the name is unknown.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if optimizer == "sgd":
        raise ValueError("optimizer 'sgd' needs examples, not a reduced model; use toymodels.network.simulate_network")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}; got {optimizer!r}")
    return OPTIMIZERS[optimizer]()
