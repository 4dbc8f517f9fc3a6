"""Device, precision and determinism: what is refused, what is restored, what rounding does to the curvature."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_runs import assert_same_run, contents, small
from torch import nn

from nets.config import ConfigError, TrainConfig
from nets.data import load_data
from nets.descent import Problem
from nets.device import CUBLAS, Bfloat16, find_device, numerics
from nets.run import Run, create_run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "gpu"}, "device must be cpu, cuda or cuda:N, got 'gpu'"),
        ({"device": 0}, "device must be cpu, cuda or cuda:N, got 0"),
        ({"precision": "float16"}, "precision must be one of full, tf32, bf16, got 'float16'"),
        ({"precision": "tf32"}, "precision must be full or bf16 on the cpu, got tf32; choose device cuda"),
        ({"precision": "bf16", "dtype": "float64"}, "precision must be full for dtype float64, got bf16"),
        ({"deterministic": "yes"}, "deterministic must be true or false, got 'yes'"),
    ],
)
def test_refusals_are_one_clear_line(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        TrainConfig(**changes)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_leaves_nothing_behind(tmp_path):
    name = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(
        ConfigError, match=f"device must be one that this machine has, got {name} with .* pass --device"
    ):
        create_run(tmp_path / "run", small(device=name))
    assert list(tmp_path.iterdir()) == []


def test_choices_are_hashed():
    base = TrainConfig(device="cuda")
    others = [TrainConfig(), *(TrainConfig(device="cuda", **c) for c in ({"precision": "tf32"}, {"precision": "bf16"}))]
    assert len({c.config_hash for c in (base, *others, TrainConfig(deterministic=True))}) == 5


def settings():
    return (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
        os.environ.get(CUBLAS),
    )


def test_settings_hold_within_the_run_only():
    before = settings()
    with numerics(TrainConfig(device="cuda", precision="tf32", deterministic=True), 3):
        assert settings() == (3, "high", True, True, ":4096:8")
    assert settings() == before

    def interrupted():
        with numerics(TrainConfig(), 2):
            assert settings() == (2, "highest", False, False, before[-1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert settings() == before


def test_the_default_does_not_load_the_compiler():
    code = (
        "import sys; from nets.config import TrainConfig; from nets.device import numerics\n"
        "with numerics(TrainConfig(), 1): pass\n"
        "print('torch._inductor' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_a_deterministic_run_is_deterministic_while_it_computes(tmp_path):
    seen = []
    for name, choice in (("default", False), ("deterministic", True)):
        create_run(tmp_path / name, small(steps=3, deterministic=choice))
        Run.open(tmp_path / name).advance(on_step=lambda _: seen.append(torch.are_deterministic_algorithms_enabled()))
    assert seen == [False] * 3 + [True] * 3
    assert not torch.are_deterministic_algorithms_enabled()
    first, second = (contents(tmp_path / name) for name in ("default", "deterministic"))
    assert all(first[name] == second[name] for name in first if "/c/" in name)  # small sums on a CPU: the same bits


def test_bf16_rounds_the_pass_and_keeps_the_types():
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    rounded, x = Bfloat16(net), torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    out = rounded(x)
    assert out.dtype == torch.float32
    hidden = torch.tanh(nn.functional.linear(x.bfloat16(), *(p.bfloat16() for p in net[0].parameters())))
    expected = nn.functional.linear(hidden, *(p.bfloat16() for p in net[2].parameters()))
    torch.testing.assert_close(out, expected.float(), rtol=0, atol=0)
    assert not torch.equal(out, net(x))
    assert [p.dtype for p in rounded.parameters()] == [torch.float32] * 4


def measured(config, parameters, eigenvector=None):
    problem = Problem(config, load_data(config))
    state = problem.initial_state()
    state.parameters = state.parameters if parameters is None else parameters
    state.eigenvector = state.eigenvector if eigenvector is None else eigenvector
    return problem.measure(state)[0], state, problem


def mean_gradient_norm(problem):
    """Mean norm of the examples' gradients, which cancel in their mean."""
    norms = []
    for x, y in zip(problem.inputs.split(1), problem.targets.split(1), strict=True):
        grads = torch.autograd.grad(problem.loss(problem.module(x), y).sum(), list(problem.module.parameters()))
        norms.append(torch.cat([g.flatten() for g in grads]).norm())
    return torch.stack(norms).mean()


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
@pytest.mark.parametrize("trained", [False, True])
def test_what_bf16_does_to_loss_gradient_and_sharpness(tmp_path, seed, trained):
    """Bound set beforehand: 36 independent roundings by at most 2^-8 add up to 6 · 2^-8 = 2.3 %.

    A product rounds two factors and its result; three layers; forward, backward and the two of the double backward.
    The solver starts at the float32 eigenvector, so that rounding alone is seen, and not which pair it finds. A mean
    gradient is off by a share of what its examples' gradients are before they cancel.
    """
    options = {"n_examples": 200, "widths": (32, 32), "seed": seed, "max_products": 120}
    theta = None
    if trained:
        create_run(tmp_path / "run", small(**{**options, "lr": 0.3, "eig_every": 0, "steps": 60}))
        run = Run.open(tmp_path / "run")
        run.advance()
        theta = run.state().parameters
    exact, state, problem = measured(small(**options, eig_tol=1e-4), theta)
    rounded, other, _ = measured(small(**options, precision="bf16"), theta, state.eigenvector)
    bound = 6 * 2.0**-8
    for name in ("loss", "grad_norm", "sharpness"):
        assert getattr(rounded, name) == pytest.approx(getattr(exact, name), rel=bound), name
    assert rounded.sharpness != exact.sharpness
    assert float((other.gradient - state.gradient).norm()) < bound * float(mean_gradient_norm(problem))
    assert abs(float(other.eigenvector @ state.eigenvector)) > 1 - bound


