"""Forks: bits against the parent's own continuation, values against plain loops, what is refused."""

import json

import numpy as np
import pytest
import torch
import zarr
from safetensors.torch import save_file
from small_runs import contents, plain_losses, small

from nets.config import ConfigError
from nets.fork import fork_run
from nets.run import Run, RunError, create_run

KINDS = {
    "gd": {},
    "heavy ball, float64": {"optimizer": "heavy_ball", "dtype": "float64", "lr": 0.05},
    "adam with batches": {"optimizer": "adam", "lr": 0.003, "batch_size": 16},
    "watched": {"observers": ("groups every=3", "eigenvalues every=7 k=2"), "eig_every": 2},
}


def parent(tmp_path, stop=None, **changes):
    create_run(tmp_path / "parent", small(checkpoint_every=8, **changes))
    run = Run.open(tmp_path / "parent")
    run.advance(stop)
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 23 steps, for tests that only read it."""
    return parent(tmp_path_factory.mktemp("finished"))


def results(directory):
    """Chunks of the record and the checkpoint, byte by byte."""
    return {
        name: data for name, data in contents(directory).items() if "/c/" in name or name == "checkpoint.safetensors"
    }


@pytest.mark.parametrize(
    ("kind", "at"), [("gd", 5), ("heavy ball, float64", 11), ("adam with batches", 14), ("watched", 14)]
)
def test_a_fork_with_nothing_changed_is_the_parents_continuation(tmp_path, kind, at):
    """From a snapshot (5) and recomputed (11: from one; 14: within an epoch and a block) while the parent has ended."""
    run = parent(tmp_path, snapshot_every=5, **KINDS[kind])
    before = contents(run.directory)
    fork = fork_run(run, tmp_path / "fork", at)
    assert fork.source == ("snapshot" if at == 5 else "recomputed from step 10")
    assert (fork.run.step, fork.run.first_step, fork.changed) == (at, 0, {})
    fork.run.advance()
    assert results(fork.run.directory) == results(run.directory)
    assert contents(run.directory) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fork", "parent"]


@pytest.mark.parametrize("stop", [9, lambda s: s.step == 9])
def test_from_the_checkpoint_before_and_after_logging(tmp_path, stop):
    run = parent(tmp_path, stop)
    fork = fork_run(run, tmp_path / "fork")
    assert (fork.source, fork.run.step, fork.run.rows) == ("checkpoint", 9, run.rows)
    run.advance()
    fork.run.advance()
    assert results(fork.run.directory) == results(run.directory)


def test_recomputed_from_the_start_and_forked_again(tmp_path):
    run = parent(tmp_path)
    first = fork_run(run, tmp_path / "first", 7, {"lr": 0.2})
    assert first.source == "recomputed from step 0"
    first.run.advance(18)
    again = fork_run(first.run, tmp_path / "again", 13)
    assert again.source == "recomputed from step 7"
    for one in (first.run, again.run):
        one.advance()
    assert results(first.run.directory) == results(again.run.directory)
    with pytest.raises(RunError, match=r"at must be a step of the run, 7\.\.23, got 6"):
        fork_run(first.run, tmp_path / "early", 6)


@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gd", "heavy ball, float64")), "adam with batches"],
)
def test_another_step_size_is_a_plain_loop_that_switches(tmp_path, kind):
    """Parameters, momentum, Adam's step count and the place within the epoch are carried over.

    The parent stands before row 14, or (Adam) has logged it: then the row is copied and the update is still to come.
    """
    changes = {**KINDS[kind], "dtype": "float64"}
    run = parent(tmp_path, (lambda s: s.step == 14) if kind == "adam with batches" else 14, **changes)
    lr = run.config.lr / 3
    fork = fork_run(run, tmp_path / "fork", changes={"lr": lr})
    fork.run.advance()
    history = fork.run.history()
    assert np.isnan(history.loss[:14]).all()
    np.testing.assert_allclose(history.loss[14:], plain_losses(run.config, 23, (14, lr))[14:], rtol=1e-9)
    assert (fork.run.first_step, fork.changed) == (14, {"lr": [run.config.lr, lr]})
    run.advance(15)
    for name in ("loss", "example_loss", "sharpness", "oscillation"):  # the step size acts after row 14
        np.testing.assert_array_equal(history[name][14], run.history()[name][14], err_msg=name)
    assert float(history.loss[20]) != plain_losses(run.config, 21)[20]


def test_another_optimizer_starts_its_state_anew(tmp_path):
    run = parent(tmp_path, 14, optimizer="adam", lr=0.003, dtype="float64")
    fork = fork_run(run, tmp_path / "fork", changes={"optimizer": "heavy_ball", "lr": 0.05})
    assert fork.run.state().optimizer == {}
    problem = run.problem
    net = run.parameters()
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(9):
        optimizer.zero_grad()
        loss = problem.loss(net(problem.inputs), problem.targets).mean()
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
    fork.run.advance()
    np.testing.assert_allclose(fork.run.history().loss[14:], losses, rtol=1e-9)


@pytest.mark.parametrize("stop", [14, lambda s: s.step == 14])
def test_a_subset_keeps_the_parameters_and_begins_its_own_record(tmp_path, stop):
    run = parent(tmp_path, stop, dtype="float64")
    fork = fork_run(run, tmp_path / "fork", changes={"n_examples": 15})
    assert fork.examples_changed
    assert (fork.run.step, fork.run.rows, fork.run.first_step) == (14, 14, 14)
    fork.run.advance()
    run.advance(15)
    history = fork.run.history()
    assert history.sizes["example"] == 15
    assert np.isnan(history.loss[:14]).all()
    np.testing.assert_allclose(history.example_loss[14], run.history().example_loss[14, :15], rtol=1e-12)
    assert np.isnan(history.oscillation[:16]).all()
    assert np.isfinite(history.oscillation[16:]).all()
    net, problem = Run.open(fork.run.directory).snapshot_module(14), fork.run.problem
    expected = []
    for _ in range(3):
        loss = problem.loss(net(problem.inputs), problem.targets).mean()
        expected.append(float(loss.detach()))
        grads = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for p, g in zip(net.parameters(), grads, strict=True):
                p -= 0.1 * g
    np.testing.assert_allclose(history.loss[14:17], expected, rtol=1e-12)


def test_seed_and_batch_size_draw_other_batches_from_the_same_weights(tmp_path):
    run = parent(tmp_path, 14, optimizer="sgd", batch_size=8)
    same = fork_run(run, tmp_path / "same", changes={"lr": 0.11})
    assert torch.equal(same.run.state().batch_rng, run.state().batch_rng)
    for name, value in (("seed", 5), ("batch_size", 10)):
        fork = fork_run(run, tmp_path / name, changes={name: value})
        assert torch.equal(fork.run.state().parameters, run.state().parameters)
        assert not torch.equal(fork.run.state().batch_rng, run.state().batch_rng)
        assert torch.equal(fork.run.state().rng_state, run.state().rng_state) == (name == "batch_size")
        fork.run.advance()
        assert np.isfinite(fork.run.history().loss[14:]).all()


def test_provenance_names_the_parent(tmp_path):
    run = parent(tmp_path, 8)
    fork = fork_run(run, tmp_path / "fork", changes={"steps": 40, "observers": ("groups",)})
    about = json.loads((tmp_path / "fork" / "provenance.json").read_text())["parent"]
    assert about == {
        "path": str(run.directory.resolve()),
        "step": 8,
        "config_hash": run.config.config_hash,
        "state_hash": run.state_hash(),
        "source": "checkpoint",
        "changed": {"steps": [23, 40], "observers": [[], ["groups"]]},
    }
    fork.run.advance()  # more steps and observers leave the parent's rows valid
    history = fork.run.history()
    assert np.isfinite(history.loss).all()
    assert history.sizes["step"] == 40
    assert np.isnan(history.group_loss[:8]).all()
    assert np.isfinite(history.group_loss[8:]).all()


def test_an_interrupted_recomputation_goes_on_and_belongs_to_its_fork(tmp_path, finished):
    run, steps = finished, []

    def interrupted(recomputed, step):
        recomputed.advance(step, on_step=lambda s: steps.append(s.step), max_steps=11)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fork_run(run, tmp_path / "fork", 16, advance=interrupted)
    scratch = tmp_path / ".fork.recompute"
    assert scratch.is_dir()
    assert not (tmp_path / "fork").exists()

    def going_on(recomputed, step):
        recomputed.advance(step, on_step=lambda s: steps.append(s.step))

    with pytest.raises(RunError, match="must be left by the same fork") as caught:
        fork_run(run, tmp_path / "fork", 10, advance=going_on)
    assert "\n" not in str(caught.value)
    fork = fork_run(run, tmp_path / "fork", 16, advance=going_on)
    assert steps == list(range(16))
    assert not scratch.exists()
    fork.run.advance()
    assert results(fork.run.directory) == results(run.directory)


def test_what_is_recomputed_must_be_what_was_recorded(tmp_path):
    run = parent(tmp_path)
    loss = zarr.open_array(run.directory / "record.zarr" / "loss", mode="r+")
    loss[6] = np.nextafter(np.float32(loss[6]), np.float32(np.inf))
    with pytest.raises(RunError, match="step 9 must be recomputed to the losses in the record"):
        fork_run(run, tmp_path / "fork", 9)
    assert not (tmp_path / "fork").exists()


def test_snapshots_of_weights_alone_are_passed_over(tmp_path):
    run = parent(tmp_path, 5)
    save_file({"parameters": run.state().parameters}, run.snapshot_path(3), {"run": '{"step": 3}'})
    assert fork_run(run, tmp_path / "fork", 3).source == "recomputed from step 0"


def test_before_a_divergence(tmp_path):
    run = parent(tmp_path, lr=1e4, activation="relu", steps=30)
    assert run.status.status == "diverged"
    last = run.step
    with pytest.raises(RunError, match=f"at must be a step of the run, 0..{last - 1}, got {last}; the run diverged"):
        fork_run(run, tmp_path / "fork", last)
    fork = fork_run(run, tmp_path / "fork", 0, {"lr": 0.1})
    assert fork.run.advance().status == "finished"


@pytest.mark.parametrize(
    ("at", "changes", "message"),
    [
        (24, {}, r"at must be a step of the run, 0\.\.23, got 24; train the run further first"),
        (-1, {}, "at must be a step of the run"),
        (5, {"steps": 5}, "steps must be more than the step of the fork, 5, got 5"),
        (5, {"lr": -1.0}, "lr must be positive"),
        (5, {"widths": (9,)}, "a fork may change lr, .*; got widths"),
        (5, {"batch_size": 8}, "batch_size must be 0 for optimizer gd"),
        (5, {"data_options": ("classes=0,1",)}, "must have 610 parameters as before, got 538"),
        (None, {}, "steps must be more than the step of the fork, 23, got 23"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(tmp_path, finished, at, changes, message):
    with pytest.raises((RunError, ConfigError), match=message) as caught:
        fork_run(finished, tmp_path / "fork", at, changes)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    run = parent(tmp_path, 5)
    before = contents(run.directory)
    with pytest.raises(RunError, match="must be new or empty"):
        fork_run(run, run.directory)
    assert contents(run.directory) == before


@pytest.mark.parametrize("stop", [8, lambda s: s.step == 8])
def test_a_fork_that_measures_the_sharpness_of_a_parent_that_did_not(tmp_path, stop):
    """The parent keeps no gradients but the one that is still to be applied: the first oscillation is at step 10."""
    watched, blind = tmp_path / "watched", tmp_path / "blind"
    for folder, every in ((watched, 1), (blind, 0)):
        create_run(folder, small(checkpoint_every=8, eig_every=every))
    Run.open(watched).advance()
    run = Run.open(blind)
    run.advance(stop)
    sizes = [(folder / "checkpoint.safetensors").stat().st_size for folder in (watched, blind)]
    left_out = 2 if callable(stop) else 3  # of four vectors
    assert sizes[0] - sizes[1] == pytest.approx(left_out * 4 * run.problem.n_parameters, abs=100)  # the header
    fork = fork_run(run, tmp_path / "fork", changes={"eig_every": 1}).run
    fork.advance()
    ours, theirs = fork.history(), Run.open(watched).history()
    assert np.isnan(ours["oscillation"][:10]).all()
    assert np.isfinite(ours["oscillation"][10:]).all()
    np.testing.assert_array_equal(ours["loss"][8:], theirs["loss"][8:])
    np.testing.assert_allclose(ours["sharpness"][10:], theirs["sharpness"][10:], rtol=2e-2)  # within eig_tol, twice
