"""Stopping, resuming, diverging and refusing: the run directory as a state machine."""

import json
import multiprocessing
import os
import warnings

import numpy as np
import pytest
import torch
from small_runs import assert_same_run, contents, small

from nets.data import DataError
from nets.files import exclusive_lock
from nets.run import Run, RunError, create_run


@pytest.fixture
def whole(tmp_path):
    create_run(tmp_path / "whole", small())
    Run.open(tmp_path / "whole").advance()
    return tmp_path / "whole"


def start(tmp_path, **changes):
    create_run(tmp_path / "run", small(**changes))
    return tmp_path / "run"


@pytest.mark.parametrize("stops", [[5], [7], [1, 2, 3], [0, 22, 23], [4, 5, 6, 11, 19]])
def test_resume_equals_uninterrupted_to_the_byte(tmp_path, whole, stops):
    run = start(tmp_path)
    for n in stops:
        status = Run.open(run).advance(until=n)
        assert status.step == n
        assert status.status == ("finished" if n == 23 else "stopped")
    Run.open(run).advance()
    assert_same_run(run, whole)


@pytest.mark.parametrize("stops", [[0], [3], [4], [9, 10, 11], [22]])
def test_stop_by_predicate_then_continue_equals_uninterrupted(tmp_path, whole, stops):
    run = start(tmp_path)
    for n in stops:
        opened = Run.open(run)
        status = opened.advance(until=lambda s, n=n: s.step >= n)
        assert status.step == n
        assert opened.rows == n + 1
        assert np.isfinite(opened.history().loss[n])
        opened.advance(until=n)  # a step that is logged already: nothing to do
        assert opened.rows == n + 1
    Run.open(run).advance()
    assert_same_run(run, whole)


def test_parameters_at_a_predicate_stop_are_those_of_the_logged_step(tmp_path):
    a, b = start(tmp_path), tmp_path / "other"
    create_run(b, small())
    by_predicate, by_number = Run.open(a), Run.open(b)
    by_predicate.advance(until=lambda s: s.step == 8)
    by_number.advance(until=8)
    assert by_predicate.state_hash() == by_number.state_hash()
    assert by_number.rows == 8
    assert by_predicate.rows == 9
    by_number.advance(until=lambda _: True)
    assert_same_run(a, b)
    assert torch.equal(by_predicate.eigenvector(), by_number.eigenvector())


def test_max_steps_and_a_reused_object(tmp_path, whole):
    run = Run.open(start(tmp_path))
    while (status := run.advance(max_steps=4)).status == "stopped":
        assert run.rows % 4 == 0
    assert status.status == "finished"
    assert run.advance().status == "finished"
    assert_same_run(run.directory, whole)


def test_failing_callback_and_interrupt_lose_only_what_is_computed_again(tmp_path, whole):
    run = Run.open(start(tmp_path))

    def fail(s):
        if s.step == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.advance(on_step=fail)
    assert run.status.status == "stopped"
    assert run.rows == 10
    assert json.loads((run.directory / "status.json").read_text())["status"] == "stopped"
    run.advance()
    assert_same_run(run.directory, whole)


def test_leftovers_of_a_killed_writer_are_removed(tmp_path, whole):
    run = start(tmp_path)
    Run.open(run).advance(until=7)
    (run / "record.zarr" / "loss" / "c" / ".0.abc.partial").write_bytes(b"half")
    Run.open(run).advance()
    assert_same_run(run, whole)


def test_divergence_is_a_status_and_keeps_the_record(tmp_path):
    run = Run.open(start(tmp_path, lr=1e4, activation="relu", steps=60))
    status = run.advance()
    assert status.status == "diverged"
    assert json.loads((run.directory / "status.json").read_text())["status"] == "diverged"
    history = run.history()
    assert history.sizes["step"] == status.step + 1
    for name in ("loss", "sharpness", "grad_norm"):
        assert np.isfinite(history[name][:-1]).all(), name
    last = history.isel(step=-1)
    assert not np.isfinite([last.loss, last.sharpness, last.grad_norm]).all()
    before = contents(run.directory)
    assert Run.open(run.directory).advance() == status
    assert contents(run.directory) == before


