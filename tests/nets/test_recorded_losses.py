"""What the record keeps of the examples' losses: each choice against the full record, to the byte over stops."""

import threading

import numpy as np
import pytest
import xarray as xr
from small_runs import assert_same_run
from small_runs import small as small_run

from analysis.timeline import find_signals
from nets.config import ConfigError, TrainConfig
from nets.recorded_losses import QUANTILES, known_losses
from nets.run import Run, RunError, create_run
from opposing.cli import main


def small(**changes):
    """A run whose steps cost next to nothing."""
    return small_run(**{"max_products": 2, **changes})


TOP = {"record_losses": "top_k", "record_k": 7}


def finished(directory, **changes):
    create_run(directory, small(**changes))
    run = Run.open(directory)
    run.advance()
    return run


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("full") / "run").history()


def test_the_default_is_the_full_record_and_keeps_its_hash():
    assert TrainConfig().record_losses == "full"
    assert "record_losses" in TrainConfig().to_dict()
    for changes in ({"record_losses": "float16"}, {"record_losses": "top_k"}):
        assert TrainConfig(**changes).config_hash != TrainConfig().config_hash


def test_float16_rounds_once(tmp_path, full):
    run = finished(tmp_path / "run", record_losses="float16")
    history = run.history()
    assert history.example_loss.dtype == np.float16
    np.testing.assert_array_equal(history.example_loss, full.example_loss.values.astype(np.float16))
    np.testing.assert_allclose(history.example_loss, full.example_loss, rtol=2.0**-11)
    for name in ("loss", "sharpness", "oscillation"):
        np.testing.assert_array_equal(history[name], full[name])


def test_top_k_holds_the_largest_moves_of_every_step(tmp_path, full):
    run = finished(tmp_path / "run", **TOP)
    history = run.history()
    losses = full.example_loss.values
    assert "example_loss" not in history
    assert history.top_loss.shape == history.top_example.shape == (23, 7)
    np.testing.assert_array_equal(history["quantile"], QUANTILES)
    for n, row in enumerate(losses):
        size = row if n == 0 else np.abs(row - losses[n - 1])
        kept = history.top_example.values[n]
        assert len(set(kept)) == 7
        assert set(kept) == set(np.argsort(-size)[:7])
        assert (np.diff(size[kept]) <= 0).all()
        np.testing.assert_array_equal(history.top_loss[n], row[kept])
        expected = np.full(7, np.nan) if n == 0 else losses[n - 1][kept]
        np.testing.assert_array_equal(history.top_loss_before[n], expected)
        np.testing.assert_allclose(history.loss_quantile[n], np.quantile(row, QUANTILES), rtol=1e-6)
        if n:
            np.testing.assert_allclose(history.move_quantile[n], np.quantile(size, QUANTILES), rtol=1e-6)
    np.testing.assert_array_equal(history.loss, full.loss)


def test_nothing_kept_but_the_mean(tmp_path, full):
    history = finished(tmp_path / "run", record_losses="none").history()
    assert not {"example_loss", "top_loss"} & set(history)
    np.testing.assert_array_equal(history.loss, full.loss)


@pytest.mark.parametrize("changes", [TOP, {"record_losses": "float16"}, {"record_losses": "none"}])
def test_stops_leave_no_trace(tmp_path, changes):
    finished(tmp_path / "whole", **changes)
    create_run(tmp_path / "run", small(**changes))
    for n in (4, 5, 6, 11):
        Run.open(tmp_path / "run").advance(until=n)
    Run.open(tmp_path / "run").advance(until=lambda s: s.step == 16)
    Run.open(tmp_path / "run").advance()
    assert_same_run(tmp_path / "run", tmp_path / "whole", losses=False)


