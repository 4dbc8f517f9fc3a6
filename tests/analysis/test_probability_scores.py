"""Scores of forecasts with uncertainty, each against an independent oracle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.probability_scores import alarm_rates, auroc, coverage, quantile_crps, skill

NINETEEN, NINETY_NINE = np.arange(1, 20) / 20, np.arange(1, 100) / 100


def normal_crps(y):
    """Closed form for a standard normal forecast (Gneiting & Raftery 2007, eq. 21)."""
    return y * (2 * stats.norm.cdf(y) - 1) + 2 * stats.norm.pdf(y) - 1 / np.sqrt(np.pi)


@pytest.mark.parametrize(("levels", "error"), [(NINETEEN, 0.06), (NINETY_NINE, 0.011)])
def test_crps_of_a_normal_forecast(levels, error):
    """The docstring's figures, against the closed form."""
    y = np.linspace(-3, 3, 61)
    got = quantile_crps(levels, np.broadcast_to(stats.norm.ppf(levels), (61, levels.size)), y)
    np.testing.assert_allclose(got, normal_crps(y), rtol=error)


def test_crps_converges_to_the_closed_form():
    errors = []
    for k in (10, 100, 1000):
        levels = (np.arange(k) + 0.5) / k
        errors.append(abs(quantile_crps(levels, stats.norm.ppf(levels), 0.7) - normal_crps(0.7)))
    assert errors[1] < errors[0] / 5
    assert errors[2] < errors[1] / 5


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_crps_of_a_certain_forecast_is_its_error(q, y):
    assert quantile_crps(NINETEEN, np.full(19, q), y) == pytest.approx(abs(y - q), abs=1e-12)
    assert quantile_crps([0.5], [q], y) == pytest.approx(abs(y - q), abs=1e-12)


def test_crps_is_least_for_the_true_distribution():
    y = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    mean = {s: quantile_crps(NINETEEN, np.tile(s * stats.norm.ppf(NINETEEN), (2000, 1)), y).mean() for s in (0.5, 1, 2)}
    assert mean[1] < mean[0.5]
    assert mean[1] < mean[2]


def test_coverage_and_its_interval():
    low, high = np.zeros(20), np.full(20, 10.0)
    high[0] = np.inf
    outcome = np.array([1e9, 0.0, 10.0, *np.full(14, 5.0), -1.0, 11.0, 12.0])
    got = coverage(low, high, outcome)
    assert (got.value, got.n) == (17 / 20, 20)
    # Clopper-Pearson by its definition: the tails of the binomial at the ends are 2.5 % each
    assert stats.binom.sf(16, 20, got.low) == pytest.approx(0.025, abs=1e-6)
    assert stats.binom.cdf(17, 20, got.high) == pytest.approx(0.025, abs=1e-6)


@given(st.lists(st.tuples(st.sampled_from([-np.inf, 0.0, 1.0, 1.5, 2.0, np.inf]), st.booleans()), min_size=2))
def test_auroc_is_the_share_of_ordered_pairs(cases):
    score, event = np.array([c[0] for c in cases]), np.array([c[1] for c in cases])
    pairs = [(a > b) + 0.5 * (a == b) for a in score[event] for b in score[~event]]
    if pairs:
        assert auroc(score, event) == pytest.approx(np.mean(pairs))
    else:
        assert np.isnan(auroc(score, event))


def test_alarm_rates_by_hand():
    alarm = np.array([True, True, False, True, False, False, False])
    event = np.array([True, True, True, False, False, False, False])
    got = alarm_rates(alarm, event)
    assert (got.hit.value, got.hit.n) == (2 / 3, 3)
    assert (got.false_alarm.value, got.false_alarm.n) == (1 / 4, 4)
    none = alarm_rates(alarm, np.zeros(7, bool))
    assert np.isnan(none.hit.value)
    assert (none.hit.low, none.hit.high) == (0.0, 1.0)


def test_skill_by_hand_and_of_a_constant_ratio():
    assert skill([1.0, 3.0], [2.0, 6.0]).value == 0.5
    base = np.random.default_rng(0).exponential(size=30)
    half = skill(0.5 * base, base)
    assert (half.value, half.low, half.high) == pytest.approx((0.5, 0.5, 0.5))
    assert skill(base, base)[:3] == (0.0, 0.0, 0.0)


def test_skill_of_equals_has_an_interval_around_nought():
    """Null: two forecasts with scores of one distribution; a 95 % interval misses 0 as often as it may."""
    rng = np.random.default_rng(1)
    trials, missed = 200, 0
    for _ in range(trials):
        got = skill(rng.gamma(4.0, size=60), rng.gamma(4.0, size=60))
        missed += not got.low <= 0 <= got.high
    assert missed <= stats.binom.ppf(0.999, trials, 0.05)
    better = skill(rng.gamma(4.0, size=60), 2 * rng.gamma(4.0, size=60))
    assert better.low > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantile_crps([0.5, 0.2], [1.0, 2.0], 0.0), "levels must increase"),
        (lambda: quantile_crps([0.1, 0.2, 0.9], [1.0, 2.0, 3.0], 0.0), "evenly spaced"),
        (lambda: quantile_crps([0.3, 0.6], [2.0, 1.0], 0.0), "must not decrease"),
        (lambda: quantile_crps([0.3, 0.6], [1.0, np.inf], 0.0), "quantiles must be finite"),
        (lambda: quantile_crps([0.3, 0.6], [1.0, 2.0], [0.0, 1.0]), "one per outcome and level"),
        (lambda: coverage([1.0], [0.0], [0.5]), "low <= high"),
        (lambda: coverage([0.0], [1.0], [0.5, 2.0]), "one length"),
        (lambda: auroc([1.0, 2.0], [0, 1]), "booleans"),
        (lambda: auroc([1.0, np.nan], np.array([True, False])), "score must be a number"),
        (lambda: alarm_rates(np.array([True]), np.array([True, False])), "one length"),
        (lambda: skill([1.0], [1.0]), "score more runs"),
        (lambda: skill([1.0, 2.0], [0.0, 0.0]), "not perfect"),
        (lambda: skill([1.0, 2.0], [1.0, 2.0], level=1.5), "level must lie between"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