def test_a_bf16_run_resumes_to_the_same_bits(tmp_path):
    config = small(precision="bf16", steps=12)
    for name in ("whole", "run"):
        create_run(tmp_path / name, config)
    Run.open(tmp_path / "whole").advance()
    for n in (3, 7, None):
        Run.open(tmp_path / "run").advance(until=n)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    history = Run.open(tmp_path / "run").history()
    assert history.loss.dtype == np.float32
    assert float(history.loss[-1]) < float(history.loss[0])


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{}, {"optimizer": "adam", "lr": 0.003, "batch_size": 16}])
def test_cuda_gives_the_values_of_the_cpu_and_its_own_bits_again(tmp_path, changes):
    assert find_device("cuda").type == "cuda"
    config = {"observers": ("eigenvalues every=5 k=2", "density every=8 steps=10", "groups"), "dtype": "float64"}
    for name, device in (("cpu", "cpu"), ("whole", "cuda"), ("resumed", "cuda")):
        create_run(tmp_path / name, small(**config, **changes, device=device, deterministic=True))
    Run.open(tmp_path / "cpu").advance()
    Run.open(tmp_path / "whole").advance()
    for n in (6, 13, None):
        Run.open(tmp_path / "resumed").advance(until=n)
    assert_same_run(tmp_path / "resumed", tmp_path / "whole")
    cpu, cuda = (Run.open(tmp_path / name).history() for name in ("cpu", "whole"))
    np.testing.assert_allclose(cuda.example_loss, cpu.example_loss, rtol=1e-9)
    np.testing.assert_allclose(cuda.sharpness, cpu.sharpness, rtol=3e-4)  # eig_tol 1e-2: squared over the gap
    np.testing.assert_allclose(cuda.group_loss, cpu.group_loss, rtol=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_rounding_on_cuda_is_small_and_there(tmp_path, precision):
    losses = {}
    for choice in ("full", precision):
        create_run(tmp_path / choice, small(steps=5, widths=(64,), device="cuda", precision=choice))
        Run.open(tmp_path / choice).advance()
        losses[choice] = Run.open(tmp_path / choice).history().loss.values
    np.testing.assert_allclose(losses[precision], losses["full"], rtol=6 * 2.0**-8)
    assert not np.array_equal(losses[precision], losses["full"])
