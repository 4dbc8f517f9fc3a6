"""``opposing fork``: a new run that branches off a step of another one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import tyro

from opposing.parsing import parser

__all__ = ["ForkCommand", "parse", "run"]


@dataclass(frozen=True)
class ForkCommand:
    """Branch off a step of a run with other options; steps go on from there, and the run itself is left alone.

    Options that are not given stay as they are in the run.

    Attributes:
        run: Run directory to branch off.
        into: Directory of the new run.
        at: Step to branch off; by default the run's current one. A step that was not kept (``--snapshot-every`` of
            ``opposing train`` keeps some) is recomputed.
        lr: Step size.
        optimizer: Optimizer; its options start from their defaults.
        optimizer_options: Options of the optimizer as name=value.
        batch_size: Rows per step; 0: all.
        n_examples: The first so many rows of the data set.
        data_options: Options of the data as name=value.
        data_path: Where the data lie.
        steps: Number of steps, counted from step 0 of the run.
        seed: Seed of the batches and of the eigen-solver.
        eig_every: Steps between measurements of the sharpness; 0: never.
        observers: What else is measured, see ``opposing train --help``.
        snapshot_every: Steps between states that are kept; 0: never.
    """

    run: tyro.conf.Positional[Path]
    into: Path
    at: int | None = None
    lr: float | None = None
    optimizer: str | None = None
    optimizer_options: tuple[str, ...] | None = None
    batch_size: int | None = None
    n_examples: int | None = None
    data_options: tuple[str, ...] | None = None
    data_path: str | None = None
    steps: int | None = None
    seed: int | None = None
    eig_every: int | None = None
    observers: tuple[str, ...] | None = None
    snapshot_every: int | None = None


parse = parser(ForkCommand, "fork", "opposing fork runs/digits --at 100 --lr 0.2 --into runs/digits-slower")


def run(command: ForkCommand) -> int:
    """Make the new run; say where it stands and what it carries over."""
    from nets.fork import CHANGEABLE, fork_run
    from nets.run import Run
    from opposing.progress import advance_with_progress

    given = {name: value for name, value in dataclasses.asdict(command).items() if value is not None}
    fork = fork_run(
        Run.open(command.run),
        command.into,
        command.at,
        {name: given[name] for name in CHANGEABLE if name in given},
        lambda recomputed, step: advance_with_progress(recomputed, step, "recompute"),
    )
    made, differs = fork.run, "; ".join(f"{name} {old} -> {new}" for name, (old, new) in fork.changed.items())
    print(
        f"{made.directory}: forked at step {made.step} of {command.run} ({fork.source}); {differs or 'nothing'} changed"
    )
    if fork.examples_changed:
        print("it has other examples: its record begins here")
    print(f"go on with `opposing train --resume {command.into}`")
    return 0
