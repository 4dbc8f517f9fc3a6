"""Central flow against the two-layer model's closed form, toys whose averages are known, and gradient descent."""

import numpy as np
import pytest
import torch
from flow_nets import Toy, descend, small_net, two_layer

from analysis.curvature import midpoint, top_eigenpair
from analysis.flows import CentralFlow, Fixed, GradientFlow, RMSProp
from analysis.flows.preconditioners import Preconditioner

DOUBLE = {"dtype": torch.float64}


def two_layer_edge(t, c, b0, alpha, lr):
    r"""Derived: with αc² = 2/η held by $\langle u^2\rangle = b r/(\alpha c)$, b relaxes at the rate c²."""
    b = 1 / c + (b0 - 1 / c) * np.exp(-(c**2) * t)
    r = 1 - c * b
    variance = b * r / (alpha * c)
    return b, variance, 0.5 * r**2 + variance / lr


def test_two_layer_model_at_order_one():
    c, b0, alpha, steps = np.sqrt(0.6), 0.3, 50.0, 15
    lr = 2 / (alpha * c**2)
    operator = two_layer(c, [b0, 0.0], [1.0, alpha], [1.0, 0.0])
    errors = []
    for substeps in (1, 2, 4):
        flow = CentralFlow(operator, operator.point(), lr, substeps=substeps)
        points = flow.advance(steps)
        t = np.arange(steps) * lr
        _, variance, mean_loss = two_layer_edge(t, c, b0, alpha, lr)
        assert all(p.converged and p.status == "running" for p in points)
        assert float(flow.point[0]) == pytest.approx(c, abs=1e-12)  # held at the edge
        found = np.array([[p.covariance[0, 0], p.mean_loss] for p in points])
        errors.append(
            [
                abs(float(flow.point[1]) - two_layer_edge(steps * lr, c, b0, alpha, lr)[0]),
                *np.abs(found / np.column_stack([variance, mean_loss]) - 1).max(axis=0),
            ]
        )
        np.testing.assert_allclose([p.effective_sharpness for p in points], 2 / lr, rtol=1e-9)
    ratios = np.array(errors[:-1]) / errors[1:]
    np.testing.assert_allclose(ratios, 2, rtol=0.1)


def test_below_the_edge_it_is_the_gradient_flow():
    operator = small_net()
    flow, exact = CentralFlow(operator, operator.point(), 0.02, substeps=4), GradientFlow(operator, operator.point())
    points = flow.advance(10)
    exact.advance(0.2)
    assert all(p.covariance.shape == (0, 0) and p.mean_loss == p.loss for p in points)
    moved = float((exact.point - operator.point()).norm())
    assert float((flow.point - exact.point).norm()) < 0.01 * moved


def sharpening(drift):
    """½ xᵀ(S₀ + Y)x − ⟨D, Y⟩ with x in R² and Y symmetric: gradient descent keeps ⟨xxᵀ⟩ = 2D over long times."""
    d = torch.as_tensor(drift, **DOUBLE)

    def loss(p):
        y = torch.stack([torch.stack([p[2], p[3]]), torch.stack([p[3], p[4]])])
        return 0.5 * p[:2] @ (y + 19.0 * torch.eye(2, **DOUBLE)) @ p[:2] - (d * y).sum()

    return Toy(loss)


def test_two_unstable_directions_against_the_average_of_gradient_descent():
    """Telescoping: descent has ⟨xxᵀ⟩ = 2D − (drift of Y per step), exactly; the flow gives 2D."""
    drift, lr, steps = np.array([[0.03, 0.01], [0.01, 0.02]]), 0.1, 1500
    operator = sharpening(drift)
    path = descend(operator, torch.tensor([1e-2, 2e-2, 0.9, 0.0, 0.9], **DOUBLE), lr, steps).numpy()
    average = path[:-1, :2].T @ path[:-1, :2] / steps
    moved = (path[-1] - path[0])[2:] / (lr * steps)
    rest = np.array([[2 * moved[0], moved[1]], [moved[1], 2 * moved[2]]])
    assert np.abs(rest).max() < 0.2 * np.abs(average).max()  # Y stayed near the edge: the average is not all drift
    flow = CentralFlow(operator, torch.tensor([0.0, 0.0, 0.9, 0.0, 0.9], **DOUBLE), lr, radius=0.01)
    last = flow.advance(80)[-1]
    vectors = flow.directions[:, :2].numpy()
    np.testing.assert_allclose(vectors.T @ last.covariance @ vectors, average + rest, rtol=1e-6)
    assert last.values[:2] == pytest.approx([20.0, 20.0], rel=1e-9)


