"""Scores, tails and tests on their own oracles; projections before the oscillation against losses during it."""

import numpy as np
import pytest
import torch
from planted_nets import planted_net
from scipy.stats import binom, kstest

from analysis.curvature import flat_hvp, flatten, top_eigenpair
from analysis.curvature.attribution import attribute
from analysis.detection import detect_in_both, detect_in_losses, detect_in_projections, with_gradients
from analysis.opposition import (
    balance,
    cancellation_p_value,
    gradient_opposition,
    hill_tail_index,
    outlier_members,
    outlier_p_value,
    overlap,
    sharpness_share,
)
from analysis.projection import group_gradient, project_losses


def eigenpair(functions):
    losses, params = functions
    points = [p.requires_grad_() for p in params]
    gradients = torch.autograd.grad(losses(points).mean(), points, create_graph=True)
    start = torch.ones(flatten(params).numel(), dtype=torch.float64)
    return top_eigenpair(flat_hvp(gradients, points), start, tol=1e-8, max_products=100)


@pytest.fixture(scope="module")
def before():
    """At step 20, below the edge: sharpness 25.5 of 33.3."""
    net = planted_net(20)
    functions = net.functions()
    pair = eigenpair(functions)
    assert 0.7 < pair.value * net.lr / 2 < 0.8
    projections = project_losses(*functions, pair.vector).numpy()
    curvature = attribute(*functions, pair.vector).curvatures.numpy()
    return net, functions, pair, projections, curvature


@pytest.fixture(scope="module")
def during():
    return detect_in_losses(planted_net(140).losses[100:], first_step=100)


def test_projections_name_the_carriers_before_anything_oscillates(before):
    net, functions, pair, projections, curvature = before
    assert curvature.mean() == pytest.approx(pair.value, rel=1e-6)
    found = detect_in_projections(projections, 20, curvature).pairs[0]
    members = list(found.members)
    assert net.carrier[members].mean() >= 0.95
    assert net.carrier[members].sum() >= 0.95 * net.carrier.sum()
    # in this model s_i = -(sign) c a g0: one sign of the feature is one group
    assert abs(np.sum(np.array(found.signs) * net.sign[members])) == len(members)
    assert found.p_value <= 0.01
    assert found.opposition > 0.9
    assert found.sharpness_share == pytest.approx(curvature[members].sum() / curvature.sum(), rel=1e-12)
    assert found.sharpness_share > 0.9
    exact = with_gradients(detect_in_projections(projections, 20), *functions, vectors=pair.vector).pairs[0]
    assert exact.sharpness_share == pytest.approx(found.sharpness_share, rel=1e-9)
    assert exact.opposition_from == "gradients"
    assert exact.opposition > 0.95


def test_the_record_later_names_the_same_pair(before, during):
    net, _, _, projections, curvature = before
    early = detect_in_projections(projections, 20, curvature)
    joint, agreements = detect_in_both(during, early)
    assert len(joint.pairs) == len(agreements) == 1
    assert agreements[0].jaccard >= 0.95
    assert agreements[0].signs == 1.0
    assert agreements[0].cosine > 0.9
    assert agreements[0].p_value < 1e-10
    assert joint.source == "both"
    assert net.carrier[list(joint.pairs[0].members)].all()
    assert joint.pairs[0].sharpness_share == early.pairs[0].sharpness_share
    assert joint.pairs[0].growth_rate == during.pairs[0].growth_rate > 0
    # and not with another direction: random projections of the same size
    other = detect_in_projections(np.random.default_rng(0).standard_normal(400))
    assert detect_in_both(during, other)[0].pairs == ()
    assert overlap(during.pairs[0].weights, other.pairs[0].weights).p_value > 0.05


def test_several_directions_are_matched_one_to_one(before, during):
    projections = before[3]
    noise = np.random.default_rng(1).standard_normal(400)
    found = detect_in_projections(np.column_stack([noise, -projections]))
    assert len(found.pairs) == 2
    joint, _ = detect_in_both(during, found)
    assert len(joint.pairs) == 1
    assert joint.pairs[0].weights @ during.pairs[0].weights > 0


def test_group_opposition_is_the_cosine_of_the_mean_gradients(before):
    _, functions, *_ = before
    members, signs = [3, 9, 27, 81], [1, -1, -1, 1]
    up = group_gradient(*functions, torch.tensor([3, 81]))
    down = group_gradient(*functions, torch.tensor([9, 27]))
    expected = max(0.0, -torch.nn.functional.cosine_similarity(up, down, dim=0).item())
    assert gradient_opposition(*functions, members, signs) == pytest.approx(expected, abs=1e-12)
    assert gradient_opposition(*functions, members, [1, 1, 1, 1]) == 0.0