def test_nothing_is_overwritten(tmp_path):
    run = start(tmp_path)
    before = contents(run)
    with pytest.raises(RunError, match="must be new or empty"):
        create_run(run, small())
    assert contents(run) == before
    (tmp_path / "empty").mkdir()
    create_run(tmp_path / "empty", small())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "run"]


def test_failed_creation_leaves_nothing(tmp_path):
    with pytest.raises(DataError):
        create_run(tmp_path / "deep" / "run", small(n_examples=5000))
    assert not (tmp_path / "deep").exists()


def test_changed_config_is_refused(tmp_path):
    run = start(tmp_path)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "lr": 0.2}))
    with pytest.raises(RunError, match=r"config\.json must be the one the run was created with") as caught:
        Run.open(run)
    assert "\n" not in str(caught.value)
    (run / "config.json").write_text(json.dumps({**config, "lr": -1}))
    with pytest.raises(RunError, match="lr must be positive"):
        Run.open(run)
    (run / "config.json").write_text(json.dumps({**config, "data_path": "moved"}))
    assert Run.open(run).step == 0


def test_changed_data_are_refused(tmp_path, monkeypatch):
    run = Run.open(start(tmp_path))
    monkeypatch.setattr(run, "_data_hash", "0" * 64)
    with pytest.raises(DataError, match="must be those the run was created with"):
        _ = run.dataset


def test_no_run_and_broken_checkpoint(tmp_path):
    with pytest.raises(RunError, match="must be a run directory"):
        Run.open(tmp_path)
    run = start(tmp_path)
    whole = (run / "checkpoint.safetensors").read_bytes()
    for content in (b"", whole[:50], whole[:-10]):
        (run / "checkpoint.safetensors").write_bytes(content)
        with pytest.raises(RunError, match="must be a whole safetensors file"):
            Run.open(run)


def test_one_process_at_a_time(tmp_path):
    run = Run.open(start(tmp_path))
    with exclusive_lock(run.directory / "lock"), pytest.raises(RunError, match="is locked"):
        run.advance()
    assert run.advance(until=2).step == 2


def _try_to_advance(directory, queue):
    try:
        Run.open(directory).advance()
        queue.put("advanced")
    except RunError as error:
        queue.put(str(error))


@pytest.mark.slow
def test_two_processes_cannot_advance_one_run(tmp_path):
    run = Run.open(start(tmp_path))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()

    def rival(s):
        if s.step == 3:
            process = context.Process(target=_try_to_advance, args=(run.directory, queue))
            process.start()
            process.join(60)

    run.advance(on_step=rival)
    assert "is locked" in queue.get(timeout=10)


def test_stale_object_continues_from_the_disk(tmp_path, whole):
    directory = start(tmp_path)
    stale, other = Run.open(directory), Run.open(directory)
    other.advance(until=13)
    stale.advance()
    assert_same_run(directory, whole)


def test_snapshot_and_provenance(tmp_path):
    run = Run.open(start(tmp_path))
    run.advance(until=6)
    path = run.snapshot()
    assert path.name == "step_000006.safetensors"
    assert run.snapshot() == path
    before = [p.detach().clone() for p in run.parameters().parameters()]
    run.advance()
    after = list(run.snapshot_module(6).parameters())
    assert all(torch.equal(p, q) for p, q in zip(before, after, strict=True))
    with pytest.raises(RunError, match="step_000007"):
        run.snapshot_module(7)
    about = json.loads((run.directory / "provenance.json").read_text())
    assert about["threads"] == run.threads == 1
    assert {"command", "versions", "git", "device", "date"} <= set(about)


def test_threads_are_fixed_at_creation_and_restored(tmp_path):
    run = Run.open(start(tmp_path, threads=0, steps=3))
    assert run.threads == os.cpu_count()
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        run.advance(on_step=lambda _: seen.append(torch.get_num_threads()))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {run.threads}


def test_negative_targets(tmp_path):
    run = Run.open(start(tmp_path))
    with pytest.raises(ValueError, match="until must not be negative"):
        run.advance(until=-1)
    with pytest.raises(ValueError, match="max_steps must not be negative"):
        run.advance(max_steps=-1)


def test_no_warning_escapes(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Run.open(start(tmp_path, steps=2)).advance()