def test_quartic_valley_rests_on_the_two_cycle_of_gradient_descent():
    r"""½x²y² + ½κ(y−b)²: x = ±x*, y = √(2/η), x*² = κ(b−y)/y is a two-cycle of descent, and the flow's rest."""
    lr, kappa, b = 0.1, 0.1, 5.0
    operator = Toy(lambda p: 0.5 * p[0] ** 2 * p[1] ** 2 + 0.5 * kappa * (p[1] - b) ** 2)
    y = np.sqrt(2 / lr)
    x = np.sqrt(kappa * (b - y) / y)
    cycle = descend(operator, torch.tensor([x, y], **DOUBLE), lr, 2)
    torch.testing.assert_close(cycle[1], torch.tensor([-x, y], **DOUBLE), rtol=1e-12, atol=1e-12)
    flow = CentralFlow(operator, torch.tensor([0.0, 4.0], **DOUBLE), lr, radius=1e-3)
    last = flow.advance(150)[-1]
    assert float(flow.point[1]) == pytest.approx(y, rel=1e-6)
    assert last.covariance[0, 0] == pytest.approx(x**2, rel=1e-5)
    assert last.mean_loss == pytest.approx(operator.linearise(cycle[0])[0], rel=1e-5)
    gradients = [operator.linearise(p)[1].square().sum().item() for p in cycle]
    assert last.mean_squared_gradient == pytest.approx(np.mean(gradients[:2]), rel=1e-5)


def test_rmsprop_on_a_quadratic_rests_at_half_a_step():
    r"""Exact two-cycle of RMSProp: x_i = ±η/2, ν_i = s_i²η²/4; so the mean loss is Σ s_i η²/8."""
    s, lr = torch.tensor([1.0, 3.0, 10.0], **DOUBLE), 0.01
    operator = Toy(lambda p: 0.5 * (s * p) @ p)
    rest = RMSProp(beta2=0.9, eps=0.0, moment=1.2 * (s * lr / 2) ** 2)
    flow = CentralFlow(operator, torch.zeros(3, **DOUBLE), lr, preconditioner=rest, radius=1e-2)
    last = flow.advance(60)[-1]
    torch.testing.assert_close(flow.moment, (s * lr / 2) ** 2, rtol=1e-6, atol=0)
    assert last.mean_loss == pytest.approx(s.sum().item() * lr**2 / 8, rel=1e-6)
    assert last.mean_squared_gradient == pytest.approx((s**2).sum().item() * lr**2 / 4, rel=1e-6)
    assert last.effective_sharpness == pytest.approx(2 / lr, rel=1e-6)
    # the cycle itself, by torch
    x = torch.full((3,), lr / 2, **DOUBLE).requires_grad_()
    optimizer = torch.optim.RMSprop([x], lr=lr, alpha=0.9, eps=0.0)
    optimizer.state[x].update(step=torch.tensor(0.0), square_avg=(s * lr / 2) ** 2)
    for sign in (-1, 1):
        x.grad = s * x.detach()
        optimizer.step()
        torch.testing.assert_close(x.detach(), torch.full((3,), sign * lr / 2, **DOUBLE))


def test_a_fixed_preconditioner_is_a_change_of_variables():
    """θ = D^(-1/2) z: preconditioned descent on L(θ) is descent on L(D^(-1/2) z)."""
    d = torch.tensor([4.0, 0.25], **DOUBLE)

    def loss(p):
        return 0.5 * p[0] ** 2 * p[1] ** 2 + 0.05 * (p[1] - 5.0) ** 2

    start, lr = torch.tensor([0.0, 4.0], **DOUBLE), 0.1
    there = CentralFlow(Toy(loss), start, lr, preconditioner=Fixed(d), radius=1e-3)
    plain = CentralFlow(Toy(lambda z: loss(z / d.sqrt())), start * d.sqrt(), lr, radius=1e-3)
    a, b = there.advance(60)[-1], plain.advance(60)[-1]
    torch.testing.assert_close(there.point, plain.point / d.sqrt(), rtol=1e-6, atol=1e-9)
    assert (a.mean_loss, a.effective_sharpness) == pytest.approx((b.mean_loss, b.effective_sharpness), rel=1e-6)


class Slow(Preconditioner):
    """No state that matters, whose change is computed all the same."""

    rate = 1e-300


class Idle(Preconditioner):
    """No state; asked for its slope it fails."""

    def slope(self, moment):
        raise AssertionError("the change of a constant moment was computed")


def test_a_moment_that_stays_is_not_computed_and_the_flow_is_the_same():
    operator = two_layer(0.7, [0.3, 0.0], [1.0, 50.0], [1.0, 0.0])
    idle, slow = (CentralFlow(operator, operator.point(), 0.08, preconditioner=p()) for p in (Idle, Slow))
    points = idle.advance(12), slow.advance(12)
    assert sum(len(p.covariance) for p in points[0]) > 0  # the edge was reached
    assert torch.equal(idle.point, slow.point)
    assert [p.mean_loss for p in points[0]] == [p.mean_loss for p in points[1]]
    assert torch.equal(idle.moment, torch.zeros(3, **DOUBLE))


def test_linearisations_for_the_slopes_are_counted():
    operator, calls = two_layer(0.7, [0.3, 0.0], [1.0, 50.0], [1.0, 0.0]), 0

    class Watched:
        def linearise(self, point=None):
            nonlocal calls
            calls += 1
            return operator.linearise(point)

    flow = CentralFlow(Watched(), operator.point(), 0.08, radius=1e-3)
    flow.advance(12)
    assert flow.third_order > 0
    assert flow.counted.gradients + flow.third_order == calls


