"""Attractors, exponents, periodic orbits and basins, against closed forms and known chaos."""

import itertools

import numpy as np
import pytest
import xarray as xr

from toymodels import gd_dynamics as gd
from toymodels.basins import basin
from toymodels.cascade import follow_orbit, period_doublings
from toymodels.orbits import (
    balanced_line,
    cycle_multipliers,
    generated_map,
    lyapunov_exponents,
    orbit_diagram,
    periodic_orbit,
)
from toymodels.symbolic import deep_linear, quadratic, several_signals, two_layer

EPS = np.finfo(float).eps
FEIGENBAUM = 4.669201609102990


@pytest.mark.parametrize("model", [two_layer(), several_signals(3), deep_linear(2, 4), quadratic(), balanced_line()])
def test_jacobian_against_differences(model):
    """A loss of degree d in each weight: central differences at h, h/2, h/4, ... extrapolated are exact up to
    rounding; three levels remove h^2 and h^4, all there is up to degree 6 of the map."""
    rng = np.random.default_rng(1)
    step, jacobian = generated_map(model)
    n = len(model.weights)
    w, constants = rng.normal(size=(n, 5)), [*rng.uniform(0.5, 2, (len(model.parameters), 5)), np.full(5, 0.1)]
    for k in range(n):
        slopes = []
        for h in (0.5, 0.25, 0.125):
            move = h * np.eye(n)[k][:, None]
            slopes.append((step(w + move, constants) - step(w - move, constants)) / (2 * h))
        once = [(4 * b - a) / 3 for a, b in itertools.pairwise(slopes)]
        measured = (16 * once[1] - once[0]) / 15
        scale = max(1.0, float(np.abs(np.array(slopes)).max()))
        np.testing.assert_allclose(jacobian(w, constants)[..., k].T, measured, atol=1000 * EPS * scale)


def test_exponent_of_a_fixed_point_and_of_cycles_is_the_logarithm_of_the_multiplier():
    g = np.array([0.3, 0.45, 0.8, 1.1, 1.2])
    found = lyapunov_exponents(balanced_line(), g, start={"x": 0.4}, parameters={"beta": 1.0})
    # in units lr = g, beta = 1: fixed point 1 - 2g up to g = 1, then the two-cycle over two steps
    _, cycle = gd.balanced_cycle(g, 1.0, 1.0)
    stated = np.where(g < 1, np.log(np.abs(1 - 2 * g)), np.log(np.abs(cycle[0])) / 2)
    np.testing.assert_allclose(found.exponent.values[:, 0], stated, atol=1e-9)
    assert not found.diverged.any()


def test_all_exponents_of_a_minimum_of_the_full_model():
    start = {"c": 0.6, "b_par": 1.5, "b_perp": 0.1, "u": 0.05}
    found = lyapunov_exponents(
        two_layer(), 0.3, start=start, parameters={"beta": 1.0, "alpha": 4.0}, n_exponents=4, transient=500
    )
    end = orbit_diagram(two_layer(), 0.3, start=start, parameters={"beta": 1.0, "alpha": 4.0}, transient=500, samples=1)
    multipliers = gd.minimum_multipliers(end.c.values[0, 0], 0.3, 1.0, 4.0)
    stated = np.sort(np.log(np.abs(multipliers)))[::-1]
    # the frame turns into the eigenvectors at the rate of the closest pair: 1/steps of its logarithms
    np.testing.assert_allclose(found.exponent.values[0], stated, atol=10 / 2000)
    assert abs(found.exponent.values[0, 0]) < 10 / 2000


def test_sum_of_all_exponents_is_the_mean_log_determinant_in_chaos():
    start = {"c": 0.9, "b_par": 0.7, "b_perp": 0.0, "u": 0.0}
    steps, parameters = 400, {"beta": 1.0, "alpha": 0.6}
    found = lyapunov_exponents(
        two_layer(), 1.9, start=start, parameters=parameters, steps=steps, transient=0, n_exponents=4
    )
    step, jacobian = generated_map(two_layer())
    w, total = np.array([[0.9], [0.7], [0.0], [0.0]]), 0.0
    for _ in range(steps):
        total += np.linalg.slogdet(jacobian(w, [1.0, 0.6, 1.9]))[1][0]
        w = step(w, [1.0, 0.6, 1.9])
    assert found.exponent.values.sum() == pytest.approx(total / steps, abs=1e-9)
    assert found.exponent.values[0, 0] > 0.3


def test_exponent_at_chebyshev_is_log_three_and_on_the_catapult_circle():
    n = 3000
    found = lyapunov_exponents(balanced_line(), 2.0, start={"x": 0.7}, parameters={"beta": 1.0}, steps=n, transient=0)
    # the sum telescopes to log|sin theta_n/sin theta_0|, and sin^2 of an orbit of n points is hardly below 1/n^4
    assert abs(float(found.exponent.values[0, 0]) - np.log(3)) < 2 * np.log(n) / n


