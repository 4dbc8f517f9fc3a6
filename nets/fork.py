"""A new run that branches off a step of another one, with other options.

Its steps go on from those of the parent: step n stays step n, and ``steps`` counts from the parent's step 0. Rows of
the record before the fork are the parent's where every option they depend on is the same, else empty. The row of the
fork's own step is the parent's where that had recorded it and the examples are the same, whatever else changes. A fork
with nothing changed is the parent's own continuation to the bit.
"""

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import nets.checkpoint as ckpt

from .config import ConfigError, TrainConfig
from .data import load_data
from .descent import Problem, State
from .files import RunError, read_json
from .record import copy_rows, equal_rows
from .run import Run, build_run, require_new

__all__ = ["CHANGEABLE", "Fork", "fork_run"]

#: options that a fork may change: no other keeps the meaning of the parameters
CHANGEABLE = (
    "lr",
    "optimizer",
    "optimizer_options",
    "batch_size",
    "n_examples",
    "data_options",
    "data_path",
    "steps",
    "seed",
    "eig_every",
    "observers",
    "snapshot_every",
)
NO_ROW_DEPENDS_ON = ("steps", "observers", "snapshot_every", "data_path")


@dataclass(frozen=True)
class Fork:
    """Where a fork begins.

    Args:
        run: The new run.
        source: Where its state was taken from: "checkpoint", "snapshot", or "recomputed from step m".
        changed: Option -> [the parent's value, its own], for those that differ.
        examples_changed: Whether it has other examples.
    """

    run: Run
    source: str
    changed: dict[str, list[Any]]
    examples_changed: bool


def fork_run(
    parent: Run,
    into: Path | str,
    at: int | None = None,
    changes: dict[str, Any] | None = None,
    advance: Callable[[Run, int], object] = Run.advance,
) -> Fork:
    """Make a run that starts from the state of ``parent`` at a step; the parent is only read.

    The state is the parent's checkpoint or a snapshot of that step. Where there is none it is recomputed from the
    nearest earlier snapshot, or from the start, in a run of its own beside ``into``, and must have the losses of the
    parent's record to the bit; an interrupted recomputation goes on when the same fork is asked for again.

    The parameters are carried over. So are what the optimizer keeps, where neither it nor its options change; the
    last eigenvector, as the first guess; the generators, where ``seed`` stays (that of the batches: and ``batch_size``
    and the number of rows too; else it starts anew, within the epoch that the step number says). With other examples,
    or of a parent that never measures the sharpness, the last gradients are not known: the oscillation is NaN in the
    first two rows.

    Args:
        parent: The run to branch off.
        into: Directory of the new run, new or empty.
        at: Step; None: the parent's current one.
        changes: New values of options among `CHANGEABLE`. With another optimizer, its options start from defaults.
        advance: How to advance a run to a step, for showing progress while recomputing.
    Raises:
        ConfigError: If an option may not be changed or is out of range, or the parameters do not fit the new data.
        RunError: If ``into`` is in use, the step is not within the run, or cannot be had to the bit.
    """
    into = Path(into).absolute()
    require_new(into)
    step = _step(parent, at)
    config = _config(parent.config, step, changes or {})
    dataset = load_data(config)
    problem = Problem(config, dataset)
    other = dataset.fingerprint != parent.dataset.fingerprint
    size = len(parent.problem.inputs)
    if problem.n_parameters != parent.problem.n_parameters:
        raise ConfigError(
            f"the network on the new data must have {parent.problem.n_parameters} parameters as before, got "
            f"{problem.n_parameters}; keep the number of inputs and outputs"
        )
    scratch = into.parent / f".{into.name}.recompute"
    state, source = _find_state(parent, step, scratch, advance)
    changed = {
        f.name: [getattr(parent.config, f.name), getattr(config, f.name)]
        for f in dataclasses.fields(config)
        if getattr(parent.config, f.name) != getattr(config, f.name)
    }
    about = {**_about(parent, state), "source": source, "changed": changed}
    same = not other and set(changed) <= set(NO_ROW_DEPENDS_ON)
    rows = (parent.first_step if same else step, state.rows)
    if other:
        state.logged = False
        state.gradient = torch.full_like(state.gradient, torch.nan)
        state.previous_gradient = state.gradient.clone()
        state.losses = state.losses[:0]
        rows = (step, step)
    if config.eig_every and not parent.config.eig_every:  # the parent did not keep its gradients
        state.previous_gradient = torch.full_like(state.parameters, torch.nan)
        if not state.logged:
            state.gradient = state.previous_gradient.clone()
    if {"optimizer", "optimizer_options"} & set(changed):
        state.optimizer = {}
    fresh = problem.initial_state()
    if "seed" in changed:
        state.rng_state = fresh.rng_state
    if {"seed", "batch_size"} & set(changed) or len(problem.inputs) != size:
        state.batch_rng = fresh.batch_rng

    def fill(build: Path) -> None:
        copy_rows(parent.directory / "record.zarr", build / "record.zarr", *rows)
        kept = build / "snapshots" / parent.snapshot_path(step).name
        ckpt.save_checkpoint(kept, state, config.config_hash, parent.threads, dataset.fingerprint)

    build_run(into, problem, state, parent.threads, {"parent": about}, fill)
    shutil.rmtree(scratch, ignore_errors=True)
    return Fork(Run.open(into), source, changed, other)


