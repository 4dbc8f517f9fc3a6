"""The logistic counterpart against vectors trained on examples, tight ODE solves, dense Hessians and iterated maps."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from toymodels.derivations.logistic import ROWS
from toymodels.derivations.logistic_oracles import descend, examples, iterated, solved_flow
from toymodels.derivations.logistic_steps import ALPHA, MARGIN, RHO, SHARE, B, C, U, model
from toymodels.logistic import (
    logistic_critical_c2,
    logistic_curvature,
    logistic_edge,
    logistic_flow,
    logistic_onset_time,
    logistic_peak_curvature,
    logistic_period_two,
    logistic_sharpness,
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_rows_prove(row):
    proof = row.prove()
    assert proof.ok, proof.detail
    assert callable(row.function())


def full_descent(c, b, u, alpha, p, margin, lr, steps):
    """Gradient descent on c, b and the vector b_o, losses of the examples summed; rows of c, b, u."""
    x, x_o, label, weight = examples(alpha, p, margin, 0.0)
    b_o, path = np.full(3, u / np.sqrt(3)), []
    for _ in range(steps + 1):
        path.append((c, b, b_o.sum() / np.sqrt(3)))
        inner = x * b + x_o @ b_o
        pull = -weight * label * expit(-label * c * inner)
        c, b, b_o = c - lr * pull @ inner, b - lr * c * (pull @ x), b_o - lr * c * (pull @ x_o)
    return np.array(path).T


def test_generated_loss_is_the_loss_of_the_examples():
    value = sp.lambdify((C, B, U, ALPHA, SHARE, MARGIN, RHO), model().loss, "math")
    for c, b, u, rho in ((0.7, 0.4, 0.1, 0.0), (1.2, -0.3, -0.2, 0.6)):
        x, x_o, label, weight = examples(20.0, 0.3, 1.4, rho)
        output = c * (x * b + x_o @ np.full(3, u / np.sqrt(3)))
        assert value(c, b, u, 20.0, 0.3, 1.4, rho) == pytest.approx(
            weight @ np.log1p(np.exp(-label * output)), rel=1e-14
        )


@settings(max_examples=50, deadline=None)
@given(c=st.floats(-3, 3), alpha=st.floats(0.1, 100), w=st.floats(-30, 30))
def test_curvature_against_the_hessian_and_symmetry(c, alpha, w):
    got = float(logistic_curvature(c, alpha, w))
    assert got == pytest.approx(alpha * c**2 * float(expit(w) * expit(-w)), rel=1e-12)
    assert got == logistic_curvature(-c, alpha, -w)
    assert got <= alpha * c**2 / 4 * (1 + 1e-15)
    if abs(c) > 1e-2:  # a second difference of the generated gradient in u
        gradient = sp.lambdify((C, B, U, ALPHA, SHARE, MARGIN, RHO), model().gradient[2], "math")
        scale = c * np.sqrt(alpha / 0.4)
        h = 1e-4
        slope = sum(e * gradient(c, 0.5, (w + e * h) / scale, alpha, 0.4, 1.0, 0.0) for e in (1, -1)) / (2 * h / scale)
        # third derivative of tanh is below 1: h^2/6; rounding of the gradient over h
        assert slope == pytest.approx(got, abs=alpha * c**2 * (h**2 + 4 * 2.3e-16 / h))


@settings(max_examples=60, deadline=None)
@given(c=st.floats(0.01, 5), alpha=st.floats(0.01, 100), margin=st.floats(0.1, 5), p=st.floats(0.01, 0.99))
def test_sharpness_is_the_dense_one(c, alpha, margin, p):
    dense = np.array(HESSIAN(c, c, 0.0, alpha, p, margin, 0.0), float)
    top = np.linalg.eigvalsh(dense)[-1]
    assert abs(top - logistic_sharpness(c, alpha, margin, p)) <= 1e-13 * np.linalg.norm(dense)


HESSIAN = sp.lambdify((C, B, U, ALPHA, SHARE, MARGIN, RHO), model().hessian, "numpy")


def test_flow_ladder():
    predict = logistic_flow([0.1, 0.9], 1.7, [0.1, 0.5])
    np.testing.assert_allclose(predict(0.0), [0.1, 0.9], rtol=1e-14)
    t = np.geomspace(1e-2, 300.0, 20)
    for i, (c0, p) in enumerate(((0.1, 0.1), (0.9, 0.5))):
        np.testing.assert_allclose(
            logistic_flow([0.1, 0.9], 1.7, [0.1, 0.5])(t[:, None])[:, i], solved_flow(c0, 1.7, p, t), rtol=1e-9
        )
    middle = logistic_flow(predict(5.0), 1.7, [0.1, 0.5])  # restart from the middle
    np.testing.assert_allclose(middle(7.0), predict(12.0), rtol=1e-13)
    late = 1.7 * predict(1e280) ** 2  # no limit: z e^{-z} 2(1-p)mt -> 1 + O(1/z), so z = log(2(1-p)mt) + log z + O(1/z)
    assert np.abs(late - np.log(2 * np.array([0.9, 0.5]) * 1.7 * 1e280) - np.log(late)).max() < 2 / late.min()


@settings(max_examples=60, deadline=None)
@given(c0=st.floats(0.01, 1.5), margin=st.floats(0.2, 3), p=st.floats(0.02, 0.9), level=st.floats(1e-9, 6))
def test_onset_inverts_the_flow(c0, margin, p, level):
    """alpha c^2/4 = 2/lr at the onset, near the start too (where the difference of the clocks would cancel)."""
    edge = c0**2 * (1 + level)
    if margin * edge > 60:
        return
    alpha = 8 / (0.1 * edge)
    t = float(logistic_onset_time(c0, alpha, 0.1, margin, p))
    z0 = margin * c0**2
    rate = 2 * (1 - p) * margin * z0 / (1 + np.exp(z0))
    if level < 1e-6:  # first order: (z* - z0)/rate, off by level * (1 + z0); level itself known to eps/level
        assert t == pytest.approx(z0 * level / rate, rel=(1 + z0) * level + 8 * 2.3e-16 / level)
    assert float(logistic_flow(c0, margin, p)(t)) ** 2 == pytest.approx(edge, rel=1e-12)
    assert logistic_onset_time(c0, 8 / (0.1 * c0**2 * 0.99), 0.1, margin, p) == 0.0


def test_onset_of_gradient_descent_at_order_one():
    """Halving lr at the same lr * alpha halves the distance from the flow's onset: order one."""
    error = []
    for lr in (0.02, 0.01):
        alpha = 8 / (lr * 1.1)
        c, _, _ = full_descent(0.4, 0.4, 0.0, alpha, 0.2, 1.3, lr, round(30 * 0.1 / lr))
        s = lr * alpha * c**2 / 4
        n = int(np.argmax(s >= 2))
        crossing = n - (s[n] - 2) / (s[n] - s[n - 1])
        error.append(crossing * lr - float(logistic_onset_time(0.4, alpha, lr, 1.3, 0.2)))
    assert error[0] / error[1] == pytest.approx(2, rel=0.05)  # 2 + O(lr)


