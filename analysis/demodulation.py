r"""Period-2 part of per-example losses in separate blocks of steps, from a record or as the losses arrive.

A block is four consecutive steps s..s+3 with s a multiple of 5, and

$$z_i = \frac{(-1)^s}{8}\,(\ell_i(s) - 3\ell_i(s+1) + 3\ell_i(s+2) - \ell_i(s+3)).$$

- It is the amplitude d of $\ell_i(n) = $ drift $+ (-1)^n d$; a drift up to second order in n gives exactly 0, so that
  an example that is merely badly fitted does not count. Frequency response: $\sin^3(\omega/2)$.
- Blocks share no step, and read backwards in time a block changes the sign of $z_i$: what a test by sign flips needs.
- The one step left out between blocks makes $(-1)^s$ alternate, so that what a smooth drift leaves (its third
  difference / 8) alternates from block to block and does not add up as an oscillation does.
"""

from collections import deque

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["BLOCK", "STRIDE", "RunningDemodulation", "block_starts", "demodulated_blocks"]

BLOCK = 4
STRIDE = 5


def block_starts(first: int, last: int) -> np.ndarray:
    """First steps of the whole blocks in steps ``first`` to ``last`` inclusive; multiples of 5 whatever the window."""
    begin = -(-first // STRIDE) * STRIDE
    return np.arange(begin, last - BLOCK + 2, STRIDE)


def _demodulate(start: int, a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    sign = 1.0 if start % 2 == 0 else -1.0
    return (sign / 8.0) * ((a - d) - 3.0 * (b - c))


def demodulated_blocks(losses: ArrayLike, first_step: int = 0) -> tuple[np.ndarray, np.ndarray]:
    r"""$z_i$ for every whole block of a window (exact arithmetic on the record, nothing fitted).

    Args:
        losses: Per-example losses of consecutive steps, shape (steps, n), loss units.
        first_step: Step of the first row.
    Returns:
        First steps of the blocks, shape (B,), and z, shape (B, n), float64. Blocks with a loss that is not finite are
        left out.
    Raises:
        ValueError: If ``losses`` is not a matrix.
    """
    values = np.asarray(losses)
    if values.ndim != 2:
        raise ValueError(f"losses must have shape (steps, examples), got {values.shape}; pass one row per step")
    if first_step < 0:
        raise ValueError(f"first_step must not be negative, got {first_step}; pass the step of the first row")
    starts, rows = [], []
    for start in block_starts(first_step, first_step + len(values) - 1):
        block = values[start - first_step : start - first_step + BLOCK].astype(np.float64)
        if np.isfinite(block).all():
            starts.append(int(start))
            rows.append(_demodulate(int(start), *block))
    shape = (len(rows), values.shape[1])
    return np.array(starts, dtype=np.int64), np.array(rows, dtype=np.float64).reshape(shape)


class RunningDemodulation:
    r"""The last blocks of a run, kept up as losses arrive; memory (blocks + 4) n whatever the number of steps.

    Args:
        blocks: Most blocks kept; 8 reach over 40 steps.
    """

    def __init__(self, blocks: int = 8) -> None:
        if blocks < 1:
            raise ValueError(f"blocks must be at least 1, got {blocks}; pass e.g. 8")
        self._blocks: deque[tuple[int, np.ndarray]] = deque(maxlen=blocks)
        self._recent: deque[tuple[int, np.ndarray]] = deque(maxlen=BLOCK)

    def add(self, step: int, losses: ArrayLike) -> None:
        """Take the losses of one step, shape (n,); steps must increase, and a block with a missing step is left out.

        Raises:
            ValueError: If the step does not increase or the number of examples changes.
        """
        values = np.array(losses, dtype=np.float64)
        if values.ndim != 1:
            raise ValueError(f"losses must have shape (examples,), got {values.shape}; pass one loss per example")
        if self._recent:
            last, before = self._recent[-1]
            if step <= last:
                raise ValueError(f"step must increase, got {step} after {last}; add every step once")
            if before.shape != values.shape:
                raise ValueError(
                    f"losses must hold {before.size} examples as before, got {values.size}; keep the same examples"
                )
        self._recent.append((step, values))
        start = step - BLOCK + 1
        if start % STRIDE == 0 and len(self._recent) == BLOCK and self._recent[0][0] == start:
            rows = [row for _, row in self._recent]
            if all(np.isfinite(row).all() for row in rows):
                self._blocks.append((start, _demodulate(start, *rows)))

    @property
    def n_blocks(self) -> int:
        """Number of blocks held."""
        return len(self._blocks)

    @property
    def nbytes(self) -> int:
        """Bytes held in arrays."""
        return sum(row.nbytes for _, row in (*self._blocks, *self._recent))

    def blocks(self) -> tuple[np.ndarray, np.ndarray]:
        """First steps, shape (B,), and z, shape (B, n), as `demodulated_blocks` gives them."""
        if not self._blocks:
            n = self._recent[-1][1].size if self._recent else 0
            return np.empty(0, dtype=np.int64), np.empty((0, n))
        return np.array([s for s, _ in self._blocks], dtype=np.int64), np.array([row for _, row in self._blocks])

    def latest(self) -> np.ndarray | None:
        """Losses of the last step, shape (n,)."""
        return self._recent[-1][1] if self._recent else None
