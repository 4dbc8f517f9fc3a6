"""Detection in losses: planted alternations, exact calibration of the test, nulls, equivariance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, kstest

from analysis.decomposition import count_components, robust_low_rank
from analysis.demodulation import RunningDemodulation, block_starts, demodulated_blocks
from analysis.detection import detect_in_blocks, detect_in_losses
from analysis.opposition import reversal_p_values

N, STEPS = 120, 40


def alternation(weights, steps=STEPS, first=0, growth=0.0):
    n = np.arange(first, first + steps)
    return np.exp(growth * (n - first))[:, None] * ((-1.0) ** n)[:, None] * np.asarray(weights)


def planted(seed=0, growth=0.0, strength=1.0, noise=0.02):
    """Two pairs on disjoint examples with rhythms of their own, on noise and a drift of large errors."""
    rng = np.random.default_rng(seed)
    w1, w2 = np.zeros(N), np.zeros(N)
    w1[:5], w1[5:10] = 1.0, -0.9
    w2[10:14], w2[14:18] = 0.7, -0.7
    slow = np.linspace(0.05, 1.8, STEPS)[:: 1 if growth <= 0 else -1, None]
    drift = rng.uniform(0, 30, N) * np.exp(-np.arange(STEPS) / 60)[:, None]
    waves = alternation(strength * w1, growth=growth) + slow * alternation(strength * w2)
    return drift + waves + noise * rng.standard_normal((STEPS, N)), w1, w2


def cubic_residual(step):
    """Third difference of n³ is 6: what the filter leaves of n³/8 is 6/8 with the block's sign."""
    return 0.75 * (-1.0 if step % 2 == 0 else 1.0)


def test_blocks_keep_the_alternation_and_drop_a_drift_of_second_order():
    first = 7
    n = np.arange(first, first + 33.0)[:, None]
    weights = np.array([0.5, -0.25, 0.0])
    starts, z = demodulated_blocks(100 - 3 * n + 0.5 * n**2 + alternation(weights, 33, first), first)
    assert starts.tolist() == [10, 15, 20, 25, 30, 35]
    np.testing.assert_allclose(z, np.tile(weights, (6, 1)), atol=1e-11)  # rounding of values near 1e3
    _, z = demodulated_blocks(n**3 + 0 * weights, first)
    np.testing.assert_allclose(z[:, 0], [cubic_residual(s) for s in starts], atol=1e-9)


def test_blocks_read_backwards_change_sign_and_share_no_step():
    rng = np.random.default_rng(0)
    losses = rng.standard_normal((4, 5))
    np.testing.assert_allclose(demodulated_blocks(losses[::-1])[1], -demodulated_blocks(losses)[1], rtol=1e-14)
    starts = block_starts(0, 100)
    assert (np.diff(starts) == 5).all()
    assert starts[-1] + 3 <= 100
    assert block_starts(1, 7).size == 0


def test_blocks_leave_out_what_is_not_finite_and_refuse_bad_shapes():
    losses = np.ones((20, 3))
    losses[6, 1] = np.nan
    assert demodulated_blocks(losses)[0].tolist() == [0, 10, 15]
    with pytest.raises(ValueError, match=r"losses must have shape \(steps, examples\), got \(20,\)"):
        demodulated_blocks(losses[:, 0])
    with pytest.raises(ValueError, match="first_step must not be negative, got -1"):
        demodulated_blocks(losses, -1)