def _step(parent: Run, at: int | None) -> int:
    status = parent.status
    last = parent.step - (status.status == "diverged")
    step = last if at is None else at
    if isinstance(step, bool) or not isinstance(step, int) or not parent.first_step <= step <= last:
        where = "the run diverged after that" if status.status == "diverged" else "train the run further first"
        raise RunError(f"at must be a step of the run, {parent.first_step}..{last}, got {step!r}; {where}")
    return step


def _config(old: TrainConfig, step: int, changes: dict[str, Any]) -> TrainConfig:
    wrong = sorted(set(changes) - set(CHANGEABLE))
    if wrong:
        raise ConfigError(f"a fork may change {', '.join(CHANGEABLE)}; got {', '.join(wrong)}; train a new run instead")
    if changes.get("optimizer", old.optimizer) != old.optimizer:
        changes = {"optimizer_options": (), **changes}
    config = dataclasses.replace(old, **changes)
    if config.steps <= step:
        raise ConfigError(f"steps must be more than the step of the fork, {step}, got {config.steps}; pass more steps")
    return config


def _about(parent: Run, state: State) -> dict[str, Any]:
    hashes = parent.config.config_hash, ckpt.state_hash(state, parent.config.config_hash)
    return {
        "path": str(parent.directory.resolve()),
        "step": state.step,
        "config_hash": hashes[0],
        "state_hash": hashes[1],
    }


def _find_state(parent: Run, step: int, scratch: Path, advance: Callable[[Run, int], object]) -> tuple[State, str]:
    if parent.step == step:
        return parent.state(), "checkpoint"
    kept = [int(path.stem.removeprefix("step_")) for path in parent.directory.glob("snapshots/step_*.safetensors")]
    for begin in sorted((n for n in kept if n <= step), reverse=True):
        try:
            state = parent.state(begin)
        except RunError:  # weights only, as older versions wrote them
            continue
        break
    else:
        if parent.first_step:
            raise RunError(f"{parent.directory} lacks the snapshot it was forked to; fork its parent instead")
        begin, state = 0, parent.problem.initial_state()
    if begin == step:
        return state, "snapshot"
    return _recompute(parent, state, step, scratch, advance), f"recomputed from step {begin}"


def _recompute(parent: Run, state: State, step: int, scratch: Path, advance: Callable[[Run, int], object]) -> State:
    about, begin = _about(parent, state), state.step
    if not scratch.exists():
        unwatched = dataclasses.replace(parent.config, observers=(), snapshot_every=0)  # the state depends on neither
        problem = Problem(unwatched, parent.dataset)
        build_run(
            scratch,
            problem,
            state,
            parent.threads,
            {"recomputes": about},
            lambda build: copy_rows(parent.directory / "record.zarr", build / "record.zarr", begin, state.rows),
        )
    run = Run.open(scratch)
    if read_json(scratch / "provenance.json").get("recomputes") != about or run.step > step:
        raise RunError(f"{scratch} must be left by the same fork, it is of another one; remove it")
    advance(run, step)
    if run.step != step or not equal_rows(parent.directory / "record.zarr", scratch / "record.zarr", begin, step):
        raise RunError(
            f"step {step} must be recomputed to the losses in the record of {parent.directory}, it has others (another "
            f"machine or installation?); fork at a step with a snapshot, and remove {scratch}"
        )
    return run.state()
