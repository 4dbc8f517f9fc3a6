"""``opposing figures``: draw the figures."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from opposing.parsing import parser

__all__ = ["FiguresCommand", "parse", "run"]


@dataclass(frozen=True)
class FiguresCommand:
    """Draw figures, or list them.

    Attributes:
        names: Figure ids, "all" (but those of an intervention), or "list".
        run: Run directory with forecasts, for the figures of an experiment; folder of ``opposing intervene`` for those
            of an intervention.
        out: Folder for the files, PNG and PDF each.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ("list",)
    run: Path | None = None
    out: Path = Path("figures")


parse = parser(FiguresCommand, "figures", "opposing figures all --run runs/digits")


def run(command: FiguresCommand) -> int:
    """Draw what was asked for; print the files."""
    from paper_figures.registry import FIGURES, draw

    if command.names in (("list",), ()):
        width = max(map(len, FIGURES)) + 2
        for entry in FIGURES.values():
            needs = {"": "", "run": "  (needs --run)", "intervention": "  (--run: folder of `opposing intervene`)"}[
                entry.needs
            ]
            print(f"{entry.id:<{width}}{entry.claim}{needs}")
        return 0
    every = [name for name, entry in FIGURES.items() if entry.needs != "intervention"]
    names = every if command.names == ("all",) else list(command.names)
    for name in names:
        for file in draw(name, command.out, command.run):
            print(file)
    return 0
