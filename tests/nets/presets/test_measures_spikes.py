"""Measures around the largest oscillation on a record with one spike, and on one where nothing happens."""

import numpy as np
import pytest
from made_outcomes import made

from nets.presets.measures.spikes import amplitude_rise, sharpness_turn, spike_step

STEPS, ONSET, SPIKE = 200, 40, 120


def with_spike(every=1):
    """Amplitude 1, from the onset on 3, ten steps of 5 up to the spike, 0.5 after; the sharpness turns from 6 to 4."""
    n = np.arange(STEPS)
    size = np.where(n < ONSET, 1.0, np.where(n <= SPIKE, 3.0, 0.5))
    size[SPIKE - 9 : SPIKE + 1] = 5.0
    size[SPIKE] = 5.01
    sharpness = np.where(n < ONSET, 4.0, np.where(n <= SPIKE, 6.0, 4.0))
    missing = np.where(n % every == 0, 1.0, np.nan)
    return made(steps=STEPS, series={"oscillation": size * (-1.0) ** n * missing, "sharpness": sharpness * missing})


@pytest.mark.parametrize("every", [1, 2, 4])
def test_a_spike_and_what_is_around_it(every):
    run = with_spike(every)
    assert run.onset == ONSET
    assert spike_step(run) == SPIKE
    assert amplitude_rise(run) == pytest.approx(5.0, rel=0.002)
    assert amplitude_rise(run, at="after") == pytest.approx(0.5)
    assert sharpness_turn(run) == pytest.approx(4 / 6)


def test_the_steps_before_are_averaged():
    run = with_spike()
    steps = range(ONSET, SPIKE - 20)
    s = run.sharpness
    expected = np.mean([s[n + 10 : n + 20].mean() / s[n - 9 : n + 1].mean() for n in steps])
    assert sharpness_turn(run, at="before") == pytest.approx(expected)
    assert expected > 0.99


def test_noise_without_a_spike_turns_nothing():
    rng = np.random.default_rng(0)
    noise = {"oscillation": rng.standard_normal(STEPS), "sharpness": 5 + 0.1 * rng.standard_normal(STEPS)}
    noise["sharpness"][:ONSET] = 4
    run = made(steps=STEPS, series=noise)
    assert sharpness_turn(run) == pytest.approx(1, abs=0.05)
    assert sharpness_turn(run, at="before") == pytest.approx(1, abs=0.05)


def test_an_onset_in_the_first_steps_leaves_nothing_to_compare_with():
    n = np.arange(STEPS)
    run = made(steps=STEPS, onset=3, series={"oscillation": np.exp(-n / 5.0)})
    assert spike_step(run) == 3
    assert np.isnan(amplitude_rise(run))
    assert sharpness_turn(run) == pytest.approx(5.5 / np.mean([4, 4, 4, 5.5]))
    assert np.isnan(sharpness_turn(run, at="before"))


def test_without_an_onset_there_is_no_spike():
    run = made(steps=STEPS, onset=10_000, series={"oscillation": np.ones(STEPS)})
    assert spike_step(run) is None
    assert np.isnan([amplitude_rise(run), sharpness_turn(run)]).all()


def test_other_moments_are_refused():
    with pytest.raises(ValueError, match='at must be "spike" or "after"'):
        amplitude_rise(with_spike(), at="sooner")
    with pytest.raises(ValueError, match='at must be "spike" or "before"'):
        sharpness_turn(with_spike(), at="sooner")
