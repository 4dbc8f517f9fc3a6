"""Which kernels normalisation and attention use: those with all derivatives, or PyTorch's fused ones."""

import contextlib
from collections.abc import Iterator

__all__ = ["first_derivatives_only", "fused"]

_depth = 0


@contextlib.contextmanager
def first_derivatives_only() -> Iterator[None]:
    """Within this, forward passes may use kernels whose second derivatives are missing or wrong.

    Whether these pay depends on network and compiler.
    """
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def fused() -> bool:
    """Whether fused kernels may be used."""
    return _depth > 0