def test_signals_of_all_moves_are_those_of_all_losses(tmp_path, capsys):
    runs = {}
    for name, changes in (("full", {}), ("moves", {"record_losses": "top_k", "record_k": 40})):
        runs[name] = finished(tmp_path / name, steps=60, lr=0.8, **changes)
    found = {
        name: find_signals(known_losses(run.config, run.history()), level=0.5, outliers=False).signals
        for name, run in runs.items()
    }
    assert found["full"]
    for a, b in zip(found["full"], found["moves"], strict=True):
        np.testing.assert_array_equal(a.pair.weights, b.pair.weights)
    assert main(["signals", str(tmp_path / "moves")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "keeps the 40 largest moves of 40 losses at each step; 40 examples (median) could be followed" in out


def test_what_needs_other_losses_says_so(tmp_path, capsys):
    finished(tmp_path / "none", record_losses="none")
    assert main(["signals", str(tmp_path / "none")]) == 2
    assert "record_losses must be full or float16 to find signals, got none" in capsys.readouterr().err
    run = finished(tmp_path / "top", **TOP)
    from nets.forecasting import record_arrays

    with pytest.raises(RunError, match="must be full or float16 to score or draw forecasts, got top_k"):
        record_arrays(run)
    assert main(["reproduce", "--out", str(tmp_path / "job"), "--record-losses", "top_k"]) == 2
    assert "record_losses must be full or float16 to score the forecasts" in capsys.readouterr().err
    assert not (tmp_path / "job").exists()


def test_refusals(tmp_path):
    with pytest.raises(ConfigError, match="record_losses must be one of full, float16, top_k, none, got 'half'"):
        small(record_losses="half")
    with pytest.raises(ConfigError, match="record_k must be an integer >= 1, got 0"):
        small(record_losses="top_k", record_k=0)
    with pytest.raises(ConfigError, match="record_k belongs to record_losses top_k, got 7 for full"):
        small(record_k=7)
    with pytest.raises(ConfigError, match="record_k must be at most the 40 losses of a step, got 41"):
        create_run(tmp_path / "run", small(record_losses="top_k", record_k=41))
    assert list(tmp_path.iterdir()) == []


def test_losses_beyond_float16_are_inf_and_the_run_goes_on(tmp_path):
    run = finished(tmp_path / "run", record_losses="float16", lr=1e4, activation="relu", steps=60)
    assert run.status.status == "diverged"
    assert np.isinf(run.history().example_loss).any()


def test_a_reader_during_the_run_sees_whole_steps(tmp_path, full):
    """Every row that the checkpoint vouches for is there and final, whenever one looks, and at most a block more."""
    create_run(tmp_path / "run", small())
    seen, block = [], small().checkpoint_every

    def read(_):
        with xr.open_zarr(tmp_path / "run" / "record.zarr", consolidated=False) as record:
            rows = Run.open(tmp_path / "run").rows
            np.testing.assert_array_equal(record.example_loss[:rows], full.example_loss[:rows])
            np.testing.assert_array_equal(record.sharpness[:rows], full.sharpness[:rows])
            beyond = record.loss[rows:].values  # the block that is being written, or nothing
            assert (np.isnan(beyond) | (beyond == full.loss[rows:].values)).all()
            assert np.isnan(beyond[block:]).all()
        seen.append(rows)

    Run.open(tmp_path / "run").advance(on_step=read)
    assert seen == sorted(seen)
    assert {15} <= set(seen) <= {0, 5, 10, 15, 20}  # one block at most is under way


def test_a_reader_at_any_moment_sees_final_rows(tmp_path, full):
    """The same from another thread, which reads without waiting for the writer."""
    create_run(tmp_path / "run", small())
    done, reads, failures = threading.Event(), [], []

    def read():
        while not done.is_set():
            try:
                rows = Run.open(tmp_path / "run").rows
                with xr.open_zarr(tmp_path / "run" / "record.zarr", consolidated=False) as record:
                    np.testing.assert_array_equal(record.example_loss[:rows], full.example_loss[:rows])
                reads.append(rows)
            except BaseException as error:
                failures.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        run = Run.open(tmp_path / "run")
        for n in range(1, 24):  # a commit at every step, each of which replaces the chunk that is read
            run.advance(until=n)
    finally:
        done.set()
        reader.join()
    assert not failures
    assert len(reads) >= 3
    assert reads == sorted(reads)
