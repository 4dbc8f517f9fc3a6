r"""Detection from a record that keeps only the k largest moves $|\ell_i(n) - \ell_i(n-1)|$ of every step.

Why moves: the examples of an opposing signal have the largest moves at every step, whereas their losses are large only
every other one. An example can be followed through a block of four steps s..s+3 (`analysis.demodulation`) if it is
among the k at s+1, s+2 and s+3; all four losses are then known, and its $z_i$ is that of a full record to the bit.

What such a record cannot tell:

- Examples that are not among the k throughout a window are not seen, a signal made of them neither, and a signal is
  seen only once its moves outgrow the others.
- ``p_outliers``, the tail and the energy share are those among the examples that were followed. They are the extremes
  of all, among which none need stand out, so a search for outliers (``outliers=True``) finds next to nothing.
- The members are the examples followed whose weight is beyond 3.5 robust deviations of all examples, where the median
  of $|z|$ is put at the root mean square over the blocks of $(m_{s+1} + 2m_{s+2} + m_{s+3})/8$, m the median move.
  Approximated: $|z_i|$ is at most that of its own moves, and equal to it where they alternate; drift makes it larger.

``p_signs`` stays exact: which examples are followed depends on the moves within each block, which are the same read
backwards.
"""

from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from analysis.decomposition import MAD_TO_DEVIATION
from analysis.demodulation import BLOCK, STRIDE, block_starts, demodulated_blocks
from analysis.detection import LEAST_BLOCKS, Detection, OpposingPair, detect_in_blocks, membership
from analysis.opposition import OUTLIER

__all__ = ["Moves", "detect_in_moves"]


@dataclass(frozen=True, eq=False)
class Moves:
    """The k largest moves of consecutive steps.

    Args:
        examples: Indices, shape (steps, k), different from each other within a step.
        losses: Their losses at the step, shape (steps, k), loss units.
        before: Their losses at the step before, shape (steps, k); the first row is not used.
        median_move: Median move over all examples, shape (steps,), loss units; the first is not used.
        n: Number of examples in all.
        first_step: Step of the first row.
    Raises:
        ValueError: If the shapes differ or an index is out of range.
    """

    examples: np.ndarray
    losses: np.ndarray
    before: np.ndarray
    median_move: np.ndarray
    n: int
    first_step: int = 0

    def __post_init__(self) -> None:
        shapes = {np.shape(a) for a in (self.examples, self.losses, self.before)}
        if len(shapes) != 1 or np.ndim(self.examples) != 2 or len(self.median_move) != len(self.examples):
            shapes |= {np.shape(self.median_move)}
            raise ValueError(f"moves must have the shapes (steps, k) and (steps,), got {shapes}; pass a record's")
        if self.examples.size and not (self.examples.min() >= 0 and self.examples.max() < self.n):
            raise ValueError(f"examples must hold indices below {self.n}, got {self.examples.max()}; pass the right n")

    @property
    def steps(self) -> int:
        """Rows before the first that is not finite."""
        bad = np.flatnonzero(~np.isfinite(self.losses).all(axis=1))
        return int(bad[0]) if bad.size else len(self.losses)

    def blocks(self, first: int, last: int) -> np.ndarray:
        """First steps of the whole blocks of a window, steps ``first`` to ``last`` inclusive, shape (B,).

        Raises:
            ValueError: If the window reaches beyond the record.
        """
        end = self.first_step + len(self.losses) - 1
        if not self.first_step <= first <= last <= end:
            raise ValueError(
                f"window must lie within steps {self.first_step} to {end}, got {first} to {last}; pass recorded steps"
            )
        return block_starts(first, last)

    def window(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """The examples followed through every whole block of steps ``first`` to ``last`` inclusive, and their losses.

        Returns:
            Indices, shape (m,), ascending, and losses, shape (last - first + 1, m), float64; NaN outside the blocks.
        Raises:
            ValueError: If the window reaches beyond the record.
        """
        starts = self.blocks(first, last)
        inner = [int(s) + j - self.first_step for s in starts for j in range(1, BLOCK)]
        followed = reduce(np.intersect1d, [self.examples[row] for row in inner]) if inner else np.empty(0, np.int64)
        out = np.full((last - first + 1, len(followed)), np.nan)
        for row in inner:
            order = np.argsort(self.examples[row])
            at = order[np.searchsorted(self.examples[row], followed, sorter=order)]
            step = row + self.first_step - first
            out[step] = self.losses[row, at]
            if (row + self.first_step - 1) in starts:
                out[step - 1] = self.before[row, at]
        return followed, out

    def typical_size(self, first: int, last: int) -> float:
        r"""About the median $|z_i|$ over all examples in a window (root mean square over its blocks), or more."""
        rows = np.array([int(s) - self.first_step for s in self.blocks(first, last)])[:, None] + np.arange(1, BLOCK)
        return float(np.sqrt(np.mean((self.median_move[rows] @ (1.0, 2.0, 1.0) / 8.0) ** 2)))


def detect_in_moves(
    moves: Moves, first: int, last: int, max_pairs: int = 4, seed: int = 0
) -> tuple[Detection, np.ndarray]:
    """Pairs among the examples followed through a window; see above for what that can and cannot tell.

    Args:
        moves: Record.
        first, last: Steps of the window, inclusive.
        max_pairs, seed: As in `detect_in_losses`.
    Returns:
        The detection, whose weights are 0 for examples that were not followed, and the indices of those that were.
    Raises:
        ValueError: If the window has fewer than 3 blocks or reaches beyond the record.
    """
    starts = moves.blocks(first, last)
    if len(starts) < LEAST_BLOCKS:
        raise ValueError(
            f"a window must hold {LEAST_BLOCKS} blocks, got {len(starts)} in steps {first} to {last}; "
            f"widen it (a block takes {STRIDE} steps)"
        )
    followed, losses = moves.window(first, last)
    if len(followed) < 2:
        return Detection("losses", moves.n, int(starts[0]), int(starts[-1]) + BLOCK - 1, ()), followed
    found = detect_in_blocks(*demodulated_blocks(losses, first), max_pairs, seed)
    bar = OUTLIER * MAD_TO_DEVIATION * moves.typical_size(first, last)
    pairs = tuple(_among_all(pair, followed, moves.n, bar) for pair in found.pairs)
    return replace(found, n_examples=moves.n, pairs=pairs), followed


def _among_all(pair: OpposingPair, followed: np.ndarray, n: int, bar: float) -> OpposingPair:
    """The pair with its weights and members in the numbering of all n examples."""
    weights = np.zeros(n)
    weights[followed] = pair.weights
    order = np.argsort(-np.abs(weights), kind="stable")
    members = order[np.abs(weights[order]) > bar]
    return replace(pair, weights=weights, outlier_fraction=members.size / n, **membership(weights, members))
