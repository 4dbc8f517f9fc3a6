"""``opposing verify``: the registered forecasts of a run, scored against its record."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from opposing.parsing import parser

__all__ = ["VerifyCommand", "parse", "run"]


@dataclass(frozen=True)
class VerifyCommand:
    """Score a run's forecasts against what came after them, each beside a naive baseline.

    Attributes:
        run: Run directory that went on after its forecasts.
    """

    run: tyro.conf.Positional[Path]


parse = parser(VerifyCommand, "verify", "opposing verify runs/digits")


def run(command: VerifyCommand) -> int:
    """Print the scores and write them to scores.json in the run."""
    from nets.files import write_json
    from nets.forecasting import verify_run
    from nets.run import Run
    from opposing.tables import print_scores

    run_ = Run.open(command.run)
    scores = verify_run(run_)
    write_json(run_.directory / "scores.json", [s.to_dict() for s in scores])
    print_scores(scores, f"Forecasts of {run_.directory}")
    return 0
