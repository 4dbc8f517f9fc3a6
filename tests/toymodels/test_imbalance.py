"""The shifted floor against sampled groups, hand-written solves and dense matrices; balanced, it is the old model."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from toymodels.derivations.imbalance import _expectation_residuals, _model
from toymodels.derivations.registry import vanishes
from toymodels.flow import limit_c2, limit_sharpness
from toymodels.imbalance import (
    floor_curvature,
    floor_drift,
    floor_group_losses,
    floor_shift,
    imbalanced_limit_c2,
    imbalanced_limit_sharpness,
    imbalanced_loss,
    imbalanced_step,
)
from toymodels.model import ReducedState, TwoLayerLinear

NUMBER = st.floats(-2, 2)


def flow(_, y, beta, alpha, m):
    c, b, p, u = y
    r, gap = beta - c * b, c * u - m
    return [b * r - c * p**2 - alpha * u * gap, c * r, -(c**2) * p, -alpha * c * gap]


def test_floor_is_where_the_sampled_loss_is_least():
    """Examples drawn as counts with E s = delta exactly; c u by least squares of the loss over the output scale."""
    d2, alpha, p, gamma, delta = 5, 8.0, 0.2, 0.7, 0.25
    a = np.sqrt(alpha / p)
    offset = gamma * np.sqrt(d2) * a
    signs = np.array([1] * 5 + [-1] * 3)  # mean 0.25
    design, target = (signs * a)[:, None], np.full(8, offset)  # output of scale z on x_o: s a z
    z = np.linalg.lstsq(design, target, rcond=None)[0][0]
    assert float(floor_shift(delta, gamma, d2)) == pytest.approx(z, rel=1e-12)
    residual = target - design[:, 0] * z
    plus, minus = floor_group_losses(delta, offset)
    assert float(plus) == pytest.approx(residual[0] ** 2 / 2)
    assert float(minus) == pytest.approx(residual[-1] ** 2 / 2)
    assert float(plus) < float(minus)  # the larger group is fitted better
    both = TwoLayerLinear(3, d2, 1.0, alpha, p, gamma).group_losses(ReducedState(1.0, 1.0, 0.0, z))
    np.testing.assert_allclose(both, (plus, minus), rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(c=NUMBER, b=NUMBER, p=st.floats(0, 2), u=NUMBER, beta=st.floats(0.1, 3), alpha=st.floats(0.1, 90))
def test_balanced_it_is_the_two_layer_model(c, b, p, u, beta, alpha):
    state = ReducedState(c, b, p, u)
    model = TwoLayerLinear(beta=beta, alpha=alpha)
    assert float(imbalanced_loss(state, beta, alpha, 0.0)) == pytest.approx(float(model.loss(state)), rel=1e-14)
    np.testing.assert_allclose(imbalanced_limit_c2(c, b, beta, 0.0, p, u), limit_c2(c, b, beta, p, u), rtol=1e-11)
    got = imbalanced_limit_sharpness(c, b, beta, alpha, 0.0)
    np.testing.assert_allclose(got, limit_sharpness(c, b, beta, alpha), rtol=1e-11)


@settings(max_examples=100, deadline=None)
@given(c=st.floats(0.1, 2), b=NUMBER, p=st.floats(0, 1), u=NUMBER, m=NUMBER, lr=st.floats(0.001, 0.3))
def test_step_multiplies_the_deviation_by_the_balanced_growth(c, b, p, u, m, lr):
    """u about m/c of the old c; the mirror image u, m -> -u, -m; the loss falls for a step that is small enough."""
    alpha, beta = 7.0, 1.2
    moved = imbalanced_step(ReducedState(c, b, p, u), beta, alpha, m, lr)
    assert moved[3] - m / c == pytest.approx((1 - lr * alpha * c**2) * (u - m / c), abs=1e-12 * (1 + abs(m / c)))
    mirror = imbalanced_step(ReducedState(c, b, p, -u), beta, alpha, -m, lr)
    np.testing.assert_array_equal(mirror, moved * [1, 1, 1, -1])
    kick = moved[0] - imbalanced_step(ReducedState(c, b, p, m / c), beta, alpha, m, lr)[0]
    e = u - m / c
    assert kick == pytest.approx(-lr * alpha * (m * e + c * e**2), abs=1e-10)


def test_fixed_point_stands_still():
    state = ReducedState(0.8, 1.3 / 0.8, 0.0, 0.5 / 0.8)
    np.testing.assert_allclose(imbalanced_step(state, 1.3, 30.0, 0.5, 0.1), state.as_array(), rtol=1e-14)
    assert float(imbalanced_loss(state, 1.3, 30.0, 0.5)) == pytest.approx(0.0, abs=1e-30)


@pytest.mark.parametrize("m", [-0.7, 0.2, 2.0])
def test_end_of_a_hand_written_flow_and_the_curvature_across_it(m):
    start, beta, alpha = [0.5, 0.2, 0.3, 0.4], 1.3, 30.0
    c, b, _, u = solve_ivp(flow, (0, 40), start, "LSODA", args=(beta, alpha, m), rtol=1e-10, atol=1e-12).y[:, -1]
    assert float(imbalanced_limit_c2(0.5, 0.2, beta, m, 0.3, 0.4)) == pytest.approx(c**2, rel=1e-7)
    jacobian = np.array([[b, c, 0.0], [np.sqrt(alpha) * u, 0.0, np.sqrt(alpha) * c]])
    top = np.linalg.svd(jacobian, compute_uv=False)[0] ** 2
    assert float(imbalanced_limit_sharpness(0.5, 0.2, beta, alpha, m, 0.3, 0.4)) == pytest.approx(top, rel=1e-7)
    assert top >= alpha * (c**2 + u**2) > alpha * c**2


def test_drift_on_the_floor_is_met_to_first_order_in_the_variance():
    """Rate of c on a tight solve once the lag has settled: four times α, a quarter of the error; the drag is needed."""
    beta, m, errors, undragged = 1.3, 0.8, [], []
    for alpha in (50.0, 200.0):
        start = [0.7, 0.2, 0.2, m / 0.7]
        y = solve_ivp(flow, (0, 1), start, "LSODA", args=(beta, alpha, m), rtol=1e-11, atol=1e-13).y[:, -1]
        rate = flow(0, y, beta, alpha, m)[0]
        errors.append(abs(rate - float(floor_drift(y[0], y[1], beta, m, y[2]))))
        undragged.append(abs(rate - float(floor_drift(y[0], y[1], beta, 0.0, y[2]))))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)
    assert undragged[1] > 20 * errors[1]


def test_edge_on_the_floor_comes_before_that_of_the_balanced_pair():
    """Growth per step about the fixed point changes sign at 2/S of the dense Gram matrix, where lr alpha c^2 < 2."""
    m, alpha, c = 0.5, 300.0, 0.9
    b, u = 1.0 / c, m / c
    top = np.linalg.svd([[b, c, 0], [np.sqrt(alpha) * u, 0, np.sqrt(alpha) * c]], compute_uv=False)[0] ** 2
    # the coupling to b shifts alpha (c^2 + u^2) by at most the other diagonal entry, b^2 + c^2
    assert 0 <= top - float(floor_curvature(c, alpha, m)) <= b**2 + c**2
    for factor in (1.02, 0.98):
        lr = 2 * factor / top
        assert lr * alpha * c**2 < 1.6
        w = np.array([c, b, 0.0, u + 1e-9])
        path = []
        for _ in range(150):
            w = imbalanced_step(ReducedState(*w), 1.0, alpha, m, lr)
            path.append((w[0], w[0] * w[3] - m))
        second_layer, error = np.array(path[100:]).T
        swing = np.abs(error[2:] - 2 * error[1:-1] + error[:-2])  # without the part that decays slowly along the floor
        rate = (swing[-1] / swing[0]) ** (1 / 47)
        assert rate == pytest.approx(lr * top - 1, rel=1e-3)
        assert (rate > 1) == (factor > 1)
        kicks = np.diff(second_layer)
        assert (kicks[1:] * kicks[:-1] < 0).all()  # c oscillates with u


def test_steps_of_the_proof_fail_on_a_wrong_shift():
    assert all(vanishes(r) for r in _expectation_residuals())
    m, p, g0, delta, alpha = sp.Symbol("m", real=True), *sp.symbols("p g_0 delta alpha", positive=True)
    right, wrong = delta * g0 * sp.sqrt(p / alpha), 2 * delta * g0 * sp.sqrt(p / alpha)
    assert not vanishes(_model().loss.subs(m, right) - _model().loss.subs(m, wrong))


def test_batches_broadcast():
    shift = floor_shift([[-0.5], [0.5]], [0.1, 0.2, 0.3], 4)
    assert shift.shape == (2, 3)
    assert imbalanced_limit_sharpness(0.5, 0.1, 1.0, 30.0, shift).shape == (2, 3)
    np.testing.assert_array_equal(
        imbalanced_limit_c2(0.5, 0.1, 1.0, shift[0]), imbalanced_limit_c2(0.5, 0.1, 1.0, shift[1])
    )
    assert imbalanced_step(ReducedState(np.ones(3), 0.1, 0.0, 0.1), 1.0, 30.0, shift, 0.01).shape == (4, 2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: floor_shift(1.5, 1, 1), "delta must lie in \\[-1, 1\\], got 1.5; pass the mean"),
        (lambda: floor_shift(np.nan, 1, 1), "delta must be finite"),
        (lambda: floor_shift(0.5, 1, 0), "d2 must be positive, got 0"),
        (lambda: floor_group_losses(0.5, np.inf), "offset must be finite"),
        (lambda: floor_drift(0.0, 1, 1, 1), "c must not be 0, got 0"),
        (lambda: floor_curvature([1.0, 0.0], 1, 1), "c must not be 0, got 0"),
        (lambda: imbalanced_loss(ReducedState(1, 1), 1, -1, 0), "alpha must be positive, got -1"),
        (lambda: imbalanced_step(ReducedState(1, 1), 1, 1, np.nan, 0.1), "shift must be finite"),
        (lambda: imbalanced_limit_c2(1, 1, 1, 0, -1), "b_perp0 must be >= 0, got -1"),
        (lambda: imbalanced_limit_sharpness(1, 1, 0, 1, 0), "beta must be positive, got 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
