"""Group losses against vectors trained on examples, the full flow and the simulator."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toymodels.derivations.groups import ROWS, trained
from toymodels.groups import group_lead, group_loss_flow, group_loss_series, rise_amplitudes
from toymodels.model import ReducedState, TwoLayerLinear
from toymodels.simulation import simulate_flow, simulate_gd

MODEL = TwoLayerLinear(5, 4, beta=1.2, alpha=20.0, p=0.2, gamma=0.3)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_rows_prove(row):
    proof = row.prove()
    assert proof.ok, proof.detail
    assert callable(row.function())


@pytest.mark.parametrize("lr", [0.03, 0.09, 0.11])
def test_series_against_trained_vectors(lr):
    start = ReducedState(1.0, 0.8, 0.4, 0.01)
    run = trained(MODEL, start, lr, 50)
    got = group_loss_series(MODEL, run["c"], run["b_par"], lr, start.u, start.b_perp)
    for name in ("plus", "minus", "total"):
        np.testing.assert_allclose(getattr(got, name), run[name], rtol=1e-11)
    # the difference of the measured losses carries rounding of size eps * loss
    np.testing.assert_allclose(got.difference, run["plus"] - run["minus"], rtol=1e-9, atol=1e-11)


def test_series_survives_underflow_and_meets_the_simulator():
    """u falls below the least float before the edge and comes back: the simulator's logarithm is the oracle."""
    model = TwoLayerLinear(2, 2, beta=1.0, alpha=200.0, p=0.2, gamma=0.3)
    lr = 2 / (200.0 * 0.7)
    run = simulate_gd(ReducedState(0.5, 0.1, 0.0, 1e-3), 1.0, 200.0, lr, 2500).isel(run=0)
    peak = int(run.peak_step)
    assert float(run.log_abs_u.min()) < -100
    assert peak > 0
    got = group_loss_series(model, run.c.values[: peak + 1], run.b_par.values[: peak + 1], lr, 1e-3)
    u = (run.u_sign * np.exp(run.log_abs_u)).values[: peak + 1]
    w = run.c.values[: peak + 1] * u * np.sqrt(200.0 / 0.2)
    stated = -2 * 0.3 * np.sqrt(2 * 200.0 / 0.2) * w
    # logarithms of size up to a few hundred, added over peak steps
    rtol = peak * 2.3e-16 * float(np.abs(run.log_abs_u).max())
    np.testing.assert_allclose(got.difference, stated, rtol=rtol)


@settings(max_examples=60, deadline=None)
@given(s=st.floats(0.1, 3.0), u=st.floats(1e-3, 1.0), c=st.floats(0.2, 2.0), gamma=st.floats(-1, 1))
def test_frozen_c_is_a_power_and_sign_symmetric(s, u, c, gamma):
    model = TwoLayerLinear(5, 4, beta=1.2, alpha=20.0, p=0.2, gamma=gamma)
    path, lr = np.full(9, c), s / (20.0 * c**2)
    one, other = (group_loss_series(model, path, 0.5, lr, x, 0.2) for x in (u, -u))
    np.testing.assert_array_equal(one.plus, other.minus)
    np.testing.assert_array_equal(one.difference, -other.difference)
    first = one.difference[0]
    assert first == pytest.approx(-2 * gamma * 2 * 20.0 / 0.2 * c * u, rel=1e-12)
    np.testing.assert_allclose(
        one.difference, first * (1 - s) ** np.arange(9), rtol=1e-11, atol=1e-13 * abs(first) + 1e-300
    )
    share = model.p * (one.plus + one.minus) / 2
    core = ((1.2 - path * 0.5) ** 2 + path**2 * (0.2 * (1 - lr * c**2) ** np.arange(9)) ** 2) / 2
    np.testing.assert_allclose(one.total, share + (1 - model.p) * core, rtol=1e-12)


def test_batch_is_loop():
    c, lr = np.linspace(0.9, 1.2, 12).reshape(2, 6), np.array([0.05, 0.12])
    both = group_loss_series(MODEL, c, 0.8, lr, np.array([0.1, -0.2]), 0.3)
    for i, u in enumerate((0.1, -0.2)):
        alone = group_loss_series(MODEL, c[i], 0.8, lr[i], u, 0.3)
        for x, y in zip(both, alone, strict=True):
            np.testing.assert_allclose(x[i], y, rtol=1e-13)


