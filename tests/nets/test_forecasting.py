"""From a stopped run to a registered forecast and its scores, on disk."""

import os
from pathlib import Path

import numpy as np
import pytest

from analysis.oscillation import onset_step
from nets.config import TrainConfig
from nets.files import RunError
from nets.forecasting import forecast_run, record_arrays, run_losses, run_point, stop_at_sharpness, verify_run
from nets.forecasts import forecast_rows
from nets.run import Run, create_run

SMALL = TrainConfig(n_examples=300, widths=(32,), lr=0.48, steps=240, threads=1, checkpoint_every=30)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run with both forecasts, gone on to its end."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    create_run(directory, SMALL)
    run = Run.open(directory)
    for fraction in (0.75, 1.0):
        assert run.advance(stop_at_sharpness(run, fraction)).status == "stopped"
        forecast_run(run)
    run.advance()
    return run


def test_stops_are_those_of_the_record(run):
    made = [row["at_step"] for row in forecast_rows(run.directory)]
    sharpness = record_arrays(run)["sharpness"]
    assert made == [onset_step(sharpness, SMALL.lr, 0.75), onset_step(sharpness, SMALL.lr)]


def test_forecasting_on_the_way_changes_no_bit(run, tmp_path):
    create_run(tmp_path / "plain", SMALL)
    plain = Run.open(tmp_path / "plain")
    plain.advance()
    for name, values in record_arrays(plain).items():
        np.testing.assert_array_equal(record_arrays(run)[name], values)
    assert plain.state_hash() == run.state_hash()


def test_the_losses_a_forecast_sees_are_those_recorded(tmp_path):
    create_run(tmp_path / "run", SMALL)
    run = Run.open(tmp_path / "run")
    run.advance(lambda state: state.step == 5)
    point = run_point(run)
    recorded = record_arrays(run)["example_loss"][5]
    np.testing.assert_allclose(point.losses(list(point.params)).detach().numpy(), recorded, rtol=1e-5, atol=1e-7)
    assert point.step == 5
    assert callable(run_losses(run))
    path, first = forecast_run(run)
    assert forecast_run(run) == (path, first)  # again: the registered one, not a new one


def test_forecast_needs_a_recorded_step_and_verification_a_forecast(tmp_path):
    create_run(tmp_path / "run", SMALL)
    run = Run.open(tmp_path / "run")
    run.advance(until=4)
    with pytest.raises(RunError, match="must be stopped at a recorded step"):
        forecast_run(run)
    with pytest.raises(RunError, match="must hold a registered forecast"):
        verify_run(run)


def test_every_claim_is_scored_and_an_edited_forecast_refused(run):
    scores = verify_run(run)
    assert len(scores) == 6
    assert all(s.verdict in ("holds", "fails", "not run") for s in scores)
    path = run.directory / "forecasts" / forecast_rows(run.directory)[0]["file"]
    original = path.read_bytes()
    path.write_bytes(original + b" ")
    with pytest.raises(RunError, match="edited"):
        verify_run(run)
    path.write_bytes(original)
    assert [s.score for s in verify_run(run)] == [s.score for s in scores]


@pytest.mark.slow
@pytest.mark.skipif("OPPOSING_DATA" not in os.environ, reason="OPPOSING_DATA must name the folder that holds cifar10/")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cifar_groups_are_known_before_they_oscillate(tmp_path: Path, seed):
    """3072-200-200-10 ReLU, cross-entropy, 1,000 images: rank correlation >= 0.8 and precision@40 >= 0.7."""
    config = TrainConfig(
        data="cifar10",
        widths=(200, 200),
        activation="relu",
        loss="cross_entropy",
        lr=0.05,
        steps=240,
        eig_tol=2e-2,
        seed=seed,
    )
    create_run(tmp_path / "run", config)
    run = Run.open(tmp_path / "run")
    run.advance(stop_at_sharpness(run, 0.75))
    forecast_run(run)
    run.advance(stop_at_sharpness(run, 1.0))
    run.advance(until=run.step + 18)
    rank, precision = verify_run(run)
    assert rank.score >= 0.8
    assert precision.score >= 0.7
