"""What a run measures besides its losses and its sharpness, every so many steps."""

from .base import Column, Observer
from .groups import GroupLosses
from .moves import Moves
from .probes import Probes
from .spectrum import Density, Eigenvalues
from .watch import Watch

__all__ = ["Column", "Density", "Eigenvalues", "GroupLosses", "Moves", "Observer", "Probes", "Watch"]
