"""The eigen-solver against dense eigenvalues, and Hessian-vector products against the dense Hessian."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.curvature import flat_hvp, flatten, top_eigenpair, unflatten


def random_symmetric(eigenvalues, seed):
    g = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=g, dtype=torch.float64))
    return q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T


SPECTRA = {
    "indefinite, negative largest in magnitude": [*np.linspace(-50, -1, 40), 10.0],
    "repeated top": [10.0, 10.0, 10.0, *np.linspace(0, 9, 40)],
    "clustered top": [10.0, 9.99, 9.98, 9.9, *np.linspace(-3, 9, 60)],
    "one outlier": [100.0, *np.linspace(0, 1, 80)],
    "all negative": list(np.linspace(-9, -1, 30)),
    "one dimension": [3.0],
}


@pytest.mark.parametrize("name", SPECTRA)
def test_top_is_the_largest_algebraic_eigenvalue(name):
    matrix = random_symmetric(SPECTRA[name], seed=3)
    top = torch.linalg.eigvalsh(matrix)[-1].item()
    pair = top_eigenpair(lambda v: matrix @ v, torch.zeros(matrix.shape[0], dtype=torch.float64), tol=1e-6)
    assert pair.converged
    assert pair.value == pytest.approx(top, rel=1e-6)
    residual = (matrix @ pair.vector - pair.value * pair.vector).norm().item() / abs(pair.value)
    assert residual == pytest.approx(pair.residual, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 60), shift=st.floats(-5, 5))
def test_a_converged_value_is_never_far_from_an_eigenvalue(seed, n, shift):
    rng = np.random.default_rng(seed)
    matrix = random_symmetric(list(rng.normal(size=n) + shift), seed)
    exact = torch.linalg.eigvalsh(matrix)
    pair = top_eigenpair(lambda v: matrix @ v, torch.zeros(n, dtype=torch.float64), tol=1e-3, max_products=100)
    if pair.converged:
        distance = (exact - pair.value).abs().min().item()
        assert distance <= 1e-3 * abs(pair.value) + 1e-12
    assert pair.value <= exact[-1].item() + 1e-9


def test_a_start_orthogonal_to_the_top_does_not_hide_it():
    matrix = torch.diag(torch.tensor([1.0, 2.0, 30.0, 4.0], dtype=torch.float64))
    start = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)  # an exact eigenvector, the wrong one
    pair = top_eigenpair(lambda v: matrix @ v, start, tol=1e-8)
    assert pair.value == pytest.approx(30.0, rel=1e-8)


def test_too_few_products_are_flagged():
    matrix = random_symmetric(list(np.linspace(0, 1, 200)), seed=0)
    pair = top_eigenpair(lambda v: matrix @ v, torch.zeros(200, dtype=torch.float64), tol=1e-8, max_products=4)
    assert not pair.converged
    assert pair.residual > 1e-8
    assert pair.products == 4


def test_warm_start_costs_fewer_products():
    matrix = random_symmetric([30.0, *np.linspace(0, 28, 300)], seed=1)
    cold = top_eigenpair(lambda v: matrix @ v, torch.zeros(301, dtype=torch.float64), tol=1e-2)
    warm = top_eigenpair(lambda v: matrix @ v, cold.vector, tol=1e-2)
    assert warm.products < cold.products


def test_non_finite_operator_is_reported_not_raised():
    pair = top_eigenpair(lambda v: v * float("nan"), torch.zeros(5))
    assert not pair.converged
    assert np.isnan(pair.value)


@pytest.mark.parametrize(("kwargs", "message"), [({"tol": 0.0}, "tol"), ({"max_products": 1}, "max_products")])
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        top_eigenpair(lambda v: v, torch.zeros(3), **kwargs)


def test_hvp_against_the_dense_hessian():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64)
    params = list(net.parameters())
    names = [n for n, _ in net.named_parameters()]

    def loss_of(flat):
        parts = dict(zip(names, unflatten(flat, params), strict=True))
        return (torch.func.functional_call(net, parts, (x,)) - y).square().mean()

    flat = flatten([p.detach() for p in params])
    dense = torch.autograd.functional.hessian(loss_of, flat)
    grads = torch.autograd.grad((net(x) - y).square().mean(), params, create_graph=True)
    matvec = flat_hvp(grads, params)
    v = torch.randn(flat.numel(), dtype=torch.float64)
    torch.testing.assert_close(matvec(v), dense @ v, rtol=1e-10, atol=1e-12)
    pair = top_eigenpair(matvec, torch.zeros_like(flat), tol=1e-6)
    assert pair.value == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-8)


def test_unflatten_refuses_another_length():
    with pytest.raises(ValueError, match="must have 6 entries, got 5"):
        unflatten(torch.zeros(5), [torch.zeros(2, 3)])
