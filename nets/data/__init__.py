"""Data sets as arrays, the same examples at the same index whatever the run's seed."""

from .chebyshev import chebyshev
from .dataset import DataError, Dataset
from .gaussian import gaussian
from .held_out import held_out
from .images import DATA_VARIABLE, cifar10, cifar10_file, digits
from .labels import with_label_noise
from .load import images, load_data
from .modular import modular
from .planted import planted
from .slabs import slabs
from .text import text

__all__ = [
    "DATA_VARIABLE",
    "DataError",
    "Dataset",
    "chebyshev",
    "cifar10",
    "cifar10_file",
    "digits",
    "gaussian",
    "held_out",
    "images",
    "load_data",
    "modular",
    "planted",
    "slabs",
    "text",
    "with_label_noise",
]
