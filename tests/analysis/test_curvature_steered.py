"""The tracker steered by a surrogate, against dense eigenvalues: networks at the edge, and surrogates that mislead."""

import numpy as np
import pytest
import torch
from torch import nn

from analysis.curvature import CurvatureTracker, LossCurvature

SIZE = 80


def squared(outputs, targets):
    return 0.5 * (outputs - targets).square().sum(1)


def network(seed, n=400):
    g = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 3)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64) * (2 / max(p.shape[-1], 6)) ** 0.5)
    inputs = torch.randn(n, 6, generator=g, dtype=torch.float64)
    targets = torch.sin(2 * inputs[:, :3]) + inputs[:, 3:] * inputs[:, :3]
    return LossCurvature(net, squared, inputs, targets)


def dense(matvec, size):
    columns = torch.stack([matvec(e) for e in torch.eye(size, dtype=torch.float64)])
    return torch.linalg.eigvalsh(0.5 * (columns + columns.T)).flip(0)


@pytest.fixture(scope="module", params=[1, 2, 3])
def descent(request):
    """Products with the Hessian and with its sample along gradient descent beyond the edge, and all eigenvalues."""
    whole = network(request.param)
    sample, theta, steps = whole.sample(80), whole.point(), []
    lr = None
    for s in range(140):
        _, gradient, matvec = whole.linearise(theta)
        if lr is None:
            lr = 1.2 * 2 / float(dense(matvec, whole.size)[0])
        if s >= 128:
            steps.append((matvec, sample.linearise(theta)[2], dense(matvec, whole.size)))
        theta = theta - lr * gradient
    return steps


def follow(tracker, steps):
    return [
        tracker.measure(matvec, torch.zeros(len(exact), dtype=torch.float64), image) for matvec, image, exact in steps
    ]


@pytest.mark.parametrize("k", [1, 3])
def test_steered_values_are_right_within_their_own_estimate(descent, k):
    tol = 1e-3
    found = follow(CurvatureTracker(k, tol=tol), descent)
    error = np.array([np.abs(f.values.numpy() / e[:k].numpy() - 1) for f, (*_, e) in zip(found, descent, strict=True)])
    flags = np.array([f.converged.numpy() for f in found])
    estimate = np.array([f.errors.numpy() for f in found])
    assert flags.all()
    assert not (flags & (error > tol)).any()
    assert np.mean(error <= estimate) >= 0.95


def spectrum(seed, values):
    g = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=g, dtype=torch.float64))[0]
    return q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ q.T


def product(matrix):
    return lambda v: matrix @ v


ZERO = torch.zeros(SIZE, dtype=torch.float64)
VALUES = [10.0, 9.0, 8.0, *np.linspace(-6, 2, SIZE - 3)]
MISLEADING = {
    "zero": torch.zeros(SIZE, SIZE, dtype=torch.float64),
    "negative": -spectrum(0, VALUES),
    "unrelated": spectrum(7, VALUES),
    "ten times": 10 * spectrum(0, VALUES),
    "frozen": spectrum(0, VALUES),
    "noisy": spectrum(0, VALUES) + 0.3 * spectrum(7, VALUES),
}


@pytest.mark.parametrize("name", MISLEADING)
def test_a_useless_surrogate_costs_products_not_correctness(name):
    tracker = CurvatureTracker(2, tol=1e-3)
    turn = torch.matrix_exp(2e-3 * (lambda a: a - a.T)(spectrum(3, VALUES).triu()))
    matrix, settled = spectrum(0, VALUES), 0
    for _ in range(10):
        found = tracker.measure(product(matrix), ZERO, product(MISLEADING[name]))
        exact = torch.linalg.eigvalsh(matrix).flip(0)[:2]
        error = (found.values / exact - 1).abs()
        assert not (found.converged & (error > 1e-3)).any()
        settled += int(found.converged.all())
        matrix = turn @ matrix @ turn.T
    assert settled == 10


def test_products_in_directions_known_already_do_no_harm():
    tracker = CurvatureTracker(2, tol=1e-11, check_every=100)
    for i in range(4):
        matrix = spectrum(0, VALUES) + 0.1 * i * spectrum(5, VALUES)
        found = tracker.measure(product(matrix), ZERO, product(matrix + 0.1 * spectrum(9, VALUES)))
        exact = torch.linalg.eigvalsh(matrix).flip(0)[:2]
        error = (found.values / exact - 1).abs()
        assert (error <= found.errors + 1e-13).all()  # what a hundred products leave, the estimate says
        assert not (found.converged & (error > 1e-11)).any()


