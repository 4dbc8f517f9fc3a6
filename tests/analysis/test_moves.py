"""Detection from the k largest moves: equal to the full record where examples are followed, honest where not."""

import numpy as np
import pytest
from scipy.stats import binom

from analysis.demodulation import demodulated_blocks
from analysis.detection import detect_in_losses
from analysis.moves import Moves, detect_in_moves
from analysis.timeline import find_signals

STEPS, N = 60, 150


def moves_of(losses, k, first_step=0):
    """The k largest moves, by a full sort."""
    before = np.vstack([np.full(losses.shape[1], np.nan), losses[:-1]])
    size = np.abs(losses - before)
    size[0] = losses[0]
    kept = np.argsort(-size, axis=1)[:, :k]
    pick = (np.take_along_axis(a, kept, axis=1) for a in (losses, before))
    return Moves(kept, *pick, np.median(size, axis=1), losses.shape[1], first_step)


def walk(rng, pair=0.0, group=12):
    """Random walks of the losses, and a pair of groups of ``group`` examples that takes turns."""
    losses = 5 + rng.normal(size=(STEPS, N)).cumsum(axis=0)
    alternation = np.where(np.arange(STEPS) % 2 == 0, 1.0, -1.0)[:, None]
    losses[:, :group] += pair * alternation
    losses[:, group : 2 * group] -= pair * alternation
    return losses


@pytest.mark.parametrize("first", [0, 3, 7])
def test_followed_examples_have_the_full_record_s_blocks(rng, first):
    losses = walk(rng, pair=2.0)
    moves = moves_of(losses, 60, first)
    followed, known = moves.window(first + 2, first + 21)
    starts, z = demodulated_blocks(known, first + 2)
    full_starts, full = demodulated_blocks(losses[2:22], first + 2)
    np.testing.assert_array_equal(starts, full_starts)
    np.testing.assert_array_equal(z, full[:, followed])
    # followed, counted one by one: among the 60 at each inner step of each block
    inner = [s + j - first for s in starts for j in (1, 2, 3)]
    assert list(followed) == [i for i in range(N) if all(i in moves.examples[row] for row in inner)]
    assert 24 <= len(followed) < N


def test_all_moves_are_the_full_record(rng):
    losses = walk(rng, pair=2.0)
    found, followed = detect_in_moves(moves_of(losses, N), 0, 39)
    full = detect_in_losses(losses[:40])
    assert len(followed) == N
    for a, b in zip(found.pairs, full.pairs, strict=True):
        np.testing.assert_array_equal(a.weights, b.weights)
        assert a.p_signs == b.p_signs


def test_a_planted_pair_is_found_with_its_members_and_signs(rng):
    losses = walk(rng, pair=4.0)
    pair = detect_in_moves(moves_of(losses, 40), 0, 39)[0].pairs[0]
    first, second = pair.groups
    assert set(first) == set(range(12))
    assert set(second) == set(range(12, 24))
    assert pair.p_signs <= 2**-7
    assert pair.amplitude == pytest.approx(4.0, rel=0.2)
    timeline = find_signals(moves_of(losses, 40), outliers=False)
    assert [set(s.pair.members) for s in timeline.signals] == [set(range(24))]
    assert 24 <= timeline.examples <= 40
    assert find_signals(losses, outliers=False).examples == N


def test_a_signal_smaller_than_k_others_is_not_seen(rng):
    losses = walk(rng, pair=4.0)
    losses[:, 24:64] += 30 * rng.normal(size=(STEPS, 40)).cumsum(axis=0)  # 40 larger moves at every step
    found, followed = detect_in_moves(moves_of(losses, 40), 0, 39)
    assert not set(followed) & set(range(24))
    assert all(not set(p.members) & set(range(24)) for p in found.pairs)


def test_no_signal_no_detection(rng):
    """Exchangeable noise: p-values of the signs at most as often small as their level says."""
    draws, level = 150, 0.05
    small, counts = 0, []
    sizes = rng.lognormal(sigma=2.0, size=N)  # unequal examples, or none would stay among the largest
    for _ in range(draws):
        found, followed = detect_in_moves(moves_of(sizes * rng.exponential(size=(STEPS, N)), 60), 0, 39)
        counts.append(len(followed))
        small += bool(found.significant(level, outliers=False))
    assert 5 <= np.median(counts) < 60
    assert small <= binom.ppf(0.999, draws, level)


def test_rows_after_divergence_and_short_records(rng):
    losses = walk(rng, pair=4.0)
    losses[50:] = np.nan
    assert moves_of(losses, 40).steps == 50
    assert find_signals(moves_of(losses, 40), outliers=False).last_step < 50
    with pytest.raises(ValueError, match="window of 40 finite steps, got 30"):
        find_signals(moves_of(losses[:30], 40))
    with pytest.raises(ValueError, match="moves must have the shapes"):
        Moves(np.zeros((3, 2), int), np.zeros((3, 2)), np.zeros((3, 1)), np.zeros(3), 5)
    with pytest.raises(ValueError, match="indices below 5, got 7"):
        Moves(np.full((3, 2), 7), np.zeros((3, 2)), np.zeros((3, 2)), np.zeros(3), 5)


@pytest.mark.parametrize("k", [2, 40])  # next to none followed, and many
def test_windows_that_the_record_cannot_answer_are_named(rng, k):
    moves = moves_of(walk(rng, pair=4.0), k, first_step=10)
    for first, last, blocks in ((10, 12, 0), (10, 14, 1), (11, 23, 2), (10, 22, 2)):
        with pytest.raises(ValueError, match=f"a window must hold 3 blocks, got {blocks} in steps {first} to {last}"):
            detect_in_moves(moves, first, last)
    assert detect_in_moves(moves, 10, 23)[0].last_step == 23
    for first, last in ((0, 39), (9, 48), (40, 70), (48, 20)):
        for ask in (moves.window, moves.typical_size, lambda a, b: detect_in_moves(moves, a, b)):
            with pytest.raises(ValueError, match=f"window must lie within steps 10 to 69, got {first} to {last}"):
                ask(first, last)


def test_nothing_followed_is_no_pair(rng):
    found, followed = detect_in_moves(moves_of(rng.exponential(size=(STEPS, N)), 2), 0, 39)
    assert len(followed) < 2
    assert found.pairs == ()
    assert found.p_value == 1


@pytest.fixture
def rng():
    return np.random.default_rng(0)
