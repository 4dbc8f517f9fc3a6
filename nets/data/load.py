"""The data of a configuration, by name or by a user's import path."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nets.config import TrainConfig
from nets.importing import call_user, is_import_path

from .chebyshev import chebyshev
from .dataset import DataError, Dataset
from .gaussian import gaussian
from .images import cifar10, cifar10_pixels, digits, digits_pixels
from .interventions import intervene, kept_rows
from .modular import modular
from .planted import planted
from .slabs import slabs
from .text import text

__all__ = ["images", "load_data"]

GENERATED = {
    "digits": digits,
    "chebyshev": chebyshev,
    "modular": modular,
    "planted": planted,
    "gaussian": gaussian,
    "slabs": slabs,
}


def load_data(config: TrainConfig) -> Dataset:
    """``config.n_examples`` examples of ``config.data``, then its intervention; the run's seed does not change them.

    A user's function ``package.module:function`` is called as ``function(n_examples, **options)`` and returns a
    `Dataset`, or inputs (n, ...) and targets: integers for classes, floats for regression.

    Raises:
        DataError: If the data are missing, broken or fewer than asked for.
    """
    return intervene(_load(config), config.intervention, **config.intervention_settings)


def _load(config: TrainConfig) -> Dataset:
    options = config.data_settings
    if is_import_path(config.data):
        return _user_data(config.data, config.n_examples, options)
    if config.data == "cifar10":
        return cifar10(config, **options)
    if config.data == "text":
        return text(config.n_examples, path=config.data_path, **options)
    return GENERATED[config.data](config.n_examples, **options)


def images(config: TrainConfig, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """The raw images of some examples, for looking at them.

    Args:
        config: Configuration of the run; images are shown as they were before its intervention.
        indices: Example indices of the run, in [0, n_examples) unless it dropped some.
    Returns:
        uint8 in 0..255: shape (m, 32, 32, 3) for cifar10, (m, 8, 8) for digits; other images (m, *image_shape),
        from −3 to 3 of the data's deviation.
    Raises:
        DataError: If the data cannot be read or are no images, or an index is out of range.
    """
    rows = np.asarray(indices, dtype=np.int64).reshape(-1)
    kept = kept_rows(config.n_examples, config.intervention, **config.intervention_settings)
    if rows.size and (rows.min() < 0 or rows.max() >= len(kept)):
        wrong = rows.min() if rows.min() < 0 else rows.max()
        raise DataError(f"indices must lie in [0, {len(kept)}), got {wrong}; pass indices of the run")
    rows = kept[rows]
    classes = config.data_settings.get("classes", ())
    if config.data == "digits":
        return digits_pixels(config.n_examples, rows, classes)
    if config.data == "cifar10":
        return cifar10_pixels(config, rows, classes)
    dataset = _load(config)
    if dataset.image_shape is None:
        raise DataError(f"data must be images to be looked at, {dataset.name} are not; choose data with images")
    scaled = (dataset.inputs[rows] / (6 * dataset.inputs.std()) + 0.5).clip(0, 1)
    return np.round(255 * scaled).astype(np.uint8).reshape(-1, *dataset.image_shape)


def _user_data(path: str, n: int, options: dict) -> Dataset:
    try:
        result = call_user("data", path, n, **options)
    except ValueError as error:
        raise DataError(str(error)) from error
    if isinstance(result, Dataset):
        dataset = result
    else:
        try:
            inputs, targets = (np.asarray(part) for part in result)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"data {path} must return a Dataset or (inputs, targets), got {type(result).__name__}"
            ) from error
        dataset = _from_arrays(path, inputs, targets)
    if len(dataset.inputs) != n or len(dataset.targets) != n:
        raise DataError(f"data {path} must return {n} examples, got {len(dataset.inputs)} and {len(dataset.targets)}")
    if not all(np.isfinite(a).all() for a in (dataset.inputs, dataset.targets)):
        raise DataError(f"data {path} must be finite, got NaN or inf; leave those examples out")
    return replace(dataset, name=path)


def _from_arrays(path: str, inputs: np.ndarray, targets: np.ndarray) -> Dataset:
    if inputs.ndim < 2 or inputs.dtype.kind != "f":
        raise DataError(f"data {path}: inputs must be floats of shape (n, d) or (n, h, w[, c]), got {_about(inputs)}")
    image_shape = inputs.shape[1:] if inputs.ndim > 2 else None
    rows = inputs.reshape(len(inputs), -1)
    if targets.dtype.kind in "iu" and targets.ndim == 1:
        if targets.min(initial=0) < 0:
            raise DataError(f"data {path}: classes must be >= 0, got {targets.min()}; number them from 0")
        k = int(targets.max(initial=0)) + 1
        return Dataset(rows, targets.astype(np.int64), k, image_shape, path, tuple(map(str, range(k))))
    if targets.dtype.kind == "f" and targets.ndim in (1, 2):
        table = targets.reshape(len(targets), -1)
        names = tuple(f"y{j}" for j in range(table.shape[1]))
        return Dataset(rows, table, table.shape[1], image_shape, path, names, kind="regression")
    raise DataError(f"data {path}: targets must be integers (n,) or floats (n[, k]), got {_about(targets)}")


def _about(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {array.shape}"
