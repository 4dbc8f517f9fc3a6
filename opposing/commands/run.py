"""``opposing run``: carry out a preset, measure its claims, and say whether they hold."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from opposing.parsing import parser

if TYPE_CHECKING:
    from nets.presets import Experiment, Verdict

__all__ = ["RunCommand", "parse", "run"]


@dataclass(frozen=True)
class RunCommand:
    """Run a preset: its claims, what was measured, and the verdicts.

    Attributes:
        preset: A preset of `opposing presets`, a .toml file of yours, or "all".
        quick: The small form, minutes on two cores; without it the full one, for a GPU.
        seed: One repetition each; a verdict is over all of them.
        changes: Changes of options, key=value for all runs that have it and RUN.key=value for one.
        out: Folder; what is there already is not run again. Default: presets/NAME, with -quick. Of "all": the folder
            of theirs.
        jobs: Processes, each with a repetition of its own.
    """

    preset: tyro.conf.Positional[str]
    quick: bool = False
    seed: tuple[int, ...] = (0, 1, 2)
    changes: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = ()
    out: Path | None = None
    jobs: int = 1


parse = parser(
    RunCommand, "run", "opposing run edge-of-stability --quick --seed 0 1 2 --set lr=0.3", ("--seed", "--set")
)


def run(command: RunCommand) -> int:
    """Run, measure, print.

    Returns:
        0 where every claim came out as its preset says, else 1; 2 where one of all presets could not be run.
    """
    from nets.presets import run_presets
    from opposing.progress import advance_with_progress, console, counted
    from opposing.tables import print_verdicts

    experiments = _experiments(command)
    for experiment in experiments:
        preset = experiment.preset
        console.print(f"{preset.id}: {preset.title} ({preset.source})", markup=False)
    repetitions = sum(len(experiment.seeds) for experiment in experiments)
    alone = command.jobs == 1  # then every run shows its own bar
    with counted("repetitions", 0 if alone else repetitions) as finished:
        results = run_presets(experiments, advance_with_progress if alone else None, command.jobs, finished)
    if command.preset != "all" and isinstance(results[0], Exception):
        raise results[0]
    found = {
        experiment.preset.id: result
        for experiment, result in zip(experiments, results, strict=True)
        if not isinstance(result, Exception)
    }
    if found:
        name = "all presets" if command.preset == "all" else experiments[0].preset.id
        print_verdicts(found, f"{name}, {experiments[0].form}, seeds {' '.join(map(str, command.seed))}")
    for experiment, result in zip(experiments, results, strict=True):
        if isinstance(result, Exception):
            said = f"{'' if isinstance(result, ValueError) else f'{type(result).__name__}: '}{result}"
            print(f"opposing run: {experiment.preset.id} was not run: {' '.join(said.split())}", file=sys.stderr)
        else:
            print(f"written to {experiment.folder / 'results.json'}")
    return _code(results)


def _experiments(command: RunCommand) -> "list[Experiment]":
    """The presets asked for, each with its folder."""
    from nets.presets import Experiment, load_preset, preset_names

    form, ending = ("quick", "-quick") if command.quick else ("full", "")
    every = command.preset == "all"
    presets = [load_preset(name) for name in (preset_names() if every else [command.preset])]
    if every:
        presets = [preset for preset in presets if preset.claims_of(form)]
    folders = [
        (command.out if command.out and not every else (command.out or Path("presets")) / (preset.id + ending))
        for preset in presets
    ]
    return [
        Experiment(preset, folder, form, command.seed, command.changes)
        for preset, folder in zip(presets, folders, strict=True)
    ]


def _code(results: "Sequence[list[Verdict] | Exception]") -> int:
    if any(isinstance(result, Exception) for result in results):
        return 2
    return 0 if all(v.expected for result in results if isinstance(result, list) for v in result) else 1
