"""A forecast counts only if it was registered while the run stood at its step, and is unchanged."""

import json

import pytest
from small_runs import small

from nets.forecasts import ForecastError, forecast_registration, forecast_rows
from nets.record import Block, write_block
from nets.run import Run, create_run


@pytest.fixture
def run(tmp_path):
    create_run(tmp_path / "run", small())
    run = Run.open(tmp_path / "run")
    run.advance(until=lambda s: s.step == 8)
    return run


def write(run, name="first.json", **changes):
    path = run.directory.parent / name
    content = {"made_at_step": run.step, "state_hash": run.state_hash(), "peak": 15, **changes}
    path.write_text(json.dumps(content))
    return path


def test_registered_before_and_checked_after(run):
    path = write(run)
    row = run.register_forecast(path)
    assert row["file"] == "first.json"
    assert row["at_step"] == 8
    assert row["state_hash"] == run.state_hash()
    assert run.register_forecast(path) == row  # the same again changes nothing
    run.advance()
    assert forecast_registration(run.directory, path) == row
    assert forecast_rows(run.directory) == [row]


def test_edited_since(run):
    path = write(run)
    run.register_forecast(path)
    write(run, peak=16)
    with pytest.raises(ForecastError, match="must be unchanged"):
        forecast_registration(run.directory, path)
    with pytest.raises(ForecastError, match="other content"):
        run.register_forecast(path)


def test_made_after_the_fact(run):
    path = write(run)
    run.advance(until=10)
    with pytest.raises(ForecastError, match="made after the fact"):
        run.register_forecast(path)
    with pytest.raises(ForecastError, match="made after the fact"):
        forecast_registration(run.directory, path)
    assert forecast_rows(run.directory) == []


def test_rows_of_a_killed_process_count_as_seen(run):
    block = Block.empty(run.config, 10)
    block.put(10, {"loss": 0.1})
    write_block(run.directory / "record.zarr", block)
    with pytest.raises(ForecastError, match="made after the fact"):
        run.register_forecast(write(run))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_hash": "0" * 64}, "state of this run"),
        ({"made_at_step": 9}, "state of this run"),
        ({"made_at_step": "8"}, "must be an integer"),
    ],
)
def test_other_state(run, changes, message):
    with pytest.raises(ForecastError, match=message):
        run.register_forecast(write(run, **changes))


def test_not_a_forecast(run):
    path = run.directory.parent / "x.json"
    path.write_text("[]")
    with pytest.raises(ForecastError, match="must hold made_at_step"):
        run.register_forecast(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="readable JSON"):
        run.register_forecast(path)
    with pytest.raises(ForecastError, match="found none"):
        forecast_registration(run.directory, run.directory / "nowhere.json")
