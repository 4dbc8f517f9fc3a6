"""Onset, growth, period, spikes and demodulation on series whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.oscillation import demodulated_change, first_spike, growth_rate, onset_step, period


def test_onset_is_the_first_crossing_from_below():
    s = [12.0, 9.0, 8.0, np.nan, 9.9, 10.0, 11.0]
    assert onset_step(s, lr=0.2) == 5  # 2/lr = 10; the start above it does not count
    assert onset_step(s, lr=0.2, fraction=0.95) == 4
    assert onset_step(s, lr=0.01) is None
    assert onset_step([11.0, 12.0], lr=0.2) is None


def test_onset_refuses_a_bad_lr():
    with pytest.raises(ValueError, match="lr must be positive, got nan"):
        onset_step([1.0], float("nan"))


@given(rate=st.floats(-0.5, 0.5), scale=st.floats(1e-12, 1e3))
def test_growth_rate_of_an_exponential(rate, scale):
    n = np.arange(30)
    x = scale * np.exp(rate * n) * (-1.0) ** n
    assert growth_rate(x, 5, 25) == pytest.approx(rate, abs=1e-9)


def test_growth_rate_needs_two_values():
    with pytest.raises(ValueError, match="two non-zero amplitudes"):
        growth_rate(np.zeros(10), 2, 8)


def test_first_spike_is_a_peak_with_enough_energy():
    x = np.array([0, 0.001, 0.002, 0.001, 0.1, -0.4, 0.5, -0.2, 0.9, 0.1])
    spike = first_spike(x, np.full(10, 2.0), np.ones(10), start=1)
    assert spike is not None
    assert (spike.begin, spike.peak, spike.height) == (5, 6, 0.5)
    assert first_spike(x[:7], np.full(7, 2.0), np.ones(7), start=1) is None  # the record ends on the rise


@pytest.mark.parametrize("true", [2.0, 3.0, 5.0, 8.0])
def test_period_of_a_cosine_on_a_drift(true):
    n = np.arange(64)
    series = 0.01 * np.cos(2 * np.pi * n / true) + np.exp(-n / 40)
    assert period(series) == pytest.approx(true, rel=0.03)


def test_demodulation_keeps_the_alternation_and_drops_the_drift():
    n = np.arange(21)[:, None]
    true = np.array([0.3, -0.2, 0.0])
    losses = 5 - 0.1 * n + true * (-1.0) ** n
    np.testing.assert_allclose(demodulated_change(losses, 4, 16), true, atol=1e-12)
    np.testing.assert_allclose(demodulated_change(losses, 5, 13), true, atol=1e-12)
    large_error = np.array([100.0, 1.0, 50.0]) * np.exp(-n / 100.0)  # merely badly fitted: does not qualify
    assert np.abs(demodulated_change(large_error, 4, 16)).max() < 1e-2


def test_demodulation_refuses_a_window_outside_the_record():
    with pytest.raises(ValueError, match="at least 3 recorded steps"):
        demodulated_change(np.zeros((5, 2)), 3, 5)
