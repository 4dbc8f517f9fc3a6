"""Carrying out a preset: its runs on disk, its claims measured, the result in one file.

Folder::

    about.json  preset.toml  results.json  seed_0/RUN/...  seed_1/RUN/...

Runs that are there go on; those that are finished are read. A simulated run is computed anew: it costs seconds.
``results.json`` is written at the start, after every repetition and at the end; until then its ``complete`` is false.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nets.device import find_device
from nets.files import RunError, read_json, write_atomic, write_json
from nets.fork import fork_run
from nets.provenance import provenance
from nets.run import Run, create_run

from .declaration import FORMS, Preset, PresetError, RunPlan
from .outcomes import Outcome
from .verdicts import Verdict, conclude, measured

__all__ = ["Advance", "Experiment", "Repetition", "carry_out"]

OWN_FILES = ("results.json", "preset.toml", "about.json")
Advance = Callable[[Run, int | None, str], object]


@dataclass(frozen=True)
class Repetition:
    """What is left of the runs of one seed.

    Args:
        found: ``value`` and ``control`` of every claim about the form, in their order.
        runs: Folder of a run -> its status and steps; "not run" for a fork whose moment did not come.
        seconds: What it took; None where some of it was there before.
    """

    found: tuple[Mapping[str, float], ...]
    runs: Mapping[str, Mapping[str, Any]]
    seconds: float | None


@dataclass(frozen=True)
class Experiment:
    """A preset with what is asked of it.

    Args:
        preset: What to run.
        folder: Where; one of the same preset, form and changes goes on, with more seeds too.
        form: "quick" or "full".
        seeds: One repetition each.
        changes: ``key=value`` or ``run.key=value``, as ``Preset.plans`` takes them.
    Raises:
        PresetError: If the form is unknown or the preset claims nothing about it, or the seeds are not right.
    """

    preset: Preset
    folder: Path
    form: str = "full"
    seeds: tuple[int, ...] = (0, 1, 2)
    changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise PresetError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}; choose one of them")
        if not self.preset.claims_of(self.form):
            raise PresetError(
                f"{self.preset.path}: the form must be one that a claim is about, got {self.form}; choose another"
            )
        numbers = all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in self.seeds)
        if not self.seeds or not numbers or len(set(self.seeds)) < len(self.seeds):
            raise PresetError(f"seeds must be whole numbers >= 0, once each, got {list(self.seeds)}; pass e.g. 0 1 2")

    def begin(self) -> list[Verdict]:
        """Check everything that is known before a run, and take the folder; the verdicts are "not run" yet.

        Raises:
            PresetError: If a run cannot be made as asked, or the folder holds something else.
            ConfigError: If this machine lacks the device.
        """
        for seed in self.seeds:
            for plan in self.preset.plans(self.form, seed, self.changes):
                if plan.config is not None:
                    find_device(plan.config.device)
        _take_folder(self.preset, self.folder, self.form, self.changes)
        return self.conclude({})

    def clear_if_empty(self) -> None:
        """Remove the folder's own files where it holds no result and no run."""
        kept = self.folder / "results.json"
        if not kept.exists() or read_json(kept)["complete"] or any(self.folder.glob("seed_*/*/config.json")):
            return
        for path in (*(self.folder / name for name in OWN_FILES), *self.folder.glob("seed_*"), self.folder):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()

    def repeat(self, seed: int, advance: Advance | None = None) -> Repetition:
        """Carry out the runs of one seed, on one thread where they do not say otherwise, and measure every claim.

        Raises:
            PresetError: If a measure does not fit its runs; they are kept.
            RunError: If a run cannot be carried out.
        """
        new, begin = not (self.folder / f"seed_{seed}").exists(), time.perf_counter()
        outcomes = carry_out(self.preset, self.folder, self.form, seed, self.changes, advance)
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)  # the same bits whatever the number of jobs
            found = tuple(
                measured(claim, {name: [run.closed() for run in runs] for name, runs in outcomes.items()})
                for claim in self.preset.claims_of(self.form)
            )
        except ValueError as error:
            raise PresetError(f"{self.preset.path}: {error}; the runs are kept in {self.folder}") from error
        finally:
            torch.set_num_threads(threads)
        about = {outcome.name: _status(outcome.closed()) for runs in outcomes.values() for outcome in runs}
        plans = self.preset.plans(self.form, seed, self.changes)
        runs = {plan.folder: about.get(plan.folder, {"status": "not run", "steps": 0}) for plan in plans}
        return Repetition(found, runs, time.perf_counter() - begin if new else None)

    def conclude(self, repetitions: Mapping[int, Repetition]) -> list[Verdict]:
        """The verdicts over the repetitions so far, by seed, written to results.json."""
        there = {seed: repetitions[seed] for seed in self.seeds if seed in repetitions}
        complete = len(there) == len(self.seeds)
        verdicts = [
            conclude(claim, {seed: repetition.found[i] for seed, repetition in there.items()}, complete)
            for i, claim in enumerate(self.preset.claims_of(self.form))
        ]
        result = {
            "preset": self.preset.id,
            "title": self.preset.title,
            "source": self.preset.source,
            "form": self.form,
            "changes": list(self.changes),
            "seeds": list(self.seeds),
            "complete": complete,
            "as_declared": all(verdict.expected for verdict in verdicts) if complete else None,
            "seconds": {str(seed): repetition.seconds for seed, repetition in there.items()},
            "provenance": provenance(1, torch.device("cpu")),
            "claims": [verdict.to_dict() for verdict in verdicts],
            "runs": {str(seed): repetition.runs for seed, repetition in there.items()},
        }
        write_json(self.folder / "results.json", result)
        return verdicts


