"""The α-layer against a tight solve in the clock: order, constant, start, end, and the least sharpness."""

import numpy as np
import pytest
import sympy as sp

from toymodels import (
    ReducedState,
    arrow_sharpness,
    limit_sharpness,
    predict_flow,
    predict_layered_flow,
    sharpness_minimum,
    simulate_flow,
    simulate_gd,
)
from toymodels.derivations import layer as rows
from toymodels.derivations.registry import vanishes
from toymodels.layer import descent_layer, layer_error, layer_minimum_clock, outer_parametrised

START, BETA = (0.8, 0.2, 0.5, 0.3), 1.3


def errors(start, beta, alpha):
    """Largest errors of B and of the time at equal clock, and their bounds."""
    state, window = ReducedState(*start), 3 * np.log(alpha) / alpha
    told = outer_parametrised(state, beta, alpha, np.linspace(0, window, 40))
    seen = rows.solve_in_clock(start, beta, alpha, told.clock)
    in_b = np.abs((seen[1] - told.b_par) * np.exp(told.clock)).max()
    return np.array([in_b, np.abs(seen[4] - told.time).max()]), np.array(layer_error(state, beta, alpha, window))


@pytest.mark.parametrize("start", [START, (0.8, 0.1, 0.7, 0.2), (-0.9, -0.3, 0.4, 0.2)])
def test_second_order_in_one_over_alpha_within_the_bound(start):
    found = [errors(start, BETA, alpha) for alpha in (30.0, 100.0, 1000.0, 10_000.0)]
    for seen, bound in found:
        assert (seen <= bound).all()
        assert (bound <= 50 * seen).all()  # a bound that says something
    # the next order of the error is up to 100/alpha of it: log10(1.1) = 0.04 at alpha = 1000
    for one, ten in ((found[2][0], found[3][0]), (found[2][1], found[3][1])):
        np.testing.assert_allclose(np.log10(ten / one), -2, atol=0.04)


@pytest.mark.parametrize("seed", range(3))
def test_bound_holds_at_random_or_says_inf(seed):
    rng = np.random.default_rng(seed)
    finite = 0
    for _ in range(12):
        c0 = rng.uniform(0.3, 1.5)
        start = (c0, rng.uniform(-0.2, 1), rng.uniform(0, 0.8), c0 * rng.uniform(0.01, 0.9))
        alpha, beta = np.exp(rng.uniform(np.log([30, 0.5]), np.log([1000, 5])))
        seen, bound = errors(start, beta, alpha)
        assert (seen <= bound + 1e-12).all()  # 1e-12: the solver's own tolerance
        finite += np.isfinite(bound).all()
    assert finite >= 6


def test_without_the_shift_the_order_is_one():
    """A check that can fail: the flow without u from the same start errs at first order."""
    found = []
    for alpha in (100.0, 1000.0):
        clock = np.array([0.0, 5 / alpha])
        b = rows.solve_in_clock(START, BETA, alpha, clock)[1, -1]
        c_outer = np.sqrt(START[0] ** 2 - START[3] ** 2)
        flow = predict_flow(c_outer, START[1], BETA, START[2])
        times = np.linspace(0, 10 / alpha / c_outer**2, 4001)
        found.append(abs(np.interp(clock[-1], flow(times).clock, flow(times).b_par) - b))
    assert np.log10(found[1] / found[0]) == pytest.approx(-1, abs=0.1)


def test_start_end_batch_and_no_layer():
    alpha = np.array([30.0, 100.0, 1000.0])
    layered = predict_layered_flow(ReducedState(*START), BETA, alpha)
    start = layered(0.0)
    for value, given in zip((start.c, start.b_par, start.b_perp, np.exp(start.log_u)), START, strict=True):
        np.testing.assert_allclose(value, given, rtol=4e-16 * 8)
    end = layered(60.0)
    limit = limit_sharpness(START[0], START[1], BETA, alpha, START[2], START[3])
    np.testing.assert_allclose(arrow_sharpness(end.state, BETA, alpha), limit, rtol=1e-12)
    for i, a in enumerate(alpha):
        one = predict_layered_flow(ReducedState(*START), BETA, a)(0.01)
        assert float(one.c) == pytest.approx(float(layered(0.01).c[i]), rel=1e-14)
    t = np.linspace(0, 4, 9)
    bare = predict_layered_flow(ReducedState(*START[:3]), BETA, 50.0)(t)
    np.testing.assert_allclose(bare.c, predict_flow(*START[:2], BETA, START[2])(t).c, rtol=1e-13)
    assert np.isneginf(bare.log_u).all()


@pytest.mark.parametrize("alpha", [30.0, 1000.0])
def test_path_in_time_against_the_tight_solve(alpha):
    """At equal time: the error of the time, O(1/alpha^2), times the speed of c in the layer, alpha c u0^2."""
    t = np.concatenate([np.linspace(0, 5 / alpha, 60), np.linspace(5 / alpha, 6, 60)[1:]])
    seen = simulate_flow(ReducedState(*START), BETA, alpha, t, rtol=1e-12)
    told = predict_layered_flow(ReducedState(*START), BETA, alpha)(t)
    in_b, in_time = layer_error(ReducedState(*START), BETA, alpha, 5 / alpha)
    speed = alpha * START[0] * START[3] ** 2 + BETA
    inside = t <= 5 / alpha
    bound = in_time * speed + in_b * 2 * BETA
    assert np.abs(told.c - seen[0])[inside].max() <= bound
    assert np.abs(told.clock + np.log(seen[2] / START[2])).max() < 50 / alpha**2


