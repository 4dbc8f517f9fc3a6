r"""Critical curvature of an optimizer: the largest λ for which its step on $\tfrac12\lambda x^2$ does not grow.

Each optimizer is its companion matrix on the quadratic; the closed forms are re-proved from those matrices in
``toymodels.derivations.thresholds``. For a network, λ is the sharpness (for Adam: of $P^{-1}H$).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from toymodels.validation import finite, positive

__all__ = [
    "OPTIMIZERS",
    "ClippedBand",
    "clipped_amplitude",
    "clipped_lr",
    "clipped_step",
    "critical_sharpness",
    "step_matrix",
]

OPTIMIZERS = ("gd", "weight_decay", "heavy_ball", "nesterov", "ema", "sam", "clipping")


def _share(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value}; pass e.g. 0.9")
    return float(value)


def _least(name: str, value: float) -> float:
    if not (np.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be >= 0 and finite, got {value}; pass a number >= 0")
    return float(value)


def _known(optimizer: str) -> None:
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}; got {optimizer!r}")


def critical_sharpness(optimizer: str, lr: float, parameter: float = 0.0) -> float:
    r"""Curvature above which the optimizer's oscillation grows (derived).

    GD $2/\eta$; weight decay ω $2/\eta - \omega$; heavy ball μ $2(1+\mu)/\eta$; Nesterov μ
    $\tfrac2\eta\tfrac{1+\mu}{1+2\mu}$; EMA momentum β₁ (Adam with frozen preconditioner)
    $\tfrac{2(1+\beta_1)}{(1-\beta_1)\eta}$; SAM (unnormalised, radius ρ) $\tfrac{-1+\sqrt{1+8\rho/\eta}}{2\rho}$;
    clipping of the gradient's norm $2/\eta$ whatever the threshold: a small oscillation is not clipped, so the edge
    stays and only the amplitude is capped (:func:`clipped_amplitude`).

    Args:
        optimizer: One of ``OPTIMIZERS``.
        lr: Step size η > 0.
        parameter: ω ≥ 0, μ or β₁ in [0, 1), or ρ ≥ 0; ignored by "gd" and "clipping".
    Raises:
        ValueError: If an argument is out of its range. A negative result means that no curvature ≥ 0 is stable.
    """
    _known(optimizer)
    eta = float(positive("lr", lr))
    if optimizer == "weight_decay":
        return 2 / eta - _least("weight decay", parameter)
    if optimizer == "heavy_ball":
        return 2 * (1 + _share("momentum", parameter)) / eta
    if optimizer == "nesterov":
        mu = _share("momentum", parameter)
        return 2 * (1 + mu) / (eta * (1 + 2 * mu))
    if optimizer == "ema":
        beta1 = _share("beta1", parameter)
        return 2 * (1 + beta1) / ((1 - beta1) * eta)
    if optimizer == "sam":
        rho = _least("rho", parameter)
        # 2 (2/eta) / (1 + sqrt(1 + 8 rho/eta)): the same root without cancellation at small rho
        return 4 / (eta * (1 + np.sqrt(1 + 8 * rho / eta)))
    return 2 / eta


def step_matrix(optimizer: str, lr, curvature, parameter) -> list[list]:
    r"""One step on $\tfrac12\lambda x^2$ as a matrix, for numbers or sympy symbols alike.

    The state is (x) for "gd", "weight_decay", "sam", "clipping" (where it does not clip); (x, previous x) for
    "heavy_ball", "nesterov"; (x, m) for "ema".
    """
    _known(optimizer)
    rules: dict[str, Callable[[], list[list]]] = {
        "gd": lambda: [[1 - lr * curvature]],
        "clipping": lambda: [[1 - lr * curvature]],
        "weight_decay": lambda: [[1 - lr * (curvature + parameter)]],
        "sam": lambda: [[1 - lr * curvature * (1 + parameter * curvature)]],
        "heavy_ball": lambda: [[1 - lr * curvature + parameter, -parameter], [1, 0]],
        "nesterov": lambda: [
            [(1 + parameter) * (1 - lr * curvature), -parameter * (1 - lr * curvature)],
            [1, 0],
        ],
        "ema": lambda: [
            [1 - lr * (1 - parameter) * curvature, -lr * parameter],
            [(1 - parameter) * curvature, parameter],
        ],
    }
    return rules[optimizer]()


def clipped_lr(lr: ArrayLike, clip: ArrayLike, gradient_norm: ArrayLike) -> np.ndarray:
    r"""Step size that clipping leaves, $\eta_{\mathrm{eff}} = \eta\min(1, G/\|g\|)$ (definition).

    Where other directions hold ‖g‖ constant, clipped descent is plain descent with this step: its critical curvature is
    $2/\eta_{\mathrm{eff}} = \tfrac2\eta\max(1, \|g\|/G)$ (derived).

    Args:
        lr: Step size η > 0.
        clip: Threshold G > 0 of the gradient's norm.
        gradient_norm: ‖g‖ ≥ 0. All shapes broadcast.
    Raises:
        ValueError: If an argument is out of its range.
    """
    lr, clip, norm = positive("lr", lr), positive("clip", clip), finite("gradient_norm", gradient_norm)
    if (norm < 0).any():
        raise ValueError(f"gradient_norm must be >= 0, got {norm.min():g}; pass a norm")
    return lr * clip / np.maximum(clip, norm)


def clipped_step(x: ArrayLike, lr: ArrayLike, clip: ArrayLike, curvature: ArrayLike) -> np.ndarray:
    r"""One step $x - \eta\lambda x\min(1, G/|\lambda x|)$ on $\tfrac12\lambda x^2$ (definition), shape (...).

    Args:
        x: Position.
        lr: Step size η > 0.
        clip: Threshold G > 0.
        curvature: λ > 0.
    Raises:
        ValueError: If an argument is out of its range.
    """
    x, curvature = finite("x", x), positive("curvature", curvature)
    lr, clip = positive("lr", lr), positive("clip", clip)
    return x - lr * np.clip(curvature * x, -clip, clip)


@dataclass(frozen=True)
class ClippedBand:
    r"""Magnitudes |x| of the oscillation that clipping leaves above the edge; 0 at and below it.

    Args:
        low: $G/\lambda$, the least.
        centre: $\eta G/2$: the mean of the two magnitudes of every orbit.
        high: $\eta G - G/\lambda$, the largest.
    """

    low: np.ndarray
    centre: np.ndarray
    high: np.ndarray


def clipped_amplitude(lr: ArrayLike, clip: ArrayLike, curvature: ArrayLike) -> ClippedBand:
    r"""Where clipped gradient descent on $\tfrac12\lambda x^2$ ends up (derived).

    For $\eta\lambda > 2$ the orbits of period 2 are exactly $\{x, x - \eta G\}$ with
    $G/\lambda \le x \le \eta G - G/\lambda$: a continuum around the symmetric one, $|x| = \eta G/2$, each neutral
    (multiplier 1). Every start but those that meet 0 lands on one of them in finitely many steps, because growth by
    $\eta\lambda - 1$ inside $|x| \le G/\lambda$ leads at most to $\eta G - G/\lambda$. Which one depends on the
    start. For $\eta\lambda < 2$ everything decays to 0.

    Args:
        lr: Step size η > 0.
        clip: Threshold G > 0 of the gradient's norm.
        curvature: λ > 0. All shapes broadcast.
    Returns:
        The band; its three magnitudes sum as low + high = 2 centre. At ηλ = 2 exactly (neutral already without
        clipping) 0 is returned.
    Raises:
        ValueError: If an argument is out of its range.
    """
    lr, clip, curvature = positive("lr", lr), positive("clip", clip), positive("curvature", curvature)
    above = lr * curvature > 2
    low, high = clip / curvature, lr * clip - clip / curvature
    return ClippedBand(*(np.where(above, value, 0.0) for value in (low, lr * clip / 2 + 0 * curvature, high)))
