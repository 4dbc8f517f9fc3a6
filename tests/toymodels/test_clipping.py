"""Clipping of the gradient's norm: the edge stays, the amplitude is capped, the effective step moves."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from toymodels.derivations.registry import vanishes
from toymodels.derivations.thresholds import _period_two_residuals
from toymodels.thresholds import clipped_amplitude, clipped_lr, clipped_step, critical_sharpness

POSITIVE = st.floats(0.05, 5)


@settings(max_examples=100, deadline=None)
@given(lr=POSITIVE, clip=POSITIVE, s=st.floats(2.1, 6), start=st.floats(-30, 30))
def test_every_start_lands_on_a_period_two_orbit_of_the_band(lr, clip, s, start):
    """By plain Python iteration; 30 lr G are left in 30 steps, the linear zone in log(1e6)/log(1.1) = 145."""
    lam, x = s / lr, start * lr * clip
    for _ in range(200):
        assume(abs(x) > 1e-6 * clip / lam)
        gradient = lam * x
        x -= lr * gradient * min(1.0, clip / abs(gradient))
    after = float(clipped_step(x, lr, clip, lam))
    assert x * after < 0
    assert abs(x) + abs(after) == pytest.approx(lr * clip, rel=1e-12)
    band = clipped_amplitude(lr, clip, lam)
    for size in (abs(x), abs(after)):
        assert band.low * (1 - 1e-12) <= size <= band.high * (1 + 1e-12)
    assert float(clipped_step(after, lr, clip, lam)) == pytest.approx(x, rel=1e-12)


@settings(max_examples=50, deadline=None)
@given(lr=POSITIVE, clip=POSITIVE, s=st.floats(0.05, 1.95), start=st.floats(-20, 20))
def test_below_the_edge_everything_decays(lr, clip, s, start):
    x = start * lr * clip
    for _ in range(1500):  # 20 lr G of clipped travel at lr G a step, then 0.95^1400 at the slowest
        x = float(clipped_step(x, lr, clip, s / lr))
    assert abs(x) < 1e-25 * lr * clip
    assert float(clipped_amplitude(lr, clip, s / lr).high) == 0.0


def test_plain_descent_diverges_where_the_clipped_one_stays():
    lam = 1.1 * critical_sharpness("clipping", 0.1)
    plain = clipped = 1e-6
    for _ in range(400):
        plain -= 0.1 * lam * plain
        clipped = float(clipped_step(clipped, 0.1, 2.0, lam))
    assert abs(plain) > 1e20
    assert abs(clipped) <= float(clipped_amplitude(0.1, 2.0, lam).high)


def test_unclipped_steps_are_those_of_descent_and_batches_broadcast():
    x = np.linspace(-1, 1, 7)
    np.testing.assert_allclose(clipped_step(x, 0.1, 1e9, 3.0), x * (1 - 0.3), rtol=1e-15)
    assert clipped_step(x[:, None], 0.1, [1.0, 2.0], 3.0).shape == (7, 2)
    band = clipped_amplitude([0.1, 0.2], [[1.0], [2.0], [3.0]], 12.0)
    assert band.centre.shape == (3, 2)
    assert (band.centre[:, 0] == 0).all()  # 0.1 * 12 < 2
    np.testing.assert_allclose(band.low + band.high, 2 * band.centre)


def test_effective_step_at_the_centre_of_the_band_is_the_edge():
    band = clipped_amplitude(0.3, 2.0, 11.0)
    assert float(clipped_lr(0.3, 2.0, 11.0 * band.centre)) == pytest.approx(2 / 11.0)
    assert float(clipped_lr(0.3, 2.0, 1.0)) == 0.3


def test_steps_of_the_proof_fail_on_a_wrong_band():
    assert all(vanishes(r) for r in _period_two_residuals())
    lam, clip, eta = sp.symbols("lambda G eta", positive=True)
    assert not vanishes(
        (eta * clip - clip / lam) - (eta * lam - 2) * clip / lam
    )  # growth by s - 2 would be another end


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clipped_amplitude(0.1, 0, 1), "clip must be positive, got 0; pass clip > 0"),
        (lambda: clipped_amplitude(0.1, 1, -1), "curvature must be positive, got -1"),
        (lambda: clipped_step(np.nan, 0.1, 1, 1), "x must be finite"),
        (lambda: clipped_lr(0.1, 1, -2), "gradient_norm must be >= 0, got -2"),
        (lambda: clipped_lr(-0.1, 1, 2), "lr must be positive, got -0.1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