@pytest.mark.parametrize(
    ("seed", "last"),
    [(1, 280), *(pytest.param(seed, 800, marks=pytest.mark.slow) for seed in (0, 1, 2))],
)
def test_average_of_gradient_descent_on_a_small_network(seed, last):
    """Bars: time-averaged loss to 2 %, sharpness to 3 %; the loss at the center is off by far more."""
    operator, first = small_net(seed), 200
    flow = GradientFlow(operator, operator.point())
    flow.advance(100.0)
    zero = torch.zeros_like(flow.point)
    top = top_eigenpair(operator.linearise(flow.point)[2], zero, tol=1e-6)
    lr = 2 / top.value
    path = descend(operator, flow.point + 0.02 * top.vector, lr, last)
    central = CentralFlow(operator, midpoint(*path[first - 1 : first + 2]), lr)
    points = central.advance(last - first)
    assert all(p.converged for p in points)
    loss = np.mean([operator.linearise(p)[0] for p in path[first:last]])
    square = np.mean([operator.linearise(p)[1].square().sum().item() for p in path[first:last]])
    centers = [midpoint(*path[n - 1 : n + 2]) for n in range(first, last, 20)]
    sharpness = np.mean([top_eigenpair(operator.linearise(c)[2], zero, tol=1e-4).value for c in centers])
    assert np.mean([p.mean_loss for p in points]) == pytest.approx(loss, rel=0.02)
    assert np.mean([p.mean_squared_gradient for p in points]) == pytest.approx(square, rel=0.05)
    assert np.mean([p.effective_sharpness for p in points]) == pytest.approx(sharpness, rel=0.03)
    assert np.mean([p.loss for p in points]) < 0.9 * loss


def test_resumes_to_the_same_bits_also_after_an_interrupt_inside_a_step():
    operator = two_layer(0.7, [0.3, 0.0], [1.0, 50.0], [1.0, 0.0])
    whole = CentralFlow(operator, operator.point(), 0.08, radius=1e-3)
    whole.advance(12)
    flow = CentralFlow(operator, operator.point(), 0.08, radius=1e-3)
    flow.advance(5)
    linearise, calls = flow.counted.operator.linearise, 0

    class Broken:
        def linearise(self, point=None):
            loss, gradient, matvec = linearise(point)

            def product(v):
                nonlocal calls
                calls += 1
                if calls == 2:
                    raise KeyboardInterrupt
                return matvec(v)

            return loss, gradient, product

    flow.counted.operator = Broken()
    with pytest.raises(KeyboardInterrupt):
        flow.advance(1)
    other = CentralFlow(operator, operator.point(), 0.08, radius=1e-3)
    other.load_state_dict(flow.state_dict())
    assert torch.equal(other.directions, flow.directions)
    assert other.directions.shape == (1, 3)
    seen = []
    other.advance(7, lambda done, steps: seen.append((done, steps)))
    assert torch.equal(other.point, whole.point)
    assert seen == [(i, 7) for i in range(1, 8)]


def test_a_value_that_is_not_finite_ends_the_flow():
    flow = CentralFlow(Toy(lambda p: p.sum() * float("nan")), torch.ones(2), 0.1, radius=0.1)
    points = flow.advance(5)
    assert [p.status for p in points] == ["diverged"]


def test_more_critical_directions_than_followed_are_flagged():
    operator = Toy(lambda p: 0.5 * 20.0 * (p @ p))
    flow = CentralFlow(operator, torch.zeros(6, **DOUBLE), 0.1, k_max=3, radius=0.1)
    assert not flow.step().converged


@pytest.mark.gpu
def test_on_a_gpu_as_on_the_cpu():
    operator = two_layer(0.7, [0.3, 0.0], [1.0, 50.0], [1.0, 0.0])
    flow = CentralFlow(operator, operator.point(), 0.08)
    here = flow.advance(30)[-1]
    ((x, y),) = operator.chunks
    there = type(operator)(operator.module.to("cuda"), operator.loss, x.cuda(), y.cuda())
    other = CentralFlow(there, there.point(), 0.08)
    assert other.advance(30)[-1].mean_loss == pytest.approx(here.mean_loss, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr must be positive and finite, got 0"),
        ({"substeps": 0}, "substeps must be at least 1, got 0"),
        ({"margin": 1.0}, "margin must lie in"),
        ({"k_max": 1}, "k_max must be at least 2, got 1"),
        ({"start": torch.ones(2, dtype=torch.int64)}, "start must be a real vector"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CentralFlow(Toy(lambda p: p @ p), **({"start": torch.ones(2), "lr": 0.1} | options))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RMSProp(beta2=1.0), "beta2 must lie in"),
        (lambda: RMSProp(eps=-1.0), "eps must be >= 0, got -1"),
        (lambda: RMSProp(moment=-torch.ones(2)), "moment must be >= 0, got -1"),
        (lambda: Fixed(torch.zeros(2)), "values must be positive, got 0"),
    ],
)
def test_bad_preconditioners_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