def carry_out(
    preset: Preset,
    folder: Path,
    form: str,
    seed: int,
    changes: Iterable[str] = (),
    advance: Advance | None = None,
) -> dict[str, list[Outcome]]:
    """The runs of one seed, carried out or read: name of the entry -> outcomes, none where a fork had no moment."""
    into = folder / f"seed_{seed}"
    outcomes: dict[str, list[Outcome]] = {name: [] for name in preset.entries}
    done: dict[str, Outcome] = {}
    for plan in preset.plans(form, seed, changes):
        if plan.simulation is not None:
            outcome: Outcome | None = Outcome(plan.folder, plan.simulation.run(), simulation=plan.simulation)
        else:
            outcome = _trained(plan, into, done, advance)
        if outcome is not None:
            done[plan.folder] = outcome
            outcomes[plan.name].append(outcome)
    return outcomes


def _trained(plan: RunPlan, into: Path, done: dict[str, Outcome], advance: Advance | None) -> Outcome | None:
    directory, config = into / plan.folder, plan.config
    assert config is not None
    label = f"{into.parent.name} {into.name} {plan.folder}"
    if not (directory / "config.json").exists():
        if plan.fork is None:
            create_run(directory, config)
        else:
            parent = done[plan.fork].closed() if plan.fork in done else None
            at = None if parent is None else _moment(plan, parent)
            if parent is None or at is None:
                return None
            to = f"{label}, to {at}"
            recompute: Any = Run.advance if advance is None else lambda run, step: advance(run, step, to)
            fork_run(parent.trained, directory, at, dict(plan.changes), recompute)
    run = Run.open(directory)
    if run.config != config:
        raise RunError(f"{directory} must hold this run, it has other options; choose another folder")
    if run.status.status == "stopped":
        if advance is None:
            run.advance()
        else:
            advance(run, None, label)
    return Outcome(plan.folder, directory=directory)


def _moment(plan: RunPlan, parent: Outcome) -> int | None:
    """The step of a fork, where the parent has it and the fork has steps left after it."""
    assert plan.at is not None
    assert plan.config is not None
    step = plan.at.step(parent.sharpness, parent.config.critical_sharpness) if plan.at.onset else plan.at.steps
    last = min(parent.trained.step - parent.diverged, plan.config.steps - 1)
    return step if step is not None and parent.first_step <= step <= last else None


def _status(outcome: Outcome) -> dict[str, Any]:
    if outcome.run is None:
        return {"status": "diverged" if outcome.diverged else "simulated", "steps": int(outcome.history["last_step"])}
    return {"status": outcome.run.status.status, "steps": outcome.run.step}


def _take_folder(preset: Preset, folder: Path, form: str, changes: Sequence[str]) -> None:
    """Note in the folder what it is for, or check that it is for the same."""
    about = {"preset": preset.id, "form": form, "changes": sorted(changes)}
    about["declaration"] = hashlib.sha256(preset.text).hexdigest()
    kept, copy = folder / "about.json", folder / "preset.toml"
    if kept.exists():
        if read_json(kept) != about:
            raise PresetError(f"{folder} must be of the same preset, form and changes, it is of others; choose another")
        if not copy.exists():  # killed before it was written
            write_atomic(copy, preset.text)
        return
    if folder.exists() and (not folder.is_dir() or any(p.name != f".{kept.name}.tmp" for p in folder.iterdir())):
        raise PresetError(f"{folder} must be new, empty or of this preset, it is not; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(kept, about)
    write_atomic(copy, preset.text)
