"""Points that oscillate with a weight that changes its sign along a curve, and points that only drift."""

import numpy as np
from recorded import recorded

from nets.config import TrainConfig
from nets.presets.measures.curves import opposite_ends, opposite_random, strongest_ends

N, STEPS = 50, 160
WEIGHTS = np.sin(np.linspace(0.3, 6.0, N))  # no outliers among them


def curve(weights, onset=20, seed=0):
    flip = (-1.0) ** np.arange(STEPS)
    noise = 0.01 * np.random.default_rng(seed).standard_normal((STEPS, N))
    losses = 3 + flip[:, None] * weights + np.exp(-np.arange(STEPS) / 50)[:, None] + noise
    sharpness = np.where(np.arange(STEPS) < onset, 1.0, 6.0)
    return recorded(config=TrainConfig(lr=0.4), example_loss=losses, loss=losses.mean(1), sharpness=sharpness)


def test_the_ends_are_the_largest_weights_of_either_sign():
    run = curve(WEIGHTS)
    assert run.onset == 20
    first, second = strongest_ends(run.losses[20:80], 20, 0.2)
    order = np.argsort(WEIGHTS)
    assert {frozenset(first), frozenset(second)} == {frozenset(order[:5]), frozenset(order[-5:])}


def test_their_losses_go_opposite_ways_and_those_of_random_groups_any_way():
    run = curve(WEIGHTS)
    assert opposite_ends(run) > 0.99
    assert abs(opposite_random(run)) < 0.5  # signs of means of random members: about fair
    together = curve(np.abs(WEIGHTS) + 0.1)
    assert np.isnan(opposite_ends(together))


def test_nothing_where_nothing_alternates_or_no_onset_comes():
    still = curve(np.zeros(N))
    assert np.isnan(opposite_ends(still))
    assert np.isnan(opposite_random(still))
    assert np.isnan(opposite_ends(curve(WEIGHTS, onset=STEPS)))
    assert np.isnan(opposite_ends(curve(WEIGHTS, onset=61)))  # 60 and 40 steps more than there are
    assert not np.isnan(opposite_ends(curve(WEIGHTS, onset=60)))