def test_superstable_and_diverged_runs_are_data():
    lr, start = np.array([0.5, 2.5]), {"x": [1.0, 0.9]}
    found = lyapunov_exponents(balanced_line(), lr, start=start, parameters={"beta": 1.0}, steps=200)
    assert found.exponent.values[0, 0] == -np.inf
    assert np.isnan(found.exponent.values[1, 0])
    assert found.diverged.values.tolist() == [False, True]


def test_orbit_diagram_has_named_axes_and_the_closed_forms_on_it():
    lr = xr.DataArray([0.4, 0.9, 1.1, 1.2, 1.5, 2.1], dims="lr")
    alpha = xr.DataArray([0.3, 0.7], dims="alpha")
    start = {"c": 0.7, "b_par": 0.72, "b_perp": 0.01, "u": 0.02}
    data = orbit_diagram(two_layer(), lr, start=start, parameters={"beta": 1.0, "alpha": alpha}, samples=64)
    assert set(data.c.dims) == {"lr", "alpha", "sample"}
    data = data.transpose("lr", "alpha", "sample")
    assert data.diverged.values.tolist() == [[False] * 2] * 5 + [[True] * 2]
    minima = data.isel(lr=[0, 1])
    np.testing.assert_allclose((minima.c * minima.b_par).values, 1.0, rtol=1e-10)
    sharpness = np.maximum(minima.c**2 + minima.b_par**2, alpha * minima.c**2)
    assert (sharpness * lr.isel(lr=[0, 1]) < 2).all()
    for i in (2, 3):
        cycle, _ = gd.balanced_cycle(float(lr[i]), 1.0, 0.3)
        for values in data.c.values[i]:
            assert np.abs(values[:, None] - cycle.c).min(1).max() < 1e-10
            assert (np.abs(values[2:] - values[:-2]) < 1e-12).all()
    chaotic = data.isel(lr=4)
    assert len(np.unique(chaotic.c.values[0].round(9))) == 64
    # bounded by the invariant interval, lr x^2 <= 2 + g
    assert (1.5 * chaotic.c**2 < 3.5).all()
    assert np.isnan(data.c.values[5]).all()


def test_delayed_growth_is_not_lost_by_underflow():
    """u falls below float64's range while c^2 < 2/(lr alpha), and still grows again after onset: the run spikes."""
    start = {"c": 0.55, "b_par": 0.05, "b_perp": 0.0, "u": 1e-3}
    data = orbit_diagram(
        two_layer(), 0.00215, start=start, parameters={"beta": 1.0, "alpha": 1000.0}, transient=4000, samples=2
    )
    # the limit of the flow has lr alpha c^2 above 2: only the spike brings it below
    assert (0.00215 * 1000 * data.c.values**2 < 2).all()


def test_periodic_orbits_by_newton_and_their_branch():
    lr = np.linspace(1.05, 1.9, 18)
    cycle, multipliers = gd.balanced_cycle(lr, 1.0, 0.5)
    branch = follow_orbit(balanced_line(), 2, lr, start={"x": cycle.c[0, 0] * 1.02}, parameters={"beta": 1.0})
    assert branch.converged.all()
    assert branch.prime.all()
    np.testing.assert_allclose(np.sort(branch.orbit.values[..., 0], 1), np.sort(cycle.c.T, 1), rtol=1e-13)
    np.testing.assert_allclose(branch.multipliers.values[:, 0].real, multipliers[0], rtol=1e-11, atol=1e-12)
    assert branch.lr.values.tolist() == lr.tolist()
    # the same with the opposing weight, unstable all along: simulation cannot find it
    lr = np.linspace(0.62, 1.4, 14)
    stated = gd.opposing_cycle(lr, 1.0, 10.0)
    names = ("c", "b_par", "b_perp", "u")
    first = dict(zip(names, stated.as_array()[:, 0, 0] * 1.001, strict=True))
    branch = follow_orbit(two_layer(), 2, lr, start=first, parameters={"beta": 1.0, "alpha": 10.0})
    assert branch.converged.all()
    for name, value in (("c", stated.c), ("u", stated.u)):
        np.testing.assert_allclose(branch.orbit.sel(weight=name).values, value.T, atol=1e-12)
    found = cycle_multipliers(two_layer(), stated.as_array(), lr, {"beta": 1.0, "alpha": 10.0})
    np.testing.assert_allclose(np.abs(branch.multipliers.values).T, np.abs(found), rtol=1e-8)
    assert (np.abs(found[0]) > 1).all()


def test_newton_says_what_it_found():
    found = periodic_orbit(
        balanced_line(), 4, np.array([0.5, 1.1, 1.26]), start={"x": [0.9, 1.4, 1.35]}, parameters={"beta": 1.0}
    )
    assert found.converged.all()
    assert found.prime.values.tolist() == [False, False, True]
    # on a curve of minima: the nearest one, with its neutral multiplier
    curve = periodic_orbit(
        two_layer(),
        1,
        0.1,
        start={"c": 0.85, "b_par": 1.2, "b_perp": 0.01, "u": 0.01},
        parameters={"beta": 1.0, "alpha": 3.0},
    )
    assert curve.converged.all()
    c = float(curve.orbit.values[0, 0, 0])
    stated = np.sort(np.abs(gd.minimum_multipliers(c, 0.1, 1.0, 3.0)))[::-1]
    np.testing.assert_allclose(np.abs(curve.multipliers.values[0]), stated, atol=1e-8)
    lost = periodic_orbit(balanced_line(), 2, 1.1, start={"x": 1e200}, parameters={"beta": 1.0})
    assert not lost.converged.any()


