"""Spikes of the loss: their number, spacing and what precedes them, and where there is none."""

import numpy as np
import pytest
from recorded import recorded

from nets.presets.measures.slingshots import (
    accuracy_gain,
    find_spikes,
    late_spikes,
    leading_class,
    leading_share,
    spike_irregularity,
    spike_spacing,
)

STEPS = np.arange(1000)


def decay_with_spikes(peaks, height=1.0):
    loss = np.exp(-STEPS / 20.0) + 1e-6
    for peak in peaks:
        loss = loss + height * np.exp(-np.abs(STEPS - peak) / 5.0)
    return loss


@pytest.mark.parametrize(
    "peaks", [(500,), (400, 600, 800), (300, 430, 560, 695, 830), (400, 600, 610, 900), (400, 600, 690, 900)]
)
def test_spikes_are_counted_with_their_peaks(peaks):
    run = recorded(loss=decay_with_spikes(peaks))
    # no low loss lies before 610, and 690 begins 20 steps after the spike at 600 ends
    apart = [p for p in peaks if p not in (610, 690)]
    assert late_spikes(run) == len(apart)
    assert [peak for _, peak in find_spikes(run.loss, 1e-4, 1e-2)] == apart
    # exp(-t/5) passes 0.01 at t = 23.03
    assert [begin for begin, _ in find_spikes(run.loss, 1e-4, 1e-2)] == [p - 23 for p in apart]
    if len(apart) == 1:
        assert np.isnan(spike_spacing(run))
    else:
        assert spike_spacing(run) == np.diff(apart).mean()
    if len(apart) > 2:
        assert spike_irregularity(run) == pytest.approx(np.diff(apart).std() / np.diff(apart).mean())
    else:
        assert np.isnan(spike_irregularity(run))


def test_no_spikes_in_a_decay_with_noise_nor_before_the_loss_was_low():
    noise = np.exp(0.3 * np.random.default_rng(0).standard_normal(1000))
    assert late_spikes(recorded(loss=decay_with_spikes(()) * noise)) == 0
    assert late_spikes(recorded(loss=np.where(STEPS < 100, 1.0, 0.5) + 20.0 * (STEPS == 50))) == 0


def test_a_rise_that_does_not_fall_again_is_none():
    assert late_spikes(recorded(loss=decay_with_spikes(()) + (STEPS > 500))) == 0
    loss = decay_with_spikes((500,))
    loss[502:] = np.nan
    assert late_spikes(recorded(loss=loss)) == 0


def with_examples(peaks=(400, 700)):
    """Losses of 100 examples of 10 classes; in the ten steps before a spike those of class 3 hold most of the loss."""
    loss = decay_with_spikes(peaks)
    losses = loss[:, None] * (1 + 0.1 * np.random.default_rng(1).random((1000, 100)))
    for begin, _ in find_spikes(loss, 1e-4, 1e-2):
        losses[begin - 10 : begin, 3::10] *= 50
    classes = np.tile(np.arange(10), 10)
    return recorded(example_loss=losses, loss=loss, fixed_target=classes)


def test_those_that_lead_before_a_spike_and_their_class():
    run = with_examples()
    # ten of a hundred with 50 times the loss of the others, up to the noise of a tenth
    assert leading_share(run, share=0.1) == pytest.approx(500 / 590, rel=0.05)
    assert leading_class(run, share=0.1) == 1
    assert leading_share(run, share=0.1, earlier=30) == pytest.approx(0.1, rel=0.1)
    assert leading_class(run, share=0.1, earlier=30) < 0.5
    for measured in (leading_share, leading_class):
        assert np.isnan(measured(run, earlier=600))
        assert np.isnan(measured(with_examples(())))
    run.losses[330:350] = 0.0  # below what single precision holds
    assert leading_share(run, share=0.1, earlier=30) == pytest.approx(0.05, rel=0.1)


def test_gain_of_the_held_out_accuracy_over_the_spikes():
    accuracy = np.where(STEPS % 20 == 0, np.where(STEPS < 450, 0.1, 0.8), np.nan)
    run = recorded(loss=decay_with_spikes((400, 700)), held_out_accuracy=accuracy)
    assert accuracy_gain(run) == pytest.approx(0.7)
    assert np.isnan(accuracy_gain(recorded(loss=decay_with_spikes(()), held_out_accuracy=accuracy)))
