"""The exact flow with b_perp: against tight solves, fifty digits, its own invariants, and broken versions of itself."""

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toymodels import ReducedState, limit_c2, limit_sharpness, max_stable_lr, onset_time, predict_flow, simulate_flow
from toymodels.derivations import exact_flow
from toymodels.derivations.registry import vanishes

STARTS = {
    "K > 0": (1.0, 0.1, 0.3),
    "K < 0": (0.3, 0.4, 0.9),
    "K = 0": (0.5, -0.3, 0.4),
    "c changes sign": (0.4, -1.2, 0.5),
    "c + b = 0": (0.5, -0.5, 0.6),
    "c < 0": (-0.7, -0.2, 0.5),
    "c = 0": (0.0, 0.3, 0.5),
}


@pytest.mark.parametrize("method", ["LSODA", "DOP853"])
@pytest.mark.parametrize("name", STARTS)
def test_against_a_tight_solve(name, method):
    c0, b0, p0 = STARTS[name]
    t = np.linspace(0, 15, 60)
    c, b, p, _ = simulate_flow(ReducedState(c0, b0, p0), 1.3, 40.0, t, rtol=1e-12, method=method)
    exact = predict_flow(c0, b0, 1.3, p0)(t)
    assert np.abs(exact.c - c).max() < 1e-9
    assert np.abs(exact.b_par - b).max() < 1e-9
    assert np.abs(exact.b_perp - p).max() < 1e-9
    if name == "c changes sign":
        assert exact.c[-1] < 0 < exact.c[0]


@settings(max_examples=100, deadline=None)
@example(c0=0.0, b0=1.5, p0=1.0, beta=1.5, t=2.3489122899525814e-84)  # the clock came out at -2e-100
@given(c0=st.floats(-3, 3), b0=st.floats(-3, 3), p0=st.floats(0.01, 3), beta=st.floats(0.1, 5), t=st.floats(0, 1e4))
def test_starts_right_conserves_k_and_never_overflows(c0, b0, p0, beta, t):
    predict = predict_flow(c0, b0, beta, p0)
    start, later = predict(0.0), predict(t)
    scale = max(c0**2, b0**2, p0**2, beta)
    assert (start.c, start.b_par, start.b_perp) == pytest.approx((c0, b0, p0), abs=1e-13 * (1 + scale))
    assert np.isfinite([later.c, later.b_par, later.b_perp, later.clock]).all()
    assert later.clock >= 0
    conserved = later.c**2 - later.b_par**2 - later.b_perp**2
    assert conserved == pytest.approx(c0**2 - b0**2 - p0**2, abs=1e-11 * scale)
    assert later.b_perp == pytest.approx(p0 * np.exp(-later.clock), rel=1e-12)


@pytest.mark.parametrize("start", [(0.6, 0.2, 0.5), (0.3, 1.1, 0.2), (0.9, -0.3, 0.8)])
def test_restart_symmetry_and_batch(start):
    c0, b0, p0 = start
    t = np.linspace(0, 3, 7)
    whole = predict_flow(c0, b0, 1.3, p0)(t + 1.7)
    middle = predict_flow(c0, b0, 1.3, p0)(1.7)
    again = predict_flow(middle.c, middle.b_par, 1.3, middle.b_perp)(t)
    np.testing.assert_allclose(again.c, whole.c, rtol=1e-12)
    np.testing.assert_allclose(again.clock + middle.clock, whole.clock, rtol=1e-12)
    flipped = predict_flow(-c0, -b0, 1.3, p0)(t)  # (c, b_par) -> -(c, b_par) leaves the loss as it is
    np.testing.assert_array_equal(flipped.c, -predict_flow(c0, b0, 1.3, p0)(t).c)
    batch = predict_flow(np.full(7, c0), b0, 1.3, np.full(7, p0))(t)
    loop = [float(predict_flow(c0, b0, 1.3, p0)(time).c) for time in t]
    np.testing.assert_array_equal(batch.c, loop)


@pytest.mark.parametrize("k", [0.0, 1e-17, -1e-12, 1e-8, -1e-3])
@pytest.mark.parametrize("t", [1e-6, 0.3, 2.0, 50.0])
def test_near_k_zero_against_fifty_digits(k, t):
    """The mixed term's removable singularity: the matrix exponential of the linear system in 50 digits."""
    b0, p0, beta = 0.3, 0.5, 1.2
    c0 = float(np.sqrt(b0**2 + p0**2 + k))
    with mpmath.workdps(50):
        m = [mpmath.mpf(v) for v in (c0, b0, p0, beta)]
        invariant = m[0] ** 2 - m[1] ** 2 - m[2] ** 2
        z = mpmath.expm(mpmath.matrix([[0, m[3]], [m[3], invariant]]) * t) * mpmath.matrix([m[1], m[0]])
        if invariant != 0:
            sigma = (z[1] ** 2 - z[0] ** 2 - m[2] ** 2) / invariant
        else:
            phi = mpmath.asinh(m[1] / m[2])
            more = (mpmath.sinh(2 * (phi + m[3] * t)) - mpmath.sinh(2 * phi)) / (2 * m[3])
            sigma = 1 + m[2] ** 2 * (t + more)
        c, clock = z[1] / mpmath.sqrt(sigma), mpmath.log(sigma) / 2
    exact = predict_flow(c0, b0, beta, p0)(t)
    # rounding of lambda+ t in the exponent, and the sum of up to four terms
    bound = 16 * np.finfo(float).eps * (1 + 2 * beta * t)
    assert float(exact.c) == pytest.approx(float(c), rel=bound)
    assert float(exact.clock) == pytest.approx(float(clock), rel=16 * np.finfo(float).eps * (1 + 2 * beta / c0**2))


