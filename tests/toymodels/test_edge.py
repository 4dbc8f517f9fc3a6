"""Delayed growth, its sum over steps, and the peak, against quadrature, direct sums, 30 digits and simulation."""

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import lambertw

from toymodels.edge import (
    CROSSING,
    dilogarithm,
    exit_time,
    first_integral,
    growth,
    growth_rate,
    peak_log_u,
    stability_integral,
    summed_growth,
)
from toymodels.flow import limit_c2, onset_time, predict_flow
from toymodels.model import ReducedState
from toymodels.simulation import simulate_gd

EPS = np.finfo(float).eps


def direct(c0, b0, beta, alpha, lr, steps):
    """Terms log|1 - s_n| of the closed form, step by step."""
    return np.log(np.abs(1 - lr * alpha * predict_flow(c0, b0, beta)(lr * np.arange(steps)).c ** 2))


def test_dilogarithm_on_both_axes_and_between():
    z = np.array([0, 1e-12, 0.5, 1.0, 2.0, 1e5, -1e5, -0.3, 1 + 1e-9j, 3 - 0.2j, -2 + 40j])
    want = [float(mpmath.re(mpmath.polylog(2, complex(x)))) for x in z]
    np.testing.assert_allclose(dilogarithm(z), want, rtol=1e-13, atol=1e-22)


@pytest.mark.parametrize("k_sign", [(0.3, 0.05), (0.3, 0.5), (0.4, 0.4), (0.9, 0.05)])
def test_integral_against_thirty_digits(k_sign):
    """c from the logistic law in 30 digits, cut where s = 1 there; the last start has s > 1 throughout."""
    beta, alpha, lr, end = 1.0, 50.0, 0.06, 3.0
    with mpmath.workdps(30):
        c0, b0 = map(mpmath.mpf, k_sign)
        k = c0**2 - b0**2
        rate = mpmath.sqrt(k**2 + 4)
        ratio = ((c0 + b0) ** 2 - 2 + rate) / (2 + rate - (c0 + b0) ** 2)

        def s(t):
            q = (2 - rate + (2 + rate) * ratio * mpmath.exp(rate * t)) / (1 + ratio * mpmath.exp(rate * t))
            return mpmath.mpf(alpha) * mpmath.mpf(lr) * (q + 2 * k + k**2 / q) / 4

        cuts = [mpmath.mpf(0)]
        if s(0) < 1:
            cuts.append(mpmath.findroot(lambda t: s(t) - 1, (0.01, 2.9), solver="anderson", tol=1e-25))
        cuts.append(mpmath.mpf(end))
        want = float(mpmath.quad(lambda t: mpmath.log(abs(1 - s(t))), cuts))
    got = float(stability_integral(*k_sign, beta, alpha, lr, end))
    assert got == pytest.approx(want, abs=64 * EPS * (abs(want) + 10))  # dilogarithms of size up to 10 are added


START = {"c0": st.floats(0.1, 1.5), "b0": st.floats(-1.5, 1.5), "beta": st.floats(0.3, 3)}


@settings(max_examples=150, deadline=None)
@given(**START, edge=st.floats(0.2, 3), lr=st.floats(0.005, 0.2), steps=st.integers(5, 300))
def test_sum_stays_within_its_bound(c0, b0, beta, edge, lr, steps):
    assume(abs(c0 + b0) > 1e-3)
    alpha = 2 * edge / (lr * float(limit_c2(c0, b0, beta)))  # s ends at 2 * edge
    s = lr * alpha * predict_flow(c0, b0, beta)(lr * np.arange(steps + 1)).c ** 2
    assume(np.abs(1 - s).min() > 1e-9)  # a start at the superstable point itself
    terms = direct(c0, b0, beta, alpha, lr, steps)
    got = summed_growth(c0, b0, beta, alpha, lr, steps)
    # c is known to about 16 eps: near s = 1 the direct sum loses the digits of 1 - s
    rounding = float(got.rounding) + 64 * EPS * (np.abs(terms) + np.exp(-terms)).sum()
    assert abs(float(got.value) - terms.sum()) <= float(got.bound) + rounding


@pytest.mark.parametrize("far", [0.0, 1e-13, -1e-13, 1e-9, 1e-5])
def test_limit_at_the_superstable_point(far):
    """s tends to 1: log(1 - s_inf) and xi_1 diverge, their sum does not."""
    alpha = (1 + far) / (0.05 * float(limit_c2(0.3, 0.05, 1.0)))
    case = (0.3, 0.05, 1.0, alpha, 0.05)
    terms = direct(*case, 120)
    assert terms.min() > -20
    got = summed_growth(*case, 120)
    assert abs(float(got.value) - terms.sum()) <= float(got.bound + got.rounding) + 64 * EPS * np.exp(-terms).sum()


