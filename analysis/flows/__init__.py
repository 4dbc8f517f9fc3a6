"""Flows of a network's parameters: gradient flow, and the central flow of its time average at the edge of stability."""

from .central_flow import CentralFlow, CentralPoint
from .coefficients import reduced_coefficients
from .complementarity import Complementarity, solve_complementarity
from .gradient_flow import FlowPoint, GradientFlow
from .operators import Linearisable
from .preconditioners import Fixed, Preconditioner, RMSProp
from .slopes import operator_slopes

__all__ = [
    "CentralFlow",
    "CentralPoint",
    "Complementarity",
    "Fixed",
    "FlowPoint",
    "GradientFlow",
    "Linearisable",
    "Preconditioner",
    "RMSProp",
    "operator_slopes",
    "reduced_coefficients",
    "solve_complementarity",
]
