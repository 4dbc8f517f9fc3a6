"""Forecasts of the onset: the step at which the sharpness reaches its critical value, from what is known before it."""

from .damped_line import DampedLine
from .forecast import LEVELS, StepForecast
from .line import Line
from .logistic import Logistic
from .method import OnsetMethod
from .parabola import Parabola
from .persistence import Persistence
from .point import OnsetPoint
from .rehearsal import Rehearsal

__all__ = [
    "LEVELS",
    "DampedLine",
    "Line",
    "Logistic",
    "OnsetMethod",
    "OnsetPoint",
    "Parabola",
    "Persistence",
    "Rehearsal",
    "StepForecast",
]
