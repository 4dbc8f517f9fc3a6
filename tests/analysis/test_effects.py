"""Outcomes, forecasts of a crossing and paired effects, against brute force and scipy."""

import numpy as np
import pytest
from scipy import stats

from analysis.effects import crossing_forecast, loss_spike, measure_outcome, paired_effect


def test_paired_effect_is_the_paired_t_interval():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 2, 7), rng.normal(size=7)
    effect = paired_effect(a, b, 0.9)
    interval = stats.ttest_rel(a, b).confidence_interval(0.9)
    assert effect.mean == pytest.approx((a - b).mean(), rel=1e-14)
    assert (effect.low, effect.high) == (
        pytest.approx(interval.low, rel=1e-12),
        pytest.approx(interval.high, rel=1e-12),
    )
    assert effect.size == pytest.approx(stats.ttest_rel(a, b).statistic / np.sqrt(7), rel=1e-12)
    assert paired_effect([2.0, 3.0], [1.0, 2.0]).size == np.inf
    assert paired_effect([1.0, 1.0], [1.0, 1.0]).size == 0
    with pytest.raises(ValueError, match="run more seeds"):
        paired_effect([1.0], [2.0])


def test_intervals_hold_the_truth_at_their_level():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(2000):
        b = rng.normal(size=5)
        e = paired_effect(b + rng.normal(0.3, 1.5, 5), b)
        inside += e.low <= 0.3 <= e.high
    low, high = stats.binom.ppf([0.0005, 0.9995], 2000, 0.95)
    assert low <= inside <= high


def test_loss_spike_against_all_pairs():
    loss = np.random.default_rng(2).normal(size=60).cumsum()
    brute = max(loss[n] - loss[m] for n in range(60) for m in range(n + 1))
    assert loss_spike(loss) == pytest.approx(brute, rel=1e-14)
    assert loss_spike([3.0, 2.0, 1.0]) == 0
    assert loss_spike([1.0, np.nan]) == np.inf


def test_crossing_of_a_line_is_exact_and_scales_with_the_ratio():
    s = 3 + 0.5 * np.arange(30)
    assert crossing_forecast(s, 40.0) == pytest.approx(74, rel=1e-12)
    assert crossing_forecast(s, 40.0, 0.5) == pytest.approx(154, rel=1e-12)  # 0.5·(3 + n/2) = 40
    assert crossing_forecast(s[::-1], 40.0) is None
    thin = np.where(np.arange(30) % 4 == 1, s, np.nan)  # measured at every fourth step
    assert crossing_forecast(thin, 40.0) == pytest.approx(74, rel=1e-12)
    bent = np.concatenate([np.linspace(50, 17.5, 29), s + 14.5])  # only the last half counts
    assert crossing_forecast(bent[1:], 40.0) == pytest.approx(28 + 45, abs=1e-9)
    with pytest.raises(ValueError, match="needs two values"):
        crossing_forecast([1.0], 2.0)


def test_outcome_reads_the_record():
    s = np.array([1.0, 2, 3, 4, 5, 6, 7])
    record = {"sharpness": s, "loss": np.array([5.0, 4, 6, 3, 2, 1, 1])}
    out = measure_outcome(record, 5.5, 4, 0.5)
    assert (out.sharpness, out.onset, out.spike, out.final_loss) == (3.0, 5, 2.0, 1.0)
    late = measure_outcome(record, 5.5, 104, first_step=100)
    assert (late.sharpness, late.onset, late.steps) == (3.0, 105, 107)
    assert measure_outcome(record, None, 4).onset is None
    assert measure_outcome(record, 99.0, 50).sharpness is None  # the record does not reach it
    assert measure_outcome(record, 5.5, 3, first_step=5).sharpness is None  # it starts later
    broken = measure_outcome({"sharpness": s * np.nan, "loss": s * np.nan}, 5.5, 4).to_dict()
    assert broken["spike"] is None
    assert broken["final_loss"] is None
