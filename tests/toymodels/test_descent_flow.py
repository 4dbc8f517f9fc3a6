"""The path of gradient descent by perturbation of the exact flow, and where descent below the edge ends."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from toymodels import ReducedState, descent_limit, limit_c2, simulate_gd
from toymodels.derivations import descent_flow as rows
from toymodels.derivations.registry import vanishes
from toymodels.descent_path import descent_path, most_steps


def errors(start, beta, alpha, lr, time, order):
    steps = round(time / lr)
    run = simulate_gd(ReducedState(*start), beta, alpha, lr, steps).isel(run=0)
    log_u = float(np.log(start[3])) if start[3] else -np.inf
    path = descent_path(ReducedState(*start), beta, alpha, lr, steps, log_u=log_u, order=order)
    return path, run


@pytest.mark.parametrize("start", [(0.6, 0.2, 0.5), (0.5, 0.9, 0.0), (0.9, -0.2, 0.7), (0.3, -0.5, 0.4)])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_order_in_the_step_with_u_of_its_root(start, order):
    lrs, found = 0.008 / 2.0 ** np.arange(4), []
    for lr in lrs:
        path, run = errors((*start, 0.2 * np.sqrt(lr)), 1.3, 20.0, lr, 2.0, order)
        found.append(np.abs(path.c - run.c.values).max() + np.abs(path.b_par - run.b_par.values).max())
    # the next order of an error is up to lr * 10 of it, 8 % at the coarsest step: a tenth in the fitted slope
    assert np.polyfit(np.log(lrs), np.log(found), 1)[0] >= order + 0.9


def test_residual_and_log_u_keep_their_digits_long_after_beta_minus_cb_has_lost_them():
    start, beta, alpha, lr = (0.6, 0.2, 0.5, 0.01), 1.3, 20.0, 0.004
    path, run = errors(start, beta, alpha, lr, 12.0, 6)
    assert path.residual[-1] < 1e-12
    # an independent recursion of r in extended precision
    c, b, p, u, r = (np.longdouble(v) for v in (*start, beta - start[0] * start[1]))
    for _ in range(len(path.c) - 1):
        drift = b * r - c * p * p - alpha * c * u * u
        c, b, p, u = c + lr * drift, b + lr * c * r, p * (1 - lr * c * c), u * (1 - lr * alpha * c * c)
        r = beta - c * b
    assert float(r) == pytest.approx(path.residual[-1], rel=1e-5)  # extended: 1e-19 of beta in r = 1e-13
    np.testing.assert_allclose(path.log_u, run.log_abs_u.values, rtol=1e-10)


def test_the_change_between_orders_bounds_the_error_of_the_last():
    rng = np.random.default_rng(2)
    for _ in range(20):
        start = (rng.uniform(0.3, 1), rng.uniform(-0.2, 1), rng.uniform(0, 0.8), rng.uniform(0.01, 0.1))
        beta, alpha = rng.uniform(0.5, 4), rng.uniform(30, 300)
        lr = rng.uniform(0.5, 1.4) / (alpha * start[0] ** 2)
        path, run = errors(start, beta, alpha, lr, min(2.0 / beta, 200 * lr), 2)
        below = run.stability.values < 2
        gap = np.abs(path.stability / run.stability.values - 1)
        before = np.logical_and.accumulate(below)
        if path.change[before].max() < 0.1:
            assert (gap[before] <= path.change[before] + 1e-13).all()


def test_one_expansion_covers_its_steps_without_overflow():
    state, beta, lr = ReducedState(0.6, 0.2, 0.5), 1.3, 0.002
    path = descent_path(state, beta, 50.0, lr, most_steps(state, beta, lr), log_u=-3.0)
    for values in (path.c, path.b_par, path.b_perp, path.log_u, path.residual):
        assert np.isfinite(values).all()
    # at rest on an invariant that drifted at order lr: c^2 off the flow's limit by no more than that
    assert path.c[-1] ** 2 == pytest.approx(float(limit_c2(0.6, 0.2, beta, 0.5)), rel=10 * lr)


@settings(max_examples=60, deadline=None)
@given(c0=st.floats(0.1, 1.5), b0=st.floats(-0.05, 1.2), beta=st.floats(0.5, 4), share=st.floats(0.001, 0.15))
def test_the_end_of_descent_within_the_bound(c0, b0, beta, share):
    if c0 * b0 > beta or abs(c0 - b0) < 1e-3:
        return
    lr = share / float(np.hypot(c0**2 - b0**2, 2 * beta))
    told = descent_limit(c0, b0, beta, lr)
    steps = round(45 / share)
    run = simulate_gd(ReducedState(c0, b0), beta, 1.0, lr, steps, stride=steps)
    k = float(run.c[0, -1] - run.b_par[0, -1]) * float(run.c[0, -1] + run.b_par[0, -1])
    before = (c0 - b0) * (c0 + b0)
    assert 0 < k / before <= 1  # K shrinks and keeps its sign
    rounding = steps * 4e-16 * max(k + 2 * beta, 1) / abs(k)
    assert abs(np.log(k / float(told.invariant))) <= told.log_error + rounding


def test_the_end_beats_the_flow_by_an_order_and_zero_stays_zero():
    c0, b0, beta, found = 0.6, 0.2, 1.3, []
    for lr in (0.02, 0.01, 0.005):
        run = simulate_gd(ReducedState(c0, b0), beta, 1.0, lr, round(40 / lr), stride=round(40 / lr))
        c2 = float(run.c[0, -1] ** 2)
        found.append((abs(float(limit_c2(c0, b0, beta)) - c2), abs(float(descent_limit(c0, b0, beta, lr).c2) - c2)))
    slopes = np.polyfit(np.log([0.02, 0.01, 0.005]), np.log(found), 1)[0]
    np.testing.assert_allclose(slopes, [1, 2], atol=0.1)  # the next order: lr * 5 = 10 % at the coarsest
    assert float(descent_limit(0.7, 0.7, 1.3, 0.01).invariant) == 0.0
    batch = descent_limit(np.array([0.6, 0.3]), 0.2, 1.3, 0.01)
    assert batch.c2[0] == descent_limit(0.6, 0.2, 1.3, 0.01).c2
    assert descent_limit(0.6, 0.2, 1.3, 1.0).log_error == np.inf


def test_a_wrong_sign_does_not_prove():
    right = rows._residual_residual()
    assert vanishes(right)
    assert not vanishes(right + 2 * rows.LR**2 * rows.C * (rows.B * rows.R))
    assert vanishes(rows._invariant_residual())
    form = rows._invariant_residual() + 2 * rows.LR**2 * rows.P**2
    assert not vanishes(form)
    assert not vanishes(rows._duhamel_residuals()[0] + sp.Symbol("h", positive=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: descent_limit(1.0, 2.0, 1.0, 0.01), r"c0 \* b0 must be <= beta, got beta - c0 \* b0 = -1"),
        (lambda: descent_limit(0.5, -0.5, 1.0, 0.01), r"c0 \+ b0 must not be 0"),
        (lambda: descent_limit(0.5, 0.5, 1.0, 0.0), "lr must be positive, got 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
