"""Spikes of the loss: their number and spacing, and where there is none."""

import numpy as np
import pytest
from recorded import recorded

from nets.presets.measures.spikes import find_spikes, late_spikes, spike_spacing

STEPS = np.arange(1000)


def decay_with_spikes(peaks, height=1.0):
    loss = np.exp(-STEPS / 50.0) + 1e-6
    for peak in peaks:
        loss = loss + height * np.exp(-np.abs(STEPS - peak) / 5.0)
    return loss


@pytest.mark.parametrize("peaks", [(500,), (400, 600, 800), (350, 450, 550, 650, 750)])
def test_spikes_are_counted_with_their_peaks(peaks):
    run = recorded(loss=decay_with_spikes(peaks))
    assert late_spikes(run) == len(peaks)
    assert [peak for _, peak in find_spikes(run.loss, 0.01, 10)] == list(peaks)
    assert all(begin <= peak for begin, peak in find_spikes(run.loss, 0.01, 10))
    spacing = spike_spacing(run)
    assert np.isnan(spacing) if len(peaks) == 1 else spacing == peaks[1] - peaks[0]


def test_no_spikes_in_a_decay_with_noise_nor_before_the_loss_was_low():
    noise = np.exp(0.3 * np.random.default_rng(0).standard_normal(1000))
    assert late_spikes(recorded(loss=decay_with_spikes(()) * noise)) == 0
    early = np.where(STEPS < 100, 1.0, 0.5) + 20.0 * (STEPS == 50)
    assert late_spikes(recorded(loss=early)) == 0


def test_a_rise_that_does_not_fall_again_is_none():
    assert late_spikes(recorded(loss=decay_with_spikes(()) + (STEPS > 500))) == 0
    loss = decay_with_spikes((500,))
    loss[502:] = np.nan
    assert late_spikes(recorded(loss=loss)) == 0
