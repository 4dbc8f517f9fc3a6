"""Scores of forecasts against outcomes, each beside the score of a naive baseline."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

__all__ = ["Score", "precision_at", "rank_correlation", "relative_error", "sign_accuracy"]


@dataclass(frozen=True)
class Score:
    """One claim, its forecast, its outcome and its verdict.

    Args:
        claim: What was forecast, one line.
        forecast: Forecast value (a number, or a short description).
        outcome: Measured value, or None where the record ends before it.
        score: Number that is judged; NaN where there is no outcome.
        better: "higher" or "lower".
        bar: Value that the score must reach.
        baseline: Name of the naive baseline.
        baseline_score: The baseline's score by the same rule.
    """

    claim: str
    forecast: Any
    outcome: Any
    score: float
    better: str
    bar: float
    baseline: str
    baseline_score: float

    @property
    def verdict(self) -> str:
        """ "holds", "fails", or "not run" where there was nothing to compare with.

        A claim holds when its score reaches the bar and is not worse than the baseline's.
        """
        if not np.isfinite(self.score):
            return "not run" if self.outcome is None else "fails"
        sign = 1.0 if self.better == "higher" else -1.0
        reaches = sign * self.score >= sign * self.bar
        beats = not np.isfinite(self.baseline_score) or sign * self.score >= sign * self.baseline_score
        return "holds" if reaches and beats else "fails"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, the verdict included; numbers that are not finite become null."""
        row = {**asdict(self), "verdict": self.verdict}
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}


def rank_correlation(forecast: ArrayLike, outcome: ArrayLike) -> float:
    """Spearman's rank correlation of two vectors of shape (n,); NaN if one is constant."""
    a, b = np.asarray(forecast, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"rank_correlation needs two vectors of one length, got {a.shape} and {b.shape}")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def precision_at(k: int, forecast: ArrayLike, outcome: ArrayLike) -> float:
    """Share of the k largest forecast magnitudes that are among the k largest outcome magnitudes, in [0, 1].

    By chance alone it is k/n.
    """
    a, b = np.abs(np.asarray(forecast, float)), np.abs(np.asarray(outcome, float))
    if not 0 < k <= a.size or a.shape != b.shape:
        raise ValueError(f"precision_at needs 0 < k <= n and equal lengths, got k={k}, {a.shape}, {b.shape}")
    top = [set(np.argsort(-values, kind="stable")[:k].tolist()) for values in (a, b)]
    return len(top[0] & top[1]) / k


def sign_accuracy(k: int, forecast: ArrayLike, outcome: ArrayLike) -> float:
    """Share of the k largest forecast magnitudes whose sign the outcome has, up to one global sign, in [0.5, 1]."""
    a, b = np.asarray(forecast, float), np.asarray(outcome, float)
    if not 0 < k <= a.size or a.shape != b.shape:
        raise ValueError(f"sign_accuracy needs 0 < k <= n and equal lengths, got k={k}, {a.shape}, {b.shape}")
    top = np.argsort(-np.abs(a), kind="stable")[:k]
    agree = float(np.mean(np.sign(a[top]) == np.sign(b[top])))
    return max(agree, 1.0 - agree)


def relative_error(forecast: float | None, outcome: float | None, origin: float = 0.0) -> float:
    """|forecast − outcome| / |outcome − origin|; with a step as origin, the error as a share of the lead time.

    NaN where one of the two is missing; infinite where the outcome coincides with the origin but the forecast
    does not.
    """
    if forecast is None or outcome is None:
        return float("nan")
    error, scale = abs(forecast - outcome), abs(outcome - origin)
    if scale == 0:
        return 0.0 if error == 0 else float("inf")
    return error / scale
