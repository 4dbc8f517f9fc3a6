"""Curvature of a loss: eigenpairs, tracked at every step, from products with a matrix alone."""

from .lanczos import EigenPair, top_eigenpair
from .vectors import Matvec, flat_hvp, flatten, unflatten

__all__ = ["EigenPair", "Matvec", "flat_hvp", "flatten", "top_eigenpair", "unflatten"]
