"""Projections and edge coefficients against autograd one example at a time, finite differences and a flow."""

import numpy as np
import pytest
import torch

from analysis.curvature import flatten, unflatten
from analysis.groups import find_opposing_groups, largest_movers
from analysis.projection import edge_coefficients, example_losses, group_gradient, project_losses


@pytest.fixture
def problem():
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()
    x, y = torch.randn(12, 3, dtype=torch.float64), torch.randn(12, 2, dtype=torch.float64)
    losses = example_losses(net, lambda o, t: 0.5 * (o - t).square().sum(1), x, y)
    params = [p.detach().clone() for p in net.parameters()]
    return losses, params


def hessian_top(losses, params):
    flat = flatten(params)
    h = torch.autograd.functional.hessian(lambda f: losses(unflatten(f, params)).mean(), flat)
    values, vectors = torch.linalg.eigh(h)
    return values[-1].item(), vectors[:, -1], h


def test_projection_equals_one_gradient_per_example(problem):
    losses, params = problem
    v = torch.randn(flatten(params).numel(), dtype=torch.float64)
    s = project_losses(losses, params, v)
    for i in range(12):
        expected = group_gradient(losses, params, torch.tensor([i])) @ v
        assert s[i].item() == pytest.approx(expected.item(), rel=1e-10)


def test_edge_coefficients_against_finite_differences(problem):
    losses, params = problem
    s, v, _ = hessian_top(losses, params)
    c = edge_coefficients(losses, params, v)
    assert c.sharpness == pytest.approx(s, rel=1e-10)
    flat, eps = flatten(params), 1e-5

    def curvature(point):
        return (v @ torch.autograd.functional.hessian(lambda f: losses(unflatten(f, params)).mean(), point) @ v).item()

    basis = torch.eye(len(flat), dtype=torch.float64)
    differences = [(curvature(flat + eps * e) - curvature(flat - eps * e)) / (2 * eps) for e in basis]
    slope = torch.tensor(differences, dtype=torch.float64)
    gradient = group_gradient(losses, params, torch.arange(12))
    perp = slope - (slope @ v) * v
    assert c.restoring == pytest.approx((perp @ perp).item(), rel=1e-6)
    assert c.progressive == pytest.approx(-((gradient - (gradient @ v) * v) @ perp).item(), rel=1e-6)
    assert c.slope == pytest.approx((gradient @ v).item(), rel=1e-9)


def test_progressive_rate_is_the_drift_of_the_eigenvalue_under_constrained_flow(problem):
    losses, params = problem
    s, v, _ = hessian_top(losses, params)
    c = edge_coefficients(losses, params, v)
    gradient = group_gradient(losses, params, torch.arange(12))
    step = 1e-6 * (gradient - (gradient @ v) * v)
    after, _, _ = hessian_top(losses, unflatten(flatten(params) - step, params))
    assert (after - s) / 1e-6 == pytest.approx(c.progressive, rel=1e-3)


def test_piecewise_quadratic_loss_has_no_drift():
    matrix = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    c = edge_coefficients(
        lambda p: 0.5 * (p[0] @ matrix @ p[0]).reshape(1),
        [torch.tensor([1.0, 1.0], dtype=torch.float64)],
        torch.tensor([1.0, 0.0], dtype=torch.float64),
    )
    assert (c.sharpness, c.progressive, c.restoring) == (3.0, 0.0, 0.0)


def opposing_pair(n=40, pairs=4, strength=10.0):
    """Linear regression in which two small groups carry one large feature with opposite targets."""
    torch.manual_seed(0)
    x = torch.randn(n, 4, dtype=torch.float64)
    x[:, 3] = 0.0
    x[: 2 * pairs, 3] = strength
    y = torch.zeros(n, dtype=torch.float64)
    y[:pairs], y[pairs : 2 * pairs] = 3.0, -3.0
    return (lambda p: 0.5 * (x @ p[0] - y).square()), [torch.zeros(4, dtype=torch.float64)]


def test_planted_groups_are_found_and_exactly_opposed():
    losses, params = opposing_pair()
    v = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    s = project_losses(losses, params, v).numpy()
    groups = find_opposing_groups(losses, params, s, v, k=4)
    assert groups is not None
    assert set(groups.falling) == {0, 1, 2, 3}
    assert set(groups.rising) == {4, 5, 6, 7}
    assert groups.opposition > 0.95
    assert groups.control < 0.5 * groups.opposition
    assert min(groups.alignment) > 0.95


def test_no_movement_gives_no_groups():
    losses, params = opposing_pair()
    assert find_opposing_groups(losses, params, np.zeros(40), torch.ones(4).double(), k=4) is None


def test_largest_movers_are_equivariant_under_permutation():
    rng = np.random.default_rng(0)
    change = rng.normal(size=30)
    order = rng.permutation(30)
    up, down = largest_movers(change, 5)
    up_p, down_p = largest_movers(change[order], 5)
    assert list(order[up_p]) == list(up)
    assert list(order[down_p]) == list(down)
    with pytest.raises(ValueError, match="k must be between 1 and half"):
        largest_movers(change, 16)
