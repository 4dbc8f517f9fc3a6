r"""Scoring a network's forecast against the record of what came after it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.oscillation import Spike, demodulated_change, first_spike, growth_rate, onset_step
from analysis.scoring import Score, precision_at, rank_correlation, relative_error, sign_accuracy

__all__ = ["BARS", "example_window", "verify_forecast"]

DELAY = 10  # steps after onset at which the examples are compared
HALF_WINDOW = 4  # the comparison demodulates 2 * HALF_WINDOW + 1 steps
VISIBLE = 1e-3  # share of the loss that the oscillation's energy must have to be seen above the drift

#: What a claim must reach. Set on the digits network with seeds 0-4, before any reported seed was run. By chance
#: alone the rank correlation is 0 and the precision at k of n examples is k/n.
BARS = {
    "approach": {"rank_correlation": 0.5, "precision": 0.3},
    "onset": {"rank_correlation": 0.7, "precision": 0.5, "growth": 0.2, "spike": 0.1},
}


def example_window(record: Mapping[str, np.ndarray], onset: int) -> tuple[int, int] | None:
    r"""The steps in which the examples' alternation is measured.

    Centred on the first step at least ``DELAY`` after onset at which $\tfrac12 S x^2$ is ``VISIBLE`` of the
    loss: smooth networks in low noise oscillate invisibly for a while. None where the record ends before.
    """
    x, s, loss = record["oscillation"], record["sharpness"], record["loss"]
    visible = 0.5 * s * x**2 >= VISIBLE * loss
    later = np.flatnonzero(visible[onset + DELAY :])
    if later.size == 0:
        return None
    center = onset + DELAY + int(later[0])
    if center + HALF_WINDOW >= len(loss):
        return None
    return center - HALF_WINDOW, center + HALF_WINDOW


def verify_forecast(forecast: dict[str, Any], record: Mapping[str, np.ndarray]) -> list[Score]:
    """Score every claim of a forecast; a claim whose outcome the record does not hold is "not run".

    Args:
        forecast: As made by ``make_forecast``.
        record: Arrays ``loss``, ``sharpness``, ``oscillation`` of shape (steps,) and ``example_loss`` of shape
            (steps, examples), cut to the steps that were computed.
    Raises:
        ValueError: If the record does not reach beyond the step of the forecast.
    """
    made = forecast["made_at_step"]
    if len(record["loss"]) <= made + 1:
        raise ValueError(
            f"the record must reach beyond step {made}, got {len(record['loss'])} steps; continue the run first"
        )
    onset = onset_step(record["sharpness"], forecast["lr"])
    scores = _score_examples(forecast, record, onset)
    if "spike" in forecast:
        spike = None
        if onset is not None:
            spike = first_spike(record["oscillation"], record["sharpness"], record["loss"], onset)
        scores += _score_spike(forecast, record, spike)
    return scores


def _score_examples(forecast: dict[str, Any], record: Mapping[str, np.ndarray], onset: int | None) -> list[Score]:
    examples, made, kind = forecast["examples"], forecast["made_at_step"], forecast["kind"]
    s, base, k = np.array(examples["projection"]), np.array(examples["baseline"]["values"]), examples["k"]
    window = None if onset is None else example_window(record, onset)
    when = f"at {kind}, step {made}"
    rho = rho_base = precision = precision_base = signs = float("nan")
    outcome = None
    if window is not None:
        if window[0] <= made:
            raise ValueError(f"the compared window {window} must lie after step {made}; forecast earlier")
        change = demodulated_change(record["example_loss"], *window)
        # one global sign is not forecast: both are compared up to it
        rho, rho_base = (abs(rank_correlation(a, change)) for a in (s, base))
        precision, precision_base = precision_at(k, s, change), precision_at(k, base, change)
        signs = sign_accuracy(k, s, change)
        outcome = f"steps {window[0]}–{window[1]}, sign right for {signs:.0%}"
    name = examples["baseline"]["name"]
    return [
        Score(
            f"examples ({when}): rank correlation of loss alternation",
            f"{k} leaders of {s.size}",
            outcome,
            rho,
            "higher",
            BARS[kind]["rank_correlation"],
            name,
            rho_base,
        ),
        Score(
            f"examples ({when}): precision at {k}",
            f"{k} leaders of {s.size}",
            outcome,
            precision,
            "higher",
            BARS[kind]["precision"],
            name,
            precision_base,
        ),
    ]


def _score_spike(forecast: dict[str, Any], record: Mapping[str, np.ndarray], spike: Spike | None) -> list[Score]:
    made, out = forecast["made_at_step"], forecast["spike"]
    peak = None if spike is None else spike.peak
    growth = out["growth"]
    steps, error = len(record["loss"]), relative_error(out["peak_step"], peak, origin=made)
    outcome: int | str | None = peak
    if peak is None and out["peak_step"] is not None and steps > 2 * out["peak_step"] - made:
        # twice the lead has passed: the forecast spike did not come
        outcome, error = f"none by step {steps - 1}", float("inf")
    measured = None
    if growth is not None and growth["stop"] < len(record["loss"]):
        measured = growth_rate(record["oscillation"], growth["start"], growth["stop"])
    base = None if growth is None else growth["baseline"]
    return [
        Score(
            f"growth per step of log|x| (at onset, step {made})",
            None if growth is None else growth["rate"],
            measured,
            relative_error(None if growth is None else growth["rate"], measured),
            "lower",
            BARS["onset"]["growth"],
            "" if base is None else base["name"],
            relative_error(None if base is None else base["rate"], measured),
        ),
        Score(
            f"first spike's step (at onset, step {made}); error as share of the lead",
            out["peak_step"],
            outcome,
            error,
            "lower",
            BARS["onset"]["spike"],
            out["baseline"]["name"],
            relative_error(out["baseline"]["peak_step"], peak, origin=made),
        ),
    ]
