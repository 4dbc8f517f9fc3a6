"""Signals followed through a run: beginnings and ends that are known, and the null."""

import numpy as np
import pytest
from planted_nets import planted_net
from scipy.stats import binom

from analysis.timeline import find_signals


def weights(members, n=100):
    w = np.zeros(n)
    half = len(members) // 2
    w[members[:half]], w[members[half:]] = 1.0, -1.0
    return w


def two_episodes(noise=0.01):
    """One pair alternates in steps 100..199, another in 300..449; drifting losses throughout."""
    steps = np.arange(450)
    rng = np.random.default_rng(0)
    flip = (-1.0) ** steps[:, None]
    first = ((steps >= 100) & (steps < 200))[:, None] * flip * weights(range(10))
    second = (steps >= 300)[:, None] * flip * 0.5 * weights(range(50, 58))
    return 3 * np.exp(-steps / 200)[:, None] + first + second + noise * rng.standard_normal((450, 100))


def test_two_episodes_are_two_signals_with_their_times():
    found = find_signals(two_episodes())
    assert len(found.signals) == 2
    a, b = found.signals
    assert set(a.pair.members) == set(range(10))
    assert set(b.pair.members) == set(range(50, 58))
    # windows of 40 steps begin every 20: those wholly inside show the pair, those wholly outside do not
    assert 60 < a.begin <= 120
    assert 178 <= a.end < 240
    assert 100 <= a.peak < 200
    assert not a.open
    assert 260 < b.begin <= 320
    assert b.open
    assert a.pair.amplitude == pytest.approx(1.0, abs=0.05)
    assert b.pair.amplitude == pytest.approx(0.5, abs=0.05)


def test_first_step_moves_everything():
    one, other = find_signals(two_episodes()), find_signals(two_episodes(), first_step=20)
    assert [s.begin + 20 for s in one.signals] == [s.begin for s in other.signals]
    assert [s.end + 20 for s in one.signals] == [s.end for s in other.signals]


def test_a_trained_network_shows_its_planted_signal_and_no_other():
    net = planted_net(300)
    found = find_signals(net.losses)
    assert len(found.signals) == 1
    signal = found.signals[0]
    assert net.carrier[list(signal.pair.members)].all()
    assert 40 < signal.begin < 120  # the sharpness crosses 2/lr near step 35 and the amplitude has to grow back
    quiet = find_signals(planted_net(300, lr=0.02).losses)  # 2/lr = 100, the limit of the sharpness is 40
    assert quiet.signals == ()


def test_an_edge_without_outliers_is_listed_only_on_request():
    rng = np.random.default_rng(1)
    losses = (-1.0) ** np.arange(100)[:, None] * rng.standard_normal(80) + 0.01 * rng.standard_normal((100, 80))
    assert find_signals(losses).signals == ()
    everything = find_signals(losses, outliers=False).signals
    assert len(everything) == 1
    assert everything[0].pair.p_outliers > 0.05


def test_noise_shows_a_signal_at_no_more_than_the_level():
    windows = signals = 0
    for seed in range(20):
        found = find_signals(np.random.default_rng(seed).standard_normal((400, 50)), hop=40)
        windows += found.windows
        signals += sum(s.windows for s in found.signals)
    assert windows == 200
    assert signals <= binom.ppf(1 - 1e-3, 200, 0.01)


def test_a_record_that_diverges_is_used_up_to_there():
    losses = two_episodes()
    losses[150:] = np.nan
    found = find_signals(losses)
    assert found.last_step < 150
    assert len(found.signals) == 1
    assert found.signals[0].open


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="window must be a multiple of 5 and at least 30, got 28"):
        find_signals(np.zeros((100, 3)), window=28)
    with pytest.raises(ValueError, match="hop must be a multiple of 5 and at least 5, got 0"):
        find_signals(np.zeros((100, 3)), hop=0)
    with pytest.raises(ValueError, match="losses must hold a window of 40 finite steps, got 20"):
        find_signals(np.zeros((20, 3)))
    with pytest.raises(ValueError, match=r"same must lie in \(0, 1\], got 0"):
        find_signals(np.zeros((100, 3)), same=0)
    with pytest.raises(ValueError, match="losses must have shape"):
        find_signals(np.zeros(100))
