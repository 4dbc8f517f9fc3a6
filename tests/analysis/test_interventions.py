"""Interventions on arrays against what they are defined by, written out independently."""

import numpy as np
import pytest

from analysis.interventions import (
    Groups,
    balancing_factors,
    blurred,
    common_feature,
    example_weights,
    highest_loss_groups,
    random_groups,
    strongest_groups,
    with_mean_ground,
    without_feature,
)

PAIR = Groups((3, 1), (5, 0, 7))


def test_strongest_groups_keep_the_largest_weights_and_their_signs():
    weights = np.array([0.1, -5.0, 2.0, -0.3, 4.0, 9.0])
    assert strongest_groups(weights, [0, 1, 2, 3, 4], 3) == Groups((4, 2), (1,))
    assert strongest_groups(-weights, [0, 1, 2, 3, 4], 3) == Groups((1,), (4, 2))
    with pytest.raises(ValueError, match="at least one member, got 0 members"):
        strongest_groups(weights, [], 3)


def test_random_groups_are_others_of_the_same_sizes_and_depend_on_the_seed():
    drawn = [random_groups(40, PAIR, seed) for seed in range(200)]
    assert all((len(g.first), len(g.second)) == (2, 3) for g in drawn)
    assert all(len(set(g.members)) == 5 and not set(g.members) & set(PAIR.members) for g in drawn)
    assert random_groups(40, PAIR, 3) == drawn[3]
    # every other example is drawn equally often: 200·5/35 = 28.6 ± 5 times
    counts = np.bincount(np.concatenate([g.members for g in drawn]), minlength=40)
    others = np.setdiff1d(np.arange(40), PAIR.members)
    assert counts[PAIR.members].sum() == 0
    assert np.abs(counts[others] - 1000 / 35).max() < 5 * np.sqrt(1000 / 35)
    with pytest.raises(ValueError, match="random group of 5 needs as many other examples, got 4"):
        random_groups(9, PAIR)


def test_highest_loss_groups_are_the_highest():
    losses = np.array([5.0, 1.0, 9.0, 2.0, 8.0, 7.0, 3.0, 0.0, 6.0])
    assert highest_loss_groups(losses, PAIR) == Groups((2, 4), (5, 8, 0))


def test_weights_have_mean_one_and_zero_weight_is_leaving_out():
    w = example_weights(10, PAIR, 0.5, 2.0)
    raw = np.array([2, 0.5, 1, 0.5, 1, 2, 1, 2, 1, 1.0])
    np.testing.assert_allclose(w, raw / raw.mean(), rtol=1e-15)
    losses = np.arange(10.0) ** 2
    kept = np.setdiff1d(np.arange(10), PAIR.members)
    assert (example_weights(10, PAIR, 0.0, 0.0) * losses).mean() == pytest.approx(losses[kept].mean(), rel=1e-15)
    with pytest.raises(ValueError, match="weights must be >= 0 and not all 0"):
        example_weights(5, Groups((0, 1, 2, 3, 4), ()), 0.0, 1.0)


@pytest.mark.parametrize(("first", "second"), [(1.0, 3.0), (0.2, 0.2), (1e-9, 5.0)])
def test_balancing_factors_equalise_and_keep_the_sum(first, second):
    a, b = balancing_factors(first, second)
    assert a * first == pytest.approx(b * second, rel=1e-14)
    assert a * first + b * second == pytest.approx(first + second, rel=1e-14)


def test_balancing_refuses_an_empty_side():
    with pytest.raises(ValueError, match="both sides must have a positive total, got 2 and 0"):
        balancing_factors(2, 0)


def test_blur_is_the_convolution_with_a_gaussian():
    sigma, size = 1.5, 31
    impulse = np.zeros((1, size, size, 2))
    impulse[0, 15, 15, 1] = 1.0
    t = np.arange(-6, 7)  # scipy cuts at four deviations
    kernel = np.exp(-(t**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    expected = np.zeros((size, size))
    expected[9:22, 9:22] = np.outer(kernel, kernel)
    out = blurred(impulse, sigma)
    np.testing.assert_allclose(out[0, :, :, 1], expected, atol=1e-15)
    assert not out[..., 0].any()
    assert (blurred(np.full((2, 5, 7), 3.0, dtype=np.float32), sigma) == 3).all()
    assert blurred(np.ones((2, 5, 7), dtype=np.float32), sigma).dtype == np.float32


def test_ground_is_the_others_mean_and_the_middle_stays():
    x = np.random.default_rng(0).normal(size=(6, 8, 8, 3))
    out = with_mean_ground(x, [1, 4], rim=0.25)
    rims = [x[i, r, c] for i in (0, 2, 3, 5) for r in range(8) for c in range(8) if min(r, c, 7 - r, 7 - c) < 2]
    for i in (1, 4):
        for r in range(8):
            for c in range(8):
                wanted = np.mean(rims, axis=0) if min(r, c, 7 - r, 7 - c) < 2 else x[i, r, c]
                np.testing.assert_allclose(out[i, r, c], wanted, atol=1e-14)
    np.testing.assert_array_equal(out[[0, 2, 3, 5]], x[[0, 2, 3, 5]])
    assert with_mean_ground(x[..., 0], [1]).shape == (6, 8, 8)
    with pytest.raises(ValueError, match="must leave other images"):
        with_mean_ground(x, range(6))


@pytest.mark.parametrize("signs", [np.ones(20), np.resize([1.0, -1.0], 20)], ids=["one ground", "opposite grounds"])
def test_common_feature_is_the_planted_one_and_is_removed(signs):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 30))
    q = rng.normal(size=30)
    q /= np.linalg.norm(q)
    x[:20] += 40 * signs[:, None] * q
    found = common_feature(x, np.arange(20))
    # first-order perturbation of the singular vector: noise of norm ~ sqrt(30/20)/40 = 0.03 across
    assert abs(found @ q) > 0.998
    assert x[:20].mean(axis=0) @ found >= 0
    out = without_feature(x.astype(np.float32), found, np.arange(20))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[:20] @ found, 0, atol=2e-5)
    np.testing.assert_array_equal(out[20:], x[20:].astype(np.float32))
    everywhere = without_feature(x, found)
    across = np.eye(30) - np.outer(found, found)
    np.testing.assert_allclose(everywhere, x @ across, atol=1e-12)
    with pytest.raises(ValueError, match="not all 0"):
        common_feature(np.zeros((4, 3)), [0, 1])
