"""Whether a claim holds: its condition at every seed, with the numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.effects import paired_effect

from .claims import Claim
from .plans import PresetError

__all__ = ["LEAST_SEEDS", "Verdict", "conclude", "judge", "measured"]

LEAST_SEEDS = 3


@dataclass(frozen=True)
class Verdict:
    """A claim against the runs.

    Args:
        claim: The claim.
        seeds: Seeds of the repetitions.
        values: Measured, one a seed; NaN where the runs do not show it.
        controls: The same of the control; empty without one.
        met: Whether the condition is met, one a seed.
        complete: Whether these are all the seeds asked for.
    """

    claim: Claim
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    controls: tuple[float, ...]
    met: tuple[bool, ...]
    complete: bool = True

    @property
    def verdict(self) -> str:
        """ "holds" (at every seed), "fails", or "not run"."""
        if not self.seeds or not self.complete:
            return "not run"
        return "holds" if all(self.met) else "fails"

    @property
    def expected(self) -> bool:
        """Whether it came out as the preset says."""
        return self.verdict == ("fails" if self.claim.fails else "holds")

    @property
    def enough_seeds(self) -> bool:
        """Whether the verdict is over as many seeds as it takes."""
        return len(self.seeds) >= LEAST_SEEDS

    @property
    def caution(self) -> str:
        """What must be said with the verdict where it is over too few seeds."""
        return "" if self.enough_seeds else f" with {len(self.seeds)} of the {LEAST_SEEDS} seeds that a verdict takes"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; numbers that are not finite become null.

        ``value_mean`` and ``difference_mean`` (value minus control, paired by seed) come with Student's 95 % interval
        over the seeds; null with less than two seeds, or where a number is not finite.
        """
        return {
            "claim": self.claim.says,
            "value": self.claim.value.text,
            "control": self.claim.control.text if self.claim.control else None,
            "condition": self.claim.holds.text,
            "seeds": list(self.seeds),
            "values": [_plain(v) for v in self.values],
            "controls": [_plain(v) for v in self.controls],
            "value_mean": _interval(self.values, [0.0] * len(self.values)),
            "difference_mean": _interval(self.values, self.controls) if self.controls else None,
            "met": list(self.met),
            "verdict": self.verdict,
            "enough_seeds": self.enough_seeds,
            "known_to_fail": self.claim.fails or None,
            "as_declared": self.expected if self.complete else None,
        }


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _interval(values: Sequence[float], controls: Sequence[float]) -> dict[str, float] | None:
    """Mean of the differences with its 95 % interval."""
    if len(values) < 2 or not np.isfinite([*values, *controls]).all():
        return None
    effect = paired_effect(values, controls)
    return {"mean": effect.mean, "low": effect.low, "high": effect.high}


def measured(claim: Claim, runs: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    """The claim's ``value``, and ``control`` where it has one, of one repetition.

    Args:
        claim: The claim.
        runs: Name of a run -> its outcomes: several for a grid, none where it did not come about.
    Raises:
        PresetError: If a measure does not fit its runs.
    """
    parts = {"value": claim.value} | ({} if claim.control is None else {"control": claim.control})
    try:
        return {name: measurement(runs) for name, measurement in parts.items()}
    except ValueError as error:
        raise PresetError(f"claim {claim.says!r}: {error}") from error


def judge(claim: Claim, repetitions: Mapping[int, Mapping[str, Sequence[Any]]]) -> Verdict:
    """Measure a claim on every repetition.

    Args:
        claim: The claim.
        repetitions: Seed -> the runs as `measured` takes them.
    """
    return conclude(claim, {seed: measured(claim, runs) for seed, runs in repetitions.items()})


def conclude(claim: Claim, found: Mapping[int, Mapping[str, float]], complete: bool = True) -> Verdict:
    """The verdict on what was measured.

    Args:
        claim: The claim.
        found: Seed -> what `measured` gives.
        complete: Whether these are all the seeds asked for.
    """
    return Verdict(
        claim,
        tuple(found),
        tuple(numbers["value"] for numbers in found.values()),
        tuple(numbers["control"] for numbers in found.values() if "control" in numbers),
        tuple(claim.holds(numbers) for numbers in found.values()),
        complete,
    )
