"""Gradient flow against scipy, the closed form of the two-layer model, its order, and gradient descent."""

import math

import numpy as np
import pytest
import torch
from flow_nets import Toy, descend, small_net, two_layer
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm

from analysis.flows import GradientFlow
from analysis.flows.krylov import phi, phi_product
from toymodels import predict_flow


def reference(operator, start, until):
    """The flow by another method, another library, a tight tolerance."""

    def velocity(_, y):
        return -operator.linearise(torch.from_numpy(y))[1].numpy()

    solution = solve_ivp(velocity, (0, until), start.numpy(), method="DOP853", rtol=1e-11, atol=1e-12)
    assert solution.success
    return torch.from_numpy(solution.y[:, -1])


@settings(deadline=None)
@given(order=st.integers(1, 4), z=st.floats(-300, 20))
def test_phi_is_its_integral(order, z):
    """φ_k(z) = ∫ e^{(1-s)z} s^{k-1}/(k-1)! ds, by quadrature."""

    def integrand(s):
        return math.exp((1 - s) * z) * s ** (order - 1) / math.factorial(order - 1)

    near = min(1.0, 40 / max(abs(z), 1))  # where the integrand lives: near s = 1, or near s = 0
    exact = quad(integrand, 0, 1, points=[near, 1 - near], epsabs=0, epsrel=1e-12, limit=200)[0]
    assert phi(order, np.array(z)) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("order", [1, 3])
def test_phi_product_against_the_dense_function_and_its_own_estimate(order):
    values = torch.tensor([-2.0, *np.linspace(0, 5, 80), 60.0, 200.0], dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=g, dtype=torch.float64))
    matrix = q @ torch.diag(values) @ q.T
    b = torch.randn(len(values), generator=g, dtype=torch.float64)
    # the exponential of an augmented matrix holds φ_k b (Sidje, 1998)
    size = len(values)
    big = np.zeros((size + order, size + order))
    big[:size, :size], big[:size, size] = -0.7 * matrix.numpy(), b.numpy()
    big[size : size + order - 1, size + 1 :] = np.eye(order - 1)
    exact = torch.from_numpy(expm(big)[:size, -1])
    for tol in (1e-2, 1e-6, 1e-10):
        found = phi_product(lambda v: matrix @ v, b, 0.7, order, tol=tol, most=60)
        error = float((found.value - exact).norm())
        assert found.converged
        assert error <= 2 * tol
        assert found.error <= tol
        torch.testing.assert_close(found.image, matrix @ found.value, rtol=1e-9, atol=1e-11)
    assert found.products < 60
    few = phi_product(lambda v: matrix @ v, b, 0.7, order, tol=1e-6, most=3)
    assert not few.converged
    assert few.products == 3


@pytest.mark.parametrize("activation", [torch.nn.Tanh, torch.nn.GELU])
def test_network_against_scipy(activation):
    operator = small_net(activation=activation)
    start = operator.point()
    exact = reference(operator, start, 4.0)
    errors = []
    for rtol in (1e-3, 1e-5, 1e-7):
        flow = GradientFlow(operator, start, rtol=rtol)
        end = flow.advance(4.0)
        assert (end.status, end.time, flow.time) == ("reached", 4.0, 4.0)
        errors.append(float((flow.point - exact).norm() / exact.norm()))
        # the tolerance is per step, and the flow contracts
        assert errors[-1] <= rtol * end.steps
    assert errors[0] > errors[1] > errors[2]


def test_tolerance_does_not_need_a_graph_kept_or_one_chunk():
    whole, chunked = small_net(), small_net(chunk_size=7)
    flows = [GradientFlow(operator, whole.point(), rtol=1e-5) for operator in (whole, chunked)]
    for flow in flows:
        flow.advance(3.0)
    torch.testing.assert_close(flows[0].point, flows[1].point, rtol=1e-8, atol=1e-9)


def test_two_layer_model_against_its_closed_form():
    """Stiff: the opposing direction dies 1,000 times faster than the rest."""
    c0, b0, p0, u0, alpha = 0.55, 0.05, 0.3, 1e-3, 1000.0
    operator = two_layer(c0, [b0, p0, u0], [1.0, 1.0, alpha], [1.0, 0.0, 0.0])
    flow = GradientFlow(operator, operator.point(), rtol=1e-7, atol=1e-10)
    predict = predict_flow(c0, b0, 1.0, p0)
    for t in (0.5, 6.0):
        flow.advance(t)
        exact = predict(t)  # exact once u has died; u0² = 1e-6 moves K by as much
        found = flow.point.numpy()
        np.testing.assert_allclose(found[:3], [exact.c, exact.b_par, exact.b_perp], atol=5e-6)
    assert abs(flow.point[3]) < 1e-7
    end = GradientFlow(operator, operator.point(), rtol=1e-4).advance(6.0)
    # stability alone would take gradient descent αc²t/2 gradients, with c² from 0.3 to 1
    assert end.gradients + end.products < 0.3 * alpha * 6.0 / 2


