"""Measures of pairs of tokens: one context with two continuations against others."""

import numpy as np
import pytest
from made_outcomes import made, taking_turns

from nets.data.dataset import Dataset
from nets.presets.measures.tokens import continuation_opposition, other_continuation, shared_context

A, B = np.arange(6), np.arange(6, 14)


def tokens(before, target):
    shape = (20, 10)
    names = tuple("abcdefgh")
    return Dataset(before.reshape(shape), target.reshape(shape), 8, None, "text", names, kind="tokens", vocabulary=8)


def run_on(before, target):
    return made(taking_turns(A, B, 200, 140), dataset=tokens(before, target))


def test_one_context_with_two_continuations():
    rng = np.random.default_rng(0)
    before, target = rng.integers(0, 8, 200), rng.integers(0, 8, 200)
    before[np.concatenate([A, B])], target[A], target[B] = 5, 1, 2
    run = run_on(before, target)
    assert shared_context(run) == 1.0
    assert other_continuation(run) == 1.0
    # uniform tokens: one in eight contexts is shared, seven in eight continuations differ
    assert shared_context(run, groups="random") == pytest.approx(1 / 8, abs=0.03)
    assert other_continuation(run, groups="random") == pytest.approx(7 / 8, abs=0.05)


def test_counts_by_hand():
    before, target = np.zeros(200, dtype=int), np.zeros(200, dtype=int)
    before[B[:4]] = 1  # half of the second group follows another token
    target[A[:3]] = 3  # half of the first group continues otherwise
    run = run_on(before, target)
    assert shared_context(run) == 0.5
    assert other_continuation(run) == 0.5


def test_other_data_are_refused():
    data = Dataset(np.zeros((200, 4)), np.zeros(200, dtype=int), 2, None, "made", ("a", "b"))
    with pytest.raises(ValueError, match="data of kind tokens"):
        shared_context(made(taking_turns(A, B, 200, 140), dataset=data))


def test_without_a_pair_there_is_no_value():
    quiet = made(taking_turns(A, B, 200, 140, size=0.0), dataset=tokens(np.zeros(200, int), np.zeros(200, int)))
    assert np.isnan(shared_context(quiet))
    assert np.isnan(other_continuation(quiet))


def after_a_colon(size):
    """Twelve tokens after "h", six followed by "b" and six by "c", whose losses alternate against each other."""
    before, target = np.zeros(200, dtype=int), np.zeros(200, dtype=int)
    before[:12], target[:6], target[6:12] = 7, 1, 2
    losses = taking_turns(np.arange(6), np.arange(6, 12), 200, 140, size=size)
    losses[:, :12] += 0.3 * np.cos(np.arange(140))[:, None]  # and rise and fall together
    return made(losses, dataset=tokens(before, target))


def test_two_continuations_of_one_token():
    run = after_a_colon(1.0)
    assert continuation_opposition(run, context="h") > 0.9
    assert continuation_opposition(run, context="h", split="random") < 0.5
    assert np.isnan(continuation_opposition(run, context="a"))  # one continuation alone
    assert continuation_opposition(after_a_colon(0.0), context="h") < -0.9
    with pytest.raises(ValueError, match="context must be a token of the text"):
        continuation_opposition(run, context="z")
    with pytest.raises(ValueError, match='split "continuation" or "random"'):
        continuation_opposition(run, context="h", split="half")
