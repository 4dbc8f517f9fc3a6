"""Measures of pairs of groups on records whose groups are known, and where there is none."""

import numpy as np
import pytest
from made_outcomes import made, taking_turns

from nets.presets.measures.groups import Pair, agreement, find_pair, group_sets, opposition, pair_size, swing

A, B = np.arange(6), np.arange(6, 14)


@pytest.fixture(scope="module")
def turns():
    return made(taking_turns(A, B, 200, 140))


def test_the_pair_that_takes_turns_is_found_after_the_onset(turns):
    pair = find_pair(turns)
    assert pair is not None
    assert {tuple(sorted(pair.first)), tuple(sorted(pair.second))} == {tuple(A), tuple(B)}
    assert (pair.start, pair.stop) == (70, 110)
    assert pair_size(turns) == 14


def test_opposition_and_swing_of_the_pair_and_of_others(turns):
    assert opposition(turns) > 0.99
    assert abs(opposition(turns, groups="random")) < 0.2  # independent noise
    assert swing(turns) == pytest.approx(2.0, rel=0.01)  # alternation by 1 changes by 2
    # mean of m independent noises, differenced: variance 0.01^2 * 2/m; and the drift of all
    drift = np.mean(np.diff(np.exp(-np.arange(70, 110) / 100)) ** 2)
    expected = np.mean(np.sqrt(drift + 0.01**2 * 2 / np.array([len(A), len(B)])))
    assert swing(turns, groups="random") == pytest.approx(expected, rel=0.1)


def test_groups_that_rise_and_fall_together_are_not_opposed(turns):
    steps = np.arange(140)
    together = made(np.cos(steps)[:, None] * np.ones(200) + 0.01 * np.random.default_rng(1).standard_normal((140, 200)))
    assert opposition(together, turns) < -0.9


def test_measured_in_another_run(turns):
    still = made(taking_turns(A, B, 200, 140, size=0.0, seed=3))
    assert pair_size(still) == 0
    assert np.isnan(opposition(still))
    assert abs(opposition(still, turns)) < 0.5
    assert agreement(still, turns) == pytest.approx(0.5, abs=0.15)
    assert agreement(turns, turns) == 1.0
    assert agreement(turns, turns, groups="random") == pytest.approx(0.5, abs=0.15)


def test_without_onset_or_with_too_short_a_record_there_is_no_pair(turns):
    losses = turns.losses
    assert find_pair(made(losses, onset=10_000)) is None
    assert find_pair(made(losses[:109])) is None  # onset 10, 60 steps to find and 40 to measure
    assert find_pair(made(losses[:110])) is not None
    assert np.isnan(swing(made(losses[:109])))


def test_matched_groups_have_the_losses_of_the_members():
    losses = np.concatenate([np.full(5, 9.0), np.full(5, 1.0), np.full(50, 9.1), np.full(50, 1.1), np.full(50, 4.0)])
    pair = Pair(np.arange(5), np.arange(5, 10), 0, 1)
    for first, second in group_sets(pair, losses, "matched"):
        assert len(set(first)) == len(set(second)) == 5
        assert (losses[first] == 9.1).all()
        assert (losses[second] == 1.1).all()
    drawn = group_sets(pair, losses, "random")
    assert all(not np.isin(np.concatenate(s), np.arange(10)).any() for s in drawn)
    assert {float(losses[i]) for s in drawn for i in np.concatenate(s)} == {9.1, 1.1, 4.0}


def test_unknown_groups_and_too_few_others_are_refused(turns):
    with pytest.raises(ValueError, match='groups must be "pair", "random" or "matched"'):
        opposition(turns, groups="others")
    with pytest.raises(ValueError, match="6 members, 4 others"):
        group_sets(Pair(np.arange(3), np.arange(3, 6), 0, 1), np.ones(10), "random")