def test_order_three_in_the_step():
    """Fixed steps: with a tolerance that accepts every step, and φ-products to 1e-11."""

    class FixedSteps(GradientFlow):
        def _try(self, h, tolerance):
            return super()._try(h, 1e-11)[0], 0.0

    operator = small_net()
    start = operator.point()
    exact = reference(operator, start, 1.0)
    errors = []
    for n in (10, 20, 40):
        flow = FixedSteps(operator, start, max_step=1 / n, max_products=80)
        for i in range(n):
            flow._next_step = 1.0
            flow.advance((i + 1) / n)
        assert flow.steps == n
        errors.append(float((flow.point - exact).norm()))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 3, atol=0.3)


def test_gradient_descent_tends_to_the_flow_at_order_one():
    operator = small_net()
    start = operator.point()
    flow = GradientFlow(operator, start, rtol=1e-7)
    flow.advance(2.0)
    errors = [
        float((descend(operator, start, lr, round(2 / lr))[-1] - flow.point).norm()) for lr in (0.02, 0.01, 0.005)
    ]
    ratios = np.array(errors[:-1]) / errors[1:]
    np.testing.assert_allclose(ratios, 2, rtol=0.1)


def test_resumes_to_the_same_bits_and_an_interrupt_leaves_the_last_step():
    operator = small_net()
    whole = GradientFlow(operator, operator.point(), rtol=1e-6)
    whole.advance(3.0)
    stopped = GradientFlow(operator, operator.point(), rtol=1e-6)
    calls = 0

    def interrupt(*_):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.advance(3.0, interrupt)
    state = stopped.state_dict()
    later = GradientFlow(operator, operator.point(), rtol=1e-6)
    later.load_state_dict(state)
    end = later.advance(3.0)
    assert torch.equal(later.point, whole.point)
    assert end.steps == whole.steps
    assert end.gradients == whole.operator.gradients


def test_progress_reaches_the_end():
    operator = small_net()
    seen = []
    GradientFlow(operator, operator.point()).advance(1.0, lambda t, end: seen.append((t, end)))
    assert seen == sorted(seen)
    assert seen[-1] == (1.0, 1.0)


def test_a_minimum_stays_and_a_flow_that_is_not_finite_says_so():
    still = Toy(lambda p: 0.5 * (p @ p))
    flow = GradientFlow(still, torch.zeros(3, dtype=torch.float64))
    assert flow.advance(1e6).status == "reached"
    assert torch.equal(flow.point, torch.zeros(3, dtype=torch.float64))
    broken = GradientFlow(Toy(lambda p: p.sum() * float("nan")), torch.ones(3))
    assert broken.advance(1.0).status == "diverged"


def test_float32():
    operator, wide = small_net(dtype=torch.float32), small_net()
    flow = GradientFlow(operator, operator.point(), rtol=1e-5)
    assert flow.advance(5.0).status == "reached"
    exact = reference(wide, operator.point().double(), 5.0)
    assert float((flow.point.double() - exact).norm() / exact.norm()) < 1e-3  # 100 steps of the tolerance


def test_kinks_are_passed_at_a_loose_tolerance_and_said_to_stall_at_a_tight_one():
    operator = small_net(activation=torch.nn.ReLU)
    ends = []
    for rtol in (1e-3, 1e-4):
        flow = GradientFlow(operator, operator.point(), rtol=rtol)
        assert flow.advance(2.0).status == "reached"
        ends.append(flow.point)
    assert float((ends[0] - ends[1]).norm() / ends[1].norm()) < 1e-2
    tight = GradientFlow(operator, operator.point(), rtol=1e-10, max_steps=60)
    end = tight.advance(2.0)
    assert end.status == "stalled"
    assert end.steps + end.rejected == 60
    assert tight.advance(2.0).steps > end.steps  # goes on from there


@pytest.mark.gpu
def test_on_a_gpu_as_on_the_cpu():
    operator = small_net()
    flow = GradientFlow(operator, operator.point(), rtol=1e-8)
    flow.advance(5.0)
    module = operator.module.to("cuda")
    ((x, y),) = operator.chunks
    there = type(operator)(module, operator.loss, x.cuda(), y.cuda())
    other = GradientFlow(there, there.point(), rtol=1e-8)
    other.advance(5.0)
    torch.testing.assert_close(other.point.cpu(), flow.point, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": 0.0}, "rtol must be positive, got 0"),
        ({"max_step": -1.0}, "max_step must be positive"),
        ({"max_products": 1}, "max_products must be at least 2, got 1"),
        ({"start": torch.zeros(2, 2)}, "start must be a real vector"),
    ],
)
def test_bad_options_are_named(options, message):
    options = {"start": torch.zeros(2)} | options
    with pytest.raises(ValueError, match=message):
        GradientFlow(Toy(lambda p: p @ p), **options)


def test_time_does_not_run_backwards():
    flow = GradientFlow(Toy(lambda p: p @ p), torch.ones(2))
    flow.advance(1.0)
    with pytest.raises(ValueError, match=r"until must be finite and >= 1, got 0\.5"):
        flow.advance(0.5)
