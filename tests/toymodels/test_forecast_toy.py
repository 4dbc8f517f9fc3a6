"""Onset, spike and peak of gradient descent forecast from the start, against the underflow-proof simulation."""

import numpy as np
import pytest

import toymodels.descent_path
import toymodels.forecast
from toymodels import ReducedState, forecast_descent, limit_c2, limit_sharpness, onset_time, simulate_gd

#: |u| shrinks by more than 2,000 e-folds before it comes back
DEEP = {"beta": 1.0, "alpha": 4000.0, "lr": 2.0 / 4000.0 / 0.93}
DEEP_START = ReducedState(0.55, 0.02, 0.0, 0.05)
STEPS = 60_000


def draw(seed, n, *, s0=(0.0, 1.5), b_perp=(0.0, 0.0), u=(0.01, 0.1), alpha=(30, 1000)):
    """Random starts and steps that reach the edge, by rules that know nothing of any error."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < n:
        a, beta = np.exp(rng.uniform(np.log([alpha[0], 0.5]), np.log([alpha[1], 5])))
        c0, b0, u0 = rng.uniform(0.3, 1.5), rng.uniform(-0.2, 1.0), np.exp(rng.uniform(*np.log(u)))
        p0 = rng.uniform(*b_perp)
        lr = 2 / float(limit_sharpness(c0, b0, beta, a, p0, u0)) * rng.uniform(1.1, 1.8)
        edge = lr * a * float(limit_c2(c0, b0, beta, p0, u0)) > 2
        if edge and s0[0] <= lr * a * c0**2 < s0[1]:
            found.append((c0, b0, p0, u0, beta, a, lr))
    return np.array(found)


def both(draws):
    """Forecasts, and the simulated onset, spike, peak step and peak log |u|."""
    told = [forecast_descent(ReducedState(*d[:4]), *d[4:], horizon=STEPS) for d in draws]
    c0, b0, p0, u0, beta, alpha, lr = draws.T
    run = simulate_gd(ReducedState(c0, b0, p0, u0), beta, alpha, lr, STEPS, stride=STEPS)
    return told, *(run[k].values for k in ("onset_step", "spike_step", "peak_step", "peak_log_abs_u"))


def relative(told, seen):
    """Errors as shares of the elapsed steps; an event told and not seen, or the reverse, is an infinite one."""
    pairs = zip(told, seen, strict=True)
    return np.array(
        [(0.0 if y < 0 else np.inf) if x is None else abs(x - y) / y if y > 0 else np.inf for x, y in pairs]
    )


@pytest.mark.parametrize("b_perp", [(0.0, 0.0), (0.1, 0.8)])
def test_random_draws_that_reach_the_edge(b_perp):
    told, onset, spike, peak, height = both(draw(20, 150, b_perp=b_perp))
    assert (spike > 0).all()
    assert all(f.closed_form and f.thrown_steps == 0 for f in told)
    for name, seen, median, most in (("onset_step", onset, 0.01, 0.05), ("spike_step", spike, 0.02, 0.08)):
        errors = relative([getattr(f, name) for f in told], seen)
        assert np.median(errors) <= median
        assert np.quantile(errors, 0.95) <= most
        assert np.mean(errors == 0) >= 0.9  # an error of c of third order moves a step's number seldom
    assert np.median(np.abs(np.expm1([f.peak_log_u for f in told] - height))) <= 0.1
    assert np.median(relative([f.peak_step for f in told], peak)) <= 0.02


WIDE = {
    "close to the edge": {"s0": (1.5, 2.0), "b_perp": (0.0, 0.8)},
    "large u": {"u": (0.1, 0.6), "b_perp": (0.0, 0.8)},
    "large b_perp": {"b_perp": (0.8, 4.0)},
    "small alpha": {"alpha": (3, 30), "b_perp": (0.0, 0.8)},
}


@pytest.mark.parametrize("name", WIDE)
def test_outside_the_domain_a_forecast_is_right_or_flagged(name):
    told, onset, spike, _, _ = both(draw(21, 80, **WIDE[name]))
    trusted = np.array([f.closed_form for f in told])
    assert 5 <= trusted.sum() < 80
    assert relative([f.onset_step for f in told], onset)[trusted].max() <= 0.05
    assert relative([f.spike_step for f in told], spike)[trusted].max() <= 0.08


def test_a_start_beyond_the_edge_is_thrown_first_and_flagged():
    """It counts an onset from below, as the simulator does; the steps of the throw are iterated, and said so."""
    rng, n = np.random.default_rng(22), 60
    alpha, c0, b0 = np.exp(rng.uniform(np.log(30), np.log(1000), n)), rng.uniform(0.6, 1.5, n), rng.uniform(-0.2, 1, n)
    lr, beta = 2 / (alpha * c0**2) * rng.uniform(1.02, 1.6, n), rng.uniform(0.5, 3, n)
    onsets = simulate_gd(ReducedState(c0, b0, 0.0, 0.1), beta, alpha, lr, 20_000, stride=20_000).onset_step.values
    seen = 0
    for c, b, norm, a, eta, onset in zip(c0, b0, beta, alpha, lr, onsets, strict=True):
        told = forecast_descent(ReducedState(c, b, 0.0, 0.1), norm, a, eta, horizon=20_000)
        assert not told.closed_form
        assert told.thrown_steps > 0
        if told.change <= 0.01:
            assert (told.onset_step is None) == (onset < 0)
            assert told.onset_step is None or abs(told.onset_step - onset) <= 0.05 * onset
            seen += onset > 0
    assert seen > 10


def test_two_thousand_e_folds_and_no_simulation(monkeypatch):
    def never(*_, **__):
        raise AssertionError("the run must not be simulated")

    run = simulate_gd(DEEP_START, **DEEP, steps=20_000, stride=20_000).isel(run=0)
    monkeypatch.setattr(toymodels.forecast, "simulate_gd", never)
    told = forecast_descent(DEEP_START, **DEEP)
    assert told.closed_form
    assert (told.onset_step, told.spike_step) == (int(run.onset_step), int(run.spike_step))
    assert told.peak_step == int(run.peak_step)
    # the error of c, of order (lr R)^3 = 1e-9, is summed over thousands of steps into log |u|
    assert told.peak_log_u == pytest.approx(float(run.peak_log_abs_u), abs=0.01)


def test_stretches_join_without_a_seam(monkeypatch):
    whole = forecast_descent(DEEP_START, **DEEP)
    monkeypatch.setattr(toymodels.descent_path, "LONGEST", 2.0)
    pieces = forecast_descent(DEEP_START, **DEEP)
    assert (whole.onset_step, whole.spike_step) == (pieces.onset_step, pieces.spike_step)
    assert pieces.peak_log_u == pytest.approx(whole.peak_log_u, abs=0.01)


def test_flow_onset_is_the_limit_of_small_steps():
    """Order one in lr: the error of the flow's onset time halves with lr at the same edge lr * alpha."""
    errors = []
    for scale in (1, 2, 4):
        alpha, lr = 200.0 * scale, 2 / (200.0 * scale * 0.9)
        told = forecast_descent(ReducedState(0.6, 0.1, 0.4, 1e-3), 1.2, alpha, lr)
        assert told.onset_step is not None
        errors.append(abs(told.onset_step * lr - float(onset_time(0.6, 0.1, 1.2, alpha, lr, 0.4))) / lr)
    assert max(errors) < 2.5  # a bounded number of steps, so an error of order lr in time


