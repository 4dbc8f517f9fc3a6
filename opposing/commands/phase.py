"""``opposing phase``: the phase diagram over step size and opposing variance."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from opposing.parsing import parser
from toymodels.phase_config import PhaseConfig

__all__ = ["PhaseCommand", "parse", "run"]


@dataclass(frozen=True)
class PhaseCommand:
    """Compute the phase diagram of the two-layer model; the same command goes on after an interruption.

    Attributes:
        out: Folder (.zarr) of the diagram: new, or that of an interrupted computation.
        config: What to compute.
    """

    out: Path = Path("phase.zarr")
    config: tyro.conf.OmitArgPrefixes[PhaseConfig] = field(default_factory=PhaseConfig)


parse = parser(PhaseCommand, "phase", "opposing phase --out runs/phase.zarr --lrs 4000 --alphas 2500")


def run(command: PhaseCommand) -> int:
    """Compute what is missing, then count the outcomes."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.table import Table

    from opposing.progress import console, stdout
    from toymodels.phase import OUTCOMES, compute_phase, outcome

    columns = (TextColumn("points"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("phase", total=None)
        data = compute_phase(
            command.out, command.config, lambda done, total: bar.update(task, completed=done, total=total)
        )
    code = outcome(data, command.config)
    table = Table(title=f"{code.size:,} runs of {command.config.steps:,} steps", title_justify="left")
    table.add_column("outcome")
    table.add_column("share", justify="right")
    for i, text in enumerate(OUTCOMES):
        table.add_row(text, f"{(code == i).mean():.1%}")
    stdout.print(table)
    print(f"written to {command.out}")
    return 0
