"""Carrying out a preset: its runs on disk, its claims measured, the result in one file.

Folder::

    preset.toml  results.json  seed_0/RUN/...  seed_1/RUN/...

Runs that are there go on; those that are finished are read. A simulated run is computed anew: it costs seconds.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from nets.files import RunError, read_json, write_atomic, write_json
from nets.fork import fork_run
from nets.provenance import provenance
from nets.run import Run, create_run

from .declaration import FORMS, Preset, PresetError, RunPlan, load_preset
from .outcomes import Outcome
from .verdicts import Verdict, judge

__all__ = ["carry_out", "run_preset"]

Advance = Callable[[Run, str], object]


def run_preset(
    preset: Preset,
    folder: Path | str,
    form: str = "full",
    seeds: Sequence[int] = (0, 1, 2),
    changes: Iterable[str] = (),
    advance: Advance | None = None,
    jobs: int = 1,
) -> list[Verdict]:
    """Run a preset and measure its claims.

    Args:
        preset: What to run.
        folder: Where; one of the same preset, form and changes goes on, with more seeds too.
        form: "quick" or "full".
        seeds: One repetition each.
        changes: ``key=value`` or ``run.key=value``, as ``Preset.plans`` takes them.
        advance: Advances a run to its end, given the run and a label; for showing progress. With several jobs none.
        jobs: Processes, each with a seed of its own.
    Returns:
        The verdicts of the claims about this form, also in results.json.
    Raises:
        PresetError: If the form is unknown, seeds repeat, or the folder holds something else.
        RunError: If a run cannot be carried out.
    """
    folder, changes, seeds = Path(folder), list(changes), list(seeds)
    if form not in FORMS:
        raise PresetError(f"form must be one of {', '.join(FORMS)}, got {form!r}; choose one of them")
    if not seeds or len(set(seeds)) < len(seeds):
        raise PresetError(f"seeds must be given once each, got {seeds}; pass e.g. 0 1 2")
    claims = [claim for claim in preset.claims if form in claim.forms]
    for seed in seeds:
        preset.plans(form, seed, changes)  # said before anything is trained
    _claim_folder(preset, folder, form, changes)
    begin = time.perf_counter()
    if jobs > 1 and len(seeds) > 1:
        asked = [(folder / "preset.toml", folder, form, seed, changes) for seed in seeds]
        with ProcessPoolExecutor(min(jobs, len(seeds)), mp_context=get_context("spawn")) as pool:
            list(pool.map(_in_process, asked))
    repetitions = {seed: carry_out(preset, folder, form, seed, changes, advance) for seed in seeds}
    verdicts = [judge(claim, repetitions) for claim in claims]
    write_json(
        folder / "results.json",
        {
            "preset": preset.id,
            "title": preset.title,
            "form": form,
            "changes": changes,
            "seconds": time.perf_counter() - begin,
            "provenance": provenance(1, torch.device("cpu")),
            "claims": [verdict.to_dict() for verdict in verdicts],
        },
    )
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


def _in_process(asked: tuple[Path, Path, str, int, list[str]]) -> None:
    path, folder, form, seed, changes = asked
    carry_out(load_preset(path), folder, form, seed, changes)


def _trained(plan: RunPlan, into: Path, done: dict[str, Outcome], advance: Advance | None) -> Outcome | None:
    directory, config = into / plan.folder, plan.config
    assert config is not None
    if not (directory / "config.json").exists():
        if plan.fork is None:
            create_run(directory, config)
        else:
            parent = done.get(plan.fork)
            at = None if parent is None else _moment(plan, parent)
            if parent is None or at is None:
                return None
            fork_run(parent.trained, directory, at, dict(plan.changes))
    run = Run.open(directory)
    if run.config != config:
        raise RunError(f"{directory} must hold this run, it has other options; choose another folder")
    if run.status.status == "stopped":
        if advance is None:
            run.advance()
        else:
            advance(run, f"{into.name} {plan.folder}")
    return Outcome(plan.folder, run.history(), run)


def _moment(plan: RunPlan, parent: Outcome) -> int | None:
    assert plan.at is not None
    step = plan.at.step(parent.sharpness, parent.config.critical_sharpness)
    last = parent.trained.step - parent.diverged
    return step if step is not None and parent.first_step <= step <= last else None


def _claim_folder(preset: Preset, folder: Path, form: str, changes: list[str]) -> None:
    """Note in the folder what it is for, or check that it is for the same."""
    about = {"preset": preset.id, "form": form, "changes": sorted(changes)}
    kept = folder / "about.json"
    text = preset.path.read_bytes()
    about["declaration"] = hashlib.sha256(text).hexdigest()
    if kept.exists():
        if read_json(kept) != about:
            raise PresetError(f"{folder} must be of the same preset, form and changes, it is of others; choose another")
        return
    if folder.exists() and any(folder.iterdir()):
        raise PresetError(f"{folder} must be new, empty or of this preset, it is not; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "preset.toml", text)
    write_json(kept, about)