def test_below_the_edge_none_and_without_u_no_spike():
    calm = forecast_descent(ReducedState(0.8, 0.2, 0.3, 0.1), 1.0, 20.0, 0.01)
    assert (calm.onset_step, calm.spike_step, calm.peak_step) == (None, None, None)
    assert calm.closed_form
    assert np.isnan(calm.peak_log_u)
    silent = forecast_descent(ReducedState(0.55, 0.02, 0.0, 0.0), **DEEP, horizon=5000)
    assert silent.onset_step is not None
    assert silent.spike_step is None
    short = forecast_descent(DEEP_START, **DEEP, horizon=300)
    assert (short.onset_step, short.spike_step) == (None, None)


def test_sign_of_u_and_of_both_layers_change_nothing():
    for draws in draw(23, 5, b_perp=(0.1, 0.8)):
        c0, b0, p0, u0 = draws[:4]
        told = forecast_descent(ReducedState(c0, b0, p0, u0), *draws[4:])
        assert told == forecast_descent(ReducedState(c0, b0, p0, -u0), *draws[4:])
        flipped = forecast_descent(ReducedState(-c0, -b0, p0, u0), *draws[4:])
        assert (told.onset_step, told.spike_step) == (flipped.onset_step, flipped.spike_step)


@pytest.mark.parametrize(
    "start",
    [
        ((-1.0, 1.0, 0.004, 0.0), 0.05, 250.0, 1.03),  # a step beyond 1/c^2: b_perp changes its sign
        ((0.0, 0.5, 0.0, 0.1), 1.0, 100.0, 0.01),
        ((0.5, -0.5, 0.0, 0.01), 1.0, 100.0, 0.01),  # the line that ends in the saddle c = 0
        ((0.5, 0.2, 0.3, 5.0), 1.0, 100.0, 0.03),
        ((9.0, 0.1, 2.0, 3.0), 0.1, 0.2, 1.9),
    ],
)
def test_odd_starts_are_data_not_errors(start):
    told = forecast_descent(ReducedState(*start[0]), *start[1:], horizon=2000)
    assert told.closed_form or told.thrown_steps > 0 or told.change > 0.01 or told.spike_step == told.onset_step


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "lr must be positive, got 0"),
        ({"alpha": -3.0}, "alpha must be positive, got -3"),
        ({"beta": np.nan}, "beta must be finite"),
        ({"order": 0}, "order must be an integer >= 1, got 0"),
        ({"horizon": 0}, "horizon must be an integer >= 1, got 0"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        forecast_descent(DEEP_START, **{**DEEP, **change})
