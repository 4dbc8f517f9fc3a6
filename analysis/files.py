"""Putting a file in place in one step: a reader, or a killed writer, never leaves half of one."""

import contextlib
import os
from pathlib import Path

__all__ = ["fsync_path", "write_atomic"]


def fsync_path(path: Path) -> None:
    """Force a file's or a folder's content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path`` in one step: temporary file, fsync, rename, fsync of the folder.

    Where that fails (a full disk) the file is as it was and the temporary one is removed.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)
