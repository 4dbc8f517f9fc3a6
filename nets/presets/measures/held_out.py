"""Measures on held-out examples; the runs need the observer "held_out"."""

from collections.abc import Sequence

import numpy as np

from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

__all__ = [
    "double_descent",
    "first_used",
    "held_out_accuracy",
    "learning_delay",
    "parameters_at_peak",
    "peak",
    "reliance",
]

NAN = float("nan")


def _first(series: np.ndarray, level: float) -> float:
    """First step at which a series is at least ``level``; NaN where it never is."""
    reached = np.flatnonzero(series >= level)
    return float(reached[0]) if reached.size else NAN


@measure(needs=("held_out",))
def held_out_accuracy(run: Outcome, last: int = 1) -> float:
    """Mean of the last ``last`` accuracies on held-out examples."""
    seen = run.observed("held_out_accuracy")
    return float(seen[-last:].mean()) if seen.size else NAN


@measure(needs=("held_out",))
def learning_delay(run: Outcome, train: float = 0.99, held_out: float = 0.9) -> float:
    """Step of the first accuracy of ``held_out`` on held-out examples over the first with ``train`` on its own."""
    own, other = _first(run.series("accuracy"), train), _first(run.series("held_out_accuracy"), held_out)
    return other / max(own, 1.0)


def _lost(run: Outcome, column: int) -> np.ndarray:
    """What the held-out accuracy loses where the input ``column`` is exchanged, by step; NaN where not observed."""
    columns = run.history["permuted_column"].values.astype(int).tolist()
    if column not in columns:
        raise ValueError(f"column must be one of those observed, {columns}, got {column}; choose one of them")
    return run.series("held_out_accuracy") - run.series("permuted_accuracy")[:, columns.index(column)]


@measure(needs=("held_out",))
def reliance(run: Outcome, column: int = 0, last: int = 1) -> float:
    """What the held-out accuracy loses at the end where the input ``column`` is exchanged among the examples."""
    lost = _lost(run, column)
    lost = lost[np.isfinite(lost)]
    return float(lost[-last:].mean()) if lost.size else NAN


@measure(needs=("held_out",))
def first_used(run: Outcome, column: int = 0, lost: float = 0.1) -> float:
    """First step at which exchanging the input ``column`` costs ``lost`` of the held-out accuracy; NaN without one."""
    return _first(_lost(run, column), lost)


def _errors(runs: Sequence[Outcome], last: int) -> np.ndarray:
    return np.array([1.0 - held_out_accuracy(run, last) for run in runs])


def peak(runs: Sequence[Outcome], last: int = 1) -> int | None:
    """Place in a grid of the held-out error that rises most over the least before it; None where none rises."""
    errors = _errors(runs, last)
    if errors.size < 3 or not np.isfinite(errors).all():
        return None
    rises = errors[1:] - np.minimum.accumulate(errors)[:-1]
    best = int(np.argmax(rises))
    return best + 1 if rises[best] > 0 else None


@measure(several=True, needs=("held_out",))
def double_descent(runs: Sequence[Outcome], last: int = 1) -> float:
    """Held-out error at its peak in a grid less the larger of the least before and after it; 0 without a peak."""
    errors = _errors(runs, last)
    top = peak(runs, last)
    if top is None or top == len(errors) - 1:
        return 0.0 if np.isfinite(errors).all() else NAN
    return max(0.0, float(errors[top] - max(errors[:top].min(), errors[top + 1 :].min())))


@measure(several=True, needs=("held_out",))
def parameters_at_peak(runs: Sequence[Outcome], last: int = 1) -> float:
    """Parameters of the run with the peak of the held-out error over the numbers to be fitted, examples × outputs."""
    top = peak(runs, last)
    if top is None:
        return NAN
    problem = runs[top].trained.problem
    return problem.n_parameters / (len(problem.inputs) * problem.task.n_outputs)
