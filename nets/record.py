"""What a run records at every step, as one zarr group that xarray opens.

Arrays are laid out for all ``steps`` at creation and filled with NaN (0 for integers), so a reader sees
NaN where nothing has been computed yet. One chunk along ``step`` is one checkpoint block, written whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from .config import ConfigError, TrainConfig
from .data.dataset import Dataset
from .files import fsync_path
from .record_check import whole_record
from .recorded_losses import QUANTILES, ArraySpec, loss_arrays

__all__ = ["ARRAYS", "Block", "create_record", "load_block", "recorded_rows", "write_block"]

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
    def empty(cls, config: TrainConfig, step: int, examples: int | None = None) -> "Block":
        """The block that holds row ``step``, filled with the fill values.

        Args:
            config: Configuration of the run.
            step: Row.
            examples: Number of per-example losses; None: ``config.n_examples``.
        """
        start = step - step % config.checkpoint_every
        stop = min(start + config.checkpoint_every, config.steps)
        values = {}
        sizes = _sizes(config, stop - start, config.n_examples if examples is None else examples)
        for name, (dtype, dims, _, _) in _arrays(config).items():
            shape = tuple(sizes[d] for d in dims)
            kind = np.dtype(dtype or config.dtype)
            values[name] = np.full(shape, np.nan if kind.kind == "f" else 0, dtype=kind)
        return cls(start, stop, values)

    def put(self, step: int, row: Mapping[str, np.ndarray | float | int]) -> None:
        """Set row ``step``; a value beyond the range of its array becomes inf."""
        with np.errstate(over="ignore"):
            for name, value in row.items():
                self.values[name][step - self.start] = value


def _sizes(config: TrainConfig, steps: int, examples: int) -> dict[str, int]:
    return {"step": steps, "example": examples, "rank": config.record_k, "quantile": len(QUANTILES)}


def create_record(path: Path, config: TrainConfig, dataset: Dataset) -> None:
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


def write_block(path: Path, block: Block) -> None:
    """Write a block, one whole chunk per array, and force it to the disk."""
    group = zarr.open_group(path, mode="r+")
    for name, values in block.values.items():
        array = group[name]
        assert isinstance(array, zarr.Array)
        array[block.start : block.stop] = values
        index = block.start // array.chunks[0]
        chunk = path / name / "c" / "/".join([str(index), *["0"] * (values.ndim - 1)])
        if chunk.exists():  # zarr leaves out a chunk of fill values only
            fsync_path(chunk)
            fsync_path(chunk.parent)


def load_block(path: Path, config: TrainConfig, rows: int) -> Block:
    """The block that row ``rows`` belongs to, with the rows before it as written and the rest empty.

    Leftovers of a killed writer (``*.partial``) are removed; rows at and after ``rows`` are not trusted.

    Raises:
        RunError: If the record is damaged.
    """
    with whole_record(path, config, rows):
        return _load_block(path, config, rows)


def _load_block(path: Path, config: TrainConfig, rows: int) -> Block:
    for leftover in path.rglob("*.partial"):
        leftover.unlink()
    examples = zarr.open_array(path / "target", mode="r").shape[0]
    block = Block.empty(config, min(rows, config.steps - 1), examples)
    have = rows - block.start
    if have > 0:
        group = zarr.open_group(path, mode="r")
        for name, values in block.values.items():
            array = group[name]
            assert isinstance(array, zarr.Array)
            values[:have] = np.asarray(array[block.start : rows])
    return block


def recorded_rows(path: Path) -> int:
    """Rows on disk with a loss; after a kill they may exceed the rows that the checkpoint vouches for."""
    array = zarr.open_group(path, mode="r")["loss"]
    assert isinstance(array, zarr.Array)
    seen = np.flatnonzero(~np.isnan(np.asarray(array[:])))
    return int(seen[-1]) + 1 if seen.size else 0