def test_without_the_crossing_or_the_end_terms_the_sum_is_missed():
    case = (0.3, 0.05, 1.0, 50.0, 0.06, 100)
    got, want = summed_growth(*case), direct(*case).sum()
    assert abs(float(got.value) - want) <= float(got.bound)
    assert abs(float(got.value - got.crossing) - want) > 1e4 * float(got.bound)
    assert abs(float(got.integral + got.crossing) - want) > 1e4 * float(got.bound)


def test_sum_converges_at_order_five_in_lr():
    """With s(t) fixed the first term left out is f^(5)/30240, lr^5 of it; without a crossing, above rounding."""
    errors = []
    for lr in (0.16, 0.08):
        case = (1.0, 0.1, 1.3, 1.5 / lr, lr, round(3.2 / lr))
        errors.append(abs(float(summed_growth(*case).value) - direct(*case).sum()))
    assert errors[0] / errors[1] == pytest.approx(32, rel=0.1)


def test_variation_constant_of_the_bound():
    x = np.linspace(0.01, 60, 400_001)
    third = np.cosh(x / 2) / (4 * np.sinh(x / 2) ** 3) - 2 / x**3
    assert (third < 0).all()
    assert (np.diff(np.sign(np.diff(third[x > 0.1]))) != 0).sum() == 1  # one extremum, from 0 and back to 0
    assert 0.999 * CROSSING < 4 * np.abs(third).max() < CROSSING


@settings(max_examples=60, deadline=None)
@given(**START, edge=st.floats(1.02, 3), gain=st.floats(-3, 3))
def test_exit_solves_the_growth_and_follows_the_onset(c0, b0, beta, edge, gain):
    lr = 0.01
    assume(abs(c0 + b0) > 1e-3)
    alpha = 2 * edge / (lr * float(limit_c2(c0, b0, beta)))
    onset, leave = (float(f(c0, b0, beta, alpha, lr)) for f in (onset_time, lambda *a: exit_time(*a, gain)))
    at_onset = float(growth(c0, b0, beta, alpha, lr, onset)) if np.isfinite(onset) else np.nan
    if onset == 0 or at_onset >= gain:
        assert leave == onset
    elif np.isfinite(onset):
        assert leave >= onset
        # Newton stops at 1e-14 of the time; the growth itself is a sum of terms of this size
        scale = 1 + abs(at_onset) + leave / lr
        assert float(growth(c0, b0, beta, alpha, lr, leave)) == pytest.approx(gain, abs=1e-11 * scale)


def test_exit_meets_the_direct_sum():
    """The first step at which the summed growth is back: within the terms between integral and sum, over the slope."""
    for case in ((0.3, 0.05, 1.0, 50.0, 0.06), (0.3, 0.5, 1.0, 50.0, 0.06), (0.5, 0.1, 1.3, 120.0, 0.02)):
        terms = direct(*case, 4000)
        leave = float(exit_time(*case)) / case[4]
        onset = float(onset_time(*case)) / case[4]
        summed = np.concatenate([[0.0], np.cumsum(terms)])
        first = int(np.flatnonzero((summed >= 0) & (np.arange(4001) > onset))[0])
        got = summed_growth(*case, first)
        gap = abs(float(got.value - got.integral)) + float(got.bound)
        slope = min(terms[first - 1], float(growth_rate(*case, case[4] * leave)))
        assert abs(first - leave) <= gap / slope + 1


def test_simulated_descent_returns_at_the_exit_to_first_order_in_lr():
    """At a fixed s(t) the flow, its integral and descent differ by O(lr): a sixteenth of lr, at most a quarter."""
    errors = []
    for lr in (0.04, 0.0025):
        alpha = 3.0 / lr
        leave = float(exit_time(0.5, 0.1, 1.0, alpha, lr))
        run = simulate_gd(ReducedState(0.5, 0.1, 0.0, 1e-9), 1.0, alpha, lr, round(1.3 * leave / lr)).isel(run=0)
        back = (run.log_abs_u.values >= np.log(1e-9)) & (run.step.values * lr > float(run.onset_step) * lr)
        errors.append(abs(lr * np.flatnonzero(back)[0] - leave))
    assert errors[1] < errors[0] / 4 < 0.1


