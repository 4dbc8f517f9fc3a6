"""The effective sharpness against dense matrices whose preconditioner is read off the steps themselves."""

import dataclasses

import pytest
import torch
from small_runs import assert_same_run, small
from test_run_values import dense, walk

from nets.config import TrainConfig
from nets.data import load_data
from nets.descent import Problem
from nets.observers import EffectiveSharpness
from nets.run import Run, create_run

TINY = {"widths": (3,), "n_examples": 25, "dtype": "float64", "steps": 6, "eig_tol": 1e-4, "max_products": 200}


def from_steps(config, thetas, grads, n):
    r"""P of step n from $\theta_n - \theta_{n+1} = \eta P^{-1} m$, m the plain average of the gradients."""
    o, mean = config.optimizer_settings, torch.zeros_like(grads[0])
    beta1 = o.get("beta1", 0.0)
    for g in grads[: n + 1]:
        mean = beta1 * mean + (1 - beta1) * g
    kept = 1 - config.lr * o["weight_decay"] if config.optimizer == "adamw" else 1.0
    moved = kept * thetas[n] - thetas[n + 1]
    return torch.where(moved == 0, 1.0, config.lr * mean / moved)  # weights of dead pixels never move


@pytest.mark.parametrize(
    ("optimizer", "options", "midpoint"),
    [
        ("adam", ("beta1=0.8", "beta2=0.9"), False),
        ("adam", ("beta1=0.8", "beta2=0.9"), True),
        ("adamw", ("weight_decay=0.3",), True),
        ("rmsprop", ("alpha=0.9",), False),
    ],
)
def test_preconditioned_against_dense(tmp_path, optimizer, options, midpoint):
    text = f"effective_sharpness every=2 midpoint={str(midpoint).lower()}"
    config = small(**TINY, lr=0.01, optimizer=optimizer, optimizer_options=options, observers=(text,))
    run, thetas = walk(tmp_path, config)
    history, module = run.history(), run.parameters()
    grads = [dense(config, theta, module)[1] for theta in thetas]
    seen = []
    for n in range(5):
        row = history.isel(step=n)
        if n % 2:
            assert torch.isnan(torch.tensor(float(row.effective_sharpness)))
            continue
        diagonal = from_steps(config, thetas, grads, n)
        assert bool((diagonal > 0).all())
        point = (thetas[n] + thetas[n + 1]) / 2 if midpoint else thetas[n]
        root = diagonal.rsqrt()
        exact = torch.linalg.eigvalsh(root[:, None] * dense(config, point, module)[2] * root)[-1]
        assert float(row.effective_sharpness_residual) < 1e-4
        assert float(row.effective_sharpness) == pytest.approx(float(exact), rel=1e-6)
        seen.append(float(exact) / float(row.sharpness))
    assert min(seen) > 2  # with P = 1 it would be 1


@pytest.mark.parametrize("optimizer", ["gd", "nesterov"])
def test_without_preconditioner_it_is_the_sharpness_and_between_iterates_that_of_the_midpoint(tmp_path, optimizer):
    config = small(**TINY, lr=0.3, optimizer=optimizer, observers=("effective_sharpness midpoint=true",))
    run, thetas = walk(tmp_path, config)
    history, module = run.history(), run.parameters()
    for n in range(5):
        exact = torch.linalg.eigvalsh(dense(config, (thetas[n] + thetas[n + 1]) / 2, module)[2])[-1]
        assert float(history.effective_sharpness[n]) == pytest.approx(float(exact), rel=1e-6)
    assert config.critical_effective_sharpness == config.critical_sharpness


def holds_its_step(problem, every):
    """A user's observer that fails where the network does not hold the parameters of the step."""

    class Check:
        name = "check"
        columns = {}  # noqa: RUF012

        def observe(self, module, state):
            flat = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
            assert torch.equal(flat, state.parameters)
            return {}

    observer = Check()
    observer.every = every
    return observer