def test_a_perfect_surrogate_leaves_no_products_to_take():
    tracker = CurvatureTracker(2, tol=1e-4)
    for i in range(6):
        matrix = spectrum(0, VALUES) + 0.01 * i * spectrum(5, VALUES)
        found = tracker.measure(product(matrix), ZERO, product(matrix))
        assert found.values.numpy() == pytest.approx(torch.linalg.eigvalsh(matrix).flip(0)[:2].numpy(), rel=1e-4)
        assert found.converged.all()
        assert found.products == int(i == 1) or i == 0  # the audit of the first steered call


def test_an_eigenvalue_that_the_surrogate_shows_rising_is_found_without_a_check():
    base = spectrum(0, VALUES)
    axis = torch.linalg.eigh(base)[1][:, 5]  # an exact eigenvector, far down
    tracker, tops = CurvatureTracker(1, tol=1e-3), []
    for i in range(30):
        matrix = base + 0.5 * i * torch.outer(axis, axis)
        found = tracker.measure(product(matrix), ZERO, product(matrix + 0.05 * spectrum(9, VALUES)))
        tops.append((found.top, float(torch.linalg.eigvalsh(matrix)[-1]), found.checked, bool(found.converged[0])))
    assert not any(checked for *_, checked, _ in tops[1:])
    assert tops[-1][0] == pytest.approx(tops[-1][1], rel=1e-3)


def test_every_eigenvalue_above_the_level_is_followed():
    tracker = CurvatureTracker(1, tol=1e-3, level=7.0, k_max=5)
    for _ in range(3):
        found = tracker.measure(product(spectrum(0, VALUES)), ZERO, product(spectrum(0, VALUES) * 1.1))
        assert found.values.numpy() == pytest.approx([10, 9, 8], rel=1e-3)
        assert found.complete


@pytest.mark.parametrize("parity", [1, 2])
def test_the_state_restores_to_the_same_bits(descent, parity):
    whole = follow(CurvatureTracker(2, tol=1e-3, parity=parity), descent)
    first = CurvatureTracker(2, tol=1e-3, parity=parity)
    follow(first, descent[:7])
    second = CurvatureTracker(2, tol=1e-3, parity=parity)
    second.load_state_dict(first.state_dict())
    for a, b in zip(whole[7:], follow(second, descent[7:]), strict=True):
        assert torch.equal(a.values, b.values)
        assert torch.equal(a.vectors, b.vectors)
        assert a.products == b.products


def test_a_matrix_that_is_not_finite_leaves_the_carried_space_as_it_was(descent):
    matvec, image, exact = descent[0]
    zero = torch.zeros(len(exact), dtype=torch.float64)
    tracker, other = CurvatureTracker(1), CurvatureTracker(1)
    tracker.measure(matvec, zero, image)
    other.measure(matvec, zero, image)
    broken = tracker.measure(lambda v: v * float("nan"), zero, lambda v: v * float("nan"))
    assert not broken.converged.any()
    again, straight = tracker.measure(matvec, zero, image), other.measure(matvec, zero, image)
    assert torch.equal(again.values, straight.values)


def test_the_surrogate_may_come_and_go(descent):
    tracker = CurvatureTracker(1, tol=1e-3)
    for i, (matvec, image, exact) in enumerate(descent):
        found = tracker.measure(matvec, torch.zeros(len(exact), dtype=torch.float64), None if i % 3 == 1 else image)
        assert found.top == pytest.approx(float(exact[0]), rel=1e-3) or not found.converged[0]


@pytest.mark.parametrize("size", [0, 401])
def test_a_sample_of_no_or_too_many_examples_is_refused(size):
    with pytest.raises(ValueError, match=r"size must lie in 1\.\.400"):
        network(1).sample(size)


def test_a_sample_of_all_examples_is_the_matrix_itself():
    whole = network(1)
    v = torch.randn(whole.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(whole.sample(400).linearise()[2](v), whole.linearise()[2](v))
