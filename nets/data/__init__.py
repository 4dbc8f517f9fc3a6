"""Data sets."""
from .images import DATA_VARIABLE, DataError, Dataset, cifar10_file, images, load_data
__all__ = ["DATA_VARIABLE", "DataError", "Dataset", "cifar10_file", "images", "load_data"]
