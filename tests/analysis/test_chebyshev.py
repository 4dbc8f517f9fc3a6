"""Stabilised steps: order, stability, and the flow of a network."""

import numpy as np
import pytest
import torch
from flow_nets import small_net
from scipy.integrate import solve_ivp

from analysis.flows.chebyshev import chebyshev_step, stable_length


def test_a_step_on_a_quadratic_has_order_two_and_is_stable():
    """Oracle: exp(-λh). The stability polynomial stays within 1 up to β, passes it beyond (even s), and
    agrees to O(z³)."""

    def polynomial(z, stages):
        z = torch.as_tensor(z, dtype=torch.float64)
        one = torch.ones_like(z)
        return chebyshev_step(lambda p: z * p, one, z * one, 1.0, stages)

    for stages in (2, 5, 10):
        beta = stable_length(stages)
        assert polynomial(np.linspace(0, beta, 2000), stages).abs().max() <= 1 + 1e-12
        assert stages % 2 or polynomial([1.05 * beta], stages).abs() > 1
        error = [float((polynomial([z], stages) - np.exp(-z)).abs()) for z in (0.02, 0.01)]
        assert error[0] / error[1] == pytest.approx(8, rel=0.05)
        assert beta == pytest.approx(2 / 3 * (stages**2 - 1) * (1 - 2 / 15 * 2 / 13), rel=0.03)


def test_steps_converge_to_the_flow_of_a_network():
    operator = small_net()
    start, until = operator.point(), 2.0

    def slope(p):
        return operator.linearise(p)[1]

    exact = solve_ivp(
        lambda _, y: -slope(torch.from_numpy(y)).numpy(), (0, until), start.numpy(), method="DOP853", rtol=1e-10,
        atol=1e-12,
    ).y[:, -1]  # fmt: skip
    errors = []
    for n in (4, 8, 16):
        point = start
        for _ in range(n):
            point = chebyshev_step(slope, point, slope(point), until / n, 5)
        errors.append(float((point - torch.from_numpy(exact)).norm()))
    assert errors[0] / errors[1] > 3.3
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.15)
