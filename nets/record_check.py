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

__all__ = ["whole_record"]

UNREADABLE = (RuntimeError, ValueError, KeyError, OSError, BaseZarrError)  # what zarr and its codecs raise


@contextlib.contextmanager
def whole_record(path: Path, config: TrainConfig, rows: int, first: int = 0) -> Iterator[None]:
    """Refuse a record of which a file is missing, before the body reads it, or cannot be read, after it failed.

    zarr takes a missing chunk for one of fill values. Those of the losses never are: a run ends at the first loss that
    is not finite.

    Args:
        path: The zarr group.
        config: Configuration of the run.
        rows: Rows that must be there, all with finite losses.
        first: Row that the run began at.
    Raises:
        RunError: Naming the file.
    """
    chunk = min(config.checkpoint_every, config.steps)
    needed = [path / "zarr.json"]
    for name in ("loss", *(n for n in loss_arrays(config) if n in ("example_loss", "top_loss"))):
        inner = "/0" if name != "loss" else ""
        needed.append(path / name / "zarr.json")
        needed += [path / name / "c" / f"{i}{inner}" for i in range(first // chunk, -(-rows // chunk))]
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