def test_least_sharpness():
    for start, beta in rows.CASES:
        found = []
        for alpha in (30.0, 100.0, 1000.0):
            told = sharpness_minimum(ReducedState(*start), beta, alpha)
            t = np.linspace(0, 2 * float(told.time), 1501)
            state = simulate_flow(ReducedState(*start), beta, alpha, t, rtol=1e-12)
            seen = arrow_sharpness(ReducedState(*state[:2], np.abs(state[2]), state[3]), beta, alpha)
            assert abs(seen.min() - told.sharpness) <= told.error + (seen[seen.argmin() - 1] - seen.min())
            assert float(told.time) == pytest.approx(t[seen.argmin()], rel=0.01)
            found.append(float(told.error / told.sharpness))
        # relative bound: e_B is of order alpha^-2 and so is its share of S; constants still move at alpha = 100
        assert np.log10(found[2] / found[1]) < -1.5 or start[1] < 0.15


def test_no_bound_is_inf_and_never_a_warning():
    hard = sharpness_minimum(ReducedState(1.0, -1.0, 5.4, 0.0), 0.115, 93.6)  # c all but dies on the way
    assert np.isfinite(hard.sharpness) or hard.time == np.inf
    assert np.isinf(layer_error(ReducedState(0.31, 0.5, 0.1, 0.3), 5.0, 10.0, 1.0)).all()


def test_leading_order_place_of_the_minimum_and_a_start_beyond_it():
    start = ReducedState(0.8, 0.3, 0.2, 0.2)
    shares = []
    for alpha in (1e3, 1e4, 1e5):
        told = sharpness_minimum(start, BETA, alpha)
        clock = predict_layered_flow(start, BETA, alpha)(told.time).clock
        c = np.sqrt(0.8**2 - 0.2**2)
        drift = 0.3 * (BETA - 0.3 * c) - c * 0.2**2
        shares.append(float(layer_minimum_clock(c, 0.2, drift, alpha) / clock) - 1)
    assert np.abs(shares[2]) < 0.01
    assert np.abs(shares[2]) < np.abs(shares[0])
    rising = sharpness_minimum(ReducedState(0.8, 0.3, 0.0, 1e-4), BETA, 50.0)  # u0 too small for any layer
    assert float(rising.time) == 0.0
    falling = sharpness_minimum(ReducedState(2.0, 0.1, 1.0, 0.1), 0.5, 50.0)
    t = np.linspace(0, 20, 4001)
    state = simulate_flow(ReducedState(2.0, 0.1, 1.0, 0.1), 0.5, 50.0, t, rtol=1e-12)
    seen = arrow_sharpness(ReducedState(*state[:2], np.abs(state[2]), state[3]), 0.5, 50.0)
    assert float(falling.sharpness) == pytest.approx(seen.min(), rel=1e-3)


def test_what_u_takes_from_c_under_gradient_descent():
    c0, u0, alpha = 0.8, 1e-2, 1e7
    for s in (0.2, 1.0, 1.7):
        lr = s / (alpha * c0**2)
        with_u, without = (simulate_gd(ReducedState(c0, 0.1, 0.2, u), 1.0, alpha, lr, 300).c[0, -1] for u in (u0, 0))
        told = float(descent_layer(c0, u0, s))
        # s and c move by told/c meanwhile: relative error of that order
        assert float(without - with_u) == pytest.approx(told, rel=2 * told / c0 * (1 + 2 * s / (2 - s)))


def test_a_wrong_constant_does_not_prove():
    held = rows._shift_residuals()
    assert all(vanishes(part) for part in held)
    c, u, alpha = rows.C, rows.U, rows.ALPHA
    right = rows._minimum_residuals()[0]
    assert vanishes(right)
    assert not vanishes(right + 2 * alpha * c * sp.Integer(1) * alpha * c * u**2)  # 4 instead of 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: predict_layered_flow(ReducedState(0.2, 0, 0, 0.3), 1, 30), r"c must exceed u in size"),
        (lambda: predict_layered_flow(ReducedState(0.5, 0, 0, 0.3), 1, 0.5), "alpha must be > 1, got 0.5"),
        (lambda: predict_layered_flow(ReducedState(0.5, 0, 0, 0.3), -1, 50), "beta must be positive"),
        (lambda: predict_layered_flow(ReducedState(0.5, 0, 0, 0.3), 1, 50)(-1.0), "t must be >= 0"),
        (lambda: predict_layered_flow(ReducedState(0.31, 50, 0, 0.3), 5, 2), "leave c its sign"),
        (lambda: descent_layer(0.5, 0.1, 2.0), "stability must be < 2, got 2"),
        (lambda: descent_layer(0.0, 0.1, 1.0), "c0 must not be 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
