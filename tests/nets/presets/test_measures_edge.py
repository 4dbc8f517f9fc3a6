"""Measures of the edge, the catapult, the oscillation and a feature on records with a known answer."""

import dataclasses

import numpy as np
import pytest
from synthetic import outcome

from nets.config import TrainConfig
from nets.presets import MEASURES
from nets.presets.measures.catapult import (
    boundary_of_start,
    boundary_ratio,
    largest_loss_ratio,
    lowest_ratio_after_peak,
    simulated_final_ratio,
    spikes,
    start_ratio,
)
from nets.presets.measures.edge import (
    edge_ratio,
    final_over,
    final_ratio,
    highest_over,
    highest_ratio,
    onset,
    sharpness_at_loss,
)
from nets.presets.measures.feature import feature_share, feature_share_at_loss
from nets.presets.measures.oscillation import gradient_alignment, group_oscillation, oscillation_size
from nets.presets.outcomes import Outcome
from nets.presets.simulated import SimulationPlan

ADAM = TrainConfig(optimizer="adam", lr=0.01)  # critical effective sharpness 3800
NAN = float("nan")


def test_edge_of_a_known_series():
    series = [1.0, 3.0, 5.5, NAN, 6.0, 4.0]  # 2/lr = 5
    run = outcome(config=TrainConfig(lr=0.4), sharpness=series)
    assert onset(run) == 2
    assert edge_ratio(run) == pytest.approx(np.mean([5.5, 6, 4]) / 5)
    assert edge_ratio(run, after=2) == pytest.approx(1.0)
    assert highest_ratio(run, critical=2.0) == pytest.approx(3.0)
    assert final_ratio(run, last=2) == pytest.approx(1.0)
    coarse = outcome(config=TrainConfig(lr=1.0), sharpness=[1.0])  # 2/lr = 2
    assert highest_over(run, coarse) == pytest.approx(3.0)
    assert final_over(run, coarse, last=2) == pytest.approx(2.5)
    assert np.isnan(edge_ratio(outcome(config=TrainConfig(lr=0.4), sharpness=[1.0, 4.9, 3.0])))
    assert np.isnan(onset(outcome(config=TrainConfig(lr=0.4), sharpness=[6.0, 7.0, 8.0])))  # never below


def test_edge_of_the_effective_sharpness():
    values = [1000.0, NAN, 3900.0, NAN, 3700.0]
    run = outcome(config=ADAM, sharpness=[1.0] * 5, effective_sharpness=values)
    assert edge_ratio(run, effective=True) == pytest.approx(1.0)
    assert onset(run, effective=True) == 2
    assert highest_ratio(run, critical=1950.0, effective=True) == pytest.approx(2.0)
    half = outcome(config=dataclasses.replace(ADAM, lr=0.02), sharpness=[1.0], effective_sharpness=[1.0])
    assert highest_over(run, half, effective=True) == pytest.approx(3900 / 1900)
    assert final_ratio(run, last=3, effective=True) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="needs effective_sharpness in the record, run has none; add the observer"):
        edge_ratio(outcome(config=ADAM, sharpness=[1.0]), effective=True)
    decayed = dataclasses.replace(ADAM, optimizer="adamw")
    for effective in (False, True):
        with pytest.raises(ValueError, match="needs a constant critical sharpness"):
            edge_ratio(outcome(config=decayed, sharpness=[1.0], effective_sharpness=[1.0]), effective=effective)


def test_spikes_of_a_known_loss():
    loss = [4.0, 2.0, 3.5, 2.9, 2.5, 1.0, 1.4, 1.6, 1.0, 1.6]
    assert spikes(outcome(loss=loss), rise=1.5) == 2 + 1  # 3.5 and 2.9 are one; 2.5 is none
    assert spikes(outcome(loss=loss), rise=1.5, until=5) == 1
    assert spikes(outcome(loss=np.geomspace(1, 0.01, 50))) == 0
    assert largest_loss_ratio(outcome(loss=[2.0, 5.0, 1.0])) == 2.5
    assert largest_loss_ratio(outcome(loss=[2.0, NAN], status="diverged")) == float("inf")


def test_flattest_place_after_the_peak():
    run = outcome(config=TrainConfig(lr=0.4), loss=[1, 2, 9, 3, 1, 1], sharpness=[1.0, 20.0, 15.0, 4.0, 5.0, 3.0])
    assert lowest_ratio_after_peak(run) == pytest.approx(3 / 5)
    assert lowest_ratio_after_peak(run, until=5) == pytest.approx(4 / 5)


def test_boundary_of_a_grid():
    rates = {0.4: "finished", 0.1: "finished", 0.9: "diverged", 1.6: "diverged"}
    runs = [outcome(config=TrainConfig(lr=lr), sharpness=[5.0, 1.0], status=s) for lr, s in rates.items()]
    assert boundary_of_start(runs) == pytest.approx(0.6 / (2 / 5))
    assert np.isnan(boundary_of_start(runs[:2]))  # none diverged
    assert np.isnan(boundary_of_start(runs[2:]))  # all did


