"""Simulated runs of a preset against a loop in plain Python, from the loss written out by hand."""

from pathlib import Path

import numpy as np
import pytest

from nets.presets.plans import PresetError, make_plans
from nets.presets.simulated import SimulationPlan


def loss(w, beta, alpha):
    c, b, p, u = w
    return ((beta - c * b) ** 2 + (c * p) ** 2 + alpha * (c * u) ** 2) / 2


def slope(w, beta, alpha):
    """Central differences, error O(h^2)."""
    steps = np.eye(4) * 1e-6
    return np.array([(loss(w + h, beta, alpha) - loss(w - h, beta, alpha)) / 2e-6 for h in steps])


def test_descent_is_the_map_written_out():
    plan = SimulationPlan(lr=0.004, steps=40, c=0.6, b_par=0.1, b_perp=0.2, u=0.05, beta=1.5, alpha=50.0)
    w, expected = np.array([0.6, 0.1, 0.2, 0.05]), []
    for _ in range(41):
        expected.append(loss(w, 1.5, 50.0))
        w = w - 0.004 * slope(w, 1.5, 50.0)
    data = plan.run()
    np.testing.assert_allclose(data["loss"], expected, rtol=1e-7)
    assert data["loss"].dims == ("step",)


def test_momentum_is_passed_on():
    plan = SimulationPlan("heavy_ball", {"momentum": 0.5}, lr=0.002, steps=40)
    w, m, expected = np.array([0.55, 0.05, 0.1, 1e-3]), np.zeros(4), []
    for _ in range(41):
        expected.append(loss(w, 1.0, 100.0))
        m = 0.5 * m + slope(w, 1.0, 100.0)
        w = w - 0.002 * m
    np.testing.assert_allclose(plan.run()["loss"], expected, rtol=1e-7)


def test_flow_is_the_limit_of_small_steps():
    """At order one: half the step, half the error."""
    flow = SimulationPlan("flow", lr=0.01, steps=20).run()["loss"].values
    errors = [
        abs(SimulationPlan("gd", lr=0.01 / n, steps=20 * n).run()["loss"].values[::n] - flow).max() for n in (8, 16, 32)
    ]
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 2.0, rtol=0.1)


@pytest.mark.parametrize("name", ["flow", "gd", "heavy_ball", "nesterov", "sam", "adam", "split_sgd"])
def test_every_optimizer_runs_with_its_defaults(name):
    assert np.isfinite(SimulationPlan(name, lr=0.001, steps=10).run()["loss"]).all()


def test_unknown_options_are_refused():
    with pytest.raises(PresetError, match=r"mine.toml: run toy: options must be among .*; got rho; remove it"):
        make_plans(Path("mine.toml"), {"toy": {"kind": "simulate", "rho": 1.0}}, {}, "quick", 0)
    with pytest.raises(ValueError, match="optimizer_options of flow must be a table of nothing"):
        SimulationPlan("flow", {"momentum": 0.5})
