r"""The opposing signals of a whole run: when each appears, its pair at its height, and when it ends."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from analysis.demodulation import BLOCK, STRIDE, block_starts
from analysis.detection import Detection, OpposingPair, detect_in_losses
from analysis.moves import Moves, detect_in_moves
from analysis.opposition import cosine

__all__ = ["RunSignal", "Timeline", "find_signals"]


@dataclass(frozen=True, eq=False)
class RunSignal:
    """One pair followed through the windows of a run.

    Args:
        begin: First step of the first window that shows it.
        end: Last step of the last such window.
        peak: Middle step of the window in which its amplitude is largest.
        pair: The pair in that window.
        windows: Number of windows that show it.
        open: Whether the last window of the record still shows it.
    """

    begin: int
    end: int
    peak: int
    pair: OpposingPair
    windows: int
    open: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        own = {k: getattr(self, k) for k in ("begin", "end", "peak", "windows", "open")}
        return own | {"pair": self.pair.to_dict()}


@dataclass(frozen=True, eq=False)
class Timeline:
    """The signals of a run in the order of their beginnings, and what was looked at.

    Args:
        signals: Signals.
        windows: Number of windows looked at; about ``level`` times as many would show a pair by chance.
        window, hop: Steps of a window and between windows.
        level: Family-wise level within a window.
        first_step, last_step: Steps looked at.
        examples: Median number of examples that could be followed through a window; all, but for a `Moves` record.
    """

    signals: tuple[RunSignal, ...]
    windows: int
    window: int
    hop: int
    level: float
    first_step: int
    last_step: int
    examples: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        names = ("windows", "window", "hop", "level", "first_step", "last_step", "examples")
        own = {k: getattr(self, k) for k in names}
        return own | {"signals": [s.to_dict() for s in self.signals]}


class _Track:
    """A signal while the run is gone through; mutable."""

    def __init__(self, found: Detection, pair: OpposingPair) -> None:
        self.begin, self.windows, self.size = found.first_step, 0, -np.inf
        self.add(found, pair)

    def add(self, found: Detection, pair: OpposingPair) -> None:
        self.end, self.windows, self.latest = found.last_step, self.windows + 1, pair
        size = float(np.linalg.norm(pair.weights))
        if size > self.size:
            self.size, self.pair, self.peak = size, pair, (found.first_step + found.last_step) // 2

    def done(self, last: int) -> RunSignal:
        return RunSignal(self.begin, self.end, self.peak, self.pair, self.windows, self.end == last)


def find_signals(
    losses: ArrayLike | Moves,
    first_step: int = 0,
    window: int = 40,
    hop: int = 20,
    level: float = 0.01,
    same: float = 0.5,
    outliers: bool = True,
    max_pairs: int = 4,
    seed: int = 0,
) -> Timeline:
    r"""Detect in windows along a record and join what is the same pair (measured).

    A pair of the next window continues a signal if the |cosine| of their weights is at least ``same``, the closest
    first; a signal that no pair continues has ended. The level holds within a window and is not corrected for their
    number, which is why it is reported.

    Args:
        losses: Shape (steps, n), consecutive steps; rows from the first that is not finite on are left out. Or the
            largest moves alone, with what that implies (`analysis.moves`).
        first_step: Step of the first row; not for moves, which know theirs.
        window: Steps of a window; a multiple of 5, at least 30 for a p-value below 0.05.
        hop: Steps between windows; a multiple of 5.
        level: Family-wise level of the pairs in one window.
        same: Smallest |cosine| of the same pair, in (0, 1].
        outliers: Only pairs with outliers; without it every pair that oscillates.
        max_pairs: Most pairs in a window.
        seed: Of the detections.
    Raises:
        ValueError: If the record is shorter than a window or an argument is out of range.
    """
    for name, value, least in (("window", window, 6 * STRIDE), ("hop", hop, STRIDE)):
        if value < least or value % STRIDE:
            raise ValueError(f"{name} must be a multiple of {STRIDE} and at least {least}, got {value}; pass {least}")
    if not 0 < same <= 1:
        raise ValueError(f"same must lie in (0, 1], got {same}; pass e.g. 0.5")
    first_step, steps, detect = _detector(losses, first_step, max_pairs, seed)
    last_step = first_step + steps - 1
    starts = [int(s) for s in block_starts(first_step, last_step) if (s + window - STRIDE + BLOCK - 1) <= last_step]
    starts = starts[:: hop // STRIDE]
    if not starts:
        raise ValueError(
            f"losses must hold a window of {window} finite steps, got {steps}; train longer or shorten the window"
        )
    running: list[_Track] = []
    ended: list[_Track] = []
    examples: list[int] = []
    last = first_step
    for start in starts:
        found, followed = detect(start, start + window - 1)
        examples.append(followed)
        last = found.last_step
        left = list(found.significant(level, outliers))
        links = sorted(
            ((cosine(t.latest.weights, p.weights), i, j) for i, t in enumerate(running) for j, p in enumerate(left)),
            reverse=True,
        )
        taken: dict[int, int] = {}
        for close, i, j in links:
            if close >= same and i not in taken and j not in taken.values():
                taken[i] = j
                running[i].add(found, left[j])
        ended += [t for i, t in enumerate(running) if i not in taken]
        running = [t for i, t in enumerate(running) if i in taken]
        running += [_Track(found, p) for j, p in enumerate(left) if j not in taken.values()]
    tracks = sorted(ended + running, key=lambda t: (t.begin, -t.size))
    signals = tuple(t.done(last) for t in tracks)
    return Timeline(signals, len(starts), window, hop, level, starts[0], last, float(np.median(examples)))


_Detect = Callable[[int, int], tuple[Detection, int]]


def _detector(losses: ArrayLike | Moves, first_step: int, max_pairs: int, seed: int) -> tuple[int, int, _Detect]:
    """First step, number of usable steps, and (first, last) → detection and the number of examples followed."""
    if isinstance(losses, Moves):

        def among_moves(first: int, last: int) -> tuple[Detection, int]:
            found, followed = detect_in_moves(losses, first, last, max_pairs, seed)
            return found, len(followed)

        return losses.first_step, losses.steps, among_moves
    values = np.asarray(losses)
    if values.ndim != 2:
        raise ValueError(f"losses must have shape (steps, examples), got {values.shape}; pass one row per step")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    values = values[: bad[0]] if bad.size else values

    def among_all(first: int, last: int) -> tuple[Detection, int]:
        found = detect_in_losses(values[first - first_step : last - first_step + 1], first, max_pairs, seed)
        return found, values.shape[1]

    return first_step, len(values), among_all
