"""``opposing reproduce``: the main job, from the derivation to scored forecasts and figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from nets.config import TrainConfig
from opposing.parsing import parser

if TYPE_CHECKING:
    from analysis.scoring import Score
    from nets.run import Run

__all__ = ["ReproduceCommand", "parse", "run"]

#: What the claims of the theory must reach; those of the network stand in analysis.verification
THEORY_BARS = {"flow": 1e-9, "onset": 0.01, "spike": 0.02}


@dataclass(frozen=True)
class ReproduceCommand:
    """Derive, simulate, train, forecast, verify and draw; every claim with its score.

    Attributes:
        out: Folder for the run, the figures and claims.json; an interrupted job there goes on.
        config: Options of the training run; the default is the 8x8 digits, on one thread for the same bits anywhere.
    """

    out: Path = Path("reproduction")
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: TrainConfig(threads=1))


parse = parser(ReproduceCommand, "reproduce", "opposing reproduce --out reproduction --seed 5")


def run(command: ReproduceCommand) -> int:
    """Run every stage; returns 0 when all were carried out, whatever the verdicts."""
    if not command.config.records_all_losses:  # said before the work, not after it
        raise ValueError(
            f"record_losses must be full or float16 to score the forecasts, got {command.config.record_losses}; "
            "use `opposing train` and `opposing signals` for the others"
        )
    from nets.files import write_json
    from nets.forecasting import verify_run
    from nets.forecasts import forecast_rows
    from opposing.progress import console
    from opposing.tables import print_scores
    from paper_figures.registry import FIGURES, draw

    out = command.out
    console.print("[bold]1/5[/bold] derive: re-proving the closed forms")
    scores = [_derivation_score()]
    console.print("[bold]2/5[/bold] simulate: the two-layer model against its forecast")
    scores += _theory_scores()
    console.print("[bold]3/5[/bold] train and forecast: each forecast is on disk before the run goes on")
    run_ = _train_with_forecasts(out / "run", command.config)
    console.print("[bold]4/5[/bold] verify")
    if forecast_rows(run_.directory):
        scores += verify_run(run_)
    else:  # a run that never nears the edge has nothing to verify: a result
        console.print("[yellow]the sharpness never reached 0.75 of 2/lr: there is no forecast to verify[/yellow]")
    write_json(
        out / "claims.json",
        {
            "config": command.config.to_dict(),
            "status": run_.status.status,
            "steps": run_.rows,
            "claims": [s.to_dict() for s in scores],
        },
    )
    console.print("[bold]5/5[/bold] figures")
    for name in (name for name, entry in FIGURES.items() if entry.needs != "intervention"):
        try:
            files = draw(name, out / "figures", run_.directory)
        except ValueError as error:
            console.print(f"[yellow]figure {name} was not drawn: {error}[/yellow]")
            continue
        print(files[0])
    print_scores(scores, f"Claims (seed {command.config.seed})")
    holds = sum(s.verdict == "holds" for s in scores)
    print(f"{holds} of {len(scores)} claims hold; written to {out / 'claims.json'}")
    return 0


def _derivation_score() -> Score:
    from analysis.scoring import Score
    from toymodels.derivations import registry

    proofs = [row.prove() for row in registry().values()]
    failed = [p.id for p in proofs if not p.ok]
    return Score(
        "derivations re-proved by sympy and against an independent solve: failures",
        f"all {len(proofs)}",
        f"{len(proofs) - len(failed)} proved" + (f", not {', '.join(failed)}" if failed else ""),
        float(len(failed)),
        "lower",
        0.0,
        "",
        float("nan"),
    )


def _theory_scores() -> list[Score]:
    from analysis.scoring import Score, relative_error
    from paper_figures.theory import compute

    data = compute()
    forecast = data["forecast"]
    nan = float("nan")
    onset, spike = (
        relative_error(forecast.onset_step, data["onset"]),
        relative_error(forecast.spike_step, data["spike"]),
    )
    return [
        Score(
            "two-layer model, closed form against a tight solve: largest error of c, b",
            "closed form",
            "LSODA, rtol 1e-12",
            data["flow_error"],
            "lower",
            THEORY_BARS["flow"],
            "",
            nan,
        ),
        Score(
            "two-layer model, onset of gradient descent: relative error",
            forecast.onset_step,
            data["onset"],
            onset,
            "lower",
            THEORY_BARS["onset"],
            "",
            nan,
        ),
        Score(
            "two-layer model, spike begins: relative error",
            forecast.spike_step,
            data["spike"],
            spike,
            "lower",
            THEORY_BARS["spike"],
            "onset (no delay)",
            relative_error(forecast.onset_step, data["spike"]),
        ),
    ]


def _train_with_forecasts(directory: Path, config: TrainConfig) -> Run:
    """Create or go on with the run: stop at the approach and at the onset, forecast, go on to the end."""
    from nets.forecasting import MOMENTS, forecast_run, stop_at_sharpness
    from nets.run import Run, create_run
    from opposing.progress import advance_with_progress, console
    from opposing.tables import print_forecast

    if not (directory / "config.json").exists():
        create_run(directory, config)
    run_ = Run.open(directory)
    if run_.rows:
        console.print(f"going on with the run in {directory}, which has {run_.rows} of {config.steps} steps")
    if run_.config != config:
        raise ValueError(
            f"{directory} holds a run with other options; pass the options it was made with, or another --out"
        )
    for moment, fraction in MOMENTS.items():
        reached: Any = stop_at_sharpness(run_, fraction)
        status = advance_with_progress(run_, reached, f"to {moment}")
        if status.status != "stopped":
            break
        if run_.rows == run_.step + 1:
            _, forecast = forecast_run(run_)
            print_forecast(forecast)
    advance_with_progress(run_, None, "to the end")
    return run_
