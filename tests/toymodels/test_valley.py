"""The toy valley is the deep model's, sharpens with depth, and descent bounces across it."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from toymodels.symbolic import deep_linear
from toymodels.valley import across_curvature, valley_model, valley_path, valley_surface

EPS = np.finfo(float).eps


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_surface_is_the_deep_model_s_loss(depth):
    """Against the loss of the network's outputs, summed over the data's two directions."""
    z, x = np.linspace(0, 2, 7), np.linspace(-1, 1, 5)
    data = valley_surface(z, x, 1.2, 30.0, depth)
    weight = z / np.sqrt(depth)
    signal, opposing = np.ones(7), np.ones(7)
    for _ in range(depth - 1):
        signal, opposing = signal * weight, opposing * weight
    stated = (1.2 - signal * weight) ** 2 / 2 + 30.0 * (opposing * x[:, None]) ** 2 / 2
    np.testing.assert_allclose(data.loss.values, stated, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(data.floor_loss.values, stated[2], rtol=1e-13, atol=1e-13)
    # second difference across: exact for a parabola
    h = x[1] - x[0]
    bend = (stated[1] - 2 * stated[2] + stated[3]) / h**2
    np.testing.assert_allclose(data.across_curvature.values, bend, rtol=1e-12, atol=1e-12)


@given(m=st.floats(0.01, 2), beta=st.floats(0.1, 5), depth=st.integers(1, 6))
def test_curvature_at_a_share_of_the_signal(m, beta, depth):
    z = np.sqrt(depth) * (beta * m) ** (1 / depth)
    there = valley_surface(z, 0.0, beta, 7.0, depth).across_curvature.values[0]
    assert across_curvature(m, beta, 7.0, depth) == pytest.approx(there, rel=64 * EPS * depth)


def test_curvature_grows_along_the_floor_with_depth_only():
    m = np.linspace(0.05, 1, 20)
    flat = across_curvature(m, 1.0, 5.0, 1)
    assert (flat == 5.0).all()
    growth = [across_curvature(1.0, 1.0, 5.0, d) / across_curvature(0.05, 1.0, 5.0, d) for d in (2, 3, 4)]
    assert growth == sorted(growth)
    assert (np.diff(across_curvature(m, 1.0, 5.0, 3)) > 0).all()


@pytest.mark.parametrize("depth", [2, 4])
def test_a_step_on_the_slice_is_the_full_step_projected(depth):
    full, model = deep_linear(2, depth), valley_model(depth)
    lr = sp.Rational(1, 10)
    z, x, beta, alpha = 1.1, 0.2, 1.3, 9.0
    w = {s: z / np.sqrt(depth) for s in full.weights[:-1]} | {full.weights[-1]: x}
    w |= dict(zip(full.parameters, (1, alpha, beta, 0), strict=True))
    after = np.array(full.gd_map(lr).subs(w), float).ravel()
    here = dict(zip((*model.weights, *model.parameters), (z, x, beta, alpha), strict=True))
    slice_after = np.array(model.gd_map(lr).subs(here), float).ravel()
    projected = [after[:-1].sum() / np.sqrt(depth), after[-1]]
    np.testing.assert_allclose(slice_after, projected, rtol=1e-13)


def test_path_bounces_across_and_leaves_what_is_too_sharp():
    beta, alpha, lr = 1.0, 30.0, 0.08
    run = valley_path(0.5, 0.01, beta, alpha, 2, lr, 6000)
    sharp = alpha * run.z.values**2 / 2 * lr
    assert sharp[0] < 2 < sharp.max()  # it enters flat and passes the edge
    bounces = np.sign(run.x.values[1:]) != np.sign(run.x.values[:-1])
    steep = sharp[:-1] > 1
    assert (bounces == steep).all()
    # the end of the floor, z = sqrt(2), would have lr alpha beta = 2.4; it stays where a bounce from wall to wall
    # keeps x and the slope of the signal balances that of the bounce: lr alpha z^2/2 = 2, alpha x^2 = 2 (beta - z^2/2)
    assert lr * alpha * beta > 2
    assert sharp[-1] == pytest.approx(2, abs=1e-6)
    assert np.abs(run.x.values[-2:]) == pytest.approx(np.sqrt(2 * (beta - 2 / (lr * alpha)) / alpha), rel=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: across_curvature(-0.1, 1, 1, 2), r"learned must be >= 0, got -0.1"),
        (lambda: across_curvature(0.1, 1, 1, 1.5), r"depth must be an integer >= 1, got 1.5"),
        (lambda: across_curvature(0.1, 0, 1, 1), r"beta must be positive"),
        (lambda: valley_surface([0.1], [np.nan], 1, 1, 2), r"x must be finite"),
        (lambda: valley_model(0), r"depth >= 1, got n=2, depth=0"),
        (lambda: valley_path(1, 1, 1, 1, 2, 0.0, 5), r"lr must be positive"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