def test_period_doubling_cascade():
    found = period_doublings(6)
    np.testing.assert_allclose(found["flip"][:2], [1, np.sqrt(5) - 1], rtol=1e-14)
    assert found["superstable"][1] == pytest.approx(gd.BALANCED_LANDMARKS["two-cycle superstable"], rel=1e-14)
    assert (np.diff(np.sort(np.concatenate([found["superstable"], found["flip"]]))) > 0).all()
    # ratios approach Feigenbaum's number; the error itself falls about by it each time
    error = np.abs(found["ratio"] - FEIGENBAUM)
    assert (error[1:] < error[:-1] / 3).all()
    # an attractor on either side of the third flip has period 4 and 8
    g = found["flip"][2] + np.array([-1e-3, 1e-3])
    x = np.full((1, 2), 0.9)
    step = generated_map(balanced_line())[0]
    for _ in range(20_000):
        x = step(x, [g, 1.0])
    path = [x]
    for _ in range(8):
        path.append(step(path[-1], [g, 1.0]))
    assert (np.abs(path[4] - path[0])[0] < 1e-10).tolist() == [True, False]
    assert (np.abs(path[8] - path[0])[0] < 1e-10).all()


def test_basin_agrees_with_the_ellipsoid():
    c = xr.DataArray(np.linspace(-3, 3, 40), dims="c")
    b = xr.DataArray(np.linspace(-3, 3, 42), dims="b_par")
    for lr in (0.6, 1.8):
        data = basin(
            two_layer(), lr, start={"c": c, "b_par": b, "b_perp": 0.0, "u": 0.0}, parameters={"beta": 1.0, "alpha": 0.5}
        )
        level = gd.boundary_level(*np.meshgrid(c, b, indexing="ij"), 0.0, lr, 1.0)
        diverged = (data.outcome == 3).transpose("c", "b_par").values
        assert (diverged == (level > 4)).all()
        assert 0.1 < diverged.mean() < 0.95
        # below 1/beta what stays comes to rest; above it no minimum is stable and it keeps moving
        assert set(np.unique(data.outcome)) == ({1, 2, 3} if lr < 1 else {0, 3})


def test_basin_outcomes_and_periods():
    start = {
        "c": xr.DataArray([0.9, 0.2, 5.0, 0.0], dims="start"),
        "b_par": xr.DataArray([0.95, 1.9, 5.0, 0.0], dims="start"),
        "b_perp": 0.0,
        "u": 0.0,
    }
    data = basin(two_layer(), 0.62, start=start, parameters={"beta": 1.0, "alpha": 0.5})
    assert data.outcome.values.tolist() == [1, 2, 3, 1]
    assert data.period.values.tolist() == [1, 1, 0, 1]
    assert data.start_sharpness.values[1] * 0.62 > 2 > data.final_sharpness.values[1] * 0.62
    assert data.outcome.attrs["flag_meanings"] == "bounded converged catapulted diverged"
    cycle = basin(
        two_layer(), np.array([1.1, 1.26, 1.5]), start={"c": 0.9, "b_par": 0.9, "b_perp": 0.0, "u": 0.0},
        parameters={"beta": 1.0, "alpha": 0.5}, steps=4000,
    )  # fmt: skip
    assert cycle.period.values.tolist() == [2, 4, 0]
    assert cycle.outcome.values.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: periodic_orbit(balanced_line(), 0, 1.0, **k), r"period must be an integer >= 1, got 0"),
        (lambda k: lyapunov_exponents(balanced_line(), 1.0, steps=1, **k), r"steps must be an integer >= 2, got 1"),
        (lambda k: lyapunov_exponents(balanced_line(), 1.0, n_exponents=2, **k), r"at most the number of weights, 1"),
        (lambda k: lyapunov_exponents(balanced_line(), -1.0, **k), r"lr must be positive, got -1"),
        (lambda k: orbit_diagram(balanced_line(), 1.0, samples=True, **k), r"samples must be an integer"),
        (lambda k: orbit_diagram(balanced_line(), 1.0, start={"y": 1}, parameters={"beta": 1}), r"start must name x"),
        (lambda k: basin(balanced_line(), 1.0, steps=2.5, **k), r"steps must be an integer"),
        (lambda k: follow_orbit(balanced_line(), 1, np.ones((2, 2)), **k), r"lr must have one dimension, got shape"),
        (lambda k: period_doublings(9), r"count must be at most 8"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call({"start": {"x": 0.5}, "parameters": {"beta": 1.0}})
    assert "\n" not in str(error.value)
