"""Thresholds against the spectral radius of the step, over all parameters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toymodels.thresholds import OPTIMIZERS, critical_sharpness, step_matrix


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(OPTIMIZERS), lr=st.floats(1e-3, 1.0), parameter=st.floats(0.0, 0.95))
def test_stable_below_and_unstable_above(name, lr, parameter):
    critical = critical_sharpness(name, lr, parameter)
    for factor, stable in ((0.999, True), (1.001, False)):
        matrix = np.array(step_matrix(name, lr, factor * critical, parameter), dtype=float)
        radius = np.abs(np.linalg.eigvals(matrix)).max()
        assert (radius < 1) == stable


def test_limits_meet_gradient_descent():
    for name in OPTIMIZERS:
        assert critical_sharpness(name, 0.1, 0.0) == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("adam", 0.1), "optimizer must be one of"),
        (("gd", 0.0), "lr must be positive"),
        (("heavy_ball", 0.1, 1.0), "momentum must lie in"),
        (("sam", 0.1, -1.0), "rho must be >= 0"),
        (("weight_decay", 0.1, float("nan")), "weight decay must be >= 0"),
    ],
)
def test_bad_input_is_named(args, message):
    with pytest.raises(ValueError, match=message):
        critical_sharpness(*args)