@pytest.mark.parametrize("optimizer", [{"optimizer": "adam", "lr": 0.01}, {"optimizer": "sam", "batch_size": 16}])
def test_neither_run_nor_network_feel_the_trial_step(tmp_path, optimizer):
    optimizer = {**optimizer, "steps": 7}
    watched = ("effective_sharpness every=2 midpoint=true", f"{__name__}:holds_its_step")
    for name, observers in (("watched", watched), ("plain", ()), ("resumed", watched)):
        create_run(tmp_path / name, small(**optimizer, observers=observers))
    for stop in (3, lambda s: s.step == 4, None):
        Run.open(tmp_path / "resumed").advance(stop)
    runs = {name: Run.open(tmp_path / name) for name in ("watched", "plain")}
    for run in runs.values():
        run.advance()
    assert_same_run(tmp_path / "watched", tmp_path / "resumed")
    assert torch.equal(runs["watched"].state().parameters, runs["plain"].state().parameters)


def test_overflow_of_the_second_moment_is_no_crash():
    config = small(optimizer="adam", lr=0.01)
    problem = Problem(config, load_data(config))
    state = problem.initial_state()
    problem.measure(state)
    state.gradient = torch.full_like(state.gradient, 1e30)  # its square is beyond float32
    found = EffectiveSharpness(problem, 1, False).observe(problem.module, state)
    assert all(value != value for value in found.values())


@pytest.mark.parametrize("beta1", [0.0, 0.6, 0.9])
def test_critical_value_is_where_torch_adam_starts_to_grow(beta1):
    config = TrainConfig(optimizer="adam", optimizer_options=(f"beta1={beta1}",), lr=0.1)
    critical, eps = config.critical_effective_sharpness, 1e6  # P = eps (1 - beta1^t): the second moment is nothing
    for ratio in (0.999, 1.001):
        x = torch.nn.Parameter(torch.full((1,), 1e-30, dtype=torch.float64))
        optimizer = torch.optim.Adam([x], 0.1, (beta1, 0.999), eps)
        sizes = []
        for _ in range(400):
            x.grad = ratio * critical * eps * x.detach()
            optimizer.step()
            sizes.append(abs(x.item()))
        assert (max(sizes[380:]) > max(sizes[300:320])) == (ratio > 1)


def test_critical_value_of_the_others():
    assert TrainConfig(optimizer="rmsprop", lr=0.01).critical_effective_sharpness == pytest.approx(200)
    momentum = TrainConfig(optimizer="rmsprop", optimizer_options=("momentum=0.5",), lr=0.01)
    assert momentum.critical_effective_sharpness == pytest.approx(300)
    for changes in ({"optimizer": "adamw"}, {"optimizer_options": ("clip_norm=1",)}, {"batch_size": 10}):
        assert dataclasses.replace(TrainConfig(optimizer="adam"), **changes).critical_effective_sharpness is None


def test_feature_share_of_a_linear_network_in_closed_form(tmp_path):
    options = {"data": "planted", "data_options": ("size=4", "n_classes=3", "alpha=5", "p=0.3")}
    config = small(**options, widths=(), dtype="float64", steps=3, observers=("feature every=2 carriers=5",))
    run, thetas = walk(tmp_path, config)
    data, shares = run.dataset, run.history().feature_share.values
    carriers, along = data.truth["carrier"].nonzero()[0], data.inputs @ data.truth["pattern"]
    assert len(carriers) > 5
    for n in (0, 2):
        weight, bias = thetas[n][:144].view(3, 48).numpy(), thetas[n][144:].numpy()
        outputs = data.inputs @ weight.T + bias
        moved = (along[carriers[:5]] ** 2).sum() * ((weight @ data.truth["pattern"]) ** 2).sum()
        total = ((outputs - outputs.mean(0)) ** 2).sum()
        assert shares[n] == pytest.approx(len(carriers) / 5 * moved / total, rel=1e-12)
    assert shares[1] != shares[1]


def test_data_without_a_feature_are_refused(tmp_path):
    with pytest.raises(ValueError, match="data must know a pattern and its carriers, digits knows nothing; choose"):
        create_run(tmp_path / "run", small(observers=("feature",)))
    assert list(tmp_path.iterdir()) == []
