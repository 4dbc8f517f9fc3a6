"""A parabola."""

from typing import final

from .method import Lead, OnsetMethod
from .point import OnsetPoint
from .polynomial import polynomial_lead

__all__ = ["Parabola"]


@final
class Parabola(OnsetMethod):
    """Slope and bend of the late rise go on (naive baseline, fitted to the past)."""

    name = "parabola"
    assumptions = ("the rate of sharpening changes at a constant rate",)

    def lead(self, point: OnsetPoint) -> Lead:
        """Where the parabola first crosses; not reached where it turns before."""
        return Lead(polynomial_lead(point, 2))
