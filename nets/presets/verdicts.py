"""Whether a claim holds: its condition at every seed, with the numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .declaration import Claim

__all__ = ["LEAST_SEEDS", "Verdict", "judge"]

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
    """

    claim: Claim
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    controls: tuple[float, ...]
    met: tuple[bool, ...]

    @property
    def verdict(self) -> str:
        """ "holds" (at every seed), "fails", or "not run"."""
        if not self.seeds:
            return "not run"
        return "holds" if all(self.met) else "fails"

    @property
    def expected(self) -> bool:
        """Whether it came out as the preset says."""
        return self.verdict == ("fails" if self.claim.fails else "holds")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; numbers that are not finite become null."""
        return {
            "claim": self.claim.says,
            "value": self.claim.value.text,
            "control": self.claim.control.text if self.claim.control else None,
            "condition": self.claim.holds.text,
            "seeds": list(self.seeds),
            "values": [v if np.isfinite(v) else None for v in self.values],
            "controls": [v if np.isfinite(v) else None for v in self.controls],
            "met": list(self.met),
            "verdict": self.verdict,
            "known_to_fail": self.claim.fails or None,
        }


def judge(claim: Claim, repetitions: Mapping[int, Mapping[str, Sequence[Any]]]) -> Verdict:
    """Measure a claim on every repetition.

    Args:
        claim: The claim.
        repetitions: Seed -> name of a run -> its outcomes: several for a grid, none where it did not come about.
    """
    values, controls, met = [], [], []
    for runs in repetitions.values():
        found = {"value": claim.value(runs)}
        if claim.control is not None:
            found["control"] = claim.control(runs)
            controls.append(found["control"])
        values.append(found["value"])
        met.append(claim.holds(found))
    return Verdict(claim, tuple(repetitions), tuple(values), tuple(controls), tuple(met))
