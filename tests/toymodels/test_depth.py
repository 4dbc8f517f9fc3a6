"""The deep limit against solves and 40 digits, its expansion against its bound, and the order of several signals."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from toymodels.depth import (
    balanced_limit_sharpness,
    depth_limit,
    depth_limit_sharpness,
    first_order_curvature,
    signal_order,
)
from toymodels.derivations.registry import vanishes
from toymodels.flow import limit_c2, limit_sharpness, onset_time, predict_flow
from toymodels.symbolic import deep_linear

WEIGHTS = st.lists(st.floats(0.01, 5), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(weights=WEIGHTS, beta=st.floats(0.01, 20))
def test_limit_fits_the_target_and_keeps_the_differences(weights, beta):
    *c0, b0 = weights
    limit = depth_limit(c0, b0, beta)
    squares = np.append(limit.c2, limit.b2)
    assert (squares > 0).all()
    # Newton ends within 4 eps (1 + |log beta^2|) of log y, whose product has slope at most D
    assert np.log(squares).sum() == pytest.approx(2 * np.log(beta), abs=1e-13)
    start = np.square(weights)
    np.testing.assert_allclose(squares - squares[0], start - start[0], atol=1e-14 * max(start.max(), squares.max()))


@settings(max_examples=100, deadline=None)
@given(c0=st.floats(0.01, 5), b0=st.floats(0.01, 5), beta=st.floats(0.05, 5), alpha=st.floats(0.1, 100))
def test_depth_two_is_the_two_layer_model(c0, b0, beta, alpha):
    assert float(depth_limit([c0], b0, beta).product2) == pytest.approx(float(limit_c2(c0, b0, beta)), rel=1e-11)
    want = float(limit_sharpness(c0, b0, beta, alpha))
    assert float(depth_limit_sharpness([c0], b0, beta, alpha)) == pytest.approx(want, rel=1e-11)


def test_very_unbalanced_layers_against_forty_digits():
    for c0, b0, beta in (([1e3, 1e-3, 2.0], 1e-6, 1.3), ([1e-8, 1e-8], 1e5, 0.01), ([50.0] * 5, 1.0, 1e-3)):
        with mpmath.workdps(40):
            start = [mpmath.mpf(v) ** 2 for v in (*c0, b0)]
            excess = [v - min(start) for v in start]
            target = 2 * mpmath.log(mpmath.mpf(beta))
            z = mpmath.findroot(
                lambda z, e=excess, t=target: mpmath.fsum([mpmath.log(mpmath.exp(z) + x) for x in e]) - t,
                (-60, 2 * mpmath.log(beta) / len(start)),
                solver="anderson",
                tol=1e-30,
                maxsteps=500,
            )
            want = [float(mpmath.exp(z) + x) for x in excess]
        limit = depth_limit(c0, b0, beta)
        np.testing.assert_allclose(np.append(limit.c2, limit.b2), want, rtol=1e-13)


def test_balanced_layers_and_no_sharpening_at_depth_one():
    for depth in (1, 2, 3, 7):
        weight = 1.7 ** (1 / depth)
        want = float(balanced_limit_sharpness(depth, 1.7, 30.0))
        for scale in (1.0, 0.2):  # where balanced layers start does not matter
            start = scale * weight
            got = float(depth_limit_sharpness([start] * (depth - 1), start, 1.7, 30.0))
            assert got == pytest.approx(want, rel=1e-13)
        assert float(first_order_curvature([weight] * (depth - 1), weight, 1.7, 30.0)[1]) < 1e-12
    for b0 in (0.1, 1.0, 9.0):
        assert float(depth_limit_sharpness(np.zeros(0), b0, 1.7, 30.0)) == pytest.approx(30.0)
    assert float(balanced_limit_sharpness(5, 1.0, 2.0)) == 5.0  # the layers lead below alpha = D


@settings(max_examples=150, deadline=None)
@given(
    offsets=st.lists(st.floats(-0.6, 0.6), min_size=2, max_size=6),
    beta=st.floats(0.7, 1.4),
)
def test_expansion_stays_within_its_bound(offsets, beta):
    *c0, b0 = np.sqrt(1 + np.array(offsets))
    value, bound = first_order_curvature(c0, b0, beta, 10.0)
    exact = 10.0 * float(depth_limit(c0, b0, beta).product2)
    assert abs(float(value) - exact) <= float(bound) + 1e-12 * exact


def test_expansion_is_of_first_order():
    """Halving the offsets divides the error by four, and without the term it would only halve."""
    offsets = np.array([0.04, -0.02, 0.05])
    errors, flat = [], []
    for scale in (1.0, 0.5):
        *c0, b0 = np.sqrt(1 + scale * offsets)
        exact = float(depth_limit(c0, b0, 1.0).product2)
        errors.append(abs(float(first_order_curvature(c0, b0, 1.0, 1.0)[0]) - exact))
        flat.append(abs(1 - exact))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert flat[0] / flat[1] == pytest.approx(2, rel=0.1)
    assert np.isinf(first_order_curvature([3.0], 0.1, 0.5, 1.0)[1])  # offsets beyond the expansion


def test_deep_flow_ends_there():
    """Depth 4 written out by hand, from unequal layers, with a small live opposing component."""

    def rates(_, y):
        *c, b, u = y
        product = np.prod(c)
        residual = product * b - 1.2
        common = b * residual + 20.0 * product * u**2
        return [*(-product / ci * common for ci in c), -product * residual, -20.0 * product**2 * u]

    end = solve_ivp(rates, (0, 50), [0.9, 0.7, 1.1, 0.4, 1e-7], "DOP853", rtol=1e-11, atol=1e-14).y[:, -1]
    limit = depth_limit([0.9, 0.7, 1.1], 0.4, 1.2)
    np.testing.assert_allclose(np.append(limit.c2, limit.b2), end[:4] ** 2, rtol=1e-8)
    assert abs(end[4]) < 1e-9


def test_steps_of_the_proof_fail_on_a_wrong_claim():
    model = deep_linear(2, 3)
    first, second, *w = model.weights
    assert vanishes(model.along_flow(first**2 - second**2))
    assert not vanishes(model.along_flow(first**2 - 2 * second**2))
    assert not vanishes(model.along_flow(first**2 - w[0] ** 2))  # both directions count


def test_batches_equal_loops():
    c0 = np.array([[0.3, 0.8], [1.1, 0.2], [0.7, 0.7]])
    b0 = np.array([0.2, 0.5, 0.7])
    batch = depth_limit_sharpness(c0, b0, 1.3, 30.0)
    assert batch.shape == (3,)
    loop = [float(depth_limit_sharpness(c, b, 1.3, 30.0)) for c, b in zip(c0, b0, strict=True)]
    np.testing.assert_allclose(batch, loop, rtol=1e-14)
    assert depth_limit(c0, b0, [[1.0], [2.0]]).c2.shape == (2, 3, 2)


def test_onsets_come_in_descending_alpha():
    alphas = np.array([30.0, 90.0, 42.0, 5.0])
    order = signal_order(0.3, 0.05, 1.0, alphas, 0.06)
    assert order.onset_order.tolist() == [1, 2]  # 30 and 5 stay below the edge: 0.06 * 30 * 1.05 < 2
    np.testing.assert_allclose(order.onset, [onset_time(0.3, 0.05, 1.0, a, 0.06) for a in alphas])
    assert np.isinf(order.exit[[0, 3]]).all()


def test_exit_order_can_differ_from_onset_order():
    """Of two directions the second onset starts larger by e^40 and oscillates first: product over steps decides."""
    c0, b0, beta, lr, alphas = 0.3, 0.05, 1.0, 0.02, np.array([200.0, 170.0])
    log_start, threshold = np.array([-60.0, -20.0]), -5.0
    order = signal_order(c0, b0, beta, alphas, lr, threshold - log_start)
    assert order.onset_order.tolist() == [0, 1]
    assert order.exit_order.tolist() == [1, 0]
    assert signal_order(c0, b0, beta, alphas, lr, 5.0).exit_order.tolist() == [0, 1]
    times = lr * np.arange(4000)
    c = predict_flow(c0, b0, beta)(times).c
    logs = log_start[:, None] + np.cumsum(np.log(np.abs(1 - lr * alphas[:, None] * c**2)), axis=1)
    late = times > order.onset[:, None]
    direct = [lr * int(np.flatnonzero((row >= threshold) & ok)[0]) for row, ok in zip(logs, late, strict=True)]
    assert direct[1] < direct[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: depth_limit(1.0, 1, 1), "c0 must have shape \\(..., D - 1\\), got a number"),
        (lambda: depth_limit([1.0], 1, 0), "beta must be positive, got 0"),
        (lambda: depth_limit([np.inf], 1, 1), "c0 must be finite"),
        (lambda: depth_limit_sharpness([1.0], 1, 1, -2), "alpha must be positive, got -2"),
        (lambda: balanced_limit_sharpness(0, 1, 1), "depth must be an integer >= 1, got 0"),
        (lambda: balanced_limit_sharpness(2.5, 1, 1), "depth must be an integer >= 1, got 2.5"),  # pyright: ignore
        (lambda: first_order_curvature([1.0], np.nan, 1, 1), "b0 must be finite"),
        (lambda: signal_order(1, 0.1, 1, 5.0, 0.1), "alphas must have shape \\(m,\\)"),
        (lambda: signal_order(1, 0.1, 1, [5.0, 0.0], 0.1), "alphas must be positive, got 0"),
        (lambda: signal_order(1, 0.1, 1, [5.0], 0.1, [1, 2]), "log_gains must be a number or of shape"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
