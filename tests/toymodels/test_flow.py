"""The exact flow against a tight solve, its limits, and the explicit sharpness against dense eigenvalues."""

import numpy as np
import pytest
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


@settings(max_examples=100, deadline=None)
@given(*(st.floats(-3, 3) for _ in range(2)), st.floats(0, 3), st.floats(-3, 3), st.floats(0.1, 5), st.floats(0.1, 500))
def test_sharpness_against_the_derived_hessian(c, b, p, u, beta, alpha):
    import sympy as sp

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
        (lambda: predict_flow(1, -1, 1), "c0 \\+ b0 must not be 0"),
        (lambda: onset_time(1, 0, 1, 10, 0), "lr must be positive, got 0"),
        (lambda: onset_time(1, -2, 1, 10, 0.1), "must have one sign"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
