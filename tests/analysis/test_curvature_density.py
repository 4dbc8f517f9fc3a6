"""Stochastic Lanczos quadrature against dense spectra; the midpoint of an alternating sequence."""

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

from analysis.curvature import midpoint, spectral_density


def operator(eigenvalues, seed=0):
    q = ortho_group.rvs(len(eigenvalues), random_state=seed)
    matrix = torch.from_numpy((q * np.asarray(eigenvalues)) @ q.T)
    return lambda v: matrix @ v


EIGENVALUES = np.concatenate([[30.0, 12.0], np.linspace(-1, 3, 148)])


def test_polynomials_are_exact_in_each_probe():
    matvec, zero = operator(EIGENVALUES), torch.zeros(150, dtype=torch.float64)
    found = spectral_density(matvec, zero, steps=4, probes=1, seed=3)
    z = torch.randn(150, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    z, power = z / z.norm(), z / z.norm()
    for degree in range(1, 8):  # up to 2 steps - 1
        power = matvec(power)
        assert found.mean(found.nodes**degree)[0] == pytest.approx((z @ power).item(), rel=1e-9)
    power = matvec(power)
    assert found.mean(found.nodes**8)[0] != pytest.approx((z @ power).item(), rel=1e-9)  # and no further


@pytest.mark.parametrize("function", [np.ones_like, np.square, lambda t: np.exp(-np.square(t - 1))])
def test_means_agree_with_the_dense_spectrum_within_their_standard_error(function):
    found = spectral_density(operator(EIGENVALUES), torch.zeros(150, dtype=torch.float64), steps=30, probes=40)
    value, error = found.mean(function(found.nodes))
    assert abs(value - np.mean(function(EIGENVALUES))) <= 4 * error + 1e-12  # 4 standard errors: 1 in 10^4


def test_smoothed_density_integrates_to_one_and_shows_the_outlier():
    found = spectral_density(operator(EIGENVALUES), torch.zeros(150, dtype=torch.float64), steps=40, probes=10)
    grid = np.linspace(-10, 45, 4000)
    density = found.smoothed(grid, 0.3)
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-6)
    around = (grid > 28) & (grid < 32)
    share, error = found.mean((found.nodes > 28).astype(float))
    assert np.trapezoid(density[around], grid[around]) == pytest.approx(share, rel=1e-3)
    assert abs(share - 1 / 150) <= 4 * error


def test_a_krylov_space_that_ends_early_is_whole():
    found = spectral_density(lambda v: 2 * v, torch.zeros(9), steps=5, probes=2)
    assert found.weights.sum(axis=1) == pytest.approx([1, 1])
    assert found.mean(found.nodes)[0] == pytest.approx(2)


def test_midpoint_cancels_what_alternates():
    center, drift, amplitude = torch.randn(3, 5, dtype=torch.float64).unbind()
    theta = [center + n * drift + (-1) ** n * amplitude for n in range(3)]
    torch.testing.assert_close(midpoint(*theta), center + drift, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("option", ["steps", "probes"])
def test_bad_options_are_named(option):
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        spectral_density(lambda v: v, torch.zeros(3), **{option: 0})
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        spectral_density(lambda v: v, torch.zeros(3), steps=1).smoothed(np.zeros(2), 0)
