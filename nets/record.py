"""What a run records at every step, as one zarr group that xarray opens.

Arrays are laid out for all ``steps`` at creation and filled with NaN (0 for integers), so a reader sees
NaN where nothing has been computed yet. One chunk along ``step`` is one checkpoint block, written whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from .config import ConfigError, TrainConfig
from .data.dataset import Dataset
from .files import RunError, fsync_path
from .observers.base import Column
from .record_check import first_row, whole_record
from .recorded_losses import QUANTILES, ArraySpec, loss_arrays, loss_sizes

__all__ = [
    "ARRAYS",
    "Block",
    "check_fixed",
    "copy_rows",
    "create_record",
    "equal_rows",
    "first_row",
    "load_block",
    "recorded_rows",
    "write_block",
]

# what is recorded whatever the options; the examples' losses are added by `loss_arrays`
ARRAYS: dict[str, ArraySpec] = {
    "loss": (None, ("step",), "loss", "mean of example_loss over examples, at the parameters of this step"),
    "sharpness": (None, ("step",), "loss per squared parameter", "largest algebraic Hessian eigenvalue S"),
    "sharpness_residual": (None, ("step",), "1", "|Hv - S v| / |S| of the recorded eigenpair"),
    "sharpness_converged": ("int8", ("step",), "1", "1 where the residual met eig_tol, else 0"),
    "products": ("int32", ("step",), "1", "Hessian-vector products spent on the eigenpair"),
    "grad_norm": (None, ("step",), "loss per parameter", "norm of the loss gradient g"),
    "grad_v": (None, ("step",), "loss per parameter", "g_n . v_n along the top eigenvector v"),
    "oscillation": (
        None,
        ("step",),
        "parameter",
        "demodulated amplitude along v: (g_n - 2 g_{n-1} + g_{n-2}) . v_n / (4 S_n); NaN for step < 2",
    ),
    "accuracy": (None, ("step",), "1", "fraction of training examples classified correctly"),
}


def _arrays(config: TrainConfig) -> dict[str, ArraySpec]:
    return ARRAYS | loss_arrays(config)


@dataclass
class Block:
    """The rows [start, stop) of the record, held in memory until they are written; mutable buffer."""

    start: int
    stop: int
    values: dict[str, np.ndarray]

    @classmethod
    def empty(
        cls, config: TrainConfig, step: int, examples: int | None = None, columns: Mapping[str, Column] | None = None
    ) -> "Block":
        """The block that holds row ``step``, filled with the fill values.

        Args:
            config: Configuration of the run.
            step: Row.
            examples: Number of per-example losses; None: ``config.n_examples``.
            columns: What observers add.
        """
        start = step - step % config.checkpoint_every
        stop = min(start + config.checkpoint_every, config.steps)
        values = {}
        sizes = _sizes(config, stop - start, config.n_examples if examples is None else examples)
        for name, (dtype, dims, _, _) in _arrays(config).items():
            shape = tuple(sizes[d] for d in dims)
            kind = np.dtype(dtype or config.dtype)
            values[name] = np.full(shape, np.nan if kind.kind == "f" else 0, dtype=kind)
        for name, column in (columns or {}).items():
            if column.fixed is None:
                values[name] = np.full((stop - start, *column.shape), np.nan, dtype=config.dtype)
        return cls(start, stop, values)

    def put(self, step: int, row: Mapping[str, np.ndarray | float | int]) -> None:
        """Set row ``step``; a value beyond the range of its array becomes inf."""
        with np.errstate(over="ignore"):
            for name, value in row.items():
                self.values[name][step - self.start] = value


def _sizes(config: TrainConfig, steps: int, examples: int) -> dict[str, int]:
    return {"step": steps, "example": examples, **loss_sizes(config)}


def create_record(
    path: Path, config: TrainConfig, dataset: Dataset, columns: Mapping[str, Column] | None = None
) -> None:
    """Lay out the empty record; targets are stored as the variable ``target``, a generator's truth as ``truth_*``.

    Raises:
        ConfigError: If more losses per step are to be kept than there are.
    """
    if config.record_losses == "top_k" and config.record_k > dataset.n_losses:
        raise ConfigError(
            f"record_k must be at most the {dataset.n_losses} losses of a step, got {config.record_k}; pass fewer"
        )
    group = zarr.open_group(path, mode="w-", zarr_format=3)
    group.attrs.update({"lr": config.lr, "config_hash": config.config_hash, "time": "lr * step"})
    sizes = _sizes(config, config.steps, dataset.n_losses)
    chunks = sizes | {"step": min(config.checkpoint_every, config.steps)}
    for name, (dtype, dims, units, description) in _arrays(config).items():
        kind = np.dtype(dtype or config.dtype)
        group.create_array(
            name,
            shape=tuple(sizes[d] for d in dims),
            chunks=tuple(chunks[d] for d in dims),
            dtype=kind,
            fill_value=np.nan if kind.kind == "f" else 0,
            dimension_names=dims,
            attributes={"units": units, "description": description},
        )
    if "loss_quantile" in group:
        group.create_array("quantile", data=np.array(QUANTILES), dimension_names=("quantile",))
    targets, dims, meaning = dataset.targets, ("example",), "class of each example"
    if dataset.kind == "regression":
        meaning = "target of each example"
        targets, dims = (targets[:, 0], dims) if targets.shape[1] == 1 else (targets, ("example", "output"))
    elif dataset.kind == "tokens":
        targets, meaning = targets.reshape(-1), "token to be predicted"
    group.create_array(
        "target",
        data=np.asarray(targets, dtype=np.float64 if dataset.kind == "regression" else np.int64),
        dimension_names=dims,
        attributes={"units": "1", "description": meaning},
    )
    for name, value in dataset.truth.items():
        if value.shape == (dataset.n_losses,):
            group.create_array(
                f"truth_{name}",
                data=value.astype(np.int8) if value.dtype == bool else value,
                dimension_names=("example",),
                attributes={"units": "1", "description": f"{name}, known to the generator of the data"},
            )
    for name, column in (columns or {}).items():
        about: Any = {"units": column.units, "description": column.description}
        if column.fixed is not None:
            group.create_array(name, data=column.fixed, dimension_names=column.dims, attributes=about)
            continue
        group.create_array(
            name,
            shape=(config.steps, *column.shape),
            chunks=(min(config.checkpoint_every, config.steps), *column.shape),
            dtype=config.dtype,
            fill_value=np.nan,
            dimension_names=("step", *column.dims),
            attributes=about,
        )


def check_fixed(path: Path, columns: Mapping[str, Column]) -> None:
    """Refuse observers whose fixed values (probe inputs, groups) are not those in the record.

    Raises:
        RunError: If they differ.
    """
    for name, column in columns.items():
        if column.fixed is not None and not np.array_equal(_array(path, name)[:], column.fixed):
            raise RunError(f"{name} must be what the run was created with, it has changed; restore it")


def copy_rows(source: Path, target: Path, start: int, stop: int) -> None:
    """Copy the rows [start, stop) of every array that both records have, and note the first row that there is."""
    inside, outside = zarr.open_group(target, mode="r+"), zarr.open_group(source, mode="r")
    for name in sorted(set(inside.array_keys()) & set(outside.array_keys())):
        new, old = _array(target, name, "r+"), _array(source, name)
        dims: Any = new.metadata.to_dict().get("dimension_names")
        if dims[0] != "step" or new.shape[1:] != old.shape[1:]:
            continue
        for begin in range(start - start % new.chunks[0], stop, new.chunks[0]):
            rows = slice(max(begin, start), min(begin + new.chunks[0], stop))
            new[rows] = np.asarray(old[rows])
    inside.attrs["first_step"] = start


def equal_rows(first: Path, second: Path, start: int, stop: int) -> bool:
    """Whether two records have the same losses in the rows [start, stop), to the bit."""
    losses = (np.asarray(_array(path, "loss")[start:stop]) for path in (first, second))
    return np.array_equal(*losses, equal_nan=True)


def _array(path: Path, name: str, mode: Literal["r", "r+"] = "r") -> zarr.Array:
    return zarr.open_array(path / name, mode=mode)


def write_block(path: Path, block: Block) -> None:
    """Write a block, one whole chunk per array, and force it to the disk."""
    for name, values in block.values.items():
        array = _array(path, name, "r+")
        array[block.start : block.stop] = values
        index = block.start // array.chunks[0]
        chunk = path / name / "c" / "/".join([str(index), *["0"] * (values.ndim - 1)])
        if chunk.exists():  # zarr leaves out a chunk of fill values only
            fsync_path(chunk)
            fsync_path(chunk.parent)


def load_block(path: Path, config: TrainConfig, rows: int, columns: Mapping[str, Column] | None = None) -> Block:
    """The block that row ``rows`` belongs to, with the rows before it as written and the rest empty.

    Leftovers of a killed writer (``*.partial``) are removed; rows at and after ``rows`` are not trusted.

    Raises:
        RunError: If the record is damaged.
    """
    with whole_record(path, config, rows):
        return _load_block(path, config, rows, columns)


def _load_block(path: Path, config: TrainConfig, rows: int, columns: Mapping[str, Column] | None) -> Block:
    for leftover in path.rglob("*.partial"):
        leftover.unlink()
    examples = zarr.open_array(path / "target", mode="r").shape[0]
    block = Block.empty(config, min(rows, config.steps - 1), examples, columns)
    have = rows - block.start
    if have > 0:
        for name, values in block.values.items():
            values[:have] = np.asarray(_array(path, name)[block.start : rows])
    return block


def recorded_rows(path: Path) -> int:
    """Rows on disk with a loss; after a kill they may exceed the rows that the checkpoint vouches for."""
    seen = np.flatnonzero(~np.isnan(np.asarray(_array(path, "loss")[:])))
    return int(seen[-1]) + 1 if seen.size else 0