def test_limits_and_the_saddle():
    rng = np.random.default_rng(3)
    c0, b0, p0 = rng.uniform(0.1, 2, 200), rng.uniform(-0.05, 2, 200), rng.uniform(0.1, 2, 200)
    end = predict_flow(c0, b0, 1.3, p0)(400.0)
    np.testing.assert_allclose(end.c**2, limit_c2(c0, b0, 1.3, p0), rtol=1e-11)
    np.testing.assert_allclose(end.c * end.b_par, 1.3, rtol=1e-11)
    np.testing.assert_array_equal(
        max_stable_lr(c0, b0, 1.3, 9.0, p0, 0.2), 2 / limit_sharpness(c0, b0, 1.3, 9.0, p0, 0.2)
    )
    assert (limit_c2(c0, b0, 1.3, p0, 0.5) < limit_c2(c0, b0, 1.3, p0)).all()
    stuck = predict_flow(0.5, -0.5, 1.3)(200.0)  # the line c + b = 0 with b_perp = 0 ends in the saddle
    assert (float(stuck.c), float(stuck.b_par)) == pytest.approx((0.0, 0.0), abs=1e-100)
    assert float(stuck.clock) == pytest.approx(np.log1p(0.25 / 1.3) / 2, rel=1e-14)
    assert float(onset_time(0.5, -0.5, 1.3, 40.0, 2 / 40.0)) == np.inf


def test_onset_is_the_only_crossing_from_below():
    rng = np.random.default_rng(4)
    n = 300
    c0, b0, p0 = rng.uniform(-1, 1, n), rng.uniform(-1, 1, n), rng.uniform(0.05, 1, n)
    end = limit_c2(c0, b0, 1.3, p0)
    level = c0**2 + rng.uniform(0.02, 1.2, n) * (end - c0**2)
    time = onset_time(c0, b0, 1.3, 40.0, 2 / (40.0 * level), p0)
    assert (np.isfinite(time) == ((level < end) | (level <= c0**2))).all()
    meets = np.isfinite(time) & (level > c0**2)
    assert meets.sum() > 100
    meeting = np.where(meets, time, 0.0)
    at = predict_flow(c0, b0, 1.3, p0)(meeting)
    np.testing.assert_allclose(at.c[meets] ** 2, level[meets], rtol=1e-12)
    for share in np.linspace(0, 0.9999, 300):
        assert (predict_flow(c0, b0, 1.3, p0)(share * meeting).c[meets] ** 2 < level[meets]).all()
    for factor in np.geomspace(1.0001, 50, 300):
        assert (predict_flow(c0, b0, 1.3, p0)(factor * meeting).c[meets] ** 2 > level[meets]).all()
    missed = ~np.isfinite(time)
    assert missed.sum() > 20
    for t in np.linspace(0, 30, 300):
        assert (predict_flow(c0, b0, 1.3, p0)(t).c[missed] ** 2 <= level[missed] * (1 + 1e-12)).all()


def test_small_b_perp_joins_the_explicit_onset_and_rounding_gives_no_nan():
    explicit = float(onset_time(0.6, 0.1, 1.3, 40.0, 2 / 40.0))
    assert float(onset_time(0.6, 0.1, 1.3, 40.0, 2 / 40.0, 1e-9)) == pytest.approx(explicit, rel=1e-12)
    rng = np.random.default_rng(8)
    n = 500
    c0, b0, p0 = rng.uniform(0.1, 1, n), rng.uniform(-0.05, 1, n), rng.uniform(0.1, 1, n)
    nearly = 1 + rng.integers(-8, 9, n) * np.finfo(float).eps
    for level in (limit_c2(c0, b0, 2.0, p0), c0**2):
        assert (onset_time(c0, b0, 2.0, 30.0, 2 / (30.0 * level) * nearly, p0) >= 0).all()


def test_a_wrong_sign_or_factor_does_not_prove():
    c, b, root = exact_flow.C, exact_flow.B, exact_flow.ROOT
    right = exact_flow._rate(c * root) - exact_flow.INVARIANT * c * root - exact_flow.BETA * b * root
    assert vanishes(right)
    assert not vanishes(right + 2 * exact_flow.BETA * b * root)
    y, _, sigma = exact_flow._solution()
    assert vanishes(sp.diff(sigma, exact_flow.T) - 2 * y**2)
    assert not vanishes(sp.diff(sigma, exact_flow.T) - y**2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: predict_flow(1, 0, 1, -0.1), r"b_perp0 must be >= 0, got -0.1; pass b_perp0 >= 0"),
        (lambda: predict_flow(1, 0, 1, np.inf), "b_perp0 must be finite"),
        (lambda: onset_time(1, 0, 1, 10, 0.1, -1), "b_perp0 must be >= 0"),
        (lambda: limit_c2(1, 0, 1, 0, np.nan), "u0 must be finite"),
        (lambda: limit_sharpness(1, 0, 1, 0, 0.5), "alpha must be positive, got 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
