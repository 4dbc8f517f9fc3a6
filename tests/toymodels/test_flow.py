"""The exact flow against a tight solve, its limits, and the explicit sharpness against dense eigenvalues."""

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from toymodels import (
    ReducedState,
    arrow_sharpness,
    limit_c2,
    limit_sharpness,
    max_stable_lr,
    onset_time,
    predict_flow,
    simulate_flow,
    solved_sharpness,
)
from toymodels.symbolic import two_layer

STARTS = {"K > 0": (1.0, 0.1), "K < 0": (0.4, 1.1), "K = 0": (0.7, 0.7), "b < 0": (0.5, -0.2), "both < 0": (-0.4, -0.1)}


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("method", ["LSODA", "DOP853"])
def test_closed_form_against_a_tight_solve(name, method):
    c0, b0 = STARTS[name]
    t = np.linspace(0, 15, 80)
    solved = simulate_flow(ReducedState(c0, b0), 1.3, 40.0, t, rtol=1e-12, method=method)
    exact = predict_flow(c0, b0, 1.3)(t)
    assert np.abs(exact.c - solved[0]).max() < 1e-9
    assert np.abs(exact.b_par - solved[1]).max() < 1e-9


@settings(max_examples=100, deadline=None)
@given(c0=st.floats(0.05, 3), b0=st.floats(-0.04, 3), beta=st.floats(0.1, 5), t=st.floats(0, 1e4))
def test_flow_starts_right_conserves_k_restarts_and_never_overflows(c0, b0, beta, t):
    predict = predict_flow(c0, b0, beta)
    start, later = predict(0.0), predict(t)
    assert (start.c, start.b_par, start.clock) == pytest.approx((c0, b0, 0.0), abs=1e-12)
    assert np.isfinite([later.c, later.b_par, later.clock]).all()
    scale = max(c0**2, b0**2, beta)
    assert later.c**2 - later.b_par**2 == pytest.approx(c0**2 - b0**2, abs=1e-11 * scale)
    again = predict_flow(predict(t / 2).c, predict(t / 2).b_par, beta)(t / 2)
    assert again.c == pytest.approx(float(later.c), rel=1e-9)


def test_limit_batch_and_clock():
    c0, b0 = np.array([1.0, 0.4, 0.7]), np.array([0.1, 1.1, 0.7])
    end = predict_flow(c0, b0, 1.3)(200.0)
    np.testing.assert_allclose(end.c**2, limit_c2(c0, b0, 1.3), rtol=1e-12)
    np.testing.assert_allclose(solved_sharpness(end, 1.3, 40.0), limit_sharpness(c0, b0, 1.3, 40.0), rtol=1e-12)
    np.testing.assert_allclose(max_stable_lr(c0, b0, 1.3, 40.0), 2 / limit_sharpness(c0, b0, 1.3, 40.0))
    loop = [float(predict_flow(c, b, 1.3)(2.0).c) for c, b in zip(c0, b0, strict=True)]
    np.testing.assert_array_equal(predict_flow(c0, b0, 1.3)(2.0).c, loop)
    area = quad(lambda t: float(predict_flow(1.0, 0.1, 1.3)(t).c) ** 2, 0, 3, epsabs=1e-13, epsrel=1e-13)[0]
    assert float(predict_flow(1.0, 0.1, 1.3)(3.0).clock) == pytest.approx(area, abs=1e-11)


def test_onset_time_is_where_the_curvature_meets_the_edge():
    lr = 2 / (40.0 * 0.8)
    for c0, b0 in ((0.7, 0.1), (0.5, -0.2), (0.4, 1.0)):
        time = float(onset_time(c0, b0, 1.3, 40.0, lr))
        assert 0 < time < np.inf
        assert float(predict_flow(c0, b0, 1.3)(time).c) ** 2 == pytest.approx(0.8, rel=1e-12)
        earlier = predict_flow(c0, b0, 1.3)(np.linspace(0, time * 0.999, 500))
        assert (earlier.c**2 < 0.8).all()
    assert float(onset_time(1.2, 0.1, 1.3, 40.0, lr)) == 0.0
    assert float(onset_time(0.7, 0.1, 1.3, 40.0, 0.9 * float(max_stable_lr(0.7, 0.1, 1.3, 40.0)))) == np.inf


def test_onset_time_within_rounding_of_the_limit_and_of_the_start():
    """An edge that lies at the limit or at the start up to rounding gives no NaN and no negative time."""
    rng = np.random.default_rng(8)
    n = 50_000
    c0, b0, beta, alpha = rng.uniform(0.1, 1, n), rng.uniform(-0.05, 1, n), rng.uniform(1, 3, n), rng.uniform(1, 100, n)
    nearly = 1 + rng.integers(-8, 9, n) * np.finfo(float).eps
    for level in (limit_c2(c0, b0, beta), c0**2):
        assert (onset_time(c0, b0, beta, alpha, 2 / (alpha * level) * nearly) >= 0).all()


CLOCKS = [(0.01, 3.0, 0.1), (3.0, -0.01, 0.1), (1.0, -0.999999, 1.0), (0.7, 0.7, 1.0)]


