"""Measures against the closed forms, on runs whose sharpness comes from a tight solve of gradient flow itself."""

import numpy as np
import pytest
import torch
from recorded import recorded
from scipy.integrate import solve_ivp
from torch import nn

from nets.config import TrainConfig
from nets.data import load_data
from nets.descent import Problem
from nets.presets.measures.theory import initial_weights, limit_ratio, minimum_ratio, minimum_time_ratio


def deep_linear(depth, **changes):
    options = {
        "data": "gaussian",
        "data_options": ("whitened=true", "alpha=30", "beta=2", "d1=4", "d2=4"),
        "n_examples": 40,
        "activation": "linear",
        "widths": (1,) * (depth - 1),
        "model_options": ("bias=false", "init=orthogonal"),
        "dtype": "float64",
        "lr": 0.001,
        "seed": 3,
    }
    return TrainConfig(**{**options, **changes})


def sharpness_along_the_flow(problem, times):
    """Largest eigenvalue of the dense Hessian along gradient flow of the network on its data."""
    module = problem.new_module()
    shapes = [p.shape for p in module.parameters()]
    names = [name for name, _ in module.named_parameters()]

    def loss(theta):
        parts = theta.split([s.numel() for s in shapes])
        given = {n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        outputs = torch.func.functional_call(module, given, (problem.inputs,))
        return 0.5 * (outputs - problem.targets).square().sum(1).mean()

    gradient = torch.func.grad(loss)
    start = nn.utils.parameters_to_vector(module.parameters()).detach()
    found = solve_ivp(
        lambda _, y: -gradient(torch.from_numpy(y)).numpy(),
        (0, times[-1]), start.numpy(), method="LSODA", t_eval=times, rtol=1e-9, atol=1e-11,
    )  # fmt: skip
    hessian = torch.func.hessian(loss)
    return np.array([float(torch.linalg.eigvalsh(hessian(torch.from_numpy(y)))[-1]) for y in found.y.T])


def outcome(config, times):
    problem = Problem(config, load_data(config))
    return recorded(problem, config, sharpness=sharpness_along_the_flow(problem, times))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_end_of_the_flow_is_the_law_of_its_depth(depth):
    assert limit_ratio([outcome(deep_linear(depth), np.array([0.0, 20.0]))]) == pytest.approx(1, abs=1e-6)


def test_the_run_that_is_furthest_from_the_law_is_returned():
    run = outcome(deep_linear(2), np.array([0.0, 20.0]))
    end = run.sharpness[-1]
    problem = run.trained.problem
    others = [recorded(problem, run.config, sharpness=[1.0, f * end]) for f in (1.1, 0.5, 1.5)]
    assert limit_ratio([run, *others]) == pytest.approx(0.5)


def test_least_sharpness_and_its_time():
    config = deep_linear(2)
    run = outcome(config, config.lr * np.arange(1500))
    assert 10 < int(np.argmin(run.sharpness)) < 1400  # a fall and a rise are in it
    assert minimum_ratio(run) == pytest.approx(1, abs=0.01)
    assert minimum_time_ratio(run) == pytest.approx(1, abs=0.05)


def test_initial_weights_of_the_reference_start():
    start = initial_weights(outcome(deep_linear(3), np.array([0.0, 0.1])))
    np.testing.assert_allclose(np.abs(start.scalars), 1)
    rest = np.hypot(np.hypot(start.b_par, start.b_perp), start.u)
    assert 0 < rest < 1  # of a vector of norm 1, the part that moves


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "tanh"},
        {"model_options": ("init=orthogonal",)},
        {"widths": (2,)},
        {"data": "chebyshev", "data_options": ()},
    ],
)
def test_other_networks_are_refused(changes):
    config = deep_linear(2, **changes)
    run = recorded(Problem(config, load_data(config)), config, sharpness=[1.0])
    with pytest.raises(ValueError, match="linear networks of width 1 without biases on data gaussian"):
        limit_ratio([run])


def test_the_minimum_is_of_two_layers():
    config = deep_linear(3)
    run = recorded(Problem(config, load_data(config)), config, sharpness=[1.0])
    with pytest.raises(ValueError, match="is of two layers, made has 3"):
        minimum_ratio(run)