def test_batch_equals_loop_and_edge_cases():
    c0, b0 = np.array([[0.3], [1.5]]), np.array([0.05, 0.5, 0.8])
    batch = exit_time(c0, b0, 1.0, 50.0, 0.06)
    loop = [[float(exit_time(float(c), float(b), 1.0, 50.0, 0.06)) for b in b0] for c in c0[:, 0]]
    np.testing.assert_allclose(batch, loop, rtol=1e-12)
    assert (batch[1] == 0).all()  # the start is beyond the edge
    assert float(exit_time(0.3, 0.05, 1.0, 30.0, 0.06)) == np.inf  # the limit is below it
    assert summed_growth(c0, b0, 1.0, 50.0, 0.06, 40).value.shape == (2, 3)
    assert float(stability_integral(0.3, 0.2, 1.0, 50.0, 0.06, 0.0)) == 0.0
    both = stability_integral(0.3, 0.2, 1.0, 50.0, 0.06, [1.0, 3.0])
    later = predict_flow(0.3, 0.2, 1.0)(1.0)
    assert both[1] - both[0] == pytest.approx(float(stability_integral(later.c, later.b_par, 1.0, 50.0, 0.06, 2.0)))
    np.testing.assert_allclose(stability_integral(-0.3, -0.2, 1.0, 50.0, 0.06, 3.0), both[1], rtol=1e-13)


def test_first_integral_is_smooth_where_the_series_hands_over():
    s = np.concatenate(
        [2 + np.array([-0.4, 0.4]) * (1 + 1e-9), 2 + np.array([-0.4, 0.4]) * (1 - 1e-9), [2 + 1e-8, 2.0]]
    )
    with mpmath.workdps(30):
        want = [
            float(mpmath.log(x) ** 2 / 2 + mpmath.re(mpmath.polylog(2, 1 / x)) - mpmath.pi**2 / 12)
            for x in map(mpmath.mpf, s)
        ]
    np.testing.assert_allclose(first_integral(s), want, rtol=1e-12, atol=1e-30)


@given(log_u0=st.floats(-15, -3), s0=st.floats(1.2, 4), drift=st.floats(0.05, 2), alpha=st.floats(5, 100))
def test_peak_is_lambert_w_and_lies_on_the_orbit(log_u0, s0, drift, alpha):
    lr = 0.1
    v0 = alpha * np.exp(2 * log_u0) / drift
    level = v0 - np.log(v0) + float(first_integral(s0)) / (lr * drift)
    got = float(peak_log_u(log_u0, s0, drift, alpha, lr))
    if 1.01 < level < 600:  # nearer to 1 the argument -e^{-l} loses half of its digits, further on it underflows
        want = np.log(-drift / alpha * lambertw(-np.exp(-level), -1).real) / 2
        assert got == pytest.approx(want, abs=1e-12)
    assert got >= max(log_u0, np.log(drift / alpha) / 2) - 1e-12


def test_peak_beyond_underflow_and_at_the_fixed_point():
    deep = peak_log_u([-1000.0, -4000.0], 2.0, 0.2, 50.0, 0.05)
    v = np.exp(2 * deep) * 50 / 0.2
    np.testing.assert_allclose(v - np.log(v), [2000 - np.log(250), 8000 - np.log(250)], rtol=1e-13)
    still = np.log(0.2 / 50) / 2  # alpha u^2 = D and s = 2: nothing moves
    assert float(peak_log_u(still, 2.0, 0.2, 50.0, 0.05)) == pytest.approx(still, abs=1e-15)
    near = float(peak_log_u(still - 1e-6, 2.0, 0.2, 50.0, 0.05))  # small orbits are symmetric about it
    assert near - still == pytest.approx(1e-6, rel=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stability_integral(1, -1, 1, 1, 1, 1), "c0 \\+ b0 must not be 0"),
        (lambda: growth(1, 0, 1, 1, 1, -1), "t must be >= 0, got -1; pass a time"),
        (lambda: growth_rate(1, 0, 1, 0, 1, 1), "alpha must be positive, got 0"),
        (lambda: summed_growth(1, 0, 1, 1, 1, 2.5), "steps must be whole, got 2.5"),
        (lambda: summed_growth(1, 0, 1, 1, 1, 0), "steps must be positive, got 0"),
        (lambda: exit_time(1, 0, 1, 1, 0.1, np.nan), "log_gain must be finite"),
        (lambda: exit_time(1, -2, 1, 10, 0), "lr must be positive, got 0"),
        (lambda: first_integral(0.9), "s must be above 1, got 0.9"),
        (lambda: peak_log_u(-3, 2, -1, 1, 1), "drift must be positive, got -1"),
        (lambda: peak_log_u(400, 2, 1, 1, 1), "log_u0 must leave alpha u\\^2 finite"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
