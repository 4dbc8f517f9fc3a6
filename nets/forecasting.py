"""Forecasts of a run on disk: from its stopped state to a registered file, and from the record to scores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from analysis.oscillation import onset_step
from analysis.prediction import APPROACH, RunPoint, make_forecast, read_forecast, write_forecast
from analysis.projection import ExampleLosses, example_losses
from analysis.scoring import Score
from analysis.verification import verify_forecast

from .descent import StepState
from .files import RunError
from .forecasts import forecast_registration, forecast_rows
from .provenance import git_revision
from .recorded_losses import all_losses
from .run import Run

__all__ = ["forecast_run", "record_arrays", "run_losses", "run_point", "stop_at_sharpness", "verify_run"]

MOMENTS = {"approach": APPROACH, "onset": 1.0}


def stop_at_sharpness(run: Run, fraction: float) -> Callable[[StepState], bool]:
    """A predicate for ``Run.advance``: the sharpness reaches ``fraction`` of its critical value from below.

    That value is 2/η for gradient descent and ``TrainConfig.critical_sharpness`` in general. The same rule as
    ``analysis.oscillation.onset_step``, applied as the steps come.

    Raises:
        RunError: If the run's optimizer has no constant critical sharpness.
    """
    critical = run.config.critical_sharpness
    if critical is None or critical <= 0:
        raise RunError(
            f"optimizer {run.config.optimizer} with these options has no constant critical sharpness to stop at; "
            "stop at a step instead"
        )
    if not run.config.eig_every:
        raise RunError(
            f"{run.directory} must measure the sharpness to stop at it, eig_every is 0; stop at a step instead"
        )
    lr = run.config.lr if run.config.plain_descent else 2.0 / critical
    seen = [float(s) for s in run.history()["sharpness"].values] if run.rows else []
    already = onset_step(seen, lr, fraction) is not None if seen else False
    level = fraction * 2.0 / lr
    below = [any(s < level for s in seen)]

    def reached(state: StepState) -> bool:
        if already:
            return False
        crossing = below[0] and state.sharpness >= level
        below[0] = below[0] or state.sharpness < level
        return crossing

    return reached


def run_losses(run: Run) -> ExampleLosses:
    r"""The function $\theta \mapsto (\ell_1, \dots, \ell_n)$ of a run's parameters, on its own data."""
    problem = run.problem
    return example_losses(run.parameters(), problem.loss, problem.inputs, problem.targets)


def record_arrays(run: Run) -> dict[str, np.ndarray]:
    """The recorded rows as plain arrays by name, cut to the steps that were computed.

    Raises:
        RunError: If the run did not record the losses of all examples.
    """
    history = run.history()
    names = ("loss", "sharpness", "sharpness_converged", "oscillation", "products", "accuracy")
    losses = {"example_loss": all_losses(run.config, history, "score or draw forecasts")}
    return losses | {name: history[name].values for name in names}


def run_point(run: Run) -> RunPoint:
    """A stopped run as the forecasts see it.

    Raises:
        RunError: If the run does not stand at a step that it has just recorded, or is no gradient descent.
    """
    if not run.config.plain_descent:
        raise RunError(
            f"{run.directory} must be a run of full-batch gradient descent to be forecast, it uses "
            f"{run.config.optimizer}; train with optimizer gd"
        )
    if run.config.eig_every != 1:
        raise RunError(
            f"{run.directory} must have the sharpness of every step to be forecast, eig_every is "
            f"{run.config.eig_every}; train with --eig-every 1"
        )
    if run.rows != run.step + 1:
        raise RunError(
            f"{run.directory} must be stopped at a recorded step, it stands before step {run.step}; "
            "stop it with `opposing train --resume RUN --until approach` (or onset)"
        )
    record = run.history()
    module = run.parameters()
    return RunPoint(
        step=run.step,
        lr=run.config.lr,
        losses=run_losses(run),
        params=[p.detach() for p in module.parameters()],
        vector=run.eigenvector(),
        sharpness=record["sharpness"].values.astype(np.float64),
        amplitude=record["oscillation"].values.astype(np.float64),
        state_hash=run.state_hash(),
    )


def forecast_run(run: Run) -> tuple[Path, dict[str, Any]]:
    """Make the forecasts of a stopped run, write them, and register them with the run before it goes on.

    Returns:
        The file and its content. A forecast of the same state that is already registered is returned as it is.
    Raises:
        RunError: If the run is not stopped at a recorded step, or has gone on since.
    """
    point = run_point(run)
    path = run.directory / "forecasts" / f"step_{point.step:06d}.json"
    if path.exists():
        forecast = read_forecast(path)
        if not any(row["file"] == path.name for row in forecast_rows(run.directory)):
            run.register_forecast(path)
        return path, forecast
    revision = git_revision()
    version = "" if revision is None else revision["commit"] + ("+modified" if revision["modified"] else "")
    forecast = make_forecast(point, version)
    run.snapshot()
    write_forecast(path, forecast)
    run.register_forecast(path)
    return path, forecast


def verify_run(run: Run) -> list[Score]:
    """Score every registered forecast of a run against its record, in the order of their steps.

    Raises:
        RunError: If there is no forecast, or one was changed or made after the fact.
    """
    rows = forecast_rows(run.directory)
    if not rows:
        raise RunError(
            f"{run.directory} must hold a registered forecast, it has none; stop the run before onset and "
            "use `opposing forecast RUN`"
        )
    record = record_arrays(run)
    scores: list[Score] = []
    for row in sorted(rows, key=lambda r: r["at_step"]):
        path = run.directory / "forecasts" / row["file"]
        forecast_registration(run.directory, path)
        scores += verify_forecast(read_forecast(path), record)
    return scores
