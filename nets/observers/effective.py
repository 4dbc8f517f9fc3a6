"""The sharpness that the optimizer feels: preconditioned as it preconditions, between its iterates if asked."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from analysis.curvature import precondition, top_eigenpair

from .base import Column

if TYPE_CHECKING:
    from nets.descent import Problem, State

__all__ = ["EffectiveSharpness", "preconditioner"]


def preconditioner(optimizer: str, settings: Mapping[str, Any], kept: Mapping[str, Tensor]) -> Tensor | None:
    r"""The diagonal P by which an update divides, as torch applies it; None where it does not, P = 1.

    Adam and AdamW, after update t: $P = (1-\beta_1^t)\,\big[\sqrt{\nu_t/(1-\beta_2^t)} + \epsilon\big]$, so that the
    step is $\eta P^{-1}$ times the plain average of the gradients. RMSProp: $P = \sqrt{\nu_t} + \epsilon$.

    Args:
        optimizer: Name of the optimizer.
        settings: Its options (``TrainConfig.optimizer_settings``).
        kept: What it keeps after the update, by torch's names.
    Returns:
        Shape (P,).
    References: Cohen et al. (2022), arXiv 2207.14484.
    """
    if optimizer == "rmsprop":
        return kept["square_avg"].sqrt() + settings["eps"]
    if optimizer not in ("adam", "adamw"):
        return None
    t = float(kept["step"])
    size = (kept["exp_avg_sq"] / (1 - settings["beta2"] ** t)).sqrt()
    return (1 - settings["beta1"] ** t) * (size + settings["eps"])


class EffectiveSharpness:
    r"""Largest algebraic eigenvalue of $P_n^{-1/2} H P_n^{-1/2}$, with $P_n$ of the update made at $\theta_n$.

    Without preconditioner P = 1. H is taken at $\theta_n$, or with ``midpoint`` at $\frac12(\theta_n+\theta_{n+1})$,
    where an oscillation of period 2 cancels up to its growth: the curvature of the valley's floor, and not of its
    walls. Critical value: ``TrainConfig.critical_effective_sharpness``.

    Args:
        problem: The run's problem.
        every: Steps between observations.
        midpoint: Where H is taken.

    Accuracy and effort are those of the run's sharpness (``eig_tol``, ``max_products``);
    ``effective_sharpness_residual`` says what was reached.
    """

    name = "effective_sharpness"

    def __init__(self, problem: "Problem", every: int, midpoint: bool) -> None:
        self.problem, self.every, self.midpoint = problem, every, midpoint
        where = "between this step's parameters and the next" if midpoint else "at the parameters"
        self.columns = {
            "effective_sharpness": Column(
                (), (), "loss per squared parameter, over P", f"largest eigenvalue of P^-1 H {where}"
            ),
            "effective_sharpness_residual": Column((), (), "1", "its relative residual, |Aw - S w| / |S|"),
        }

    def observe(self, module: nn.Module, state: "State") -> dict[str, float]:
        """The value and its residual."""
        problem, config = self.problem, self.problem.config
        ahead = dataclasses.replace(state)
        problem.update(ahead)  # a trial: the state of the run is left as it is
        diagonal = preconditioner(config.optimizer, config.optimizer_settings, ahead.optimizer)
        point = torch.lerp(state.parameters, ahead.parameters, 0.5) if self.midpoint else state.parameters
        product, start = problem.full_batch.evaluate(point).product, state.eigenvector
        if diagonal is not None:
            if not bool(torch.isfinite(diagonal).all()):  # overflow in a run that is about to diverge
                return dict.fromkeys(self.columns, math.nan)
            product, root = precondition(product, diagonal)
            start = start / root
        generator = torch.Generator(start.device).manual_seed(config.seed)
        found = top_eigenpair(product, start, tol=config.eig_tol, max_products=config.max_products, generator=generator)
        problem.full_batch.gradient(state.parameters)  # puts the parameters of this step back into the network
        return {"effective_sharpness": found.value, "effective_sharpness_residual": found.residual}