@given(first=st.integers(0, 30), seed=st.integers(0, 99), gap=st.integers(3, 40))
@settings(max_examples=30, deadline=None)
def test_running_demodulation_equals_the_record(first, seed, gap):
    losses = np.random.default_rng(seed).standard_normal((45, 4))
    losses[gap] = np.nan
    running = RunningDemodulation(blocks=100)
    for k, row in enumerate(losses):
        running.add(first + k, row)
    for got, expected in zip(running.blocks(), demodulated_blocks(losses, first), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_running_demodulation_holds_a_fixed_number_of_blocks():
    running = RunningDemodulation(blocks=3)
    sizes = []
    for step in range(400):
        running.add(step, np.full(10, float(step)))
        sizes.append(running.nbytes)
    assert max(sizes) == sizes[-1] == (3 + 4) * 80
    assert running.blocks()[0].tolist() == [385, 390, 395]
    with pytest.raises(ValueError, match="step must increase, got 399 after 399"):
        running.add(399, np.zeros(10))
    with pytest.raises(ValueError, match="losses must hold 10 examples as before, got 9"):
        running.add(400, np.zeros(9))


def test_a_step_left_out_leaves_out_its_block():
    running = RunningDemodulation()
    for step in [*range(0, 7), *range(8, 20)]:
        running.add(step, np.zeros(2))
    assert running.blocks()[0].tolist() == [0, 10, 15]


@pytest.mark.parametrize("growth", [0.0, 0.02, -0.05])
def test_two_planted_pairs_are_told_apart(growth):
    losses, w1, w2 = planted(growth=growth)
    found = detect_in_losses(losses)
    assert len(found.significant()) == 2
    for w in (w1, w2):
        pair = max(found.pairs, key=lambda p: abs(p.weights @ w))
        assert set(pair.members) == set(np.flatnonzero(w))
        assert (np.sign(pair.weights[w != 0]) == np.sign(w[w != 0])).all()
        assert set(pair.groups[0]) == set(np.flatnonzero(w > 0))
        assert pair.opposition == pytest.approx(1 - abs(w.sum()) / np.abs(w).sum(), abs=0.05)
        assert pair.p_signs == 2.0**-7
        assert pair.amplitude == pytest.approx(np.sqrt(np.mean(pair.series**2)) / np.sqrt((w != 0).sum()), rel=0.05)
    pair = max(found.pairs, key=lambda p: abs(p.weights @ w1))
    # standard error of the slope: noise of one block's amplitude over its least size, 8 blocks 5 steps apart
    least = np.linalg.norm(w1) * min(1.0, np.exp(growth * STEPS))
    error = 0.02 * np.sqrt(20 / 64) / least / np.sqrt((np.arange(8) * 5.0).var() * 8)
    assert pair.growth_rate == pytest.approx(growth, abs=5 * error)


def test_amplitude_is_the_planted_one_in_loss_units():
    w = np.zeros(N)
    w[:6], w[6:12] = 0.5, -0.5
    pair = detect_in_losses(alternation(w) + 1e-6 * np.random.default_rng(1).standard_normal((STEPS, N))).pairs[0]
    assert pair.amplitude == pytest.approx(0.5, rel=1e-4)
    np.testing.assert_allclose(pair.weights[:12], w[:12], rtol=1e-4)
    assert pair.energy_share == pytest.approx(1.0, abs=1e-6)
    assert pair.opposition == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("tau", [5.0, 30.0, 300.0])
def test_large_error_alone_does_not_qualify(tau):
    size = 1 / (1 - np.random.default_rng(2).random(N)) ** 0.7  # heavy-tailed errors, falling smoothly
    found = detect_in_losses(size * np.exp(-np.arange(STEPS) / tau)[:, None])
    assert found.p_value > 0.5
    assert not found.significant()


def test_one_jump_of_one_example_makes_no_pair():
    losses, w1, _ = planted()
    losses[21:, 60] += 50.0
    losses[33, 61] += 80.0
    found = detect_in_losses(losses)
    assert not {60, 61} & {i for p in found.significant() for i in p.members}
    assert set(found.pairs[0].members) == set(np.flatnonzero(w1))


def test_an_edge_without_outliers_is_no_opposing_signal():
    rng = np.random.default_rng(3)
    losses = alternation(rng.standard_normal(N)) + 0.01 * rng.standard_normal((STEPS, N))
    pair = detect_in_losses(losses).pairs[0]
    assert pair.p_signs == 2.0**-7
    assert pair.p_value == pair.p_outliers > 0.05


NOISES = {
    "normal": lambda rng: rng.standard_normal((STEPS, 60)),
    "heavy tails": lambda rng: rng.standard_t(1.5, (STEPS, 60)),
    "skewed": lambda rng: rng.exponential(size=(STEPS, 60)) ** 2,
    "one shared direction": lambda rng: rng.standard_normal((STEPS, 1)) * rng.standard_t(2, 60),
    "random walk": lambda rng: rng.standard_normal((STEPS, 60)).cumsum(axis=0),
}


@pytest.mark.parametrize("name", NOISES)
def test_p_values_are_uniform_without_a_signal(name):
    """200 windows: p · 128 is uniform on 1..128; spread over its step it is uniform on [0, 1]."""
    drift = 5 + 0.1 * np.arange(STEPS) + 0.01 * np.arange(STEPS) ** 2
    p, detected = [], 0
    for seed in range(200):
        rng = np.random.default_rng([seed, 77])
        found = detect_in_losses(drift[:, None] + NOISES[name](rng))
        p.append(found.pairs[0].p_signs - rng.random() / 128)
        detected += found.p_value <= 0.05
    assert kstest(p, "uniform").pvalue > 1e-3  # five noises: a correct test fails once in 200 runs of this file
    assert detected <= binom.ppf(1 - 1e-3, 200, 0.05)


def test_calibration_fails_where_blocks_share_steps():
    """The check above can fail: in blocks that overlap by three steps the signs are not independent."""
    p = []
    for seed in range(200):
        losses = np.random.default_rng([seed, 78]).standard_normal((STEPS, 60))
        z = np.array([(-1.0) ** s * np.array([1, -3, 3, -1]) @ losses[s : s + 4] / 8 for s in range(8)])
        p.append(detect_in_blocks(np.arange(8), z).pairs[0].p_signs - 1 / 256)
    assert kstest(p, "uniform").pvalue < 1e-3


def test_reversal_p_values_count_patterns():
    a = np.array([[4.0], [1.0], [9.0]])  # roots 2, 1, 3: |sums| 6, 4, 2, 0 up to a common sign
    assert reversal_p_values(a).tolist() == [0.25]
    assert reversal_p_values(a * [[1], [-1], [1]]).tolist() == [0.5]
    assert reversal_p_values(np.ones((14, 1)), draws=999)[0] == pytest.approx(1 / 1000, abs=1e-12 + 2 / 1000)
    with pytest.raises(ValueError, match="amplitudes must have shape"):
        reversal_p_values(np.ones(3))


@given(seed=st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_detection_is_equivariant_and_knows_no_scale(seed):
    losses, *_ = planted(seed)
    order = np.random.default_rng(seed).permutation(N)
    one, other = detect_in_losses(losses), detect_in_losses(1e-9 * losses[:, order])
    assert len(one.pairs) == len(other.pairs)
    for a, b in zip(one.pairs, other.pairs, strict=True):
        assert [order[i] for i in b.members] == list(a.members)
        np.testing.assert_allclose(1e9 * b.weights, a.weights[order], rtol=1e-6, atol=1e-7)
        assert b.p_signs == a.p_signs
    flipped = detect_in_losses(-losses)
    assert {p.members for p in flipped.pairs} == {p.members for p in one.pairs}
    shifted = detect_in_losses(losses, first_step=5)  # odd start: high at even steps becomes high at odd steps
    assert shifted.pairs[0].groups == one.pairs[0].groups[::-1]


def test_example_vectors_do_not_know_the_signs_of_blocks():
    rng = np.random.default_rng(5)
    z = rng.standard_normal((8, 3)) @ rng.standard_t(2, (3, 50)) + 0.1 * rng.standard_normal((8, 50))
    signs = np.array([1, -1, 1, 1, -1, -1, 1, -1.0])[:, None]
    assert count_components(z, 4) == count_components(signs * z, 4) == 3
    for a, b in zip(robust_low_rank(z, 3)[1].T, robust_low_rank(signs * z, 3)[1].T, strict=True):
        assert abs(a @ b) == pytest.approx(1.0, abs=1e-9)


def test_independent_examples_are_one_component_at_the_stated_rate():
    counts = [count_components(np.random.default_rng(s).standard_normal((8, 60)), 4, seed=s) for s in range(200)]
    second = sum(c > 1 for c in counts)
    assert second <= binom.ppf(1 - 1e-3, 200, 1 / 21)


def test_nothing_moves_gives_no_pair_and_few_blocks_are_refused():
    assert detect_in_losses(np.ones((STEPS, 5))).pairs == ()
    assert detect_in_losses(np.ones((STEPS, 5))).p_value == 1.0
    with pytest.raises(ValueError, match="a detection needs 3 blocks of finite losses and 2 examples, got 2 and 5"):
        detect_in_losses(np.ones((10, 5)))
    with pytest.raises(ValueError, match="max_pairs must be at least 1, got 0"):
        detect_in_losses(np.ones((STEPS, 5)), max_pairs=0)
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got 5"):
        detect_in_losses(np.ones((STEPS, 5))).significant(5)
