"""What a run measures besides its losses and its sharpness, every so many steps."""

from .base import Column, Observer
from .effective import EffectiveSharpness
from .feature import FeatureShare
from .group_gradients import GroupGradients
from .groups import GroupLosses
from .held_out import HeldOut
from .moves import Moves
from .probes import Probes
from .spectrum import Density, Eigenvalues
from .watch import Watch

__all__ = [
    "Column",
    "Density",
    "EffectiveSharpness",
    "Eigenvalues",
    "FeatureShare",
    "GroupGradients",
    "GroupLosses",
    "HeldOut",
    "Moves",
    "Observer",
    "Probes",
    "Watch",
]
