r"""How each example's loss responds to a move along a direction, and the coefficients of the reduced map.

A model enters as a function ``losses(params) -> (n,)`` of its parameters alone; ``example_losses`` makes one
from a module, a loss and data.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from analysis.curvature import CurvatureSlopes, curvature_slopes, flatten, unflatten

__all__ = [
    "EdgeCoefficients",
    "demodulated_amplitude",
    "edge_coefficients",
    "example_losses",
    "group_gradient",
    "project_losses",
]

ExampleLosses = Callable[[Sequence[Tensor]], Tensor]


def example_losses(
    module: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor
) -> ExampleLosses:
    r"""The function $\theta \mapsto (\ell_1, \dots, \ell_n)$ of a module's parameters.

    Args:
        module: Any module; its buffers are used as they are and left alone.
        loss: Maps outputs and targets to per-example values, shape (n,).
        inputs: Shape (n, ...).
        targets: Shape (n, ...).
    """
    names = [name for name, p in module.named_parameters() if p.requires_grad]

    def losses(params: Sequence[Tensor]) -> Tensor:
        # copies of the buffers: BatchNorm in training mode would otherwise move its running statistics
        held = {name: buffer.clone() for name, buffer in module.named_buffers()}
        outputs = functional_call(module, held | dict(zip(names, params, strict=True)), (inputs,))
        return loss(outputs, targets)

    return losses


def project_losses(losses: ExampleLosses, params: Sequence[Tensor], direction: Tensor) -> Tensor:
    r"""$s_i = \nabla\ell_i \cdot v$ for every example at once, by one forward-mode product (exact).

    Args:
        losses: $\theta \mapsto (\ell_1,\dots,\ell_n)$.
        params: Point θ at which to differentiate.
        direction: v, flat, shape (P,).
    Returns:
        Shape (n,), loss per parameter unit.
    """
    points = [p.detach() for p in params]
    tangents = unflatten(direction, points)
    return jvp(lambda *p: losses(p), tuple(points), tuple(tangents))[1]


def group_gradient(losses: ExampleLosses, params: Sequence[Tensor], members: Tensor) -> Tensor:
    r"""Gradient of the mean loss of some examples, flat, shape (P,)."""
    points = [p.detach().requires_grad_() for p in params]
    return flatten(torch.autograd.grad(losses(points)[members].mean(), points))


@dataclass(frozen=True)
class EdgeCoefficients:
    r"""Coefficients of the reduced map at the edge of stability, measured at one point.

    Args:
        sharpness: $S = v^\top H v$.
        progressive: $A = -\nabla L_\perp \cdot \nabla S_\perp$: along gradient flow without its part along v
            $\dot S = A$.
        restoring: $B = \|\nabla S_\perp\|^2$: an oscillation of amplitude x lowers S by $\eta B x^2/2$ a step.
        slope: $\nabla L \cdot v$.
        along: $\nabla S \cdot v$, the third derivative of L along v; along gradient flow
            $\dot S = A - $ ``along`` $\cdot$ ``slope``.
        amplitude: x, the demodulated amplitude along v; NaN where no earlier gradients were given.
    """

    sharpness: float
    progressive: float
    restoring: float
    slope: float
    along: float
    amplitude: float

    @classmethod
    def of(
        cls, slopes: CurvatureSlopes, vector: Tensor, earlier: tuple[Tensor, Tensor] | None = None
    ) -> "EdgeCoefficients":
        """From the derivatives along the one unit vector v, and the gradients one and two steps ago."""
        v, gradient, rise = vector, slopes.gradient, slopes.slopes[0, 0]
        sharpness = float(slopes.products[0] @ v)
        gradient_perp = gradient - (gradient @ v) * v
        rise_perp = rise - (rise @ v) * v
        return cls(
            sharpness=sharpness,
            progressive=-float(gradient_perp @ rise_perp),
            restoring=float(rise_perp @ rise_perp),
            slope=float(gradient @ v),
            along=float(rise @ v),
            amplitude=math.nan if earlier is None else demodulated_amplitude(gradient, *earlier, v, sharpness),
        )


def edge_coefficients(
    losses: ExampleLosses,
    params: Sequence[Tensor],
    vector: Tensor,
    earlier: tuple[Tensor, Tensor] | None = None,
) -> EdgeCoefficients:
    r"""Measure S, A, B and x at θ along the unit vector v (exact derivatives; ⊥ means without the part along v).

    One gradient, one Hessian-vector product and the gradient of $v^\top H v$ (a third derivative contracted
    twice with v). For a loss in chunks see ``analysis.flows.reduced_coefficients``.

    Args:
        losses: $\theta \mapsto (\ell_1,\dots,\ell_n)$.
        params: θ_n.
        vector: v, flat, shape (P,); normalised here.
        earlier: Gradients at θ_{n-1} and θ_{n-2}, each (P,), for the amplitude; None: it is NaN.
    References: Damian, Nichani & Lee (2023), arXiv 2209.15594, for the role of A and B.
    """
    v = vector / vector.norm()
    slopes = curvature_slopes(lambda points: losses(points).mean(), params, v[None])
    return EdgeCoefficients.of(slopes, v, earlier)


def demodulated_amplitude(gradient: Tensor, last: Tensor, before: Tensor, vector: Tensor, sharpness: float) -> float:
    r"""Amplitude of the oscillation along v: $x = (g_n - 2g_{n-1} + g_{n-2})\cdot v/(4S)$ (approximated).

    The second difference takes off the drift of the gradient, up to its curvature in n; exact for a quadratic loss at
    $\eta S = 2$.

    Args:
        gradient, last, before: $g_n, g_{n-1}, g_{n-2}$, each (P,).
        vector: Unit vector v, shape (P,).
        sharpness: S ≠ 0.
    """
    difference = gradient.double() - 2 * last.double() + before.double()
    return float(difference @ vector.double()) / (4 * sharpness)
