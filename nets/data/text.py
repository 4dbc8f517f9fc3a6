"""Characters or bytes of a text, each to be predicted from those before it in its window."""

import os
from pathlib import Path

import numpy as np

from .dataset import DataError, Dataset

__all__ = ["language_reference", "read_text", "text"]

DATA_VARIABLE = "OPPOSING_DATA"
UNITS = ("characters", "bytes")


def language_reference() -> bytes:
    """The language reference as it ships with CPython in ``pydoc_data.topics``; depends on the Python version."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics)).encode()


def read_text(path: Path | str | None = None) -> bytes:
    """The bytes of a file; None: `language_reference`. A path that does not exist is sought in $OPPOSING_DATA/text.

    Raises:
        DataError: If the file cannot be read.
    """
    if path is None:
        return language_reference()
    found, base = Path(path), os.environ.get(DATA_VARIABLE)
    if not found.exists() and base:
        found = Path(base) / "text" / path
    try:
        return found.read_bytes()
    except OSError as error:
        raise DataError(f"data_path must lead to a text file, {found}: {error.strerror}; correct it") from error


def text(n_examples: int, *, path: Path | str | None = None, unit: str = "characters", context: int = 32) -> Dataset:
    r"""The first ``n_examples`` windows of a text, one after the other, each with the tokens that follow.

    Window i has the tokens $iT \dots iT+T-1$ as inputs and $iT+1 \dots iT+T$ as targets. The vocabulary is that of the
    whole text: its characters in the order of their code points, or all 256 bytes.

    Args:
        n_examples: Number of windows.
        path: See `read_text`.
        unit: "characters" (the file is UTF-8) or "bytes".
        context: Window length T.
    Raises:
        DataError: If the text cannot be read or is too short, or an argument is out of range.
    """
    if unit not in UNITS:
        raise DataError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}; choose one of them")
    if n_examples < 1 or context < 1:
        wrong = ("n_examples", n_examples) if n_examples < 1 else ("context", context)
        raise DataError(f"{wrong[0]} must be an integer >= 1, got {wrong[1]}; pass {wrong[0]} >= 1")
    raw = read_text(path)
    if unit == "bytes":
        tokens = np.frombuffer(raw, dtype=np.uint8).astype(np.int64)
        names = tuple(repr(bytes([k]))[2:-1] for k in range(256))
    else:
        try:
            codes = np.array([ord(letter) for letter in raw.decode()], dtype=np.int64)
        except UnicodeDecodeError as error:
            raise DataError(f"{path} must be UTF-8 for unit characters: {error.reason}; pass unit=bytes") from error
        letters, tokens = np.unique(codes, return_inverse=True)
        tokens, names = tokens.astype(np.int64), tuple(chr(code) for code in letters)
    most = (len(tokens) - 1) // context
    if n_examples > most:
        raise DataError(
            f"n_examples must be at most {max(most, 0)} windows of {context} here, got {n_examples}; pass fewer"
        )
    used = n_examples * context
    inputs = tokens[:used].reshape(n_examples, context)
    targets = tokens[1 : used + 1].reshape(n_examples, context)
    return Dataset(inputs, targets, len(names), None, "text", names, kind="tokens", vocabulary=len(names))
