"""Measures of the balance between two groups; the runs need the observers "group_gradients by=sign" and "probes"."""

from collections.abc import Callable

import numpy as np

from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

__all__ = ["feature_gap", "gradient_cosine", "gradient_excess"]

NAN = float("nan")


def _needs(observer: str) -> Callable[..., tuple[str, ...]]:
    """The observer; and the onset, where no end is given."""

    def needs(end: int = 0, **others: object) -> tuple[str, ...]:
        return (observer,) if end else (observer, "sharpness", "critical")

    return needs


def _window(run: Outcome, name: str, begin: int, end: int) -> np.ndarray:
    """The rows of an array that were filled in the steps ``begin`` to before ``end`` (0: the onset, or the last)."""
    stop = end or run.onset or None
    values = run.series(name)[begin:stop]
    return values[np.isfinite(values.reshape(len(values), -1)).all(axis=1)]


@measure(needs=_needs("probes"))
def feature_gap(run: Outcome, first: int = 0, second: int = 1, begin: int = 0, end: int = 0) -> float:
    """Mean |difference| of two outputs at the pure feature, from step ``begin`` to the onset or ``end``."""
    outputs = _window(run, "probe_outputs", begin, end)
    return float(np.abs(outputs[:, -1, first] - outputs[:, -1, second]).mean()) if len(outputs) else NAN


def _places(run: Outcome, first: int, second: int) -> tuple[int, int]:
    values = run.history["gradient_group_value"].values.astype(int).tolist()
    if not {first, second} <= set(values):
        raise ValueError(f"groups must be among those observed, {values}, got {first} and {second}; choose others")
    return values.index(first), values.index(second)


@measure(needs=_needs("group_gradients"))
def gradient_cosine(run: Outcome, first: int = -1, second: int = 1, begin: int = 0, end: int = 0) -> float:
    """Mean cosine of the gradients of two groups, from step ``begin`` to the onset or ``end``."""
    cosines = _window(run, "group_grad_cosine", begin, end)
    i, j = _places(run, first, second)
    return float(cosines[:, i, j].mean()) if len(cosines) else NAN


@measure(needs=_needs("group_gradients"))
def gradient_excess(
    run: Outcome, first: int = -1, second: int = 1, rest: int = 0, begin: int = 0, end: int = 0
) -> float:
    """Mean of the smaller gradient norm of two groups over that of ``rest``; steps as above."""
    norms = _window(run, "group_grad_norm", begin, end)
    i, j = _places(run, first, second)
    k = _places(run, rest, rest)[0]
    return float((np.minimum(norms[:, i], norms[:, j]) / norms[:, k]).mean()) if len(norms) else NAN
