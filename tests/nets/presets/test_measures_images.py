"""Complexity of the leading pair along records whose pair differs in finer and finer stripes."""

import numpy as np
import pytest
from made_outcomes import made, taking_turns

from nets.data.dataset import Dataset
from nets.presets.measures.images import complexity_trend

PERIODS = (16, 8, 4, 2)
PAIRS = [(np.arange(20 * k, 20 * k + 10), np.arange(20 * k + 10, 20 * k + 20)) for k in range(len(PERIODS))]
N = 200


def stripes():
    """Noise; the two groups of pair k differ in stripes of the k-th period."""
    images = 0.1 * np.random.default_rng(0).standard_normal((N, 16, 16))
    for period, (first, second) in zip(PERIODS, PAIRS, strict=True):
        wave = np.cos(2 * np.pi * np.arange(16) / period)[:, None]
        images[first] += wave
        images[second] -= wave
    return Dataset(images.reshape(N, -1), np.zeros(N, dtype=int), 2, (16, 16), "stripes", ("a", "b"))


def one_after_the_other(order):
    return np.concatenate([taking_turns(*PAIRS[k], N, 80, seed=k) for k in order])


@pytest.mark.parametrize(("order", "trend"), [((0, 1, 2, 3), 1), ((3, 2, 1, 0), -1)])
def test_the_trend_is_that_of_the_stripes(order, trend):
    run = made(one_after_the_other(order), dataset=stripes())
    # windows within one pair's steps tie, up to the random groups they are compared with
    assert trend * complexity_trend(run) > 0.9
    assert abs(complexity_trend(run, groups="random")) < 0.7


def test_other_groups_are_refused():
    with pytest.raises(ValueError, match='groups must be "pair" or "random"'):
        complexity_trend(made(taking_turns(*PAIRS[0], N, 80), dataset=stripes()), groups="matched")


def test_too_few_windows_with_a_pair_give_no_trend():
    quiet = made(taking_turns(*PAIRS[0], N, 320, size=0.0), dataset=stripes())
    assert np.isnan(complexity_trend(quiet))


def test_other_data_are_refused():
    data = Dataset(np.zeros((N, 4)), np.zeros(N, dtype=int), 2, None, "made", ("a", "b"))
    with pytest.raises(ValueError, match="measure is of images"):
        complexity_trend(made(taking_turns(*PAIRS[0], N, 80), dataset=data))
