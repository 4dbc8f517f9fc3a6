"""The complementarity problem against its conditions, the scalar closed form, and projected gradients."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analysis.flows import solve_complementarity


def problem(k, rank, seed):
    rng = np.random.default_rng(seed)
    d = rng.normal(size=(rank, k, k))
    d = np.concatenate([d + d.transpose(0, 2, 1), np.eye(k)[None]])  # the identity: the problem has a solution
    a = rng.normal(size=(k, k))
    return (a + a.T) / 2, np.einsum("aij,akl->ijkl", d, d)


@settings(deadline=None)
@given(k=st.integers(1, 6), rank=st.integers(1, 25), seed=st.integers(0, 10**6), scale=st.sampled_from([1e-6, 1, 1e6]))
@example(k=4, rank=1, seed=1043, scale=1e-6)  # ends at the limit of rounding: a singular matrix
@example(k=6, rank=16, seed=41358, scale=1e-6)  # these two come to the boundary of the cone before the gap closes
@example(k=5, rank=1, seed=239, scale=1)
def test_conditions(k, rank, seed, scale):
    a, b = problem(k, rank, seed)
    found = solve_complementarity(scale * a, b)
    assert found.converged
    x = found.solution
    s = scale * a + np.einsum("ijkl,kl->ij", b, x)
    size = scale * np.linalg.norm(a)
    np.testing.assert_allclose(x, x.T, rtol=0, atol=1e-12 * size)
    assert np.linalg.eigvalsh(x)[0] >= -1e-12 * size
    assert np.linalg.eigvalsh(s)[0] >= -1e-8 * size
    assert abs(np.sum(x * s)) <= 1e-8 * size * max(np.linalg.norm(x), size / np.linalg.norm(b))


@settings(deadline=None)
@given(a=st.floats(-10, 10), b=st.floats(0.1, 10))
def test_one_dimension(a, b):
    found = solve_complementarity(np.array([[a]]), np.full((1, 1, 1, 1), b))
    assert found.solution[0, 0] == pytest.approx(max(0.0, -a / b), rel=1e-6, abs=1e-12)


def test_against_projected_gradients():
    a, b = problem(3, 12, 5)
    a = a - np.eye(3)
    x, rate = np.zeros((3, 3)), 1 / np.linalg.norm(b.reshape(9, 9), 2)
    for _ in range(20_000):
        values, vectors = np.linalg.eigh(x - rate * (a + np.einsum("ijkl,kl->ij", b, x)))
        x = (vectors * np.maximum(values, 0)) @ vectors.T
    np.testing.assert_allclose(solve_complementarity(a, b).solution, x, atol=1e-6)


def test_no_solution_is_flagged():
    b = np.zeros((2, 2, 2, 2))
    b[0, 0, 0, 0] = 1.0
    assert not solve_complementarity(np.diag([-1.0, -1.0]), b).converged
    assert not solve_complementarity(-np.eye(2), np.zeros((2, 2, 2, 2))).converged


def test_nothing_critical_gives_nothing():
    assert solve_complementarity(np.zeros((0, 0)), np.zeros((0, 0, 0, 0))).solution.shape == (0, 0)
    assert not solve_complementarity(np.eye(2), np.ones((2, 2, 2, 2))).solution.any()
    with pytest.raises(ValueError, match="linear must have shape"):
        solve_complementarity(np.eye(2), np.eye(2))
