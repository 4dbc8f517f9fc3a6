"""``opposing run``: carry out a preset, measure its claims, and say whether they hold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from opposing.parsing import parser

__all__ = ["RunCommand", "parse", "run"]


@dataclass(frozen=True)
class RunCommand:
    """Run a preset: its claims, what was measured, and the verdicts.

    Attributes:
        preset: A preset of `opposing presets`, or a .toml file of yours.
        quick: The small form, minutes on two cores; without it the full one, for a GPU.
        seed: One repetition each; a verdict is over all of them.
        changes: Changes of options, key=value for all runs and RUN.key=value for one.
        out: Folder; what is there already is not run again. Default: presets/NAME, with -quick.
        jobs: Processes, each with a seed of its own.
    """

    preset: tyro.conf.Positional[str]
    quick: bool = False
    seed: tuple[int, ...] = (0, 1, 2)
    changes: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = ()
    out: Path | None = None
    jobs: int = 1


parse = parser(RunCommand, "run", "opposing run edge-of-stability --quick --seed 0 1 2 --set lr=0.3")


def run(command: RunCommand) -> int:
    """Run, measure, print; 0 whatever the verdicts, 1 where a claim came out otherwise than its preset says."""
    from nets.presets import load_preset, run_preset
    from opposing.progress import advance_with_progress, console
    from opposing.tables import print_verdicts

    preset = load_preset(command.preset)
    form = "quick" if command.quick else "full"
    folder = command.out or Path("presets") / (preset.id + ("-quick" if command.quick else ""))
    console.print(f"[bold]{preset.id}[/bold]: {preset.title} ({preset.source})")
    verdicts = run_preset(
        preset,
        folder,
        form,
        command.seed,
        command.changes,
        lambda run_, label: advance_with_progress(run_, None, label),
        command.jobs,
    )
    print_verdicts(verdicts, f"{preset.id}, {form}, seeds {' '.join(map(str, command.seed))}")
    print(f"written to {folder / 'results.json'}")
    return 0 if all(verdict.expected for verdict in verdicts) else 1