@settings(max_examples=100, deadline=None)
@given(s=st.floats(0.1, 50), rho=st.floats(-0.9, 0.9))
def test_period_two_closes_and_exists_beyond_the_edge_only(s, rho):
    orbit = logistic_period_two(s, rho)
    excess = s * (1 - rho**2) - 2
    if excess <= 0:
        assert orbit.high == orbit.low == pytest.approx(2 * np.arctanh(rho))
        assert orbit.multiplier == pytest.approx((1 - s * (1 - rho**2)) ** 2, abs=1e-12)
        return
    assert orbit.high > orbit.low
    scale = 1 + s
    for here, there in ((orbit.high, orbit.low), (orbit.low, orbit.high)):
        assert here - 2 * s * (np.tanh(here / 2) - rho) == pytest.approx(
            float(there), abs=1e-13 * scale / min(1, excess)
        )
    mirror = logistic_period_two(s, -rho)
    assert mirror.high == pytest.approx(-float(orbit.low), rel=1e-12, abs=1e-12)
    if rho == 0:
        assert 0 <= orbit.multiplier <= 1


def test_orbit_of_a_biased_pair_flips_again():
    """At large s one end saturates (T = 1) and the other meets T = 2 rho - 1: errors exponentially small in s."""
    for rho in (0.2, -0.6):
        assert logistic_period_two(60.0, rho).multiplier == pytest.approx(1 - 240 * abs(rho) * (1 - abs(rho)), rel=1e-9)
    # and no orbit of period 2 attracts there
    data, scale = examples(12.0, 0.25, 1.0, 0.3), 1.3 * np.sqrt(12.0 / 0.25)
    w = scale * descend(1.3, np.full(3, 0.01), data, 4 * 10.0 / (12.0 * 1.3**2), 400)
    assert abs(logistic_period_two(10.0, 0.3).multiplier) > 1
    assert np.abs(w[-40:-2] - w[-38:]).max() > 1e-3


@pytest.mark.parametrize(("s", "rho"), [(2.05, 0.0), (4.0, 0.0), (2.4, 0.3), (3.0, -0.5)])
def test_trained_vectors_end_on_the_orbit(s, rho):
    orbit = logistic_period_two(s, rho)
    assert abs(orbit.multiplier) < 0.9
    # |multiplier|^500 < 1e-22; rounding over 1 - |multiplier|
    np.testing.assert_allclose(iterated(s, rho, 1000), (orbit.high, orbit.low), rtol=1e-12, atol=1e-12)


def test_below_the_edge_trained_vectors_come_to_rest_and_above_they_stay_bounded():
    high, low = iterated(1.9, 0.0, 800)
    assert max(abs(high), abs(low)) < 1e-12  # slope 0.9 at least: 0.9^800
    data, s, alpha, c = examples(12.0, 0.25, 1.0, 0.0), 60.0, 12.0, 1.3
    scale = c * np.sqrt(12.0 / 0.25)
    w = scale * descend(c, np.full(3, 1e-3), data, 4 * s / (alpha * c**2), 500)
    assert np.abs(w).max() <= 2 * s
    assert (np.abs(w[1:]) <= np.maximum(np.abs(w[:-1]), 2 * s) * (1 + 1e-12)).all()
    # the squared loss grows without bound at the same frozen curvature: by s - 1 a step
    assert np.abs(w[-1]) > 1


