r"""Critical curvature of an optimizer: the largest λ for which its step on $\tfrac12\lambda x^2$ does not grow.

Each optimizer is its companion matrix on the quadratic; the closed forms are re-proved from those matrices in
``toymodels.derivations.thresholds``. For a network, λ is the sharpness (for Adam: of $P^{-1}H$).
"""

from collections.abc import Callable

import numpy as np

from toymodels.validation import positive

__all__ = ["OPTIMIZERS", "critical_sharpness", "step_matrix"]

OPTIMIZERS = ("gd", "weight_decay", "heavy_ball", "nesterov", "ema", "sam")


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
    $\tfrac{2(1+\beta_1)}{(1-\beta_1)\eta}$; SAM (unnormalised, radius ρ) $\tfrac{-1+\sqrt{1+8\rho/\eta}}{2\rho}$.

    Args:
        optimizer: One of ``OPTIMIZERS``.
        lr: Step size η > 0.
        parameter: ω ≥ 0, μ or β₁ in [0, 1), or ρ ≥ 0; ignored by "gd".
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

    The state is (x) for "gd", "weight_decay", "sam"; (x, previous x) for "heavy_ball", "nesterov"; (x, m) for "ema".
    """
    _known(optimizer)
    rules: dict[str, Callable[[], list[list]]] = {
        "gd": lambda: [[1 - lr * curvature]],
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
