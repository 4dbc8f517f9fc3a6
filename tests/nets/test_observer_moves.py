"""The observer of moves against the parameters themselves, and the bits of the run with and without it."""

import numpy as np
import pytest
import torch
from small_runs import contents, small
from test_run_values import dense, walk

from nets.run import Run, create_run

RULES = {
    "gd": {},
    "sgd": {"batch_size": 7},
    "adam": {"lr": 0.01, "batch_size": 7},
    "sam": {"optimizer_options": ("rho=0.1",)},
    "split_sgd": {"optimizer_options": ("threshold=0.02", "signed_lr=0.01"), "batch_size": 7},
}


def config(rule, **changes):
    tiny = {"widths": (3,), "n_examples": 25, "dtype": "float64", "lr": 0.3, "steps": 7, "optimizer": rule}
    return small(**{**tiny, **RULES[rule], **changes})


@pytest.mark.parametrize("rule", RULES)
def test_moves_are_those_of_the_run(tmp_path, rule):
    watched = config(rule, observers=("moves",), eig_tol=1e-9, max_products=235)
    run, thetas = walk(tmp_path, watched)
    thetas.append(torch.nn.utils.parameters_to_vector(run.parameters().parameters()).detach())
    history = run.history()
    for n in range(watched.steps):
        move = thetas[n + 1] - thetas[n]
        np.testing.assert_allclose(history.move_norm[n], move.norm(), rtol=1e-9)
        v = torch.linalg.eigh(dense(watched, thetas[n], run.parameters())[2])[1][:, -1]
        np.testing.assert_allclose(abs(history.move_v[n]), abs(move @ v), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_watching_changes_no_bit(tmp_path, rule):
    losses = []
    for name, observers in (("plain", ()), ("watched", ("moves every=2",))):
        create_run(tmp_path / name, config(rule, observers=observers))
        Run.open(tmp_path / name).advance()
        losses.append({k: v for k, v in contents(tmp_path / name).items() if "record.zarr/loss/" in k})
    assert losses[0] == losses[1]


def test_share_of_signed_steps_by_hand(tmp_path):
    watched = config("split_sgd", observers=("moves",), batch_size=0)
    run, thetas = walk(tmp_path, watched)
    momentum, shares = torch.zeros_like(thetas[0]), []
    for theta in thetas:
        momentum = 0.9 * momentum + 0.1 * dense(watched, theta, run.parameters())[1]
        shares.append(float((momentum.abs() > 0.02).double().mean()))
    np.testing.assert_allclose(run.history().signed_share, shares, atol=1e-12)
    assert 0 < min(shares) < max(shares) < 1


def test_before_the_first_eigenvector_there_is_no_part_along_it(tmp_path):
    create_run(tmp_path / "run", config("gd", observers=("moves",), eig_every=0))
    run = Run.open(tmp_path / "run")
    run.advance()
    history = run.history()
    assert np.isnan(history.move_v).all()
    np.testing.assert_allclose(history.move_norm, 0.3 * history.grad_norm, rtol=1e-9)
    assert "signed_share" not in history
