"""Interventions as part of a run's data: against a loss written out by hand, and against each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import assert_same_run, small
from torch.nn.functional import huber_loss

from nets.config import ConfigError, TrainConfig
from nets.data import DataError, images, load_data
from nets.data.interventions import ACTIONS, intervene
from nets.descent import Problem
from nets.losses import WeightedLoss, bounded
from nets.options import INTERVENTIONS
from nets.run import Run, create_run

GROUPS = ("first=3,17", "second=5,0,9")
MEMBERS = [3, 17, 5, 0, 9]


def treated(action, *options, **changes):
    return small(intervention=action, intervention_options=(*GROUPS, *options), dtype="float64", **changes)


def trained(path, config):
    create_run(path, config)
    run = Run.open(path)
    run.advance()
    return run


def theta_of(run):
    return torch.nn.utils.parameters_to_vector(run.parameters().parameters()).detach()


def test_bounded_is_hubers_loss_and_differentiable():
    r = torch.linspace(-4, 4, 81, dtype=torch.float64, requires_grad=True)
    delta = 1.3
    values = bounded(0.5 * r**2, torch.full((81,), delta**2 / 2, dtype=torch.float64))
    reference = huber_loss(r, torch.zeros_like(r), reduction="none", delta=delta)
    torch.testing.assert_close(values, reference, rtol=1e-14, atol=1e-15)
    slopes = [torch.autograd.grad(v.sum(), r)[0] for v in (values, reference)]
    torch.testing.assert_close(*slopes, rtol=1e-13, atol=1e-15)
    free = bounded(0.5 * r**2, torch.full((81,), torch.inf, dtype=torch.float64))
    assert torch.equal(free, 0.5 * r**2)
    assert torch.equal(torch.autograd.grad(free.sum(), r)[0], r)


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_dropping_is_weight_zero(tmp_path, loss):
    """Two code paths, one loss: rows taken out, and rows of weight 0."""
    gone = trained(tmp_path / "gone", treated("drop", loss=loss))
    zero = trained(tmp_path / "zero", treated("weight", "first_weight=0", "second_weight=0", loss=loss))
    plain = trained(tmp_path / "plain", small(dtype="float64", loss=loss))
    a, b = gone.history(), zero.history()
    np.testing.assert_allclose(a.loss, b.loss, rtol=1e-12)
    np.testing.assert_allclose(a.sharpness, b.sharpness, rtol=2e-2)  # eig_tol
    torch.testing.assert_close(theta_of(gone), theta_of(zero), rtol=1e-9, atol=1e-12)
    assert (theta_of(gone) - theta_of(plain)).norm() > 1e-3
    kept = np.setdiff1d(np.arange(40), MEMBERS)
    np.testing.assert_array_equal(a.truth_row, kept)
    np.testing.assert_allclose(a.example_loss * 40 / 35, b.example_loss[:, kept], rtol=1e-9)
    assert not b.example_loss[:, MEMBERS].any()


@pytest.mark.parametrize("batch_size", [0, 7])
def test_weights_and_bounds_give_the_gradient_written_by_hand(batch_size):
    changes = {"optimizer": "sgd", "batch_size": batch_size} if batch_size else {}
    config = treated("weight", "first_weight=0.3", "second_weight=2.5", **changes)
    data = replace(load_data(config), bounds=np.where(np.isin(np.arange(40), MEMBERS), 0.2, np.inf))
    problem = Problem(config, data)
    state = problem.initial_state()
    before = state.parameters.clone()
    problem.measure(state)
    problem.update(state)
    module = problem.module_at(before)
    x, y = torch.from_numpy(data.inputs).double(), torch.eye(10, dtype=torch.float64)[torch.from_numpy(data.targets)]
    rows = torch.arange(40)
    if batch_size:
        rows = torch.randperm(40, generator=torch.Generator().manual_seed(config.seed))[:7]
        assert set(rows.tolist()) & set(MEMBERS)
    raw = torch.ones(40, dtype=torch.float64)
    raw[[3, 17]], raw[[5, 0, 9]] = 0.3, 2.5
    total = torch.zeros((), dtype=torch.float64)
    for i in rows.tolist():
        value = 0.5 * (module(x[i : i + 1])[0] - y[i]).square().sum()
        if i in MEMBERS and value > 0.2:
            value = 2 * (0.2 * value).sqrt() - 0.2
        total = total + raw[i] / raw.mean() * value
    gradient = torch.autograd.grad(total / len(rows), list(module.parameters()))
    expected = before - config.lr * torch.cat([g.reshape(-1) for g in gradient])
    torch.testing.assert_close(state.parameters, expected, rtol=1e-12, atol=1e-14)


def test_rows_of_a_batch_must_be_told():
    loss = WeightedLoss(lambda outputs, targets: outputs - targets, torch.arange(4.0))
    assert loss.of(torch.tensor([3, 1]))(torch.ones(2), torch.zeros(2)).tolist() == [3, 1]
    with pytest.raises(ValueError, match="rows must be the 4 of this loss, got 2"):
        loss(torch.ones(2), torch.zeros(2))


@pytest.mark.parametrize("action", ["drop", "weight", "robust", "blur"])
def test_a_run_with_an_intervention_resumes_to_the_same_bits(tmp_path, action):
    options = {"weight": ("first_weight=0.5",), "robust": ("bound=0.2",)}.get(action, ())
    config = small(intervention=action, intervention_options=(*GROUPS, *options), optimizer="sgd", batch_size=9)
    trained(tmp_path / "whole", config)
    create_run(tmp_path / "parts", config)
    for n in (3, 8, 11):
        Run.open(tmp_path / "parts").advance(until=n)
    Run.open(tmp_path / "parts").advance()
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    assert Run.open(tmp_path / "whole").dataset.fingerprint != load_data(small()).fingerprint


def test_only_the_members_change():
    plain, rest = load_data(small()), np.setdiff1d(np.arange(40), MEMBERS)
    for action in ("relabel", "blur", "background", "feature"):
        after = load_data(small(intervention=action, intervention_options=GROUPS))
        np.testing.assert_array_equal(after.inputs[rest], plain.inputs[rest])
        np.testing.assert_array_equal(after.targets[rest], plain.targets[rest])
        changed = after.targets if action == "relabel" else after.inputs
        before = plain.targets if action == "relabel" else plain.inputs
        assert (changed[MEMBERS] != before[MEMBERS]).any()
        assert after.inputs.dtype == plain.inputs.dtype
    labels = load_data(small(intervention="relabel", intervention_options=("first=3,13", "second=5,0,9"))).targets
    assert plain.targets[[3, 13, 5, 0, 9]].tolist() == [3, 3, 5, 0, 9]
    assert labels[[3, 13, 5, 0, 9]].tolist() == [3] * 5
    given = load_data(small(intervention="relabel", intervention_options=(*GROUPS, "label=7"))).targets
    assert given[MEMBERS].tolist() == [7] * 5


def test_images_of_a_run_that_dropped_some_are_those_of_its_rows():
    kept = np.setdiff1d(np.arange(40), MEMBERS)
    config = small(intervention="drop", intervention_options=GROUPS)
    np.testing.assert_array_equal(images(config, [0, 34]), images(small(), kept[[0, 34]]))
    with pytest.raises(DataError, match=r"indices must lie in \[0, 35\), got 35"):
        images(config, [35])


def test_tokens_are_dropped_by_weight_and_keep_their_place(tmp_path):
    base = {"data": "text", "model": "gpt", "loss": "cross_entropy", "n_examples": 3, "steps": 2, "widths": (64, 64)}
    base |= {"model_options": ("depth=1", "heads=2", "width=8"), "data_options": ("context=4",)}
    run = trained(tmp_path / "run", small(**base, intervention="drop", intervention_options=("first=1,6",)))
    plain = trained(tmp_path / "plain", small(**base))
    a, b = run.history().example_loss.values[0], plain.history().example_loss.values[0]
    assert a[[1, 6]].tolist() == [0, 0]
    rest = np.setdiff1d(np.arange(12), [1, 6])
    np.testing.assert_allclose(a[rest], b[rest] * 12 / 10, rtol=1e-6)


def test_every_action_has_its_options_and_none_does_nothing():
    assert set(INTERVENTIONS) == {*ACTIONS, "none"}
    data = load_data(small())
    assert intervene(data, "none") is data
    assert TrainConfig(intervention="drop", intervention_options=("first=1",)).config_hash != TrainConfig().config_hash


@pytest.mark.parametrize(
    ("action", "options", "message"),
    [
        ("drop", (), "must have a group, got no members"),
        ("drop", ("first=40",), r"must lie in \[0, 40\), got 40"),
        ("drop", ("first=1", "second=1"), "must be different, got 1 twice"),
        ("drop", ("first=" + ",".join(map(str, range(39))),), "must leave at least 2 examples, got 1 of 40"),
        ("relabel", ("first=1", "label=10"), "label must be below the 10 classes, got 10"),
        ("background", ("first=" + ",".join(map(str, range(40))),), "must leave other images, got all 40"),
    ],
)
def test_groups_that_do_not_fit_are_refused_in_one_line(action, options, message):
    with pytest.raises(DataError, match=message) as caught:
        load_data(small(intervention=action, intervention_options=options))
    assert "\n" not in str(caught.value)


def test_interventions_that_do_not_fit_the_data_are_refused():
    table = small(data="chebyshev", intervention="blur", intervention_options=("first=1",))
    with pytest.raises(DataError, match="blur needs images, chebyshev has none"):
        load_data(table)
    with pytest.raises(DataError, match="relabel needs classes or tokens"):
        load_data(replace(table, intervention="relabel"))
    with pytest.raises(DataError, match="feature needs inputs"):
        load_data(small(data="text", intervention="feature", intervention_options=("first=1",), n_examples=3))
    with pytest.raises(ConfigError, match="intervention must be one of none, drop"):
        small(intervention="delete")
    with pytest.raises(ConfigError, match="sigma must be a number > 0"):
        small(intervention="blur", intervention_options=("first=1", "sigma=0"))
    weighed = small(intervention="robust", intervention_options=("first=1",), chunk_size=7)
    with pytest.raises(ConfigError, match="robust weighs examples and must have all rows in one chunk"):
        Problem(weighed, load_data(weighed))
    with pytest.raises(ConfigError, match="intervention_options of none must be among none; got first"):
        small(intervention_options=("first=1",))