def simulated(lr, **start):
    plan = SimulationPlan(lr=lr, steps=4000, **start)
    return Outcome(f"lr={lr}", plan.run(), simulation=plan)


def test_boundary_of_the_two_layer_model_against_brute_force():
    start = {"c": 1.0, "b_par": 0.4, "b_perp": 0.5, "u": 0.0, "alpha": 2.0}
    grid = np.geomspace(0.5, 1.9, 40)
    ratio = boundary_ratio([simulated(float(lr), **start) for lr in grid])
    assert ratio == pytest.approx(1.0, abs=grid[1] / grid[0] - 1)
    # the ellipsoid's level by hand: eta |w|^2 + g (g - eta c b) = 4, beta = 1
    a, b = 1 - 1.0 * 0.4, 1 + 0.16 + 0.25
    exact = (-b + np.sqrt(b**2 + 16 * a)) / (2 * a)
    low = max(lr for lr in grid if lr < exact)
    assert ratio == pytest.approx(np.sqrt(low * low * grid[1] / grid[0]) / exact, rel=1e-6)


def test_boundary_with_an_opposing_start_is_four_over_its_sharpness():
    start = {"c": 1.0, "b_par": 0.0, "b_perp": 0.0, "u": 0.05, "alpha": 1e5, "beta": 1e-3}
    runs = [simulated(lr, **start) for lr in np.geomspace(0.9, 1.1, 11) * 4 / (1e5 * 1.0025)]
    assert boundary_ratio(runs) == pytest.approx(1.0, abs=0.02)
    with pytest.raises(ValueError, match="is of simulated runs, run is trained"):
        boundary_ratio([outcome()])


def test_ratios_of_a_simulated_catapult():
    run = simulated(0.03, c=1.0, b_par=0.0, b_perp=0.0, u=0.0, alpha=100.0)
    hessian = np.array([[0, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 100.0]])  # at c = 1, all else 0
    assert start_ratio(run) == pytest.approx(np.linalg.eigvalsh(hessian)[-1] * 0.03 / 2)
    opposing = simulated(0.03, c=1.0, b_par=0.3, b_perp=0.3, u=0.1, alpha=100.0)
    end = [float(opposing.history[f"final_{w}"]) for w in ("c", "b_par", "u")]
    assert simulated_final_ratio(opposing) == pytest.approx(100 * end[0] ** 2 * 0.03 / 2, rel=1e-3)
    assert start_ratio(outcome(config=TrainConfig(lr=0.4), sharpness=[6.0, 1.0])) == pytest.approx(1.2)


def test_alignment_and_size_of_the_oscillation():
    run = outcome(grad_v=[1.0, -2.0, NAN, 1.0], grad_norm=[2.0, 2.0, 3.0, 4.0], oscillation=[NAN, 3.0, -4.0, NAN])
    assert gradient_alignment(run) == pytest.approx((0.5 + 1 + 0.25) / 3)
    assert gradient_alignment(run, after=1, until=3) == 1.0
    assert oscillation_size(run) == pytest.approx(np.sqrt(12.5))


def test_group_oscillation_is_that_of_those_that_alternate():
    steps, n = np.arange(60), 100
    losses = np.full((60, n), 0.5) + 0.01 * steps[:, None]  # drift alone
    assert group_oscillation(outcome(example_loss=losses)) == pytest.approx(0.0, abs=1e-12)
    losses[:, :5] += 0.2 * (-1.0) ** steps[:, None] * np.array([1, 1, -1, -1, 1])
    run = outcome(example_loss=losses)
    assert group_oscillation(run, share=0.05) == pytest.approx(0.2 / losses.mean())
    assert group_oscillation(run, share=0.1) == pytest.approx(0.1 / losses.mean())
    assert group_oscillation(run, after=20) == pytest.approx(0.2 / losses[20:].mean())
    assert np.isnan(group_oscillation(run, after=58))


def test_feature_share_is_a_mean_of_what_was_observed():
    run = outcome(feature_share=[0.5, NAN, 0.3, NAN, 0.1])
    assert feature_share(run) == pytest.approx(0.3)
    assert feature_share(run, after=1, until=4) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="needs feature_share in the record, run has none; add the observer"):
        feature_share(outcome(loss=[1.0]))


@pytest.mark.parametrize(
    ("function", "array"), [(feature_share_at_loss, "feature_share"), (sharpness_at_loss, "sharpness")]
)
def test_values_where_the_loss_has_come_down(function, array):
    run = outcome(loss=[1.0, 0.5, 0.2, 0.6, 0.1], **{array: [9.0, NAN, NAN, 3.0, 2.0]})
    assert function(run, loss=1.0) == 9.0
    assert function(run, loss=0.3) == 3.0  # reached at step 2, observed at step 3, above it again
    assert np.isnan(function(run, loss=0.05))


def test_they_are_registered():
    names = ("edge_ratio", "spikes", "boundary_ratio", "gradient_alignment", "feature_share", "pair_gain")
    assert set(names) <= set(MEASURES)
