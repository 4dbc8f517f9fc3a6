"""Gradient descent beyond underflow, against exact arithmetic, plain float64, the flow and itself."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toymodels import ReducedState, TwoLayerLinear, simulate_flow, simulate_gd
from toymodels.simulation import status_names

#: |u| shrinks by more than 2,000 e-folds before it comes back (asserted below)
DEEP = {"beta": 1.0, "alpha": 4000.0, "lr": 2.0 / 4000.0 / 0.93}
DEEP_START = ReducedState(0.55, 0.02, 0.0, 0.05)


def exact_run(state, beta, alpha, lr, most, share):
    """The same map in arithmetic that has no underflow: 60 digits, exponents without bound."""
    with mpmath.workdps(60):
        c, b, p, u = (mpmath.mpf(float(v)) for v in (state.c, state.b_par, state.b_perp, state.u))
        beta, alpha, lr = mpmath.mpf(beta), mpmath.mpf(alpha), mpmath.mpf(lr)
        onset = begin = None
        previous = None
        least = mpmath.mpf(0)
        for n in range(most):
            s, r = lr * alpha * c * c, beta - c * b
            if onset is None and s > 2:
                onset = n
            if onset is not None:
                if begin is None and alpha * u * u >= share * b * r / c:
                    begin = n
                if begin is not None and abs(u) < previous:
                    return onset, begin, n - 1, float(mpmath.log(previous)), float(least)
                previous = abs(u)
            elif n % 50 == 0:
                least = min(least, mpmath.log(abs(u)))
            c, b, p, u = (
                c + lr * (b * r - c * p * p - alpha * c * u * u),
                b + lr * c * r,
                (1 - lr * c * c) * p,
                (1 - s) * u,
            )
    raise AssertionError("no peak within the steps given")


def test_two_thousand_e_folds_spike_at_the_step_of_exact_arithmetic():
    onset, begin, peak, log_peak, least = exact_run(DEEP_START, **DEEP, most=60_000, share=0.05)
    assert least < -2000
    run = simulate_gd(DEEP_START, **DEEP, steps=peak + 50, stride=50).isel(run=0)
    before = run.log_abs_u.where(run.step < onset, drop=True)  # sampled every 50 steps, as exact_run does
    assert float(before.min()) == pytest.approx(least, rel=1e-9)
    assert (int(run.onset_step), int(run.spike_step), int(run.peak_step)) == (onset, begin, peak)
    # the rounding of c over thousands of steps is amplified by the growth of u
    assert float(run.peak_log_abs_u) == pytest.approx(log_peak, rel=1e-9)


def test_plain_float64_stays_above_the_edge_for_ever():
    c, b, u = 0.55, 0.02, 0.05
    beta, alpha, lr = DEEP["beta"], DEEP["alpha"], DEEP["lr"]
    for _ in range(60_000):
        s, r = lr * alpha * c * c, beta - c * b
        c, b, u = c + lr * (b * r - alpha * c * u * u), b + lr * c * r, (1 - s) * u
    assert u == 0.0
    assert lr * alpha * c * c > 2


def test_gradient_descent_approaches_the_flow_at_order_one():
    start, t = ReducedState(0.8, 0.2, 0.4, 0.1), 2.0
    flow = simulate_flow(start, 1.2, 10.0, [0.0, t], rtol=1e-12)[:, -1]
    lrs = np.array([1e-2, 5e-3, 2.5e-3, 1.25e-3])
    errors = []
    for lr in lrs:
        run = simulate_gd(start, 1.2, 10.0, lr, round(t / lr)).isel(run=0, step=-1)
        errors.append(abs(float(run.c) - flow[0]) + abs(float(run.b_par) - flow[1]) + abs(float(run.b_perp) - flow[2]))
    assert np.polyfit(np.log(lrs), np.log(errors), 1)[0] == pytest.approx(1.0, abs=0.05)


def test_batch_equals_loop_to_the_bit():
    lrs = np.array([0.004, 0.006, 0.02]) / 10
    batch = simulate_gd(DEEP_START, 1.0, 4000.0, lrs, 500)
    for i, lr in enumerate(lrs):
        one = simulate_gd(DEEP_START, 1.0, 4000.0, lr, 500).isel(run=0)
        for name in ("c", "b_par", "log_abs_u", "u_sign", "onset_step", "spike_step", "peak_step", "status", "final_c"):
            np.testing.assert_array_equal(batch[name].isel(run=i).values, one[name].values)


@settings(max_examples=40, deadline=None)
@given(u=st.floats(1e-6, 0.5), lr=st.floats(1e-3, 6e-3), alpha=st.floats(50, 500))
def test_sign_of_u_changes_nothing_else(u, lr, alpha):
    plus = simulate_gd(ReducedState(0.8, 0.1, 0.2, u), 1.0, alpha, lr, 200)
    minus = simulate_gd(ReducedState(0.8, 0.1, 0.2, -u), 1.0, alpha, lr, 200)
    np.testing.assert_array_equal(plus.c.values, minus.c.values)
    np.testing.assert_array_equal(plus.u_sign.values, -minus.u_sign.values)


def test_superstable_step_is_legal_and_divergence_is_a_status():
    stable = simulate_gd(ReducedState(1.0, 0.0, 0.0, 0.3), 1.0, 100.0, 0.01, 3).isel(run=0)
    assert float(stable.stability[0]) == 1.0
    assert float(stable.log_abs_u[1]) == -np.inf
    assert float(stable.u_sign[1]) == 0.0
    lost = simulate_gd(ReducedState(2.0, 0.0, 0.0, 1.0), 1.0, 100.0, 1.0, 500).isel(run=0)
    assert status_names(lost) == "diverged"
    assert int(lost.last_step) < 500


def test_small_steps_converge_and_a_noise_floor_ends_the_delay():
    done = simulate_gd(ReducedState(0.8, 0.2, 0.1, 0.1), 1.0, 20.0, 0.01, 5000).isel(run=0)
    assert status_names(done) == "converged"
    assert float(done.loss[-1]) < 1e-15
    exact = simulate_gd(DEEP_START, **DEEP, steps=60_000, stride=100).isel(run=0)
    noisy = simulate_gd(DEEP_START, **DEEP, steps=60_000, stride=100, noise_floor=1e-8).isel(run=0)
    assert int(noisy.onset_step) == int(exact.onset_step)
    assert 0 < int(noisy.spike_step) < int(exact.spike_step)


def test_model_reference_state_losses_and_validation():
    model = TwoLayerLinear(d1=60, d2=40, beta=2.0, alpha=50.0, p=0.2, gamma=0.1)
    state = model.reference_state()
    assert model.k == pytest.approx(40 / 60)
    assert state.b_par**2 + state.b_perp**2 == pytest.approx(0.6)
    plus, minus = model.group_losses(state)
    flipped = model.group_losses(ReducedState(state.c, state.b_par, state.b_perp, -state.u))
    assert (plus, minus) == (flipped[1], flipped[0])
    # sampled network: the reduced loss is the mean square error, up to the target's own offset
    rng = np.random.default_rng(1)
    n, c = 400_000, 0.9
    s = rng.choice([-1, 1], n) * (rng.random(n) < model.p)
    x = rng.normal(size=(n, 2))  # along beta, along b_perp
    a = np.sqrt(model.alpha / model.p)
    offset = model.gamma * np.sqrt(model.d2) * a
    f = c * (0.3 * x[:, 0] + 0.2 * x[:, 1] + 0.1 * a * s)
    empirical = np.mean((f - model.beta * x[:, 0] - offset * np.abs(s)) ** 2) / 2
    expected = model.loss(ReducedState(c, 0.3, 0.2, 0.1)) + model.p * offset**2 / 2
    assert empirical == pytest.approx(float(expected), rel=0.01)
    for kwargs, message in (
        ({"p": 0.0}, "p must lie"),
        ({"alpha": -1}, "alpha must be positive"),
        ({"d1": 0}, "d1 must"),
    ):
        with pytest.raises(ValueError, match=message):
            TwoLayerLinear(**kwargs)
    with pytest.raises(ValueError, match="b_perp must be >= 0"):
        ReducedState(1, 0, -1)
    with pytest.raises(ValueError, match="steps must be an integer"):
        simulate_gd(state, 1, 1, 1, 0)
    with pytest.raises(ValueError, match="lr must be positive, got -1"):
        simulate_gd(state, 1, 1, -1, 5)
