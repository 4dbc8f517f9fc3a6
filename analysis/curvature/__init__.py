"""Curvature of a loss: eigenpairs, tracked at every step, from products with a matrix alone."""

from .attribution import Attribution, attribute
from .certificate import complement_bound, value_bounds
from .density import SpectralDensity, spectral_density
from .lanczos import EigenPair, top_eigenpair
from .measurement import Eigenpairs
from .operators import LossCurvature, precondition, restrict
from .third_order import CurvatureSlopes, curvature_slopes, difference_slopes
from .tracker import CurvatureTracker
from .vectors import Matvec, flat_hvp, flatten, midpoint, unflatten

__all__ = [
    "Attribution",
    "CurvatureSlopes",
    "CurvatureTracker",
    "EigenPair",
    "Eigenpairs",
    "LossCurvature",
    "Matvec",
    "SpectralDensity",
    "attribute",
    "complement_bound",
    "curvature_slopes",
    "difference_slopes",
    "flat_hvp",
    "flatten",
    "midpoint",
    "precondition",
    "restrict",
    "spectral_density",
    "top_eigenpair",
    "unflatten",
    "value_bounds",
]