@pytest.mark.parametrize(("c0", "b0", "beta"), CLOCKS)
@pytest.mark.parametrize("t", [1e-6, 1e-2, 1.0, 100.0])
def test_clock_against_fifty_digits(c0, b0, beta, t):
    """The integral of c^2 by quadrature on the law of q in 50 digits: no cancellation at short or long times."""
    with mpmath.workdps(50):
        c, b, norm = mpmath.mpf(c0), mpmath.mpf(b0), mpmath.mpf(beta)
        invariant = c**2 - b**2
        rate = mpmath.sqrt(invariant**2 + 4 * norm**2)
        upper, lower, q0 = 2 * norm + rate, 2 * norm - rate, (c + b) ** 2

        def squared(time):
            ratio = (q0 - lower) / (upper - q0) * mpmath.exp(rate * time)
            q = (lower + upper * ratio) / (1 + ratio)
            return (q + 2 * invariant + invariant**2 / q) / 4

        # pieces of a few relaxation times each; past the last one c^2 is at its limit to all digits used
        last = min(t, 60 / float(rate))
        pieces = mpmath.linspace(0, last, 1 + max(2, int(last * rate)))
        area = mpmath.quad(squared, pieces) + (mpmath.mpf(t) - last) * (invariant + rate) / 2
    # three terms of size R t or less add up to c0^2 t or more: that sum's condition number times rounding
    bound = 16 * np.finfo(float).eps * (1 + float(rate) / c0**2)
    assert float(predict_flow(c0, b0, beta)(t).clock) == pytest.approx(float(area), rel=bound, abs=0.0)


def test_decay_in_the_clock_against_a_solve_and_beyond_underflow():
    start = ReducedState(0.6, 0.1, 1e-7, -1e-7)  # squares of 1e-14 act on c below the solver's tolerance
    t = np.linspace(0, 1.0, 30)
    solved = simulate_flow(start, 1.3, 20.0, t, rtol=1e-12, method="DOP853")
    log_u, b_perp = predict_flow(0.6, 0.1, 1.3)(t).decayed(-1e-7, 1e-7, 20.0)
    keep = np.abs(solved[3]) > 1e-11  # smaller values are under the solver's absolute tolerance
    assert keep.sum() > 10
    np.testing.assert_allclose(log_u[keep], np.log(np.abs(solved[3][keep])), atol=1e-3)
    np.testing.assert_allclose(b_perp, solved[2], rtol=1e-6)
    assert float(predict_flow(0.6, 0.1, 1.3)(50.0).decayed(0.1, 0.0, 500.0)[0]) < -10_000
    assert float(predict_flow(0.6, 0.1, 1.3)(1.0).decayed(0.0, 0.0, 5.0)[0]) == -np.inf


def test_sharpness_where_couplings_vanish_or_poles_meet():
    """Deflated and repeated eigenvalues: zero couplings, alpha = 1, tiny and huge entries; one batch."""
    rng = np.random.default_rng(9)
    n = 20_000
    c, b, p = np.round(rng.normal(size=(3, n)))
    u = np.where(rng.random(n) < 0.5, np.round(rng.normal(size=n)), 10 ** rng.uniform(-300, 0, n))
    c = np.where(rng.random(n) < 0.2, 10 ** rng.uniform(-150, 2, n), c)
    beta, alpha = 1.0 + rng.integers(0, 3, n), rng.choice([1e-3, 0.5, 1.0, 2.0, 1e3], n)
    h = np.zeros((n, 4, 4))
    arguments = (*two_layer().weights, *two_layer().parameters)
    dense = sp.lambdify(arguments, two_layer().hessian.tolist(), "numpy")(c, b, np.abs(p), u, beta, alpha)
    for i, row in enumerate(dense):
        for j, entry in enumerate(row):
            h[:, i, j] = entry
    error = arrow_sharpness(ReducedState(c, b, np.abs(p), u), beta, alpha) - np.linalg.eigvalsh(h)[:, -1]
    assert (np.abs(error) / np.linalg.norm(h, axis=(1, 2))).max() < 1e-13


@settings(max_examples=100, deadline=None)
@given(*(st.floats(-3, 3) for _ in range(2)), st.floats(0, 3), st.floats(-3, 3), st.floats(0.1, 5), st.floats(0.1, 500))
def test_sharpness_against_the_derived_hessian(c, b, p, u, beta, alpha):
    values = dict(zip((*two_layer().weights, *two_layer().parameters), (c, b, p, u, beta, alpha), strict=True))
    dense = np.array(
        two_layer().hessian.evalf(20, subs={sp.Symbol(k.name, **k.assumptions0): v for k, v in values.items()})
    )
    top = np.linalg.eigvalsh(dense.astype(float))[-1]
    scale = np.abs(dense.astype(float)).max()
    assert arrow_sharpness(ReducedState(c, b, p, u), beta, alpha) == pytest.approx(top, abs=1e-12 * scale)
    if p == 0 and u == 0:
        assert solved_sharpness(ReducedState(c, b), beta, alpha) == pytest.approx(top, abs=1e-12 * scale)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: predict_flow(1, 0, -1), "beta must be positive, got -1; pass beta > 0"),
        (lambda: predict_flow(np.nan, 0, 1), "c0 must be finite"),
        (lambda: onset_time(1, 0, 1, 10, 0), "lr must be positive, got 0"),
        (lambda: predict_flow(1, 0, 1)(1.0).decayed(0.1, 0.1, -2), "alpha must be positive, got -2"),
        (lambda: solved_sharpness(ReducedState(1, 0), 1, np.nan), "alpha must be finite"),
        (lambda: arrow_sharpness(ReducedState(1, 0), 0, 1), "beta must be positive, got 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
