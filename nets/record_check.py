"""Whether a record is whole: a damaged one is refused with one line that names the file, never read as if empty."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zarr
from zarr.errors import BaseZarrError

from .config import TrainConfig
from .files import RunError
from .recorded_losses import loss_arrays

__all__ = ["first_row", "whole_record"]

UNREADABLE = (RuntimeError, ValueError, KeyError, OSError, BaseZarrError)  # what zarr and its codecs raise


def first_row(path: Path) -> int:
    """First row that the run records, 0 but for forks with other options."""
    first = zarr.open_group(path, mode="r").attrs.get("first_step", 0)
    return int(first) if isinstance(first, int) else 0


@contextlib.contextmanager
def whole_record(path: Path, config: TrainConfig, rows: int) -> Iterator[None]:
    """Refuse a record of which a file is missing, before the body reads it, or cannot be read, after it failed.

    zarr takes a missing chunk for one of fill values. Those of the losses never are: a run ends at the first loss that
    is not finite.

    Args:
        path: The zarr group.
        config: Configuration of the run.
        rows: Rows that must be there, all with finite losses.
    Raises:
        RunError: Naming the file.
    """
    chunk = min(config.checkpoint_every, config.steps)
    try:
        first = first_row(path)
    except UNREADABLE as error:
        meta = path / "zarr.json"
        raise _damaged(meta, "cannot be read" if meta.exists() else "is missing") from error
    chunks = range(first // chunk, -(-rows // chunk)) if rows > first else range(0)
    needed = []
    for name in ("loss", *(n for n in loss_arrays(config) if n in ("example_loss", "top_loss"))):
        inner = "/0" if name != "loss" else ""
        needed.append(path / name / "zarr.json")
        needed += [path / name / "c" / f"{i}{inner}" for i in chunks]
    for file in needed:
        if not file.exists():
            raise _damaged(file, "is missing")
    try:
        yield
    except UNREADABLE as error:
        raise _damaged(_first_unreadable(path), "cannot be read") from error


def _damaged(file: Path, what: str) -> RunError:
    return RunError(f"{file} must be whole, but it {what}; restore it from a copy, or train the run anew elsewhere")


def _first_unreadable(path: Path) -> Path:
    try:
        group = zarr.open_group(path, mode="r")
    except UNREADABLE:
        return path / "zarr.json"
    for meta in sorted(path.glob("*/zarr.json")):
        try:
            array = group[meta.parent.name]
            assert isinstance(array, zarr.Array)
        except UNREADABLE:
            return meta
        for file in sorted(meta.parent.glob("c/**/*")):
            if file.is_file():
                position = [int(i) for i in file.relative_to(meta.parent / "c").parts]
                where = tuple(slice(i * n, (i + 1) * n) for i, n in zip(position, array.chunks, strict=True))
                try:
                    np.asarray(array[where])
                except UNREADABLE:
                    return file
    return path
