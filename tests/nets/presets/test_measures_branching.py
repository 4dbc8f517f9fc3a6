"""Who gains from the edge, on records where that is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from synthetic import outcome

from nets.config import TrainConfig
from nets.fork import fork_run
from nets.presets.measures.branching import class_gain_agreement, class_gain_spread, gain_by_alignment, pair_gain
from nets.presets.outcomes import Outcome
from nets.run import Run, create_run

N, FORK = 100, 60
FAST, SLOW = TrainConfig(lr=0.4), TrainConfig(lr=0.1)


def parent():
    steps = np.arange(100)[:, None]
    losses = np.random.default_rng(0).uniform(0.9, 1.1, N) * np.exp(-0.002 * steps)
    losses[:, :6] += 0.3 * (-1.0) ** steps * np.array([1, 1, 1, -1, -1, -1])
    return outcome("parent", FAST, example_loss=losses)


def branch(config, rows, rates):
    """A fork at step 60 whose losses fall exponentially in time, at a rate per example."""
    time = config.lr * np.arange(rows)[:, None]
    losses = np.concatenate([np.full((FORK, N), np.nan), np.exp(-time * rates)])
    dataset = SimpleNamespace(targets=np.arange(N) % 4)
    return outcome("branch", config, FORK, dataset=dataset, example_loss=losses)


def test_gain_is_compared_at_equal_time():
    same = np.full(N, 0.01)
    edge, stable = branch(FAST, 100, same), branch(SLOW, 400, same)
    for others in (False, True):
        assert pair_gain(edge, stable, parent(), others=others) == pytest.approx(0.0, abs=0.005)
    faster = np.where(np.arange(N) < 6, 0.03, 0.005)
    edge = branch(FAST, 100, faster)  # over the last quarter of a time of 40: 35 on average
    assert pair_gain(edge, stable, parent()) == pytest.approx(0.02 * 35, rel=0.03)
    assert pair_gain(edge, stable, parent(), others=True) == pytest.approx(-0.005 * 35, rel=0.03)


def test_alternation_does_not_count_as_a_gain():
    stable, edge = branch(SLOW, 400, np.zeros(N)), branch(FAST, 100, np.zeros(N))
    edge.history["example_loss"][FORK:, :6] += 0.9 * (-1.0) ** np.arange(100)[:, None]
    assert pair_gain(edge, stable, parent()) == pytest.approx(0.0, abs=1e-12)


def test_without_a_pair_there_is_no_gain():
    steady = outcome("parent", FAST, example_loss=np.ones((100, N)))
    assert np.isnan(pair_gain(branch(FAST, 100, np.ones(N)), branch(SLOW, 400, np.ones(N)), steady))


def test_gains_of_classes():
    rates = 0.01 * (np.arange(N) % 4)
    edge, stable = branch(FAST, 100, rates), branch(SLOW, 400, np.zeros(N))
    assert class_gain_spread(edge, stable) == pytest.approx(35 * 0.01 * np.std([0, 1, 2, 3]), rel=0.05)
    assert class_gain_spread(stable, stable) == 0.0
    slower = branch(FAST, 100, 0.03 - rates)
    assert class_gain_agreement(edge, stable, edge, stable) == pytest.approx(1)
    assert class_gain_agreement(edge, stable, slower, stable) == pytest.approx(-1)
    assert np.isnan(class_gain_spread(branch(FAST, 1, rates), stable))  # one step of an oscillation says nothing
    whole = outcome("whole", FAST, dataset=edge.trained.dataset, example_loss=np.ones((100, N)))
    with pytest.raises(ValueError, match="is of a run and its fork, neither whole nor whole is one"):
        class_gain_spread(whole, whole)


def test_alignment_at_the_fork_is_that_of_the_class_gradients(tmp_path):
    options = {"n_examples": 60, "widths": (6,), "steps": 12, "threads": 1, "checkpoint_every": 6, "dtype": "float64"}
    create_run(tmp_path / "parent", TrainConfig(**options))
    run = Run.open(tmp_path / "parent")
    run.advance()
    made = fork_run(run, tmp_path / "fork", 8, {"lr": 0.2}).run
    made.advance()
    state = made.state(8)
    aligned = []
    for label in range(10):  # by autograd on the module, without the package's own derivatives
        module = made.problem.module_at(state.parameters)
        rows = torch.as_tensor(run.dataset.targets == label)
        outputs = module(made.problem.inputs[rows])
        target = torch.nn.functional.one_hot(made.problem.targets[rows], 10)
        (0.5 * (outputs - target).square().sum(1)).mean().backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in module.parameters()])
        aligned.append(abs(float(torch.cosine_similarity(gradient, state.eigenvector, 0))))
    edge, stable = Outcome("parent", run.history(), run), Outcome("fork", made.history(), made)
    order = np.argsort(np.argsort(aligned))
    for sign in (1, -1):
        losses = edge.history["example_loss"].copy()
        losses[:] = np.exp(-sign * order[run.dataset.targets])[None, :]  # the aligned gain, or lose
        planted = Outcome("parent", edge.history.assign(example_loss=losses), run)
        level = Outcome("fork", stable.history.assign(example_loss=stable.history["example_loss"] * 0 + 1), made)
        assert gain_by_alignment(planted, level) == pytest.approx(sign)
