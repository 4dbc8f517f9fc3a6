"""``opposing train``: a training run on disk, stopped, resumed or run to its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from nets.config import TrainConfig
from opposing.parsing import parser

__all__ = ["TrainCommand", "parse", "run"]

UNTIL = ("end", "approach", "onset")


@dataclass(frozen=True)
class TrainCommand:
    """Train a network, by default by full-batch gradient descent; every step is recorded.

    Attributes:
        out: Directory of a new run.
        resume: Directory of a run to continue, to the same bits as if it had never stopped.
        until: Where to stop: "end", "approach" (sharpness at 0.75 of its critical value, 2/lr for gradient
            descent), "onset" (at that value), or a step.
        config: Options of the run.
    """

    out: Path | None = None
    resume: Path | None = None
    until: str = "end"
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


parse = parser(TrainCommand, "train", "opposing train --out runs/digits --until approach")


def _check(command: TrainCommand) -> None:
    if (command.out is None) == (command.resume is None):
        given = "neither" if command.out is None else "both"
        raise ValueError(f"one of --out and --resume must be given, got {given}; pass --out DIR for a new run")
    if command.resume is not None and command.config != TrainConfig():
        raise ValueError("a resumed run keeps its own options, got others; leave them out with --resume")
    if command.until not in UNTIL and not command.until.isdigit():
        raise ValueError(f"until must be one of {', '.join(UNTIL)} or a step >= 0, got {command.until!r}; choose one")


def run(command: TrainCommand) -> int:
    """Create or open the run, advance it, and say where it stands."""
    _check(command)
    from nets.forecasting import MOMENTS, stop_at_sharpness
    from nets.run import Run, create_run
    from opposing.progress import advance_with_progress

    if command.out is not None:
        create_run(command.out, command.config)
    run_ = Run.open(command.out or command.resume or "")
    until = None
    if command.until in MOMENTS:
        until = stop_at_sharpness(run_, MOMENTS[command.until])
    elif command.until.isdigit():
        until = int(command.until)
    status = advance_with_progress(run_, until)
    print(f"{run_.directory}: {status.status} at step {status.step}: {status.reason}")
    every = run_.config.eig_every
    if every != 1:
        print(f"the sharpness is measured {f'every {every} steps' if every else 'never'}")
    if status.status == "diverged":
        return 0  # a result, recorded as such
    if command.until in MOMENTS and status.status == "finished":
        print(f"the sharpness did not reach the {command.until} within {run_.config.steps} steps")
        return 1
    return 0