def test_flow_at_zero_at_infinity_and_in_order():
    start = ReducedState(0.6, 0.4, 0.0, 1e-6)
    predict = group_loss_flow(MODEL, start)
    plus, minus = MODEL.group_losses(start)
    at0 = predict(0.0)
    assert at0.plus == pytest.approx(float(plus), rel=1e-14)
    assert at0.difference == pytest.approx(float(plus - minus), abs=1e-14)
    end, offset = predict(80.0), 0.3 * 2 * np.sqrt(20.0 / 0.2)
    assert end.plus == pytest.approx(offset**2 / 2, rel=1e-12)
    assert end.difference == pytest.approx(0.0, abs=1e-12)
    t, start = np.linspace(0.05, 1.0, 12), ReducedState(0.6, -0.1, 0.5, 0.0)
    states = simulate_flow(start, MODEL.beta, MODEL.alpha, [0.0, *t], rtol=1e-12)[:, 1:]
    want = MODEL.group_losses(ReducedState(*states))[0]
    np.testing.assert_allclose(group_loss_flow(MODEL, start)(t).plus, want, rtol=1e-9)  # exact in b_perp
    t, error = t[:4], []
    for u0 in (0.02, 0.01):
        start = ReducedState(0.6, 0.4, 0.3, u0)
        states = simulate_flow(start, MODEL.beta, MODEL.alpha, [0.0, *t], rtol=1e-12)[:, 1:]
        want = sum(MODEL.group_losses(ReducedState(*states)))
        got = group_loss_flow(MODEL, start)(t)
        error.append(np.abs(got.plus + got.minus - want).max())
    # the sum is even in u0: halving it divides its error by 4 + O(alpha u0^2)
    assert error[0] / error[1] == pytest.approx(4, abs=4 * 20.0 * 0.02**2)


@settings(max_examples=100, deadline=None)
@given(
    s=st.floats(1.0, 3.5),
    g0=st.floats(-3, 3).filter(lambda g: abs(g) > 1e-2),
    p=st.floats(0.01, 1),
    drop=st.floats(1e-6, 0.1),
)
def test_rises_are_where_stated(s, g0, p, drop):
    group, total = (float(x) for x in rise_amplitudes(s, g0, p, drop))
    sign = np.sign(g0)

    def change(w):  # of the losing group, and of the total
        a, b = sign * w, (1 - s) * sign * w
        half = ((b - g0) ** 2 - (a - g0) ** 2) / 2, p * (b**2 - a**2) / 2
        return half[0] - drop, half[1] - drop

    if np.isfinite(group):
        assert change(0.99 * group)[0] < 0
        if s >= 2:
            assert change(1.01 * group)[0] > 0
    else:
        assert max(change(w)[0] for w in np.geomspace(1e-6, 1e3, 300)) < 0
    if np.isfinite(total) and s > 2.001:
        assert change(0.99 * total)[1] < 0 < change(1.01 * total)[1]
        assert group <= total
        assert group_lead(s, g0, p, drop) >= 0
    else:
        assert s <= 2.001


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: group_loss_series(MODEL, 1.0, 1.0, 0.1, 0.1), "c must have an axis of steps"),
        (lambda: group_loss_series(MODEL, [1.0, 1.0], 1.0, 0.0, 0.1), "lr must be positive"),
        (lambda: group_loss_series(MODEL, [1.0, np.nan], 1.0, 0.1, 0.1), "c must be finite"),
        (lambda: group_loss_series(MODEL, [1.0, 1.0], 1.0, 0.1, 0.1, -0.1), "b_perp must be >= 0"),
        (lambda: group_loss_flow(MODEL, ReducedState(0.5, 0.1))(np.nan), "t must be finite"),
        (lambda: rise_amplitudes(2.5, 1.0, 1.5, 0.1), "p must lie in"),
        (lambda: rise_amplitudes(2.5, 1.0, 0.5, 0.0), "core_drop must be positive"),
        (lambda: group_lead(2.0, 1.0, 0.5, 0.1), "s must be > 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