def test_full_descent_comes_to_the_edge_and_stays():
    """c, b and the vector b_o trained past the edge: descent follows the rest state of the b it has reached."""
    alpha, p, margin, lr = 40.0, 0.2, 1.0, 0.2
    c, b, u = full_descent(0.5, 0.5, 1e-3, alpha, p, margin, lr, 10000)
    w, s = np.abs(c * np.sqrt(alpha / p) * u), lr * alpha * c**2 / 4
    lag = []
    for n in (200, 1000, 10000):
        c_rest, w_rest = logistic_edge(b[n], alpha, lr, margin, p)
        lag.append(max(abs(s[n] / (lr * alpha * c_rest**2 / 4) - 1), abs(w[n] / w_rest - 1)))
    assert lag[0] > 5 * lag[1] / 2 > 0  # the drift of b slows, the lag with it
    assert lag[1] > 5 * lag[2] / 2 > 0
    assert (s[200:] > 2).all()
    assert (np.diff(s[200:]) < 0).all()  # the sharpness ends at 2/lr from above
    # no spike: after the first swing the amplitude only falls
    assert (np.diff(w[200:]) < 0).all()


@settings(max_examples=60, deadline=None)
@given(
    b=st.floats(0.05, 30),
    alpha=st.floats(1, 200),
    lr=st.floats(0.01, 1),
    margin=st.floats(0.2, 3),
    p=st.floats(0.02, 0.9),
)
def test_rest_state_solves_its_equations(b, alpha, lr, margin, p):
    c, w = (float(x) for x in logistic_edge(b, alpha, lr, margin, p))
    z = margin * c * b
    assert lr * alpha * c**2 / 4 == pytest.approx(w / np.tanh(w / 2) if w > 0 else 2.0, rel=1e-12)
    if z < 600:  # relative error of z counts z times in e^{-z}
        assert p / 2 * w * np.tanh(w / 2) == pytest.approx((1 - p) * z * expit(-z), rel=1e-13 * (10 + z))


def test_peak_bounds_the_curvature_and_shapes_broadcast():
    x = np.linspace(0.01, 12, 4001)
    curvature = 30.0 * x / 0.7 * expit(x) * expit(-x)
    peak = float(logistic_peak_curvature(30.0, 0.7))
    # the grid misses the maximum by at most half a spacing: |f''| < alpha/mu there
    assert curvature.max() <= peak <= curvature.max() + 30.0 / 0.7 * (0.0015) ** 2 / 2
    assert logistic_peak_curvature([1.0, 2.0], [[1.0], [3.0]]).shape == (2, 2)
    assert logistic_onset_time([0.1, 0.2], 10.0, [[0.1], [0.2]], 1.0, 0.5).shape == (2, 2)
    assert logistic_edge([1.0, 2.0], 10.0, 0.1, 1.0, [[0.5], [0.2]])[1].shape == (2, 2)
    assert np.isinf(logistic_onset_time(0.1, 1e-3, 0.1, 1.0, 0.5))  # a time beyond float64
    # at the end of float64's range the start still counts: e^-3 of the whole
    times = [logistic_onset_time(np.sqrt(z), 8 / (0.1 * 708.0), 0.1, 1.0, 0.5) for z in (1.0, 705.0)]
    assert times[1] / times[0] == pytest.approx(1 - np.exp(-3) * 708 / 705, rel=1e-3 * np.exp(-3))
    assert logistic_critical_c2(10.0, 0.1, 0.5) == pytest.approx(8 / 0.75)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: logistic_curvature(1.0, 0.0), "alpha must be positive"),
        (lambda: logistic_critical_c2(1.0, 0.1, 1.0), r"rho must lie in \(-1, 1\)"),
        (lambda: logistic_sharpness(1.0, 1.0, 1.0, 1.0), r"p must lie in \(0, 1\)"),
        (lambda: logistic_flow(0.0, 1.0, 0.5), "c0 must be positive"),
        (lambda: logistic_flow(30.0, 1.0, 0.5), r"margin \* c0\*\*2 must be <= 600"),
        (lambda: logistic_flow(0.3, 1.0, 0.5)(-1.0), "t must lie in"),
        (lambda: logistic_onset_time(0.3, 1.0, -0.1, 1.0, 0.5), "lr must be positive"),
        (lambda: logistic_period_two(0.0), "s must be positive"),
        (lambda: logistic_period_two(3.0, np.nan), "rho must be finite"),
        (lambda: logistic_edge(-1.0, 1.0, 0.1, 1.0, 0.5), "b must be positive"),
        (lambda: logistic_peak_curvature(1.0, 0.0), "margin must be positive"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
