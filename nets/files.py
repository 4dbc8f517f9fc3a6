"""Writing files so that a reader, or a killed writer, never leaves half a file behind."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.files import fsync_path, write_atomic

__all__ = ["RunError", "exclusive_lock", "fsync_path", "read_json", "write_atomic", "write_json", "written_to"]


class RunError(ValueError):
    """A run directory that cannot be used as asked; the message says what to do."""


@contextlib.contextmanager
def written_to(directory: Path) -> Iterator[None]:
    """Turn what the system raises while a run is written (no space, no permission) into one line that says what to do.

    Raises:
        RunError: For an OSError in the body.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{directory} must take what is written, got {error.strerror or error}; make room or allow writing and "
            "give the command again: what was recorded before is kept"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON in one step."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        RunError: If the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} must be a readable JSON file: {str(error).splitlines()[0]}; restore it") from error


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold an advisory lock (flock) on ``path``; the system releases it when the process ends.

    Raises:
        RunError: If another holder has it.
    """
    with contextlib.ExitStack() as stack:
        with written_to(path.parent):
            stream = stack.enter_context(open(path, "a"))
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{path.parent} must be advanced by one process at a time and is locked; wait for the other"
            ) from error
        yield