def test_balance_and_share():
    assert balance([1.0, -1.0]) == 1.0
    assert balance([2.0, 1.0]) == 0.0
    assert balance([3.0, -1.0]) == 0.5
    assert balance([0.0]) == 0.0
    assert sharpness_share([1.0, 2.0, 7.0], [2]) == 0.7
    assert np.isnan(sharpness_share([1.0, -2.0], [0]))


def test_hill_on_exact_power_laws():
    """For a Pareto sample k α/α̂ is a Gamma(k) variable exactly: its distribution over 300 samples."""
    from scipy.stats import gamma

    for alpha in (0.7, 2.5):
        pivots = []
        for seed in range(300):
            x = np.random.default_rng(seed).random(400) ** (-1 / alpha)
            tail = hill_tail_index(x, top=20)
            pivots.append(20 * alpha / tail.index)
            assert tail.error == pytest.approx(tail.index / np.sqrt(20))
        assert kstest(pivots, gamma(20).cdf).pvalue > 1e-3
    assert np.isnan(hill_tail_index(np.ones(50)).index)
    assert np.isnan(hill_tail_index(np.zeros(50)).index)
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        hill_tail_index(np.ones(5), top=0)


def test_members_stand_out_or_there_are_none():
    weights = np.concatenate([np.full(4, 5.0), np.full(3, -4.0), 0.1 * np.random.default_rng(0).standard_normal(93)])
    assert outlier_members(weights).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert outlier_members(np.ones(10)).size == 0
    assert outlier_members(np.zeros(10)).size == 0
    false = sum(outlier_members(np.random.default_rng(s).standard_normal(200)).size for s in range(200))
    assert false <= binom.ppf(1 - 1e-3, 40_000, 0.000465)  # two-sided tail of a normal beyond 3.5
    with pytest.raises(ValueError, match="weights must be finite, got nan"):
        outlier_members([1.0, np.nan])


def test_p_values_of_signs_and_outliers_keep_their_level():
    p_cancel, p_outlier, p_normal = [], [], []
    for seed in range(200):
        rng = np.random.default_rng([seed, 5])
        p_cancel.append(cancellation_p_value(rng.standard_t(2, 80), draws=399, seed=seed))
        product = rng.standard_normal(80) * rng.standard_normal(80)
        p_outlier.append(outlier_p_value(3e-7 * product) - rng.random() / 400)
        p_normal.append(outlier_p_value(rng.standard_normal(80)))
    assert kstest(p_cancel, "uniform").pvalue > 1e-3
    assert kstest(p_outlier, "uniform").pvalue > 1e-3
    assert np.mean(np.array(p_normal) <= 0.05) == 0.0  # conservative there
    assert cancellation_p_value(np.tile([1.0, -1.0 - 1e-9], 50)) < 0.15  # ties of equal sizes: P(sum 0) = 0.08
    assert cancellation_p_value(np.ones(50)) == 1.0
    assert outlier_p_value(np.r_[np.zeros(79), 1.0]) == 1 / 400
    assert outlier_p_value(np.zeros(5)) == 1.0


def test_overlap_counts():
    a, b = np.zeros(100), np.zeros(100)
    a[:6], b[3:9] = 1.0, -1.0
    rng = np.random.default_rng(0)
    found = overlap(a + 1e-3 * rng.standard_normal(100), b + 1e-3 * rng.standard_normal(100))
    assert found.cosine == pytest.approx(0.5, abs=0.01)
    assert (found.jaccard, found.signs) == (3 / 9, 1.0)
    # at least 3 of 6 among 6 of 100: 1 - sum_{k<3} C(6,k) C(94,6-k) / C(100,6)
    from math import comb

    expected = 1 - sum(comb(6, k) * comb(94, 6 - k) for k in range(3)) / comb(100, 6)
    assert found.p_value == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="overlap needs two vectors of one length"):
        overlap(np.ones(3), np.ones(4))


def test_bad_input_is_named(during):
    with pytest.raises(ValueError, match=r"projections must have shape \(n,\) or \(n, K\), got \(1, 1\)"):
        detect_in_projections([1.0])
    with pytest.raises(ValueError, match=r"curvature must have the projections' shape \(3, 1\), got \(3, 2\)"):
        detect_in_projections(np.ones(3), curvature=np.ones((3, 2)))
    with pytest.raises(ValueError, match="both detections must be on the same examples, got 400 and 3"):
        detect_in_both(during, detect_in_projections([1.0, -1.0, 2.0]))
    with pytest.raises(ValueError, match=r"losses must give 400 values, got shape \(2,\)"):
        with_gradients(during, lambda p: p[0][:2], [torch.ones(2)], vectors=torch.ones(2))
