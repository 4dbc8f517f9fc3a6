"""A straight line."""

from typing import final

from .method import Lead, OnsetMethod
from .point import OnsetPoint
from .polynomial import polynomial_lead

__all__ = ["Line"]


@final
class Line(OnsetMethod):
    """The slope of the late rise goes on (naive baseline, fitted to the past)."""

    name = "line"
    assumptions = ("the sharpness rises at a constant rate",)

    def lead(self, point: OnsetPoint) -> Lead:
        """Where the line crosses."""
        return Lead(polynomial_lead(point, 1))
